# SPDX-License-Identifier: GPL-2.0-only
"""The facts of each architecture: one TOML file in ``arch/``; adding one is adding a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from orchestrator.core.errors import UserError, unknown

_FOLDER = Path(__file__).parent / "arch"
HEADER_SIZE = 4096


class Packages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Debian's names: QEMU, and what a host of another architecture builds programs and kernels with."""

    qemu: str
    gcc: str
    libc: str
    binutils: str


class Misfit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an image with the right magic may still be, so that its guest could not run: ``what`` says it.

    It is one if the eight bytes at ``at``, little-endian and under ``mask``, equal ``value``. ``since``: only
    if the two bytes at ``version_at`` are at least that.
    """

    what: str
    at: int
    mask: int
    value: int
    version_at: int = 0
    since: int = 0

    def fits(self, content: bytes) -> bool:
        """Whether an image is one."""
        number = int.from_bytes(content[self.at : self.at + 8], "little")
        version = int.from_bytes(content[self.version_at : self.version_at + 2], "little")
        return number & self.mask == self.value and version >= self.since


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header of a boot image: the bytes ``magic`` at the offset ``at``.

    ``version_at``: two bytes that give the place of the release, counted from ``version_from``; 0 where the
    image is not compressed, so that its banner can be read. ``gzip``: whether QEMU also boots it compressed.
    ``setup_at``: a byte with the number of further sectors of 512 bytes before the kernel, ``size_at``: four
    bytes with the kernel's size in units of 16 bytes; 0 if the header has no size of the file.
    """

    at: int
    magic: str
    version_at: int = 0
    version_from: int = 0
    gzip: bool = False
    setup_at: int = 0
    size_at: int = 0
    misfits: tuple[Misfit, ...] = ()

    def size(self, content: bytes) -> int:
        """The least size of an image in bytes, as far as its header says."""
        if not self.size_at:
            return 0
        return (
            512
            + 512 * content[self.setup_at]
            + 16 * int.from_bytes(content[self.size_at : self.size_at + 4], "little")
        )

    def fits(self, content: bytes) -> bool:
        """Whether an image, or its first ``HEADER_SIZE`` bytes, begins as those of this architecture do."""
        magic = self.magic.encode()
        return content[self.at : self.at + len(magic)] == magic

    def is_of(self, image: Path) -> bool:
        """Whether a file is an image that is not compressed; False where it cannot be read."""
        try:
            with image.open("rb") as stream:
                return self.fits(stream.read(HEADER_SIZE))
        except OSError:
            return False


class Reports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How its kernel prints reports: regular expressions, empty where it has no such thing.

    ``pc``, ``link``: what stands before the function that the CPU was in, and before the one it returns to.
    ``walker``: the function that walks the stack, where its own start is the first frame of a trace.
    ``registers``: names of those that a line begins with. ``trace``: a line that a stack trace follows, where
    that has no head of its own. ``jump``: a line that is there when the CPU was sent to where there is no
    code. ``system_call``: the infix of wrappers of system calls. All others match names of functions:
    ``entry`` calls that of a system call; ``irq_entry`` and ``trap_entry`` are where an interrupt and a trap
    instruction come in; ``bug_handler`` only reports such a trap; ``plumbing`` are patterns of what is not
    blamed while there is another function.
    """

    pc: str
    link: str = ""
    walker: str = ""
    registers: str = ""
    trace: str = ""
    jump: str = ""
    system_call: str = ""
    entry: str = ""
    irq_entry: str = ""
    trap_entry: str = ""
    bug_handler: str = ""
    plumbing: tuple[str, ...] = ()


class Arch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about one architecture.

    ``optional``: it is used only where it is named. ``elf``: ``e_machine`` as readelf has it, in lower case
    and without ``EM_``. ``guest_suite``: the Debian suite of the guest image, empty for the host's own.
    ``image``: the boot image's path below ``O=``. ``call``: a pattern of objdump's words for calls.
    ``machine_*`` and ``cpu_*``: QEMU's, under emulation and under KVM; ``devices``: further words of its
    command line. ``vsyscall_modes``: values of the ``vsyscall=`` boot parameter, none where there is no such
    page. ``drgn``: drgn's name. ``system_calls``: the numbers of those that change a range of addresses.
    """

    name: str
    optional: bool = False
    machines: tuple[str, ...]
    elf: str
    debian: str
    guest_suite: str = ""
    packages: Packages
    make_arch: str
    cross_prefix: str
    image: str
    header: Header
    call: str
    qemu: str
    machine_tcg: str
    machine_kvm: str
    cpu_tcg: str
    cpu_kvm: str
    devices: tuple[str, ...] = ()
    console: str
    cmdline: tuple[str, ...]
    expected_config_difference: frozenset[str]
    vsyscall_modes: tuple[str, ...]
    drgn: str
    system_calls: dict[str, int]
    reports: Reports

    @property
    def native(self) -> bool:
        """Whether this host runs the architecture's instructions itself."""
        return os.uname().machine in self.machines

    @property
    def compiler_prefix(self) -> str:
        """Prefix of the cross tools, empty on a native host."""
        return "" if self.native else self.cross_prefix

    def gcc_package(self, version: str = "") -> str:
        """Debian's package of the compiler on this host; ``version`` is empty or ``-12``."""
        name = "gcc" if self.native else self.packages.gcc
        return name.replace("gcc", f"gcc{version}", 1)

    @property
    def libc_package(self) -> str:
        """Debian's package of the static C library on this host."""
        return "libc6-dev" if self.native else self.packages.libc

    @property
    def binutils_package(self) -> str:
        """Debian's package of objdump and addr2line on this host."""
        return "binutils" if self.native else self.packages.binutils


def names() -> tuple[str, ...]:
    """All architectures, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def usual() -> tuple[str, ...]:
    """What ``--arch all`` means: every architecture that is not optional, and the host's own."""
    return tuple(name for name in names() if not load(name).optional or load(name).native)


def expand(words: Iterable[str]) -> tuple[str, ...]:
    """What the values of ``--arch`` mean, each once: names as they are, and ``all`` as ``usual()``."""
    return tuple(dict.fromkeys(name for word in words for name in (usual() if word == "all" else (word,))))


@functools.cache
def load(name: str) -> Arch:
    """The architecture of that name.

    :raises UserError: there is no such file.
    """
    path = _FOLDER / f"{name}.toml"
    if name not in names():
        raise unknown("architecture", name, names(), aliases=_aliases())
    return msgspec.toml.decode(path.read_bytes(), type=Arch)


def _aliases() -> dict[str, str]:
    """What others call them."""
    return {
        alias: each.name
        for each in map(load, names())
        for alias in (*each.machines, each.debian, each.make_arch)
    }


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
