# SPDX-License-Identifier: GPL-2.0-only
"""Whole Debian packages in the guest, for suites that need bash, gawk and the like.

All files of a named package go in, without documentation and translations. Of its dependencies only the
shared libraries of its programs and the targets of its links go in. Installation scripts are not run: their
links (``awk`` for ``gawk``) do not exist.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import PurePosixPath

from orchestrator.core import elf
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.debian import deb
from orchestrator.debian.deb import Member
from orchestrator.vm.rootfs import cpio

#: The guest unpacks the image into memory; a usual guest has no room for more.
LIMIT_MIB = 256

_INCLUDED = ("usr/bin/", "usr/sbin/", "usr/libexec/", "usr/lib/", "usr/lib64/", "usr/share/", "etc/")
_NOT_SHARED = ("bash-completion", "bug", "doc", "doc-base", "info", "lintian", "locale", "man")
_EXCLUDED = tuple(f"usr/share/{name}/" for name in _NOT_SHARED)
_PROGRAMS = ("usr/bin", "usr/sbin")
#: The guest itself needs these to start and stop: they never come from another package.
_RESERVED = frozenset({"busybox", "dropbear", "init", "reboot", "sh"})


def is_program(path: str) -> bool:
    """Whether a path is in a folder of the guest's PATH."""
    return str(PurePosixPath(path).parent) in _PROGRAMS


def entries(
    arch: Arch,
    names: Sequence[str],
    packages: Mapping[str, Mapping[str, Member]],
    have: Container[str] = (),
) -> dict[str, cpio.Entry]:
    """The files of the packages ``names`` for the guest, by path.

    :param packages: those and all that they depend on, as of ``deb.unpack``.
    :param have: paths that the guest has already; they are skipped.
    :raises UserError: together they are too large for a guest.
    """
    everything = {path: member for name in sorted(packages) for path, member in packages[name].items()}
    folders = {str(above) for path in everything for above in PurePosixPath(path).parents}
    result: dict[str, cpio.Entry] = {}
    libraries: dict[str, str] = {}
    queue = [path for name in names for path in sorted(packages.get(name, {})) if _is_included(path)]
    while queue:
        path = queue.pop()
        if path in result or path in have:
            continue
        end = deb.destination(everything, path)
        if end in everything:
            content = everything[end]
            if end == path:
                # readable, and without setuid bits: there is only root
                result[path] = cpio.regular(path, content.data, content.mode | 0o444)
                for word in _dependencies(arch, content.data, path):
                    if word not in libraries:
                        place, there = deb.library(everything, word)
                        # a library that no package has may be in the program's own search path
                        libraries[word] = place if there is not None else ""
                    queue += [libraries[word]] if libraries[word] else []
            else:
                result[path] = cpio.symlink(path, f"/{end}")
                queue.append(end)
        elif end in folders:
            result[path] = cpio.symlink(path, f"/{end}")
        # else a link out of the packages, to something that an installation script would have made
    size = sum(len(entry.data) for entry in result.values())
    if size > LIMIT_MIB << 20:
        raise UserError(
            f"the packages {', '.join(names)} have {size >> 20} MiB, the limit of a guest is {LIMIT_MIB} MiB",
            remedy="name smaller packages under `packages` in the suite.toml",
        )
    return result


def _is_included(path: str) -> bool:
    is_reserved = is_program(path) and PurePosixPath(path).name in _RESERVED
    return path.startswith(_INCLUDED) and not path.startswith(_EXCLUDED) and not is_reserved


def _dependencies(arch: Arch, content: bytes, path: str) -> list[str]:
    """The loader and the libraries of a program of this arch; empty for any other file."""
    if not content.startswith(b"\x7fELF"):
        return []
    try:
        file = elf.read(content, path)
    except InfraError:
        return []  # an object file or a firmware image
    if file.machine.removeprefix("EM_").lower() != arch.elf:
        return []
    return [word for word in (file.interpreter, *file.needed) if word]
