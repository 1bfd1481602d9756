# SPDX-License-Identifier: GPL-2.0-only
"""Prebuilt images by their own headers; a booted one, see guest/test_main_job.py."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from fakes.images import arm64_image, bzimage, riscv_image

from orchestrator.core import arch
from orchestrator.core.errors import UserError
from orchestrator.kernel.prebuilt import inspect


@pytest.mark.parametrize(
    ("content", "arch", "release"),
    [
        (bzimage(), "x86_64", "6.1.0-13-amd64"),
        (arm64_image(), "arm64", "7.2.12"),
        (gzip.compress(arm64_image(), mtime=0), "arm64", "7.2.12"),
        (riscv_image(), "riscv64", "7.2.12"),
    ],
    ids=["bzImage", "Image", "Image.gz", "Image of riscv64"],
)
def test_an_image_says_what_it_is(tmp_path: Path, content: bytes, arch: str, release: str) -> None:
    path = tmp_path / "my kernel"
    path.write_bytes(content)
    found = inspect(str(path))
    assert (found.arch, found.release, found.path) == (arch, release, path)
    kernel = found.kernel()
    assert (kernel.image, kernel.config, kernel.vmlinux, kernel.build_id) == (path, None, None, "")


@pytest.mark.parametrize("release", ["6.1\ntouch x", "$(reboot)", "\x1b[31m6.1", "", "6.1" + "0" * 300])
def test_a_release_is_a_release_or_nothing(tmp_path: Path, release: str) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(release))
    assert re.fullmatch(r"([0-9][A-Za-z0-9._+~-]{0,63})?", inspect(str(path)).release)


def test_an_image_that_names_no_version(tmp_path: Path) -> None:
    content = bytearray(bzimage())
    content[0x20E:0x210] = b"\0\0"
    (tmp_path / "bzImage").write_bytes(content)
    assert inspect(str(tmp_path / "bzImage")).release == ""


def test_a_changed_image_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage())
    before = inspect(str(path)).digest
    path.write_bytes(bzimage() + b"\0")
    assert inspect(str(path)).digest != before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", f"no image of {', '.join(arch.names()[:-1])} or {arch.names()[-1]}"),
        (b"\x7fELF" + bytes(100), "an ELF file"),
        (b"\x1f\x8b not gzip", "a damaged gzip file"),
        (gzip.compress(b"something else"), "no image of"),
        # QEMU does not unpack it
        (gzip.compress(riscv_image()), "no image of"),
        (b"MZ" + bytes(4096), "no image of"),
        (gzip.compress(arm64_image(), mtime=0)[:-20], "a damaged gzip file: its end is missing"),
        (b"MZ\0\0zimg" + bytes(4096), r"an EFI program that unpacks the image \(vmlinuz.efi\)"),
        (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(100), "a zImage of 32-bit ARM"),
        (lzma.compress(bzimage()), "an xz file"),
        (bz2.compress(bzimage()), "a bzip2 file"),
        (b"070701" + bytes(104), "an initramfs"),
    ],
    ids=[
        "empty",
        "ELF",
        "torn",
        "gzip of anything",
        "riscv64's Image.gz",
        "PE",
        "cut gzip",
        "zboot",
        "zImage",
        "xz",
        "bzip2",
        "cpio",
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        inspect(str(path))


def changed(image: bytes, **numbers: tuple[int, int]) -> bytes:
    """An image with other bytes: ``_0x18=(value, size)``."""
    content = bytearray(image)
    for at, (value, size) in numbers.items():
        place = int(at.lstrip("_"), 16)
        content[place : place + size] = value.to_bytes(size, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(bzimage(), _0x236=(0, 2)), "a kernel of 32 bits, not one of x86_64"),
        # other flags than XLF_KERNEL_64
        (changed(bzimage(), _0x236=(0x7E, 2)), "a kernel of 32 bits, not one of x86_64"),
        (changed(bzimage(), _0x206=(0x20C, 2), _0x236=(0, 2)), "a kernel of 32 bits, not one of x86_64"),
        (changed(arm64_image(), _0x18=(0x0B, 8)), "a big-endian kernel, not one of arm64"),
        (
            gzip.compress(changed(arm64_image(), _0x18=(1, 8)), mtime=0),
            "a big-endian kernel, not one of arm64",
        ),
        (changed(riscv_image(), _0x18=(1, 8)), "a big-endian kernel, not one of riscv64"),
        (changed(riscv_image(), _0x8=(0x400000, 8)), "a kernel of 32 bits, not one of riscv64"),
    ],
    ids=["x86", "x86 with other flags", "x86 of 3.8", "arm64", "arm64 in gzip", "riscv64", "riscv32"],
)
def test_images_that_a_guest_cannot_run(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        inspect(str(path))


@pytest.mark.parametrize(
    ("content", "arch"),
    [
        (changed(bzimage(), _0x236=(0x7F, 2)), "x86_64"),
        # before protocol 2.12 there are no flags
        (changed(bzimage(), _0x206=(0x20B, 2), _0x236=(0, 2)), "x86_64"),
        (changed(arm64_image(), _0x18=(0x0A, 8)), "arm64"),
        (changed(riscv_image(), _0x8=(0x200000, 8)), "riscv64"),
    ],
    ids=["x86", "x86 before 3.8", "arm64", "riscv64"],
)
def test_flags_of_images_that_it_can(tmp_path: Path, content: bytes, arch: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert inspect(str(path)).arch == arch


def efi(image: bytes, sections: tuple[tuple[int, int], ...]) -> bytes:
    """An image that is an EFI program too; ``sections``: place and size of each."""
    content = bytearray(image)
    content[:2] = b"MZ"
    content[0x3C:0x40] = (0x400).to_bytes(4, "little")
    content[0x400:0x418] = struct.pack("<4sHHIIIHH", b"PE\0\0", 0, len(sections), 0, 0, 0, 0x70, 0)
    for number, (at, size) in enumerate(sections):
        struct.pack_into("<II", content, 0x418 + 0x70 + 40 * number + 16, size, at)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        # the setup's 0x1f sectors after the first, then 0x400 * 16 bytes
        changed(bzimage() + bytes(0x6000), _0x1f1=(0x1F, 1), _0x1f4=(0x400, 4)),
        efi(bzimage(), ((0x200, 0x1000), (0x1200, 0xE00), (0, 0))),
        efi(arm64_image(), ((0x1000, 0x18),)),
        efi(riscv_image(), ((0x200, 0xE00), (0x1000, 0x18))),
    ],
    ids=["bzImage", "bzImage with EFI", "Image of arm64", "Image of riscv64"],
)
def test_an_image_that_is_cut_off(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    # with a signature at its end
    (tmp_path / "signed").write_bytes(content + bytes(512))
    assert inspect(str(path)).arch == inspect(str(tmp_path / "signed")).arch
    for size in (0x1000, 0x900):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=f"a damaged image: it has {size} bytes, its header says "):
            inspect(str(path))


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader, writer = os.pipe()
    os.write(writer, b"an image, as of <(...)")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for name in (tmp_path / "fifo", tmp_path / "socket", f"/dev/fd/{reader}", "/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match="not a regular file") as error:
            inspect(str(name))
        assert error.value.remedy == "Save the image as a file, and name that."
    assert os.read(reader, 99) == b"an image, as of <(...)"
    os.close(reader)
    os.close(writer)


def test_an_input_that_is_a_file_is_one(tmp_path: Path) -> None:
    """As `/dev/stdin` is after `< bzImage`."""
    (tmp_path / "bzImage").write_bytes(bzimage())
    with (tmp_path / "bzImage").open() as stream:
        assert inspect(f"/dev/fd/{stream.fileno()}").arch == "x86_64"


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        inspect(str(tmp_path / "bzImage"))
    with pytest.raises(UserError, match="directory"):
        inspect(str(tmp_path))
