# SPDX-License-Identifier: GPL-2.0-only
"""The identity of a kernel tree: its version, its commit and local changes, or a digest of its content.

Nothing here writes into the tree. git's usual refresh of the index is a write, hence ``--no-optional-locks``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically

_THREADS = 4
_BATCH = 256
#: A file changed so shortly before the scan could change again without its time stamp showing it.
_RACY_NS = 2_000_000_000
_CACHE_VERSION = 1


class GitState(msgspec.Struct, frozen=True):
    """``commit`` is the full name; ``dirty`` is the digest of local changes, or empty."""

    commit: str
    dirty: str


def check_tree(path: Path, what: str) -> None:
    """Demand that ``path`` is the top of a kernel tree.

    :raises UserError: it is not; ``what`` names it in the message.
    """
    missing = [name for name in ("Makefile", "Kconfig") if not (path / name).is_file()]
    missing += [f"{name}/" for name in ("scripts/kconfig",) if not (path / name).is_dir()]
    if not missing and not makefile_version(path):
        missing = ["VERSION in Makefile"]
    if missing:
        raise UserError(
            f"{what} is not a kernel tree: no {', '.join(missing)}",
            remedy="name the top directory of a Linux source tree",
        )


def check_clean(path: Path, what: str) -> None:
    """Demand that no kernel was configured or built inside the tree: such a tree refuses ``make O=``.

    :raises UserError: it holds a ``.config`` or generated headers.
    """
    built = [name for name in (".config", "include/config", "include/generated") if (path / name).exists()]
    arches = sorted(path.glob("arch/*/include/generated"))
    if not built and not arches:
        return
    first = built[0] if built else str(arches[0].relative_to(path))
    # mrproper cleans one architecture
    place = shlex.quote(str(path))
    make = f"make -C {place} " + (f"ARCH={arches[0].parts[-3]} " if arches else "") + "mrproper"
    raise UserError(
        f"{what}: the source tree is not clean, a kernel was configured or built in it ({first} is there)",
        remedy=f"run `{make}` (it deletes .config too), or name a clean clone"
        f" (`git clone --shared {place} DIR`)",
    )


def makefile_version(path: Path) -> str:
    """``VERSION.PATCHLEVEL.SUBLEVEL`` and ``EXTRAVERSION`` of the Makefile, or empty if it has none."""
    try:
        with (path / "Makefile").open("rb") as stream:
            head = stream.read(8192).decode("utf-8", "replace")
    except OSError:
        return ""
    values: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", head, re.M)
    )
    if not values.get("VERSION", "").isdigit():
        return ""
    numbers = [values["VERSION"], values.get("PATCHLEVEL", ""), values.get("SUBLEVEL", "")]
    return ".".join(number for number in numbers if number) + values.get("EXTRAVERSION", "")


def git_state(path: Path) -> GitState | None:
    """Commit and local changes if ``path`` is the top of a git work tree with a commit, else ``None``.

    Changes are those of tracked files, staged or not, even if hidden by assume-unchanged or skip-worktree,
    and untracked files that are not ignored. What counts is the content in the work tree.

    :raises InfraError: git answers for the commit but fails afterwards.
    """
    if not (path / ".git").exists():
        return None
    try:
        head = _git(path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except (InfraError, FileNotFoundError):
        return None
    changed = {name.rstrip(b"/") for name in _status(path)}
    changed |= set(_hidden_changes(path))
    dirty = ""
    if changed:
        files = [entry for name in sorted(changed) for entry in _expand(path, name)]
        dirty = _combine(b"dirty", zip(files, _describe_files(path, files), strict=True))
    return GitState(head.decode().strip(), dirty)


def content_digest(path: Path, *, stat_cache: Path | None = None) -> str:
    """A digest (64 hex) over every file of a tree: path, executable bit, symlink target and content.

    ``.git`` is left out. Times, owners and the umask do not count.

    :param stat_cache: a directory for a cache of digests; with it a second call reads only changed files.
    :raises UserError: a file cannot be read, or changes while it is read.
    """
    started = time.time_ns()
    files = sorted(_walk(path, b""))
    store = (
        stat_cache / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.msgpack"
        if stat_cache
        else None
    )
    cached = _load(store) if store else {}
    descriptions: list[bytes] = [b""] * len(files)
    scan: dict[bytes, tuple[tuple[int, ...], bytes]] = {}
    unknown: list[int] = []
    for index, name in enumerate(files):
        key = _stat_key(path, name)
        old = cached.get(name)
        if old is not None and old[0] == key:
            descriptions[index] = old[1]
        else:
            unknown.append(index)
        scan[name] = (key, descriptions[index])
    for index, text in zip(unknown, _describe_files(path, [files[i] for i in unknown]), strict=True):
        descriptions[index] = text
        scan[files[index]] = (scan[files[index]][0], text)
    if store and unknown:
        _save(store, {name: entry for name, entry in scan.items() if max(entry[0][1:3]) < started - _RACY_NS})
    return _combine(b"tree", zip(files, descriptions, strict=True))


def digest_of_text(*parts: str) -> str:
    """A digest (64 hex) of a few strings, that differs for each way to split the same text."""
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part.encode()) for part in parts)).hexdigest()


def _combine(kind: bytes, entries: Iterable[tuple[bytes, bytes]]) -> str:
    total = hashlib.sha256(b"orchestrate " + kind + b" 1\0")
    for name, text in entries:
        total.update(b"%d:%b%d:%b" % (len(name), name, len(text), text))
    return total.hexdigest()


def _full(top: Path, name: bytes) -> Path:
    return top / os.fsdecode(name)


def _target(link: Path) -> bytes:
    # not Path.readlink, which normalises the text: "./a" and "a" are two contents.
    return os.fsencode(os.readlink(link))  # noqa: PTH115


def _walk(top: Path, below: bytes) -> Iterator[bytes]:
    """Every non-directory below ``top``, relative, as bytes."""
    try:
        with os.scandir(os.fsencode(_full(top, below))) as entries:
            children = list(entries)
    except OSError as error:
        raise UserError(f"{top}: cannot list {os.fsdecode(below)}: {error.strerror}") from error
    for entry in children:
        if entry.name == b".git":
            continue
        name = below + b"/" + entry.name if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, name)
        else:
            yield name


def _expand(top: Path, name: bytes) -> list[bytes]:
    """A changed name, or every file below it if it is a directory (a nested repository)."""
    full = _full(top, name)
    if full.is_dir() and not full.is_symlink():
        return sorted(_walk(top, name))
    return [name]


def _stat_key(top: Path, name: bytes) -> tuple[int, ...]:
    try:
        status = _full(top, name).lstat()
    except OSError as error:
        raise UserError(f"{top}: {os.fsdecode(name)} vanished while the tree was read") from error
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)


def _describe_files(top: Path, names: Sequence[bytes]) -> list[bytes]:
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(lambda batch: [_describe_file(top, name) for name in batch], batches)
        return [text for batch in results for text in batch]


def _describe_file(top: Path, name: bytes) -> bytes:
    """Kind and content of one file in a few bytes; never opens a FIFO or a device."""
    full = _full(top, name)
    try:
        before = full.lstat()
        if stat.S_ISLNK(before.st_mode):
            return b"l" + _target(full)
        if not stat.S_ISREG(before.st_mode):
            return b"s%o" % stat.S_IFMT(before.st_mode)
        with full.open("rb", buffering=0) as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        after = full.lstat()
    except FileNotFoundError:
        return b"-"
    except OSError as error:
        raise UserError(
            f"{top}: cannot read {os.fsdecode(name)}: {error.strerror}", remedy="make the tree readable"
        ) from error
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    ):
        raise UserError(
            f"{top}: {os.fsdecode(name)} changed while it was read",
            remedy="try again while nothing writes there",
        )
    return (b"x" if before.st_mode & 0o100 else b"f") + digest


def _load(store: Path) -> dict[bytes, tuple[tuple[int, ...], bytes]]:
    try:
        version, entries = msgspec.msgpack.decode(
            store.read_bytes(), type=tuple[int, dict[bytes, tuple[tuple[int, ...], bytes]]]
        )
    except (OSError, msgspec.MsgspecError):
        return {}
    return entries if version == _CACHE_VERSION else {}


def _save(store: Path, entries: dict[bytes, tuple[tuple[int, ...], bytes]]) -> None:
    write_atomically(store, msgspec.msgpack.encode((_CACHE_VERSION, entries)))


def _git(path: Path, *argv: str) -> bytes:
    """Run git so that it neither writes to the repository nor runs programs from it."""
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
    command += ["-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=false", "-C", str(path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    process = subprocess.run(
        [*command, *argv], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if process.returncode != 0:
        reason = process.stderr.decode("utf-8", "replace").strip()[-300:]
        raise InfraError(f"{path}: git {argv[0]} failed ({process.returncode}): {reason}")
    return process.stdout


def _status(path: Path) -> Iterator[bytes]:
    """Names that differ from HEAD in the index or the work tree, or are untracked."""
    output = _git(path, "status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames")
    for record in output.split(b"\0"):
        kind = record[:1]
        if kind == b"?":
            yield record[2:]
        elif kind == b"1":
            yield record.split(b" ", 8)[8]
        elif kind == b"u":
            yield record.split(b" ", 10)[10]


def _hidden_changes(path: Path) -> Iterator[bytes]:
    """Changed files that ``git status`` skips, because of flags in the index."""
    for record in _git(path, "ls-files", "-z", "-v", "--stage").split(b"\0"):
        # "h 100644 <blob> 0\tname": lower case is assume-unchanged, S and s are skip-worktree.
        if not record or not (record[:1].islower() or record[:1] == b"S"):
            continue
        fields, _, name = record.partition(b"\t")
        _tag, mode, blob, _stage = fields.split(b" ")
        if _blob_of(path, name, "sha256" if len(blob) == 64 else "sha1") != (mode, blob.decode()):
            yield name


def _blob_of(path: Path, name: bytes, algorithm: str) -> tuple[bytes, str] | None:
    """Mode and object name that git would give the file in the work tree; ``None`` if it is not there."""
    full = _full(path, name)
    try:
        mode = full.lstat().st_mode
        if stat.S_ISLNK(mode):
            data, kind = _target(full), b"120000"
        else:
            data, kind = full.read_bytes(), b"100755" if mode & 0o100 else b"100644"
    except OSError:
        return None
    return kind, hashlib.new(algorithm, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
