# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache: an entry is whole or it is not there.

    <cache>/<kind>/<key>/…files… manifest.json

An entry is made in a temporary folder beside its place and renamed into it, under a lock, so that two
runs at once make it once. The manifest holds size and digest of every file: a torn entry (a full
disk, a power cut, a hand that deleted something) is seen and made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from orchestrator.core.errors import InfraError, Interrupted, UserError

_MANIFEST = "manifest.json"
#: What the disk alone is to blame for; a maker's other errors are its own.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

#: Seconds between two looks at whether a wait for another process is still wanted.
_PATIENCE_S = 0.5


class _File(msgspec.Struct, frozen=True):
    size: int
    sha256: str


def default_cache() -> Path:
    """Where caches live: ``$ORCHESTRATE_CACHE``, else the user's cache folder.

    :raises UserError: kernels cannot be built below that path.
    """
    chosen = os.environ.get("ORCHESTRATE_CACHE")
    cache = Path(chosen).absolute() if chosen else platformdirs.user_cache_path("orchestrate")
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
    """A path of the user's that holds in any working directory; ``~`` is the home folder.

    :raises UserError: there is no such home folder.
    """
    try:
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (links stay as they are)
    except RuntimeError:
        raise UserError(f"{path}: whose home folder this is cannot be told") from None


def can_hold_builds(path: Path) -> bool:
    """Whether make can work there: it takes neither spaces nor colons in the paths of trees and objects."""
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
    """Turn an ``OSError`` (of those numbers, if given) into an ``InfraError``."""
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

    :param cancelled: is asked while another process is waited for.
    """

    def __init__(self, root: Path, cancelled: Callable[[], bool] = lambda: False) -> None:
        self.root = root
        self._cancelled = cancelled

    def find(self, kind: str, key: str) -> Path | None:
        """The folder of an entry that is there and whole."""
        entry = self.root / kind / key
        return entry if _intact(entry) else None

    def entry(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """The folder of the entry, made by ``make(folder)`` if it is not there yet.

        :param waiting: called once when another process is making it at this moment.
        :raises InfraError: the cache cannot be written.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        entry = self.root / kind / key
        with self.lock(f"{kind}-{key}", waiting=waiting):
            if _intact(entry):
                return entry
            with _disk_trouble(self.root):
                entry.parent.mkdir(parents=True, exist_ok=True)
                for left in entry.parent.glob(f".{key[:12]}-*"):
                    # whoever made this is dead: we hold the lock
                    shutil.rmtree(left, ignore_errors=True)
                fresh = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=entry.parent))
            try:
                with _disk_trouble(self.root, only=_DISK):
                    make(fresh)
                with _disk_trouble(self.root):
                    _seal(fresh)
                    shutil.rmtree(entry, ignore_errors=True)
                    fresh.rename(entry)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
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


def _seal(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): _File(path.stat().st_size, file_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = folder / _MANIFEST
    with manifest.open("wb") as stream:
        stream.write(msgspec.json.encode(files))
        stream.flush()
        os.fsync(stream.fileno())
    folder.chmod(0o755)


def _intact(entry: Path) -> bool:
    try:
        files = msgspec.json.decode((entry / _MANIFEST).read_bytes(), type=dict[str, _File])
        return all(
            (entry / name).stat().st_size == file.size and file_digest(entry / name) == file.sha256
            for name, file in files.items()
        )
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return False
