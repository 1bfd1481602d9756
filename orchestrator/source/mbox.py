# SPDX-License-Identifier: GPL-2.0-only
"""Patches from mboxes, mails, diffs and directories; `git mailsplit` and `git mailinfo` read them."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.core.text import clean_str, one_line
from orchestrator.source import diff, mail, thread
from orchestrator.source.git import GitError, run_git
from orchestrator.source.mail import Mail

#: A thread of a hundred patches is a few MiB.
MAX_BYTES = 64 << 20

_BASE = re.compile(rb"^base-commit: ([0-9a-f]{40,64})\s*$", re.M)
_NEEDS = re.compile(
    rb"^(prerequisite-patch-id|prerequisite-message-id|prerequisite-change-id|depends-on): *(\S.*?)\s*$",
    re.M | re.I,
)
_PACKED = {b"\x1f\x8b": "gunzip", b"\xfd7zXZ": "unxz", b"BZh": "bunzip2", b"\x28\xb5\x2f\xfd": "unzstd"}
_FORMS = "name an mbox, a patch or a diff"
#: What a folder of patches may hold, the first kind that it has.
_KINDS = ("*.patch", "*.eml", "*.mbox", "*.mbx", "*.diff")


class Source(msgspec.Struct, frozen=True):
    """One file of patches: its path, its content, and options for `git apply`.

    ``group`` is the folder of a file that is only a part of a thread.
    """

    path: Path
    data: bytes
    options: tuple[str, ...] = ()
    group: Path | None = None

    @property
    def sha256(self) -> str:
        """Digest of the content, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Patch(msgspec.Struct, frozen=True):
    """One diff and its mail; ``number`` counts from 1 to ``total`` in the file that the user named.

    Author, email and date are empty without a mail. ``base`` is the ``base-commit`` of the series. ``doubts``
    are facts about the mail that explain why a patch may not fit.
    """

    file: Path
    diff: Path
    message: bytes
    subject: str
    author: str
    email: str
    date: str
    base: str
    options: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    number: int = 0
    total: int = 0

    def __str__(self) -> str:
        subject = f" ({self.subject!r})" if self.subject else ""
        return f"{clean_str(str(self.file))}: patch {self.number} of {self.total}{subject}"


class Prerequisite(msgspec.Struct, frozen=True):
    """What must be applied before: ``kind`` is patch-id, message-id, change-id or series."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class MailSeries(msgspec.Struct, frozen=True):
    """The patches of a file in their order, and what the file says about them.

    ``notes`` are sentences about how it was read. ``title`` is that of the cover letter, ``version`` is like
    ``v2``; both may be empty. ``bases`` are the ``base-commit`` lines.
    """

    patches: tuple[Patch, ...]
    notes: tuple[str, ...] = ()
    title: str = ""
    version: str = ""
    bases: tuple[str, ...] = ()
    prerequisites: tuple[Prerequisite, ...] = ()


def read(file: Path) -> list[Source]:
    """The patch files at a path: the file itself, or the patches of a directory in their order.

    A directory is a quilt series, a maildir, or a folder of patches or mails.

    :raises UserError: not found, empty, binary, too large, or a directory without patches.
    """
    if not file.is_dir():
        return [_source(file)]
    series = file / "series"
    if series.is_file():
        entries = [_entry(series, line) for line in series.read_text("utf-8", "replace").splitlines()]
        sources = [_source(file / name, options) for name, options in filter(None, entries)]
    else:
        sources = [_source(path, group=file) for path in _files(file)]
    if not sources:
        raise UserError(
            f"{file}: no patch in this directory",
            remedy="it must hold *.patch or *.eml files, a maildir, or a quilt series that names some",
        )
    return sources


def parse(sources: Sequence[Source], file: Path, work: Path) -> MailSeries:
    """The series in the files at ``file``; the diffs of its patches are written below ``work``.

    Of a thread this is the newest version. Cover letters, replies and discussion are no patches.

    :raises UserError: a mail that cannot be read, a patch that is missing, has no diff or is damaged, or no
        patch at all.
    """
    groups: dict[Path, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.group or source.path, []).append(source)
    parts = [_group(each, path, work / str(n)) for n, (path, each) in enumerate(groups.items())]
    patches = [patch for part in parts for patch in part.patches]
    if not patches:
        raise UserError(f"{file}: no diff in it", remedy=_FORMS)
    numbered = tuple(
        msgspec.structs.replace(patch, number=number, total=len(patches))
        for number, patch in enumerate(patches, 1)
    )
    return MailSeries(
        patches=numbered,
        notes=tuple(note for part in parts for note in part.notes),
        title=parts[0].title if len(parts) == 1 else "",
        version=parts[0].version if len(parts) == 1 else "",
        bases=tuple(dict.fromkeys(base for part in parts for base in part.bases)),
        prerequisites=tuple(dict.fromkeys(each for part in parts for each in part.prerequisites)),
    )


def cover(source: Source) -> MailSeries:
    """What a cover letter in a file of its own says about its series."""
    letter = _parsed(source, source.data)
    bases, prerequisites = _lines([letter])
    return MailSeries((), title=letter.parts.title, bases=bases, prerequisites=prerequisites)


def _files(folder: Path) -> list[Path]:
    if (folder / "cur").is_dir() and (folder / "new").is_dir():
        return sorted(path for name in ("cur", "new") for path in (folder / name).iterdir() if path.is_file())
    return next(filter(None, (sorted(folder.glob(kind)) for kind in _KINDS)), [])


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


def _source(path: Path, options: tuple[str, ...] = (), group: Path | None = None) -> Source:
    name = clean_str(str(path))
    if not path.exists():
        raise UserError(f"{name}: no such file", remedy="name an mbox, a patch or a directory of *.patch")
    if not path.is_file():
        raise UserError(f"{name} is not a regular file", remedy="write the patches into a file first")
    data = _content(path)
    if not data.strip():
        raise UserError(f"{name} is empty", remedy=_FORMS)
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB", remedy="name an mbox of patches")
    for magic, program in _PACKED.items():
        if data.startswith(magic):
            raise UserError(
                f"{name} is compressed", remedy=f"unpack it first: {program} {shlex.quote(str(path))}"
            )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        # PowerShell writes the output of git like this
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    data = diff.without_marks(data)
    if b"\0" in data:
        raise UserError(f"{name} is binary, neither mail nor diff", remedy=_FORMS)
    return Source(path, data, options, group)


def _content(path: Path) -> bytes:
    """The bytes of a file, at most one more than ``MAX_BYTES``; archives give mboxes as ``mbox.gz``."""
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(path) as packed:
            return packed.read(MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{clean_str(str(path))} is damaged: {error}", remedy="fetch it again") from error


def _group(sources: Sequence[Source], path: Path, work: Path) -> MailSeries:
    """The series of one thread, which may lie in several files."""
    origin: dict[int, Source] = {}
    mails: list[Mail] = []
    for number, source in enumerate(sources):
        for each in _mails(source, work / f"{number}"):
            origin[id(each)] = source
            mails.append(each)
    selection = thread.select(mails, clean_str(str(path)))
    bases, prerequisites = _lines([*selection.covers, *selection.patches])
    patches = [
        _patch(origin[id(each)], each, work / f"{number:06}", bases)
        for number, each in enumerate(selection.patches)
    ]
    notes = [f"{path.name}: {one_line(note, limit=400)}" for note in selection.notes]
    notes += [f"{clean_str(each.file.name)}: {doubt}" for each in patches for doubt in each.doubts]
    return MailSeries(
        patches=tuple(patches),
        notes=tuple(notes),
        title=clean_str(selection.title, limit=200),
        version=selection.version,
        bases=bases,
        prerequisites=prerequisites,
    )


def _mails(source: Source, work: Path) -> list[Mail]:
    """The mails of a file. Lines that an archive has escaped (``>From``) are as they were sent."""
    out = work / "split"
    out.mkdir(parents=True)
    (work / "mbox").write_bytes(source.data)
    of_git = re.match(rb"From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001", source.data)
    words = ("-b", "-d6", "--keep-cr", *(() if of_git else ("--mboxrd",)))
    if not source.data.startswith(b"From "):
        return [_parsed(source, source.data)]
    try:
        run_git(work, "mailsplit", *words, f"-o{out}", str(work / "mbox"))
    except GitError as error:
        raise UserError(f"{source.path}: git cannot read it as mail: {error.first}", remedy=_FORMS) from error
    return [_parsed(source, path.read_bytes()) for path in sorted(out.iterdir())]


def _parsed(source: Source, raw: bytes) -> Mail:
    try:
        return mail.parse(raw)
    except ValueError as error:
        raise _unreadable(source.path, str(error), raw) from error


def _unreadable(path: Path, why: str, raw: bytes = b"") -> UserError:
    subject = re.search(rb"^subject:\s*(.*)$", raw[:20_000], re.M | re.I)
    name = f" the mail {one_line(subject[1].decode('utf-8', 'replace'), limit=200)!r}:" if subject else ""
    return UserError(f"{clean_str(str(path))}:{name} {why}", remedy="fetch it again in raw form")


def _lines(mails: Sequence[Mail]) -> tuple[tuple[str, ...], tuple[Prerequisite, ...]]:
    """Bases and prerequisites that mails name outside of their diffs."""
    bases: dict[str, None] = {}
    needs: dict[Prerequisite, None] = {}
    for each in mails:
        bases |= dict.fromkeys(match.decode() for match in _BASE.findall(each.text))
        for kind, value in _NEEDS.findall(each.text):
            name = kind.decode().lower().removeprefix("prerequisite-").replace("depends-on", "series")
            needs[Prerequisite(name, one_line(value.decode("utf-8", "replace"), limit=100))] = None
    return tuple(bases), tuple(needs)


def _patch(source: Source, each: Mail, stem: Path, bases: Sequence[str]) -> Patch:
    what = clean_str(str(source.path)) + (f": the mail {each.name}" if each.subject else "")
    if each.diff_at < 0:
        raise UserError(f"{what} has no diff in it", remedy="fetch it again in raw form")
    message, path = stem.with_suffix(".msg"), stem.with_suffix(".diff")
    fields = {} if each.bare else _mailinfo(each, what, message, path)
    if each.bare:
        text, content = each.text[: each.diff_at], each.text[each.diff_at :]
        text = re.sub(rb"\n---\s*\Z", b"\n", text)
        path.write_bytes(diff.without_transport_crs(content, content))
    else:
        text = message.read_bytes()
    if words := diff.complaint(path.read_bytes()):
        raise UserError(f"{what}: {words}", remedy="fetch it again in raw form, or make it again with git")
    title = mail.subject(fields.get("Subject", "")).title
    body = b"%b\n\n%b" % (os.fsencode(title), text) if title else text
    return Patch(
        file=source.path,
        diff=path,
        message=body.strip() + b"\n" if body.strip() else b"a patch without a description\n",
        subject=clean_str(title, limit=200),
        author=fields.get("Author", ""),
        email=fields.get("Email", ""),
        date=fields.get("Date", ""),
        base=bases[0] if bases else "",
        options=source.options,
        doubts=_doubts(each),
    )


def _mailinfo(each: Mail, what: str, message: Path, path: Path) -> dict[str, str]:
    """Author, subject and date of a mail; git writes its description and its diff to the two files."""
    try:
        info = run_git(message.parent, "mailinfo", "-k", str(message), str(path), data=each.text)
    except GitError as error:
        raise UserError(
            f"{what}: git cannot read it: {error.first}", remedy="fetch it again in raw form"
        ) from error
    # fsdecode, so that git gets the same bytes back
    return dict(re.findall(r"^(\w+): (.*)$", os.fsdecode(info), re.M))


def _doubts(each: Mail) -> tuple[str, ...]:
    """Sentences about a mail whose diff may not be what its author sent."""
    doubts = []
    if each.charset:
        doubts.append(f"{each.name} is in {one_line(each.charset)}: bytes of its diff are taken as they are")
    if each.flowed:
        doubts.append(f"{each.name} is format=flowed, which breaks long lines: they were joined again")
    return tuple(doubts)
