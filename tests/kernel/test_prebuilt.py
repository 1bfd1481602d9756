# SPDX-License-Identifier: GPL-2.0-only
"""Prebuilt images by their own headers; a booted one, see guest/test_main_job.py."""

from __future__ import annotations

import gzip
import re
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
    ],
    ids=["empty", "ELF", "torn", "gzip of anything", "riscv64's Image.gz", "PE"],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        inspect(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        inspect(str(tmp_path / "bzImage"))
    with pytest.raises(UserError, match="directory"):
        inspect(str(tmp_path))
