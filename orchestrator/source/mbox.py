# SPDX-License-Identifier: GPL-2.0-only
"""Patches from mboxes, diffs and directories; `git mailsplit` and `git mailinfo` read them."""

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
from orchestrator.source.git import GitError, run_git

#: A thread of a hundred patches is a few MiB.
MAX_BYTES = 64 << 20

_DIFF = re.compile(rb"^(?:diff --git |--- [^\n]*\n\+\+\+ )", re.M)
_BASE = re.compile(rb"^base-commit: ([0-9a-f]{40,64})\s*$", re.M)
_TAGS = re.compile(r"(?:\s*\[[^\]]*\])*\s*")
_NUMBER = re.compile(r"\b0*([0-9]{1,4})/0*([0-9]{1,4})\b")
_REPLY = re.compile(r"\s*(?:re|aw|fwd?):", re.I)


class Source(msgspec.Struct, frozen=True):
    """One file of patches: its path, its content, and options for `git apply`."""

    path: Path
    data: bytes
    options: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the content, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Patch(msgspec.Struct, frozen=True):
    """One diff and its mail; ``number`` counts from 1 to ``total`` in the file that the user named.

    Author, email and date are empty without a mail; ``order`` is the n and m of ``[PATCH n/m]``.
    ``base`` is the ``base-commit`` of the file.
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
    """The patch files at a path: the file itself, or the patches of a directory in their order.

    :raises UserError: not found, empty, binary, too large, or a directory without patches.
    """
    if not file.is_dir():
        return [_source(file)]
    series = file / "series"
    if series.is_file():
        entries = [_entry(series, line) for line in series.read_text("utf-8", "replace").splitlines()]
        sources = [_source(file / name, options) for name, options in filter(None, entries)]
    else:
        sources = [_source(path) for path in sorted(file.glob("*.patch"))]
    if not sources:
        raise UserError(
            f"{file}: no patch in this directory",
            remedy="it must hold *.patch files, or a quilt series that names some",
        )
    return sources


def split_patches(sources: Sequence[Source], file: Path, work: Path) -> list[Patch]:
    """The patches in the files at ``file``; their diffs are written below ``work``.

    Mails without a diff are skipped if they are cover letters (0/N), replies or other discussion.

    :raises UserError: a patch without a diff, a reply with one, or no patch at all.
    """
    patches = [patch for n, source in enumerate(sources) for patch in _patches(source, work / str(n))]
    if not patches:
        raise UserError(f"{file}: no diff in it", remedy="name an mbox, a patch or a diff")
    return [
        msgspec.structs.replace(patch, number=number, total=len(patches))
        for number, patch in enumerate(patches, 1)
    ]


def base_commits(sources: Sequence[Source]) -> tuple[str, ...]:
    """The ``base-commit`` lines of files and cover letters, each commit once."""
    commits = [match.decode() for source in sources for match in _BASE.findall(source.data)]
    return tuple(dict.fromkeys(commits))


def _entry(series: Path, line: str) -> tuple[str, tuple[str, ...]] | None:
    """Name and options of a line of a quilt series, or ``None``."""
    words = re.sub(r"(?:^|\s)#.*", "", line).split()
    if not words:
        return None
    bad = [word for word in words[1:] if not re.fullmatch(r"-p[0-9]|-R", word)]
    if bad:
        raise UserError(
            f"{series}: {clean_str(words[0])}: unknown option {clean_str(bad[0])}",
            remedy="-pN and -R may follow a name",
        )
    return words[0], tuple(words[1:])


def _source(path: Path, options: tuple[str, ...] = ()) -> Source:
    name = clean_str(str(path))
    if not path.exists():
        raise UserError(f"{name}: no such file", remedy="name an mbox, a patch or a directory of *.patch")
    if not path.is_file():
        raise UserError(f"{name} is not a regular file", remedy="write the patches into a file first")
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if not data.strip():
        raise UserError(f"{name} is empty", remedy="name an mbox, a patch or a diff")
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB", remedy="name an mbox of patches")
    if data.startswith(b"\x1f\x8b"):
        raise UserError(f"{name} is compressed", remedy=f"unpack it first: gunzip {shlex.quote(str(path))}")
    if b"\0" in data:
        raise UserError(f"{name} is binary, neither mail nor diff", remedy="name an mbox, a patch or a diff")
    return Source(path, data, options)


def _patches(source: Source, work: Path) -> list[Patch]:
    out = work / "split"
    out.mkdir(parents=True)
    (work / "mbox").write_bytes(source.data)
    try:
        run_git(work, "mailsplit", "-b", "-d6", f"-o{out}", str(work / "mbox"))
        mails = [_patch(source, mail) for mail in sorted(out.iterdir())]
    except GitError as error:
        raise UserError(
            f"{source.path}: git cannot read it as mail: {error.first}",
            remedy="name an mbox, a patch or a diff",
        ) from error
    patches = [patch for patch in mails if patch is not None]
    orders = [patch.order for patch in patches if patch.order]
    if len(orders) == len(patches) == len(set(orders)) and len({total for _, total in orders}) == 1:
        # an archive's mbox has the mails in order of arrival
        patches.sort(key=lambda patch: patch.order or (0, 0))
    return patches


def _patch(source: Source, mail: Path) -> Patch | None:
    message, diff = mail.with_name(f"{mail.name}.msg"), mail.with_name(f"{mail.name}.diff")
    info = run_git(mail.parent, "mailinfo", "-k", str(message), str(diff), data=mail.read_bytes())
    # fsdecode, so that git gets the same bytes back
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
            remedy="remove it, or make an mbox of the patches alone with `b4 am`",
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
