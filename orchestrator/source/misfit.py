# SPDX-License-Identifier: GPL-2.0-only
"""Why a patch does not fit a tree: what mail programs and web pages do to a diff is tried backwards."""

from __future__ import annotations

import html
import os
import quopri
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.source.git import GitError, run_git

RAW = "fetch it again in raw form: mail programs and web pages break lines and turn tabs into spaces"
_CONTENT = re.compile(rb"(?m)^([ +-](?!-- |\+\+ ).*)$")
_CHANGES: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("lines of the file end in CRLF, which the mail lost", lambda diff: _CONTENT.sub(rb"\1\r", diff)),
    ("its lines end in CRLF, those of the file in LF", lambda diff: diff.replace(b"\r\n", b"\n")),
    (
        "it is HTML (&lt; for <)",
        lambda diff: html.unescape(os.fsdecode(diff)).encode("utf-8", "surrogateescape"),
    ),
    ("it is still quoted-printable (=3D for =)", quopri.decodestring),
)


def damage(diff: Path, tree: Path, argv: Sequence[str]) -> str:
    """What happened to a diff that would fit otherwise; empty if nothing is known.

    :param argv: words for `git apply`.
    """
    content = diff.read_bytes()
    for words, undo in _CHANGES:
        changed = undo(content)
        if changed != content and works(tree, *argv, "--check", "-", data=changed):
            return words
    if works(tree, *argv, "--check", "--ignore-whitespace", str(diff)):
        return "it differs from the tree in white space only"
    return ""


def works(tree: Path, *argv: str, data: bytes = b"") -> bool:
    """Whether a git command succeeds."""
    try:
        run_git(tree, *argv, data=data)
    except GitError:
        return False
    return True
