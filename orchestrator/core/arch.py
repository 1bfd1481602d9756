# SPDX-License-Identifier: GPL-2.0-only
"""The facts of each architecture: one TOML file in ``arch/``; adding one is adding a file."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import msgspec

from orchestrator.core.errors import UserError

_FOLDER = Path(__file__).parent / "arch"


class Arch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts about one architecture.

    ``cpu_tcg`` and ``cpu_kvm`` are QEMU CPU models, ``image`` the boot image's path below ``O=``,
    ``vsyscall_modes`` the values of the ``vsyscall=`` boot parameter (none without such a page).
    """

    name: str
    machines: tuple[str, ...]
    debian: str
    make_arch: str
    cross_prefix: str
    image: str
    qemu: str
    machine: str
    cpu_tcg: str
    cpu_kvm: str
    console: str
    cmdline: tuple[str, ...]
    expected_config_difference: frozenset[str]
    vsyscall_modes: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether this host runs the architecture's instructions itself."""
        return os.uname().machine in self.machines

    @property
    def compiler_prefix(self) -> str:
        """Prefix of the cross tools, empty on a native host."""
        return "" if self.native else self.cross_prefix


def names() -> tuple[str, ...]:
    """All architectures, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@functools.cache
def load(name: str) -> Arch:
    """The architecture of that name.

    :raises UserError: there is no such file.
    """
    path = _FOLDER / f"{name}.toml"
    if name not in names():
        raise UserError(f"unknown architecture {name!r}", remedy=f"Known are: {', '.join(names())}.")
    return msgspec.toml.decode(path.read_bytes(), type=Arch)


def host() -> Arch:
    """The architecture of this machine.

    :raises UserError: none of the known architectures describes the host.
    """
    for name in names():
        if load(name).native:
            return load(name)
    raise UserError(
        f"this host's architecture {os.uname().machine!r} is not among those known",
        remedy=f"Name one with --arch: {', '.join(names())}.",
    )
