# SPDX-License-Identifier: GPL-2.0-only
"""A kernel image that the user built, identified by its header."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import zlib
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.arch import Arch, Header
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store, absolute, digest_of, file_digest
from orchestrator.kernel.spec import Kernel

_RELEASE = rb"[0-9][A-Za-z0-9._+~-]{0,63}"
_BANNER = re.compile(rb"Linux version (" + _RELEASE + rb") ")
_LIMIT = 512 << 20
#: What people take for an image: the place of its first bytes, those, and its name.
_OTHERS = (
    (0, b"\x7fELF", "an ELF file (vmlinux?)"),
    (4, b"zimg", "an EFI program that unpacks the image (vmlinuz.efi), which QEMU does not boot"),
    (0x24, b"\x18\x28\x6f\x01", "a zImage of 32-bit ARM"),
    (0, b"\x27\x05\x19\x56", "a uImage of U-Boot"),
    (0, b"\xd0\x0d\xfe\xed", "a FIT image or a device tree"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file"),
    (0, b"07070", "a cpio archive (an initramfs?)"),
    (0, b"!<arch>", "a Debian package or another archive"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
)


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
    raw = _read(path, name)
    compressed = raw[:2] == b"\x1f\x8b"
    content = _unpacked(raw, name) if compressed else raw
    known = [arches.load(each) for each in arches.names()]
    for arch in known:
        if arch.header.fits(content) and (arch.header.gzip or not compressed):
            _check(content, arch, name)
            return Prebuilt(
                path=path,
                arch=arch.name,
                release=_release(content, arch.header),
                digest=hashlib.sha256(raw).hexdigest(),
            )
    *most, last = (arch.name for arch in known)
    none = f"no image of {', '.join(most)} or {last}"
    what = next((what for at, magic, what in _OTHERS if content[at : at + len(magic)] == magic), none)
    images = [
        f"{arch.image} or {Path(arch.image).name}.gz" if arch.header.gzip else arch.image for arch in known
    ]
    raise UserError(f"--kernel {name}: {what}", remedy=f"Name {', '.join(images)} of the build.")


def _read(path: Path, name: str) -> bytes:
    try:
        # it is read again before the last boot: a pipe would be empty by then
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise UserError(f"--kernel {name}: {what}", remedy="Save the image as a file, and name that.")
        if path.stat().st_size > _LIMIT:
            raise UserError(f"--kernel {name}: larger than {_LIMIT >> 20} MiB, so not a kernel image")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--kernel {name}: {error.strerror}", remedy="Name a bzImage or an Image.") from error


def _unpacked(content: bytes, name: str) -> bytes:
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = stream.decompress(content, _LIMIT)
    except zlib.error as error:
        raise UserError(f"--kernel {name}: a damaged gzip file: {error}") from error
    if not stream.eof:
        end = "larger than an image can be" if stream.unconsumed_tail else "its end is missing"
        raise UserError(f"--kernel {name}: a damaged gzip file: {end}")
    return unpacked


def _check(content: bytes, arch: Arch, name: str) -> None:
    """Check what the magic does not tell.

    :raises UserError: a guest of that architecture could not run the image.
    """
    for misfit in arch.header.misfits:
        if misfit.fits(content):
            raise UserError(
                f"--kernel {name}: {misfit.what}, not one of {arch.name}",
                remedy="Build it for that architecture, and name the new image.",
            )
    size = max(arch.header.size(content), _sections_end(content))
    if len(content) < size:
        raise UserError(
            f"--kernel {name}: a damaged image: it has {len(content)} bytes, its header says {size}",
            remedy="Copy it again.",
        )


def _sections_end(content: bytes) -> int:
    """Where the last section of an EFI program ends, which most images are too; 0 if it is none."""
    at = int.from_bytes(content[0x3C:0x40], "little")
    if content[:2] != b"MZ" or content[at : at + 4] != b"PE\0\0":
        return 0
    sections, optional = (int.from_bytes(content[at + n : at + n + 2], "little") for n in (6, 20))
    table = at + 24 + optional
    return max(
        (
            sum(struct.unpack_from("<II", content, each + 16))
            for each in range(table, table + 40 * sections, 40)
            if each + 40 <= len(content)
        ),
        default=0,
    )


def _release(content: bytes, header: Header) -> str:
    """The release in an image; empty if it has none."""
    if not header.version_at:
        banner = _BANNER.search(content)
        return banner[1].decode() if banner else ""
    # 0 means that there is none; the content is untrusted
    at = int.from_bytes(content[header.version_at : header.version_at + 2], "little")
    match = re.compile(_RELEASE).match(content, at + header.version_from) if at else None
    return match[0].decode() if match else ""
