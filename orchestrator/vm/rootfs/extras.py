# SPDX-License-Identifier: GPL-2.0-only
"""Whole Debian packages in the guest, for suites that need bash, gawk and the like.

Of a package that was asked for by name all files go in but documentation and translations; of those that
it depends on, the shared libraries that its programs need and what its links lead to. Installation scripts
are not run: what only they would set up (``awk`` as another name of ``gawk``) is not there.
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

#: The guest unpacks the image into memory; more than this no guest of a usual size has room for.
LIMIT_MIB = 256

_TAKEN = ("usr/bin/", "usr/sbin/", "usr/libexec/", "usr/lib/", "usr/lib64/", "usr/share/", "etc/")
_NOT_SHARED = ("bash-completion", "bug", "doc", "doc-base", "info", "lintian", "locale", "man")
_LEFT_OUT = tuple(f"usr/share/{name}/" for name in _NOT_SHARED)
_PROGRAMS = ("usr/bin", "usr/sbin")
#: What the guest's own start and end rest on: never another package's.
_OURS = frozenset({"busybox", "dropbear", "init", "reboot", "sh"})


def is_program(path: str) -> bool:
    """Whether a path lies where the guest's PATH leads."""
    return str(PurePosixPath(path).parent) in _PROGRAMS


def entries(
    arch: Arch,
    names: Sequence[str],
    packages: Mapping[str, Mapping[str, Member]],
    have: Container[str] = (),
) -> dict[str, cpio.Entry]:
    """What the packages ``names`` bring into the guest, by path.

    :param packages: those and all that they depend on, as ``deb.unpack`` gives them.
    :param have: paths that the guest has already, which are not taken again.
    :raises UserError: together they are too large for a guest.
    """
    everything = {path: member for name in sorted(packages) for path, member in packages[name].items()}
    folders = {str(above) for path in everything for above in PurePosixPath(path).parents}
    found: dict[str, cpio.Entry] = {}
    libraries: dict[str, str] = {}
    waiting = [path for name in names for path in sorted(packages.get(name, {})) if _is_taken(path)]
    while waiting:
        path = waiting.pop()
        if path in found or path in have:
            continue
        end = deb.destination(everything, path)
        if end in everything:
            content = everything[end]
            if end == path:
                # readable and, being root's alone, without setuid bits
                found[path] = cpio.regular(path, content.data, content.mode | 0o444)
                for word in _needed(arch, content.data, path):
                    if word not in libraries:
                        place, there = deb.library(everything, word)
                        # what no package has is left to the program's own search path
                        libraries[word] = place if there is not None else ""
                    waiting += [libraries[word]] if libraries[word] else []
            else:
                found[path] = cpio.symlink(path, f"/{end}")
                waiting.append(end)
        elif end in folders:
            found[path] = cpio.symlink(path, f"/{end}")
        # else a link out of the packages, to something that an installation script would have made
    size = sum(len(entry.data) for entry in found.values())
    if size > LIMIT_MIB << 20:
        raise UserError(
            f"the packages {', '.join(names)} have {size >> 20} MiB, a guest takes {LIMIT_MIB} MiB at most",
            remedy="name smaller packages under `packages` in the suite.toml",
        )
    return found


def _is_taken(path: str) -> bool:
    ours = is_program(path) and PurePosixPath(path).name in _OURS
    return path.startswith(_TAKEN) and not path.startswith(_LEFT_OUT) and not ours


def _needed(arch: Arch, content: bytes, path: str) -> list[str]:
    """The loader and the libraries that a file asks for; nothing of one that is no program of this arch."""
    if not content.startswith(b"\x7fELF"):
        return []
    try:
        file = elf.read(content, path)
    except InfraError:
        return []  # an object file or a firmware image: nobody here runs it
    if file.machine.removeprefix("EM_").lower() != arch.elf:
        return []
    return [word for word in (file.interpreter, *file.needed) if word]
