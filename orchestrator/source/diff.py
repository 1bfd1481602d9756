# SPDX-License-Identifier: GPL-2.0-only
"""The text of a diff: where it begins, what mail programs did to it, and what git would pass over in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_START = re.compile(
    rb"^(?:diff --(?:git|cc|combined) |--- [^\n]*\n\+\+\+ |Binary files [^\n]* differ\r?$)", re.M
)
_HEADER_CR = re.compile(rb"^(?:diff --git|\+\+\+) [^\n]*\r$", re.M)
_HUNK = re.compile(rb"@@ -[0-9]+(?:,([0-9]+))? \+[0-9]+(?:,([0-9]+))? @@")
#: Lines outside of hunks that git passes over, though they stand for a change.
_UNREAD = (
    (re.compile(rb"Binary files .* differ\r?$"), "it names a binary file without the content"),
    (re.compile(rb"Only in .*: "), "it names a file that only one side has, without the content"),
    (re.compile(rb"diff --(?:cc|combined) "), "it is the combined diff of a merge, which git cannot apply"),
    (re.compile(rb"diff --git \S+\r?$"), "the line `diff --git` is broken in two"),
)
_NAME = re.compile(rb"(?:---|\+\+\+) ([^\t\r]+)")
_GIT_NAMES = re.compile(rb"diff --git (\S+) (\S+)\r?$")


def start(text: bytes) -> int:
    """The offset of the first diff in a text, -1 if there is none. A quoted diff is none."""
    match = _START.search(text)
    return match.start() if match else -1


def without_marks(text: bytes) -> bytes:
    """Text without byte order marks before its lines, and without blank lines before it."""
    return re.sub(rb"(?m)^\xef\xbb\xbf", b"", text).lstrip(b"\r\n")


def without_transport_crs(text: bytes, sample: bytes) -> bytes:
    """Text without the CR of each line, if the transport added them: headers of ``sample`` have them too.

    The lines of a file whose lines end in CRLF have a CR within a diff, the headers of a diff do not.
    """
    first = sample.partition(b"\n")[0]
    of_transport = _HEADER_CR.search(sample) if start(sample) == 0 else first.endswith(b"\r")
    return text.replace(b"\r\n", b"\n") if of_transport else text


def complaint(diff: bytes) -> str:
    """What is in a diff that git would pass over without a word; empty if all is well."""
    has_subject = False
    for number, line, after_hunk in _headers(diff):
        if has_subject and _START.match(line):
            return f"another mail begins above line {number} of its diff, without the From line of an mbox"
        has_subject = has_subject or line.startswith(b"Subject: ")
        if after_hunk and line[:1] in (b"+", b"-", b" ") and not re.match(rb"--- |-- ?\r?$", line):
            return f"line {number} of its diff belongs to no hunk: a hunk has more lines than it says"
        for pattern, words in _UNREAD:
            if pattern.match(line):
                return words
    return ""


def git_headers(diff: bytes) -> int:
    """The number of files that a diff of git names."""
    return sum(line.startswith(b"diff --git ") for _, line, _ in _headers(diff))


def strip_levels(diff: bytes, tree: Path) -> set[int]:
    """How many leading parts of its names a diff wants stripped, as ``-p`` of `git apply`: 1, 0, or both.

    A name without the prefixes ``a/`` and ``b/`` begins with a folder of the tree.
    """
    levels = set()
    old, in_git = b"", False
    for _, line, _ in _headers(diff):
        if pair := _GIT_NAMES.match(line):
            in_git = True
            levels.add(_level([pair[1], pair[2]], tree, alike=0))
        elif name := _NAME.match(line):
            if line.startswith(b"---"):
                old = name[1]
            elif old:
                levels |= set() if in_git else {_level([old, name[1]], tree, alike=1)}
                old, in_git = b"", False
    return levels


def _headers(diff: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """The lines outside of hunks: number, line, and whether it stands right behind a hunk."""
    old = new = 0
    after_hunk = False
    for number, line in enumerate(diff.split(b"\n"), 1):
        kind = line[:1]
        if old > 0 or new > 0:
            old -= kind in (b" ", b"-", b"\r", b"")
            new -= kind in (b" ", b"+", b"\r", b"")
            after_hunk = kind in (b" ", b"-", b"+", b"\\", b"\r", b"")
            if not after_hunk:
                # git refuses it as a corrupt patch
                old = new = 0
        elif hunk := _HUNK.match(line):
            old, new = (1 if count is None else int(count) for count in hunk.groups())
        elif not (after_hunk and kind == b"\\"):
            yield number, line, after_hunk
            after_hunk = False


def _level(names: list[bytes], tree: Path, *, alike: int) -> int:
    """The level of a file's two names; ``alike`` is that of two names that are the same."""
    paths = [os.fsdecode(name) for name in names if name != b"/dev/null"]
    if any(path.startswith("/") for path in paths):
        return 1
    if any("/" not in path for path in paths):
        return 0
    stripped = [path.partition("/")[2] for path in paths]
    bare, below = (any(os.path.lexists(tree / path) for path in each) for each in (paths, stripped))
    if bare != below:
        return int(below)
    if len(paths) == len(names) and len(set(paths)) == 1:
        return alike
    return int(not all(os.path.lexists(tree / path.partition("/")[0]) for path in paths))
