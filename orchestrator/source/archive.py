# SPDX-License-Identifier: GPL-2.0-only
"""Tarballs: fetched once, unpacked once into the cache, never trusted."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import msgspec
from filelock import FileLock, Timeout

from orchestrator.core.errors import InfraError, OrchestrateError, UserError
from orchestrator.source.identity import check_clean, check_tree
from orchestrator.source.model import Say, quiet

#: A kernel tree is about 1.6 GB in 100,000 entries; nothing that calls itself one is ten times as large.
MAX_BYTES = 16 << 30
MAX_ENTRIES = 1_000_000
MAX_DOWNLOAD_BYTES = 2 << 30

_CHUNK = 1 << 20
_DOWNLOAD_STALL_S = 60
#: For what a killed process has started to notice that, and between two looks.
_CLEAR_S, _PAUSE_S = 10.0, 0.05
_MAGIC = ((b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"))
_BROKEN = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, tarfile.TarError)
#: How programs say that the host is to blame, not the input.
HOST_TROUBLE = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
)
SPACE = "see to the disk below the cache directory: space, quota, permissions"
_OTHER = "fetch the archive again, or use another one"


class Reader(Protocol):
    """What a tarball's bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


class BrokenDownload(InfraError):
    """What arrived from the network is truncated or damaged; fetching it again may help."""


class _Mark(msgspec.Struct, frozen=True):
    """Written last into an entry of the cache; ``entries`` is the number of files and directories."""

    origin: str
    entries: int


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(what: str, found: str, wanted: str | None) -> None:
    """Compare with the digest that the user gave, if any.

    :raises UserError: they differ, or ``wanted`` is no SHA-256; both are named.
    """
    check_sha256_form(wanted)
    if wanted is not None and found != wanted.lower():
        raise UserError(
            f"{what}: SHA-256 is {found}, but {wanted.lower()} was asked for",
            remedy="check where the archive came from, or correct the digest",
        )


def check_sha256_form(wanted: str | None) -> None:
    """Demand 64 hexadecimal digits, if anything was given.

    :raises UserError: it is something else.
    """
    if wanted is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise UserError(f"{wanted!r} is not a SHA-256 digest", remedy="give 64 hexadecimal digits")


def unpack_file(
    archive: Path,
    digest: str,
    *,
    cache: Path,
    blame: type[OrchestrateError] = UserError,
    what: str = "",
    say: Say = quiet,
) -> Path:
    """The tree in a tarball (plain, xz, gzip, bzip2 or zstd), unpacked below ``cache/sources/<digest>``.

    :param digest: identity of the content; an entry that is complete is used as it is.
    :param blame: the error for a broken archive: the user's file, or a download of ours.
    """
    what = what or str(archive)
    return unpack(lambda: _opened(archive), digest, cache=cache, blame=blame, what=what, say=say)


def unpack(
    source: Callable[[], AbstractContextManager[Reader]],
    digest: str,
    *,
    cache: Path,
    blame: type[OrchestrateError],
    what: str,
    say: Say = quiet,
) -> Path:
    """Unpack the tar stream that ``source`` opens, unless it was done before; the path of the tree.

    :raises UserError: it is not a kernel tree, or one in which a kernel was built.
    :raises OrchestrateError: ``blame``: the archive is truncated, damaged or reaches outside itself.
    :raises InfraError: no space, no tar.
    """

    def make(tmp: Path) -> None:
        (tmp / "x").mkdir()
        say(f"unpacking {what}")
        _extract(source, tmp / "x", what, blame)
        top = _single_top(tmp / "x")
        check_tree(top, what)
        check_clean(top, what)
        _audit(top, what, blame)
        top.rename(tmp / "tree")

    return keep(make, digest, cache=cache, what=what, say=say)


def keep(make: Callable[[Path], None], digest: str, *, cache: Path, what: str, say: Say = quiet) -> Path:
    """The tree that ``make(folder)`` puts at ``folder/tree``, kept as ``cache/sources/<digest>/tree``.

    One process makes it, others wait. It appears by rename; what a killed process left is done again, and
    so is an entry in which files are missing. ``folder`` may hold more than the tree.
    """
    entry = cache / "sources" / digest
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _waiting_lock(entry.with_name(f"{digest}.lock"), what, say):
        if _is_complete(entry):
            return entry / "tree"
        tmp = entry.with_name(f"{digest}.tmp")
        for left in (tmp, entry):
            _clear(left)
        tmp.mkdir()
        try:
            make(tmp)
            (tmp / "complete").write_bytes(msgspec.json.encode(_Mark(what, _count(tmp / "tree"))))
            tmp.rename(entry)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
    return entry / "tree"


def _clear(folder: Path) -> None:
    """Remove what a killed process left; its tar, which may outlive it for a moment, still writes there.

    :raises InfraError: it cannot be removed.
    """
    until = time.monotonic() + _CLEAR_S
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if time.monotonic() > until:
                raise InfraError(
                    f"{folder}, which an earlier run has left, cannot be removed: {error.strerror}",
                    remedy="Remove it by hand.",
                ) from None
            time.sleep(_PAUSE_S)


def is_unpacked(cache: Path, digest: str) -> bool:
    """Whether ``unpack`` of this digest would find its work done."""
    return _is_complete(cache / "sources" / digest)


def fetch(url: str, *, cache: Path, sha256: str | None = None, say: Say = quiet) -> Path:
    """A tarball from the web, kept below ``cache/downloads`` and fetched again only if it has changed.

    :param sha256: with it, a kept file that matches is taken without asking the server.
    :raises InfraError: unreachable, refused, cut short or too large.
    """
    folder = cache / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    kept, validators = folder / "archive", folder / "validators.json"
    with _waiting_lock(folder / "lock", url, say):
        have = kept.is_file() and validators.is_file()
        if have and sha256 is not None and sha256_of(kept) == sha256.lower():
            return kept
        headers: dict[str, str] = {}
        if have:
            headers = msgspec.json.decode(validators.read_bytes(), type=dict[str, str])
        say(f"fetching {url}")
        try:
            _download(url, headers, kept, validators)
        except InfraError as error:
            if not have:
                raise
            say(f"{error.message}; using the copy fetched before")
    return kept


def discard(downloaded: Path) -> None:
    """Forget a download that proved to be broken, so that the next attempt fetches it anew."""
    downloaded.with_name("validators.json").unlink(missing_ok=True)
    downloaded.unlink(missing_ok=True)


def _download(url: str, headers: dict[str, str], kept: Path, validators: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "orchestrate", **headers})
    part = kept.with_name("part")
    remedy = "check the network and the proxy, or fetch the archive by other means and name the file"
    try:
        with urllib.request.urlopen(request, timeout=_DOWNLOAD_STALL_S) as answer:
            expected = answer.headers.get("Content-Length")
            size = 0
            with part.open("wb") as stream:
                while chunk := answer.read(_CHUNK):
                    size += len(chunk)
                    if size > MAX_DOWNLOAD_BYTES:
                        raise InfraError(f"{url}: larger than {MAX_DOWNLOAD_BYTES >> 20} MiB, stopped")
                    stream.write(chunk)
            if expected is not None and expected.isdigit() and size != int(expected):
                raise InfraError(f"{url}: cut short, {size} of {expected} bytes arrived", remedy="try again")
            fresh = {
                ask: answer.headers[tell]
                for ask, tell in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
                if answer.headers[tell]
            }
    except urllib.error.HTTPError as error:
        if error.code == 304 and headers:
            return
        raise InfraError(f"{url}: the server answered {error.code} {error.reason}", remedy=remedy) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise InfraError(f"{url}: {getattr(error, 'reason', error)}", remedy=remedy) from error
    # In this order a kill in between costs a download, never a false 304.
    validators.unlink(missing_ok=True)
    part.replace(kept)
    validators.write_bytes(msgspec.json.encode(fresh))


@contextmanager
def _waiting_lock(path: Path, what: str, say: Say) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        say(f"waiting for another process that prepares {what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_complete(entry: Path) -> bool:
    try:
        mark = msgspec.json.decode((entry / "complete").read_bytes(), type=_Mark)
        return mark.entries == _count(entry / "tree")
    except (OSError, msgspec.MsgspecError):
        return False


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file and directory below a folder; links are not followed."""
    with os.scandir(folder) as listed:
        for entry in listed:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def _count(tree: Path) -> int:
    """Files and directories of a tree. What git keeps to itself may grow and shrink."""
    inside = sum(1 for _ in _entries(tree / ".git")) if (tree / ".git").is_dir() else 0
    return sum(1 for _ in _entries(tree)) - inside


def _single_top(folder: Path) -> Path:
    """The one directory that a release tarball has at its top, or the folder itself."""
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink():
        return inside[0]
    return folder


def _audit(top: Path, what: str, blame: type[OrchestrateError]) -> None:
    """Refuse devices, links that lead out of the tree, and more than any kernel tree holds."""
    real = os.path.realpath(top)
    size = 0
    for count, entry in enumerate(_entries(top), 1):
        name = os.path.relpath(entry.path, top)
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if target != real and not target.startswith(f"{real}/"):
                raise blame(f"{what}: the link {name!r} leads out of the archive", remedy=_OTHER)
        elif entry.is_file(follow_symlinks=False):
            size += entry.stat(follow_symlinks=False).st_size
        elif not entry.is_dir(follow_symlinks=False):
            raise blame(f"{what}: {name!r} is neither file, directory nor link", remedy=_OTHER)
        if count > MAX_ENTRIES or size > MAX_BYTES:
            raise blame(f"{what}: unpacks to more than any kernel tree", remedy=_OTHER)


def _extract(
    source: Callable[[], AbstractContextManager[Reader]], into: Path, what: str, blame: type[OrchestrateError]
) -> None:
    """Feed the stream to tar, which keeps every member below its directory and defers outward links."""
    argv = ["tar", "-x", "-f", "-", "-C", str(into), "--no-same-owner", "--no-same-permissions"]
    env = {name: value for name, value in os.environ.items() if name != "TAR_OPTIONS"} | {"LC_ALL": "C"}
    with tempfile.TemporaryFile() as errors:
        try:
            tar = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=env
            )
        except FileNotFoundError as error:
            raise InfraError("tar is not installed", remedy="install GNU tar") from error
        assert tar.stdin is not None
        problem = ""
        try:
            with source() as reader:
                problem = _pump(reader, tar.stdin)
        except _BROKEN as error:
            problem = f"truncated or damaged ({error})"
        except OSError as error:
            if error.errno is not None:
                tar.kill()
                raise
            # bz2 has no error of its own for damaged data.
            problem = f"truncated or damaged ({error})"
        except BaseException:
            tar.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                tar.stdin.close()
            status = tar.wait()
        errors.seek(0)
        said = errors.read(4096).decode("utf-8", "replace").strip()
    if any(sign in said for sign in HOST_TROUBLE) or status < 0:
        raise InfraError(f"unpacking {what}: {said or f'tar was killed by signal {-status}'}", remedy=SPACE)
    if problem or status != 0:
        reason = problem or said.partition("\n")[0] or f"tar ended with {status}"
        raise blame(f"{what}: cannot be unpacked: {reason}", remedy=_OTHER)


def _pump(reader: Reader, sink: IO[bytes]) -> str:
    """Copy a tar stream; what is wrong with it, or empty."""
    total, tail = 0, b""
    try:
        while chunk := reader.read(_CHUNK):
            total += len(chunk)
            if total > MAX_BYTES:
                return f"unpacks to more than {MAX_BYTES >> 30} GiB"
            tail = (tail + chunk)[-1024:]
            sink.write(chunk)
    except BrokenPipeError:
        return ""
    # tar itself is content with an archive that was cut between two members.
    return "" if tail == bytes(1024) else "truncated: no end-of-archive mark"


@contextmanager
def _opened(path: Path) -> Iterator[Reader]:
    with path.open("rb") as stream:
        start = stream.read(8)
    kind = next((name for magic, name in _MAGIC if start.startswith(magic)), "plain")
    if kind == "zstd":
        with program_output(["zstd", "-d", "-c", "--", str(path)], "zstd") as reader:
            yield reader
    elif kind == "xz":
        with lzma.open(path) as reader:
            yield reader
    elif kind == "gzip":
        with gzip.open(path) as reader:
            yield reader
    elif kind == "bzip2":
        with bz2.open(path) as reader:
            yield reader
    else:
        with path.open("rb") as reader:
            yield reader


class _ProgramReader:
    """The output of a program; its failure shows at the end of the stream, where it cannot be overlooked."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._output = output

    def read(self, size: int = -1, /) -> bytes:
        data = self._output.read(size)
        if not data and size != 0 and self._process.wait() != 0:
            raise EOFError(f"{self._name} ended with {self._process.returncode}")
        return data


@contextmanager
def program_output(argv: Sequence[str], package: str) -> Iterator[Reader]:
    """The standard output of a program, as a stream that raises ``EOFError`` if the program failed.

    :raises InfraError: it is not installed; ``package`` is named as the remedy.
    """
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise InfraError(f"{argv[0]} is not installed", remedy=f"install {package}") from error
    with process:
        assert process.stdout is not None
        try:
            yield _ProgramReader(argv[0], process, process.stdout)
        finally:
            process.kill()
