# SPDX-License-Identifier: GPL-2.0-only
"""Files that another process may read, or that must survive a crash; paths that somebody else wrote."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from orchestrator.core.errors import InfraError, UserError


def inside(folder: Path, name: str, *, remedy: str = "") -> Path:
    """The path of something below a folder that somebody else may have written.

    :param name: a relative path from a file in that folder.
    :raises UserError: it leads out of the folder, by itself or through a link.
    """
    path = folder / name
    wrong = not name.isprintable() or PurePath(name).is_absolute() or ".." in PurePath(name).parts
    if wrong or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: {name!r} leads out of that folder", remedy=remedy)
    return path


def write_atomically(dest: Path, content: bytes, *, mode: int = 0o644, remedy: str = "") -> None:
    """Write ``content`` to ``dest``, whole or not at all; see ``replacing``.

    :param remedy: what the user should do if the file cannot be written.
    :raises InfraError: the disk is full, or the place is not writable.
    """
    try:
        with replacing(dest, mode=mode) as stream:
            stream.write(content)
    except OSError as error:
        raise InfraError(f"{dest} cannot be written: {error.strerror or error}", remedy=remedy) from error


@contextlib.contextmanager
def replacing(dest: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A stream whose content becomes ``dest`` by atomic rename at the end of the block.

    After an exception ``dest`` is what it was before. The content is always synced to the disk before the
    rename: without that a power cut can leave an empty file under the new name, and a resumed run or a cache
    would trust it. The files are few and small, so the cost does not matter.

    :param mode: permission bits, less the user's umask.
    :raises OSError: the file cannot be written.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    fresh = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(dest)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # errors of write() have no name
            error.filename = str(dest)
        raise


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, however deep it is.

    :raises OSError: it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        # rmtree takes a frame and a descriptor for each level
        subprocess.run(["rm", "-rf", "--", folder], capture_output=True, check=False)
        if os.path.lexists(folder):
            raise
