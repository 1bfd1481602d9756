# SPDX-License-Identifier: GPL-2.0-only
"""What is in a folder: the bytes, kinds and executable bits of its files, as digests.

Nothing here writes into the folder, or believes a time stamp that could be older than the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically

#: Folders nested deeper are no source tree; names would become too long for the system's calls.
MAX_DEPTH = 100
#: The whole ``.gitignore`` of a folder of results. git ignores what is in it, and it is no content.
RESULTS = b"# Results of orchestrate; no part of a source tree around them.\n*\n"

_THREADS = 4
_BATCH = 256
#: A file changed so shortly before the scan could change again without its time stamp showing it.
_RACY_NS = 2_000_000_000
_CACHE_VERSION = 2

_Stat = tuple[int, ...]
_Known = dict[bytes, tuple[_Stat, bytes]]


class TooDeep(UserError):
    """Folders are nested deeper than ``MAX_DEPTH``."""


def walk(top: Path, *, everything: bool = False) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """What is below a folder, folders first: relative names and entries. Links are not followed.

    :param everything: do not leave out ``.git`` and folders of results.

    :raises TooDeep: see there.
    :raises UserError: a folder cannot be read.
    """
    start = os.fsencode(top)
    pending = [b""]
    while pending:
        below = pending.pop()
        if below.count(b"/") > MAX_DEPTH:
            raise TooDeep(
                f"{top}: folders are nested more than {MAX_DEPTH} deep below {os.fsdecode(below[:60])}",
                remedy="remove them",
            )
        try:
            with os.scandir(os.path.join(start, below)) as entries:  # noqa: PTH118  (bytes)
                children = [entry for entry in entries if everything or entry.name != b".git"]
        except OSError as error:
            raise UserError(f"{top}: cannot list {os.fsdecode(below)}: {error.strerror}") from error
        if below and not everything and _holds_results(children):
            continue
        for entry in children:
            yield below + entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(below + entry.name + b"/")


def digest(top: Path, *, stat_cache: Path | None = None, leave_out: Container[bytes] = ()) -> str:
    """A digest (64 hex) over every file of a folder: path, executable bit, symlink target and content.

    ``.git`` and folders of results are left out. Times, owners and the umask do not count.

    :param stat_cache: a file for the digests of files; with it a second call reads only changed files.
    :param leave_out: names to leave out too.
    :raises UserError: a file cannot be read, or changes while it is read.
    """
    return combine(b"tree", sorted(files(top, stat_cache=stat_cache, leave_out=leave_out).items()))


def combine(kind: bytes, entries: Iterable[tuple[bytes, bytes]]) -> str:
    """A digest (64 hex) of names and the descriptions of their files."""
    total = hashlib.sha256(b"orchestrate " + kind + b" 1\0")
    for name, text in entries:
        total.update(b"%d:%b%d:%b" % (len(name), name, len(text), text))
    return total.hexdigest()


def files(
    top: Path,
    *,
    stat_cache: Path | None = None,
    leave_out: Container[bytes] = (),
    describe: Callable[[Path, bytes], bytes] | None = None,
) -> dict[bytes, bytes]:
    """Each file below a folder, by its relative name, with a description of its kind and content.

    :param describe: makes the descriptions; by default, ``description``. A ``stat_cache`` is for one of them.
    :raises UserError: a file cannot be read, or changes while it is read.
    """
    started = time.time_ns()
    known = _load(stat_cache) if stat_cache else {}
    found: dict[bytes, bytes] = {}
    stats: dict[bytes, _Stat] = {}
    for name, entry in walk(top):
        if name in leave_out or entry.is_dir(follow_symlinks=False):
            continue
        stats[name] = _stat_of(top, name, entry)
        old = known.get(name)
        if old is not None and old[0] == stats[name]:
            found[name] = old[1]
    unknown = sorted(stats.keys() - found.keys())
    found.update(zip(unknown, descriptions(top, unknown, describe), strict=True))
    if stat_cache and (unknown or len(known) != len(found)):
        old_enough = (name for name in found if max(stats[name][1:3]) < started - _RACY_NS)
        _save(stat_cache, {name: (stats[name], found[name]) for name in old_enough})
    return found


def descriptions(
    top: Path, names: Sequence[bytes], describe: Callable[[Path, bytes], bytes] | None = None
) -> list[bytes]:
    """The descriptions of these files; see ``files``."""
    one = describe or description
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(lambda batch: [one(top, name) for name in batch], batches)
        return [text for batch in results for text in batch]


def description(top: Path, name: bytes, algorithm: str = "sha256", *, blob: bool = False) -> bytes:
    """Kind and digest of one file in a few bytes; never opens a FIFO or a device.

    :param blob: hash the content as git does for the name of its blob, and the target of a link likewise.
    :raises UserError: it cannot be read, or changes while it is read.
    """
    full = top / os.fsdecode(name)
    try:
        before = full.lstat()
        if stat.S_ISLNK(before.st_mode):
            # not Path.readlink, which normalises the text: "./a" and "a" are two contents
            target = os.fsencode(os.readlink(full))  # noqa: PTH115
            return b"l" + (_blob_hash(algorithm, target) if blob else target)
        if not stat.S_ISREG(before.st_mode):
            return b"s%o" % stat.S_IFMT(before.st_mode)
        with full.open("rb", buffering=0) as stream:
            value = (
                _blob_hash(algorithm, stream.readall())
                if blob
                else hashlib.file_digest(stream, algorithm).digest()
            )
        after = full.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return b"-"
    except OSError as error:
        raise UserError(
            f"{top}: cannot read {os.fsdecode(name)}: {error.strerror}", remedy="make the tree readable"
        ) from error
    if _identity(before) != _identity(after):
        raise UserError(
            f"{top}: {os.fsdecode(name)} changed while it was read",
            remedy="try again while nothing writes there",
        )
    return (b"x" if before.st_mode & 0o100 else b"f") + value


def _blob_hash(algorithm: str, content: bytes) -> bytes:
    return hashlib.new(algorithm, b"blob %d\0" % len(content) + content, usedforsecurity=False).digest()


def _identity(status: os.stat_result) -> _Stat:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)


def _stat_of(top: Path, name: bytes, entry: os.DirEntry[bytes]) -> _Stat:
    try:
        return _identity(entry.stat(follow_symlinks=False))
    except OSError as error:
        raise UserError(f"{top}: {os.fsdecode(name)} vanished while the tree was read") from error


def _holds_results(children: Iterable[os.DirEntry[bytes]]) -> bool:
    mark = next((entry for entry in children if entry.name == b".gitignore"), None)
    try:
        return (
            mark is not None
            and mark.is_file(follow_symlinks=False)
            and mark.stat().st_size == len(RESULTS)
            and Path(os.fsdecode(mark.path)).read_bytes() == RESULTS
        )
    except OSError:
        return False


def _load(cache: Path) -> _Known:
    try:
        version, entries = msgspec.msgpack.decode(cache.read_bytes(), type=tuple[int, _Known])
    except (OSError, msgspec.MsgspecError):
        return {}
    return entries if version == _CACHE_VERSION else {}


def _save(cache: Path, entries: _Known) -> None:
    # without it the next call takes longer, no more
    with contextlib.suppress(InfraError):
        write_atomically(cache, msgspec.msgpack.encode((_CACHE_VERSION, entries)))
