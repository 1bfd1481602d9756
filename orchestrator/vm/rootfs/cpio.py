# SPDX-License-Identifier: GPL-2.0-only
"""cpio archives in the "newc" form that the kernel unpacks as initramfs.

Format: cpio(5) of libarchive, and Documentation/driver-api/early-userspace/buffer-format.rst. Nothing of
the host goes in: owner root, time 0, inode numbers counted, entries sorted. Equal entries give equal bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

#: Archives end on this boundary: cpio(1) reads in such blocks, the kernel skips the zeros.
BLOCK = 512
_TRAILER = "TRAILER!!!"
_MAX_SIZE = 0xFFFFFFFF
_MAX_NAME = 4095


@dataclass(frozen=True)
class Entry:
    """One file of any kind: ``mode`` with its type bits; ``data`` is the content, or a link's target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory; those above it need no entry of their own."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link to ``target``."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def char_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of ``entries``; archives may be concatenated, the later one then wins.

    Directories on the way to an entry are added with mode 0755.

    :raises ValueError: a path is absolute, empty or has ``..`` in it, occurs twice, or leads through
        something that is not a directory; a file is too large for the format (4 GiB).
    """
    tree: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        parts = _parts(entry.path)
        if parts in tree:
            raise ValueError(f"{entry.path!r} occurs twice in one archive")
        tree[parts] = entry
    for parts in list(tree):
        for depth in range(1, len(parts)):
            above = tree.setdefault(parts[:depth], directory("/".join(parts[:depth])))
            if not stat.S_ISDIR(above.mode):
                raise ValueError(
                    f"{'/'.join(parts)!r} leads through {above.path!r}, which is not a directory"
                )
    out = bytearray()
    # sorted by components, a directory comes before what is in it
    for number, parts in enumerate(sorted(tree), start=1):
        _append(out, number, "/".join(parts), tree[parts])
    _append(out, 0, _TRAILER, Entry(_TRAILER, 0))
    out += bytes(-len(out) % BLOCK)
    return bytes(out)


def _parts(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path).parts
    wrong = not parts or parts[0] == "/" or ".." in parts or "\0" in path or path == _TRAILER
    if wrong or len(path.encode()) > _MAX_NAME:
        raise ValueError(f"{path!r} cannot be a path in an archive")
    return parts


def _append(out: bytearray, inode: int, name: str, entry: Entry) -> None:
    if len(entry.data) > _MAX_SIZE:
        raise ValueError(f"{entry.path!r} has {len(entry.data)} bytes, more than the format can hold")
    encoded = name.encode() + b"\0"
    # nlink 1 keeps the kernel from taking equal inode numbers of two archives for hard links
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(encoded), 0)
    out += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + encoded
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)
