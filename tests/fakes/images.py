# SPDX-License-Identifier: GPL-2.0-only
"""Kernel images of which there is nothing but the header."""

from __future__ import annotations


def bzimage(release: str = "6.1.0-13-amd64") -> bytes:
    """Boot sector and header of an x86 image, protocol 2.x: the version string is named by a pointer."""
    head = bytearray(0x2000)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x20F).to_bytes(2, "little")
    head[0x236] = 1
    head[0x20E:0x210] = (0x1000 - 0x200).to_bytes(2, "little")
    text = f"{release} (debian-kernel@lists) #1 SMP".encode() + b"\0"
    head[0x1000 : 0x1000 + len(text)] = text
    return bytes(head)


def riscv_image(release: str = "7.2.12") -> bytes:
    """Its header, and the banner."""
    head = bytearray(0x1000)
    head[0x30:0x3C] = b"RISCV\0\0\0RSC\x05"
    return bytes(head) + f"Linux version {release} (a@b) #1".encode() + b"\0"


def arm64_image(release: str = "7.2.12") -> bytes:
    head = bytearray(0x1000)
    head[0x38:0x3C] = b"ARM\x64"
    return bytes(head) + f"Linux version {release} (a@b) #1".encode() + b"\0"
