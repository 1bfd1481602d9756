# SPDX-License-Identifier: GPL-2.0-only
"""A kernel image that the user built, identified by its header."""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.arch import Header
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store, absolute, digest_of, file_digest
from orchestrator.kernel.spec import Kernel

_RELEASE = rb"[0-9][A-Za-z0-9._+~-]{0,63}"
_BANNER = re.compile(rb"Linux version (" + _RELEASE + rb") ")
_LIMIT = 512 << 20


class Prebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """``arch`` is a name of orchestrate; ``release`` from the image, or empty."""

    path: Path
    arch: str
    release: str
    digest: str

    def kernel(self) -> Kernel:
        """The image as a kernel without vmlinux and configuration."""
        return Kernel(
            key=self.digest[:32],
            folder=self.path.parent,
            image=self.path,
            vmlinux=None,
            config=None,
            release=self.release,
            build_id="",
            toolchain="",
            cpu_s=0.0,
            cached=True,
        )


def keep(image: Prebuilt, store: Store) -> Prebuilt:
    """Copy the image into the store: the user's file may change before the last boot.

    :raises UserError: the file changed while it was copied.
    """

    def make(fresh: Path) -> None:
        shutil.copyfile(image.path, fresh / image.path.name)
        if file_digest(fresh / image.path.name) != image.digest:
            raise UserError(f"{image.path}: the file changed while it was copied", remedy="Try again.")

    folder = store.entry("prebuilt", digest_of("prebuilt", image.digest, image.path.name), make)
    return msgspec.structs.replace(image, path=folder / image.path.name)


def inspect(name: str) -> Prebuilt:
    """Identify a kernel image.

    :raises UserError: there is none, or QEMU cannot boot it.
    """
    path = absolute(Path(name))
    try:
        if path.stat().st_size > _LIMIT:
            raise UserError(f"--kernel {name}: larger than {_LIMIT >> 20} MiB, so not a kernel image")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--kernel {name}: {error.strerror}", remedy="Name a bzImage or an Image.") from error
    compressed = content[:2] == b"\x1f\x8b"
    if compressed:
        try:
            content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(content, _LIMIT)
        except (zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"--kernel {name}: a damaged gzip file: {error}") from error
    known = [arches.load(each) for each in arches.names()]
    for arch in known:
        if arch.header.fits(content) and (arch.header.gzip or not compressed):
            return Prebuilt(
                path=path, arch=arch.name, release=_release(content, arch.header), digest=file_digest(path)
            )
    *most, last = (arch.name for arch in known)
    none = f"no image of {', '.join(most)} or {last}"
    what = "an ELF file (vmlinux?)" if content[:4] == b"\x7fELF" else none
    images = [
        f"{arch.image} or {Path(arch.image).name}.gz" if arch.header.gzip else arch.image for arch in known
    ]
    raise UserError(f"--kernel {name}: {what}", remedy=f"Name {', '.join(images)} of the build.")


def _release(content: bytes, header: Header) -> str:
    """The release in an image; empty if it has none."""
    if not header.version_at:
        banner = _BANNER.search(content)
        return banner[1].decode() if banner else ""
    # 0 means that there is none; the content is untrusted
    at = int.from_bytes(content[header.version_at : header.version_at + 2], "little")
    match = re.compile(_RELEASE).match(content, at + header.version_from) if at else None
    return match[0].decode() if match else ""
