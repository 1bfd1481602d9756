# SPDX-License-Identifier: GPL-2.0-only
"""Patches out of mboxes, diffs and directories; `git mailsplit` and `git mailinfo` read them."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.core.text import clean_str
from orchestrator.source.clone import GitError, run_git

#: A thread of a hundred patches is a few MiB.
MAX_BYTES = 64 << 20

_DIFF = re.compile(rb"^(?:diff --git |--- [^\n]*\n\+\+\+ )", re.M)
_BASE = re.compile(rb"^base-commit: ([0-9a-f]{40,64})\s*$", re.M)
_TAGS = re.compile(r"(?:\s*\[[^\]]*\])*\s*")
_NUMBER = re.compile(r"\b0*([0-9]{1,4})/0*([0-9]{1,4})\b")
_REPLY = re.compile(r"\s*(?:re|aw|fwd?):", re.I)


class Source(msgspec.Struct, frozen=True):
    """One file that was read: what it is called, all of it, and options of `git apply`."""

    path: Path
    data: bytes
    options: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the content, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Patch(msgspec.Struct, frozen=True):
    """One diff and what its mail says; ``number`` counts from 1 to ``total`` in what the user named.

    Author, email and date are empty where there was no mail; ``order`` is the n and m of ``[PATCH n/m]``.
    ``base`` is the commit that the file says it was made on.
    """

    file: Path
    diff: Path
    message: bytes
    subject: str
    author: str
    email: str
    date: str
    order: tuple[int, int] | None
    base: str
    options: tuple[str, ...]
    number: int = 0
    total: int = 0

    def __str__(self) -> str:
        subject = f" ({self.subject!r})" if self.subject else ""
        return f"{clean_str(str(self.file))}: patch {self.number} of {self.total}{subject}"


def read(file: Path) -> list[Source]:
    """The files that a user means by one: itself, or the patches of a directory in their order.

    :raises UserError: not found, empty, binary, too large, or a directory without patches.
    """
    if not file.is_dir():
        return [_source(file)]
    series = file / "series"
    if series.is_file():
        listed = [_entry(series, line) for line in series.read_text("utf-8", "replace").splitlines()]
        found = [_source(file / name, options) for name, options in filter(None, listed)]
    else:
        found = [_source(path) for path in sorted(file.glob("*.patch"))]
    if not found:
        raise UserError(
            f"{file}: no patch in this directory",
            remedy="it must hold *.patch files, or a quilt series that names some",
        )
    return found


def take_apart(sources: Sequence[Source], named: Path, work: Path) -> list[Patch]:
    """The patches in what a user named; their diffs are written below ``work``.

    Mails without a diff are passed over if they are cover letters (0/N), replies or other talk.

    :raises UserError: a patch without a diff, a reply with one, or no patch at all.
    """
    found = [patch for n, source in enumerate(sources) for patch in _patches(source, work / str(n))]
    if not found:
        raise UserError(f"{named}: no diff in it", remedy="give an mbox, a patch or a diff")
    return [
        msgspec.structs.replace(patch, number=number, total=len(found))
        for number, patch in enumerate(found, 1)
    ]


def base_commits(sources: Sequence[Source]) -> tuple[str, ...]:
    """The commits that files say they were made on, each once; a cover letter's counts like a patch's."""
    found = [match.decode() for source in sources for match in _BASE.findall(source.data)]
    return tuple(dict.fromkeys(found))


def _entry(series: Path, line: str) -> tuple[str, tuple[str, ...]] | None:
    """Name and options of a line of a quilt series, or ``None``."""
    words = re.sub(r"(?:^|\s)#.*", "", line).split()
    if not words:
        return None
    bad = [word for word in words[1:] if not re.fullmatch(r"-p[0-9]|-R", word)]
    if bad:
        raise UserError(
            f"{series}: {clean_str(words[0])}: what is {clean_str(bad[0])}?",
            remedy="behind a name -pN and -R are understood",
        )
    return words[0], tuple(words[1:])


def _source(path: Path, options: tuple[str, ...] = ()) -> Source:
    name = clean_str(str(path))
    if not path.exists():
        raise UserError(f"{name}: no such file", remedy="name an mbox, a patch or a directory of *.patch")
    if not path.is_file():
        raise UserError(f"{name} is no regular file", remedy="write the patches into a file first")
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if not data.strip():
        raise UserError(f"{name} is empty", remedy="give an mbox, a patch or a diff")
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB", remedy="name an mbox of patches")
    if data.startswith(b"\x1f\x8b"):
        raise UserError(f"{name} is compressed", remedy=f"unpack it first: gunzip {shlex.quote(str(path))}")
    if b"\0" in data:
        raise UserError(f"{name} is binary, neither mail nor diff", remedy="give an mbox, a patch or a diff")
    return Source(path, data, options)


def _patches(source: Source, work: Path) -> list[Patch]:
    out = work / "split"
    out.mkdir(parents=True)
    (work / "mbox").write_bytes(source.data)
    try:
        run_git(work, "mailsplit", "-b", "-d6", f"-o{out}", str(work / "mbox"))
        found = [_patch(source, mail) for mail in sorted(out.iterdir())]
    except GitError as error:
        raise UserError(
            f"{source.path}: git cannot read it as mail: {error.first}",
            remedy="give an mbox, a patch or a diff",
        ) from error
    patches = [patch for patch in found if patch is not None]
    orders = [patch.order for patch in patches if patch.order]
    if len(orders) == len(patches) == len(set(orders)) and len({total for _, total in orders}) == 1:
        # An archive's mbox has the mails as they arrived.
        patches.sort(key=lambda patch: patch.order or (0, 0))
    return patches


def _patch(source: Source, mail: Path) -> Patch | None:
    message, diff = mail.with_name(f"{mail.name}.msg"), mail.with_name(f"{mail.name}.diff")
    info = run_git(mail.parent, "mailinfo", "-k", str(message), str(diff), data=mail.read_bytes())
    # Through fsdecode, so that they are the same bytes again when git gets them.
    fields = dict(re.findall(r"^(\w+): (.*)$", os.fsdecode(info), re.M))
    text = message.read_bytes()
    subject = fields.get("Subject", "")
    tags = _TAGS.match(subject)
    title = subject[tags.end() :] if tags else subject
    number = _NUMBER.search(tags[0]) if tags else None
    order = (int(number[1]), int(number[2])) if number else None
    what = f"{clean_str(str(source.path))}: the mail {clean_str(subject, limit=200)!r}"
    if not _DIFF.search(diff.read_bytes()):
        if order and order[0] and not _REPLY.match(subject):
            raise UserError(f"{what} has no diff in it", remedy="fetch it again in raw form")
        return None
    if _REPLY.match(subject):
        raise UserError(
            f"{what} is a reply with a diff in it",
            remedy="take it out, or have `b4 am` make an mbox of the patches alone",
        )
    base = _BASE.search(source.data)
    body = b"%b\n\n%b" % (os.fsencode(title), text) if title else text
    return Patch(
        file=source.path,
        diff=diff,
        message=body.strip() + b"\n" if body.strip() else b"a patch without a description\n",
        subject=clean_str(title, limit=200),
        author=fields.get("Author", ""),
        email=fields.get("Email", ""),
        date=fields.get("Date", ""),
        order=order,
        base=base[1].decode() if base else "",
        options=source.options,
    )
