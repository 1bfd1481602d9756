# SPDX-License-Identifier: GPL-2.0-only
"""The inputs that a run keeps, so that it is self-contained: ``<run>/artifacts/<digest>/…``.

Files of the cache are hard links if possible, so that a run does not cost a copy of each kernel. A linked
file loses its write permission. If it is modified nevertheless, the cache notices the digest and rebuilds its
entry.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from orchestrator.core.errors import InfraError
from orchestrator.core.files import replacing, write_atomically
from orchestrator.core.store import digest_of
from orchestrator.kernel.spec import Kernel

FOLDER = "artifacts"


def keep_kernel(root: Path, kernel: Kernel) -> str:
    """Keep a kernel's image, and its vmlinux and config where it has them; the image's path below ``root``.

    :raises InfraError: the run directory cannot be written.
    """
    files = (kernel.image, *(path for path in (kernel.vmlinux, kernel.config) if path is not None))
    return f"{keep(root, kernel.key, {path.name: path for path in files})}/{kernel.image.name}"


def keep(root: Path, digest: str, files: Mapping[str, Path]) -> str:
    """Keep files of the cache under a digest; their folder below ``root``.

    Cells that run side by side may keep the same thing.

    :raises InfraError: the run directory cannot be written.
    """
    place = root / FOLDER / digest
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            if not (place / name).exists():
                _link_or_copy(source, place / name)
    except OSError as error:
        raise InfraError(f"{place} cannot be written: {error.strerror}") from error
    return f"{FOLDER}/{digest}"


def keep_bytes(root: Path, name: str, content: bytes) -> str:
    """Keep content that is not in the cache, under its digest; its path below ``root``.

    :raises InfraError: as ``keep``.
    """
    place = f"{FOLDER}/{digest_of(content)}/{name}"
    if not (root / place).exists():
        write_atomically(root / place, content, mode=0o444)
    return place


def _link_or_copy(source: Path, dest: Path) -> None:
    mode = stat.S_IMODE(source.stat().st_mode) & ~0o222
    with contextlib.suppress(OSError):
        # neither is permitted in another user's cache
        source.chmod(mode)
        with contextlib.suppress(FileExistsError):
            os.link(source, dest)
        return
    with replacing(dest, mode=mode) as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy)
