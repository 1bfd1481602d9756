# SPDX-License-Identifier: GPL-2.0-only
"""Tarballs: unpacked once into the cache, never trusted."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from orchestrator.core.contents import MAX_DEPTH, TooDeep, walk
from orchestrator.core.errors import InfraError, OrchestrateError, UserError
from orchestrator.core.store import Seal, Store
from orchestrator.source.identity import check_clean, check_tree
from orchestrator.source.model import Say, quiet
from orchestrator.source.programs import HOST_TROUBLE, SPACE

#: A kernel tree is about 1.6 GB in 100,000 entries; none is ten times as large.
MAX_BYTES = 16 << 30
MAX_ENTRIES = 1_000_000

_CHUNK = 1 << 20
_MAGIC = ((b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"))
_BROKEN = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, tarfile.TarError)
_OTHER = "fetch the archive again, or use another one"
_CLEAN = "pack it again from a clean tree: `make mrproper` there, or `git archive`"


class Reader(Protocol):
    """A stream of a tarball's bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


def keep(make: Callable[[Path], None], digest: str, *, cache: Path, what: str, say: Say = quiet) -> Path:
    """The tree that ``make(folder)`` puts at ``folder/tree``, kept as ``cache/sources/<digest>/tree``.

    One process makes it, others wait. ``folder`` may hold more than the tree.

    :raises InfraError: the cache cannot be written.
    """

    def waiting() -> None:
        say(f"waiting for another process that prepares {what}")

    return Store(cache).entry("sources", digest, make, seal=Seal.TREE, waiting=waiting) / "tree"


def is_unpacked(cache: Path, digest: str) -> bool:
    """Whether the cache has the tree of this digest."""
    return Store(cache).find("sources", digest, seal=Seal.TREE) is not None


def check_sha256(what: str, actual: str, expected: str | None) -> None:
    """Compare an archive's digest with the one that the user named, if any.

    :raises UserError: they differ, or ``expected`` is not a SHA-256; the message has both.
    """
    check_sha256_form(expected)
    if expected is not None and actual != expected.lower():
        raise UserError(
            f"{what}: SHA-256 is {actual}, not {expected.lower()}",
            remedy="check where the archive came from, or correct the digest",
        )


def check_sha256_form(digest: str | None) -> None:
    """Demand 64 hexadecimal digits, if there is a digest.

    :raises UserError: it has another form.
    """
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"{digest!r} is not a SHA-256 digest", remedy="write 64 hexadecimal digits")


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
    :param blame: the error for a broken archive: ``UserError`` for a file, ``InfraError`` for a download.
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
        check_clean(top, what, remedy=_CLEAN)
        _audit(top, what, blame)
        top.rename(tmp / "tree")

    return keep(make, digest, cache=cache, what=what, say=say)


def _single_top(folder: Path) -> Path:
    """The one directory that a release tarball has at its top, or the folder itself."""
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink():
        return inside[0]
    return folder


def _audit(top: Path, what: str, blame: type[OrchestrateError]) -> None:
    """Refuse devices, links that lead out of the tree, and more or deeper than any kernel tree holds."""
    real = os.path.realpath(top)
    size = 0
    try:
        for count, (raw, entry) in enumerate(walk(top, everything=True), 1):
            name = os.fsdecode(raw)
            if entry.is_symlink():
                target = os.path.realpath(os.fsdecode(entry.path))
                if target != real and not target.startswith(f"{real}/"):
                    raise blame(f"{what}: the link {name!r} leads out of the archive", remedy=_OTHER)
            elif entry.is_file(follow_symlinks=False):
                size += entry.stat(follow_symlinks=False).st_size
            elif not entry.is_dir(follow_symlinks=False):
                raise blame(f"{what}: {name!r} is neither file, directory nor link", remedy=_OTHER)
            if count > MAX_ENTRIES or size > MAX_BYTES:
                raise blame(f"{what}: unpacks to more than any kernel tree", remedy=_OTHER)
    except TooDeep:
        raise blame(f"{what}: its folders are nested more than {MAX_DEPTH} deep", remedy=_OTHER) from None


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
            # bz2 has no error class for damaged data
            problem = f"truncated or damaged ({error})"
        except BaseException:
            tar.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                tar.stdin.close()
            status = tar.wait()
        errors.seek(0)
        message = errors.read(4096).decode("utf-8", "replace").strip()
    if any(sign in message for sign in HOST_TROUBLE) or status < 0:
        raise InfraError(
            f"unpacking {what}: {message or f'tar was killed by signal {-status}'}", remedy=SPACE
        )
    if problem or status != 0:
        reason = problem or message.partition("\n")[0] or f"tar ended with {status}"
        raise blame(f"{what}: cannot be unpacked: {reason}", remedy=_OTHER)


def _pump(reader: Reader, sink: IO[bytes]) -> str:
    """Copy a tar stream; returns what is wrong with it, or an empty string."""
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
    # tar accepts an archive that was cut between two members
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
    """The output of a program; if it fails, the end of the stream raises ``EOFError``."""

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

    :raises InfraError: it is not installed; the remedy names ``package``.
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
