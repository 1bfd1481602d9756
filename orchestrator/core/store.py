# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache: an entry is whole or it is not there.

    <cache>/<kind>/<key>/…files… manifest.json

An entry is made in a temporary folder beside its place and renamed into it, under a lock, so that two
runs at once make it once. Each entry has a seal, ``manifest.json``: a torn entry (full disk, power cut, a
deleted or changed file) does not match it and is made again. A ``CONTENT`` seal has the size and digest of
every file, which are read each time. A ``TREE`` seal has one digest over all; of a kernel tree's
100,000 files, only those are read again whose time stamps changed (``stat.msgpack``).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from orchestrator.core import contents
from orchestrator.core.errors import InfraError, Interrupted, OrchestrateError, UserError
from orchestrator.core.files import remove_tree, replacing

_MANIFEST = "manifest.json"
_STATS = "stat.msgpack"
#: Errors of the disk alone; other errors belong to the code that makes an entry.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

#: Seconds between two checks for cancellation while another process holds a lock.
_PATIENCE_S = 0.5
#: How long to wait for the children of a killed process, which may still write, and between two attempts.
_CLEAR_S, _PAUSE_S = 10.0, 0.05


class Seal(enum.Enum):
    """How an entry is checked."""

    CONTENT = "content"
    TREE = "tree"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    sha256: str


class _Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str


def default_cache() -> Path:
    """Where caches live: ``$ORCHESTRATE_CACHE``, else the user's cache folder.

    :raises UserError: kernels cannot be built below that path, or the user has no home folder.
    """
    setting = os.environ.get("ORCHESTRATE_CACHE")
    try:
        cache = (
            Path(setting).absolute() if setting else platformdirs.user_cache_path("orchestrate").absolute()
        )
    except RuntimeError:
        raise UserError(
            "there is no place for the cache: HOME is not set, and this user has no home folder",
            remedy="Name a folder with ORCHESTRATE_CACHE.",
        ) from None
    if not can_hold_builds(cache):
        raise UserError(
            f"the cache {str(cache)!r}: the kernel's makefiles refuse a path with spaces or colons",
            remedy="Name another place with ORCHESTRATE_CACHE.",
        )
    return cache


def open_store() -> Store:
    """The store in the default place.

    :raises InfraError: it cannot be written.
    """
    store = Store(default_cache())
    with _disk_trouble(store.root):
        store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=store.root):
            pass
    return store


def absolute(path: Path) -> Path:
    """A path of the user's, absolute; ``~`` is the home folder.

    :raises UserError: the home folder is unknown.
    """
    try:
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (links stay as they are)
    except RuntimeError:
        raise UserError(f"{path}: no such home folder") from None


def can_hold_builds(path: Path) -> bool:
    """Whether make works there: paths of trees and objects may have neither spaces nor colons."""
    return not any(c == ":" or c.isspace() for c in str(path))


def digest_of(*parts: object) -> str:
    """A key over values: sha256 of their canonical JSON, 32 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _disk_trouble(path: Path, only: Container[int | None] | None = None) -> Iterator[None]:
    """Turn an ``OSError`` (only those numbers, if any) into an ``InfraError``."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise InfraError(
            f"cannot write to the cache {path}: {error.strerror}",
            remedy="Free some space, or name another place with ORCHESTRATE_CACHE.",
        ) from error


class Store:
    """The cache below ``root``; safe for several processes at once.

    :param cancelled: is called while another process holds a lock; true ends the wait.
    """

    def __init__(self, root: Path, cancelled: Callable[[], bool] = lambda: False) -> None:
        self.root = root
        self._cancelled = cancelled

    def find(self, kind: str, key: str, *, seal: Seal = Seal.CONTENT) -> Path | None:
        """The folder of an entry that exists and is whole."""
        entry = self.root / kind / key
        return entry if _intact(entry, seal) else None

    def is_damaged(self, kind: str, key: str, *, seal: Seal = Seal.CONTENT) -> bool:
        """Whether an entry exists that is not whole; ``entry`` makes it again."""
        entry = self.root / kind / key
        return entry.exists() and not _intact(entry, seal)

    def discard(self, kind: str, key: str) -> None:
        """Remove an entry that has proven wrong.

        :raises InfraError: it cannot be removed.
        """
        with self.lock(f"{kind}-{key}"):
            _clear(self.root / kind / key)

    def entry(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        seal: Seal = Seal.CONTENT,
        waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """The folder of the entry, made by ``make(folder)`` if it does not exist yet.

        :param waiting: called once if another process is making it at this moment.
        :raises InfraError: the cache cannot be written.
        """
        entry = self.root / kind / key
        if _intact(entry, seal):
            return entry
        with self.lock(f"{kind}-{key}", waiting=waiting):
            if _intact(entry, seal):
                return entry
            with _disk_trouble(self.root):
                entry.parent.mkdir(parents=True, exist_ok=True)
                for leftover in entry.parent.glob(f".{key[:12]}-*"):
                    # the process that made it is dead: we hold the lock
                    _clear(leftover)
                fresh = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=entry.parent))
            try:
                with _disk_trouble(self.root, only=_DISK):
                    make(fresh)
                with _disk_trouble(self.root):
                    _write_seal(fresh, seal)
                    if entry.exists():
                        _clear(entry)
                    fresh.rename(entry)
            finally:
                with contextlib.suppress(OSError):
                    remove_tree(fresh)
        return entry

    @contextlib.contextmanager
    def lock(self, name: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of that name; the kernel frees it when its holder dies.

        :raises Interrupted: the run was cancelled while another process had it.
        """
        with _disk_trouble(self.root):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{name}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                self._acquire(lock)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: FileLock) -> None:
        while True:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=_PATIENCE_S)
                return
            if self._cancelled():
                raise Interrupted("interrupted")


def _write_seal(folder: Path, seal: Seal) -> None:
    content: dict[str, _File] | _Tree
    if seal is Seal.TREE:
        content = _Tree(_tree_digest(folder))
    else:
        content = {
            name: _File((folder / name).stat().st_size, file_digest(folder / name)) for name in _files(folder)
        }
    with replacing(folder / _MANIFEST) as stream:
        stream.write(msgspec.json.encode(content))
    folder.chmod(0o755)


def _files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


def _intact(entry: Path, seal: Seal) -> bool:
    try:
        manifest = (entry / _MANIFEST).read_bytes()
        if seal is Seal.TREE:
            return msgspec.json.decode(manifest, type=_Tree).digest == _tree_digest(entry)
        files = msgspec.json.decode(manifest, type=dict[str, _File])
        # no entry is empty: an empty manifest, or one of some of the files, is not what `_write_seal` wrote
        return (
            bool(files)
            and set(files) == set(_files(entry)) - {_MANIFEST}
            and all(
                (entry / name).stat().st_size == file.size and file_digest(entry / name) == file.sha256
                for name, file in files.items()
            )
        )
    except (OSError, OrchestrateError, msgspec.DecodeError, msgspec.ValidationError):
        return False


def _tree_digest(folder: Path) -> str:
    """The digest of an entry. The inside of a ``.git`` may grow and shrink, and does not count."""
    own = (_MANIFEST.encode(), _STATS.encode())
    return contents.digest(folder, stat_cache=folder / _STATS, leave_out=own)


def _clear(folder: Path) -> None:
    """Remove what a killed process left. Its children may outlive it for a moment and still write there.

    :raises InfraError: it cannot be removed.
    """
    deadline = time.monotonic() + _CLEAR_S
    while folder.exists():
        try:
            remove_tree(folder)
        except OSError as error:
            if time.monotonic() > deadline:
                raise InfraError(
                    f"{folder}, left by an earlier run, cannot be removed: {error.strerror}",
                    remedy=f"Remove it: rm -r {folder}",
                ) from None
            time.sleep(_PAUSE_S)
