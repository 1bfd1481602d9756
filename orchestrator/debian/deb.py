# SPDX-License-Identifier: GPL-2.0-only
"""The files and links of Debian packages, as if unpacked together."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.core.errors import InfraError

_MERGED = re.compile(r"^(?:bin|sbin|lib|lib64)/")
_LINK_DEPTH = 8
_UNPACK_S = 120


@dataclass(frozen=True)
class Member:
    """A file of a package: its content, or the target of a symbolic link. ``mode`` are permission bits."""

    data: bytes = b""
    target: str = ""
    mode: int = field(default=0o755, compare=False)


def unpack(debs: Sequence[Path]) -> dict[str, dict[str, Member]]:
    """The files of each package by their paths, with /bin, /sbin and /lib* moved below usr/.

    :returns: by package name, then by path.
    :raises InfraError: dpkg-deb is absent, or a package is damaged.
    """
    return {deb.name.partition("_")[0]: _unpack_one(deb) for deb in debs}


def _unpack_one(deb: Path) -> dict[str, Member]:
    members: dict[str, Member] = {}
    try:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(deb)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for info in tar:
                    path = merged_path(info.name.removeprefix("./"))
                    if info.issym():
                        members[path] = Member(target=info.linkname)
                    elif info.islnk():
                        members[path] = members[merged_path(info.linkname.removeprefix("./"))]
                    elif info.isfile():
                        stream = tar.extractfile(info)
                        members[path] = Member(stream.read() if stream else b"", mode=info.mode & 0o777)
            status = process.wait(timeout=_UNPACK_S)
    except FileNotFoundError as error:
        raise InfraError("dpkg-deb is not installed", remedy="install Debian's dpkg") from error
    except (tarfile.TarError, KeyError, subprocess.TimeoutExpired) as error:
        raise InfraError(f"{deb} cannot be unpacked: {error}", remedy="remove it and try again") from error
    if status != 0:
        raise InfraError(f"{deb} is damaged (dpkg-deb: {status})", remedy="remove it and try again")
    return members


def merged_path(path: str) -> str:
    """A path after the merge of / and /usr."""
    return f"usr/{path}" if _MERGED.match(path) else path


def library(members: Mapping[str, Member], word: str) -> tuple[str, bytes | None]:
    """Where the loader searches ``word`` (a path, or a soname), and the content of that file."""
    if word.startswith("/"):
        path = merged_path(word.lstrip("/"))
        return path, follow(members, path)
    for pattern in (f"usr/lib/*-linux-gnu*/{word}", f"usr/lib/{word}", f"usr/lib64/{word}"):
        for path in sorted(members):
            if path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern):
                return path, follow(members, path)
    return word, None


def follow(members: Mapping[str, Member], path: str) -> bytes | None:
    """The content at ``path``; None where links lead nowhere, out of the packages, or in circles."""
    member = members.get(destination(members, path))
    return member.data if member else None


def destination(members: Mapping[str, Member], path: str) -> str:
    """The final target of the links at ``path``, whether or not it exists; empty if they go in circles."""
    for _ in range(_LINK_DEPTH):
        member = members.get(path)
        if member is None or not member.target:
            return path
        parts: list[str] = []
        for part in (PurePosixPath("/", path).parent / member.target).parts[1:]:
            if part == "..":
                parts = parts[:-1]
            else:
                parts.append(part)
        path = merged_path("/".join(parts))
    return ""
