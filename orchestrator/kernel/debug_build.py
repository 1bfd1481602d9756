# SPDX-License-Identifier: GPL-2.0-only
"""Line numbers for a kernel without DWARF: a debug build, and the proof that it is the same code.

A cell's kernel has no DWARF, which would double its build time. When one crashes, the same source and
configuration are built again with it (``kconfigs/debug-info.config``), and cached like any other kernel. The
second build explains the first only if each function has the same address: ``mismatch`` compares.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from orchestrator.core import data
from orchestrator.core.errors import Inconclusive, UserError
from orchestrator.core.store import Store
from orchestrator.kernel import build as kernels
from orchestrator.kernel.kconfig import Fragment
from orchestrator.kernel.spec import Kernel, KernelSpec, Say

FRAGMENT = "debug-info.config"
#: The name of a debug build's vmlinux beside the one that crashed.
DEBUG_VMLINUX = "vmlinux.debug"

#: Elf64_Sym of a little-endian machine (ELF-64 Object File Format, "Symbol Table").
_SYMBOL = struct.Struct("<IBBHQQ")
_EXECUTABLE = 4
#: STT_NOTYPE (assembly without a word about it) and STT_FUNC
_KINDS = (0, 2)


class Symbol(msgspec.Struct, frozen=True):
    """A function of vmlinux; ``size`` in bytes reaches to the next symbol, as kallsyms counts it."""

    name: str
    address: int
    size: int


def spec_of(spec: KernelSpec) -> KernelSpec:
    """The debug build of a kernel."""
    text = (data.kconfigs() / FRAGMENT).read_text()
    return msgspec.structs.replace(spec, extra=(*spec.extra, Fragment(f"kconfigs/{FRAGMENT}", text)))


def build(spec: KernelSpec, store: Store, *, say: Say, jobs: int = 0) -> Kernel:
    """The debug build of a kernel, from the store or built now; errors as of ``build.build``."""
    return kernels.build(spec_of(spec), store, say=say, jobs=jobs)


def find(spec: KernelSpec, store: Store) -> Kernel | None:
    """The debug build of a kernel if it is in the store; errors as of ``build.configure``.

    It does not configure anything, since a hanging guest is waiting.
    """
    debug_spec = spec_of(spec)
    if not kernels.is_configured(debug_spec, store) or not kernels.is_built(debug_spec, store):
        return None
    return build(spec, store, say=lambda _: None)


def vmlinux_with_lines(own: Path, debug_build: Callable[[], Kernel | None]) -> Path | None:
    """A vmlinux with the line numbers and types of a kernel; ``None`` if there is none.

    It is the kernel's own if that has line numbers, else the debug build beside it, else the result of
    ``debug_build``. Any but the kernel's own must be the same code.

    :param own: the kernel's own vmlinux.
    :param debug_build: returns its debug build, if there is one, or makes it.
    :raises UserError: ``own`` cannot be read.
    :raises Inconclusive: the result of ``debug_build`` is other code.
    """
    if has_lines(own):
        return own
    copy = own.with_name(DEBUG_VMLINUX)
    if copy.is_file() and not mismatch(own, copy):
        return copy
    build = debug_build()
    if build is None or build.vmlinux is None:
        return None
    if why := mismatch(own, build.vmlinux):
        raise Inconclusive(f"the debug build is other code than the kernel that crashed: {why}")
    return build.vmlinux


def has_lines(vmlinux: Path) -> bool:
    """Whether a vmlinux has line numbers.

    :raises UserError: it is not an ELF file.
    """
    try:
        with vmlinux.open("rb") as stream:
            return ELFFile(stream).get_section_by_name(".debug_line") is not None
    except (OSError, ELFError) as error:
        raise UserError(f"{vmlinux} cannot be read: {error}") from error


def text_symbols(vmlinux: Path) -> tuple[Symbol, ...]:
    """The symbols of a vmlinux that lie in executable sections, by address and name.

    :raises UserError: it is not an ELF file, or has no symbols.
    """
    symbols: list[tuple[int, str, int]] = []
    try:
        with vmlinux.open("rb") as stream:
            file = ELFFile(stream)
            ends = {
                number: section["sh_addr"] + section["sh_size"]
                for number, section in enumerate(file.iter_sections())
                if section["sh_flags"] & _EXECUTABLE
            }
            table = file.get_section_by_name(".symtab")
            if isinstance(table, SymbolTableSection):
                strings = file.get_section(table["sh_link"]).data()
                # pyelftools' own iterator takes seconds for a hundred thousand symbols
                for at, info, _, section, address, _ in _SYMBOL.iter_unpack(table.data()):
                    if section in ends and info & 0xF in _KINDS:
                        name = strings[at : strings.index(b"\0", at)].decode(errors="replace")
                        # arm64's mapping symbols ($x, $d) and local labels are not functions
                        if not name.startswith(("$", ".L")):
                            symbols.append((address, name, ends[section]))
    except (OSError, ELFError, ValueError, struct.error) as error:
        raise UserError(f"{vmlinux} cannot be read: {error}") from error
    if not symbols:
        raise UserError(f"{vmlinux} has no symbols: its addresses cannot be compared")
    symbols.sort()
    starts = sorted({address for address, _, _ in symbols})
    return tuple(Symbol(name, address, _until(address, end, starts)) for address, name, end in symbols)


def _until(address: int, end: int, starts: Sequence[int]) -> int:
    after = bisect.bisect_right(starts, address)
    return min(end, starts[after] if after < len(starts) else end) - address


class Ends:
    """The ends of a kernel's functions, by the name of the function behind each; read on first use."""

    def __init__(self, vmlinux: Path | None) -> None:
        self.vmlinux = vmlinux

    def __call__(self, name: str) -> str:
        """``f+0x40/0x40`` where ``name`` begins at the end of ``f``; empty if that is unknown."""
        return self._ends.get(name, "")

    @functools.cached_property
    def _ends(self) -> dict[str, str]:
        try:
            symbols = text_symbols(self.vmlinux) if self.vmlinux is not None else ()
        except UserError:
            return {}
        ends: dict[str, str] = {}
        for before, symbol in itertools.pairwise(symbols):
            # a name that occurs twice, or a place that has two
            is_unique = symbol.name not in ends and before.address < symbol.address
            ends[symbol.name] = f"{before.name}+{before.size:#x}/{before.size:#x}" if is_unique else ""
        return ends


def demand_match(crashed: Path, debug: Path) -> None:
    """Demand that a vmlinux matches a kernel.

    :param crashed: the kernel's own vmlinux.
    :raises UserError: it does not match, or cannot be read.
    """
    if why := mismatch(crashed, debug):
        raise UserError(
            f"{debug} does not match the kernel of this cell: {why}",
            remedy="Name the vmlinux of the same source, configuration and compiler.",
        )


def mismatch(crashed: Path, debug: Path) -> str:
    """Why a debug build does not match a kernel, in a line; empty if every text symbol has the same address.

    :raises UserError: one of them cannot be read.
    """
    own = {(s.name, s.address, s.size) for s in text_symbols(crashed)}
    other = {(s.name, s.address, s.size) for s in text_symbols(debug)}
    differing = sorted(own ^ other, key=lambda one: one[1])
    if not differing:
        return ""
    name, address, _ = differing[0]
    share = f"{len(own - other)} of {len(own)}"
    return f"{share} text symbols differ in name, address or size, first {name} at {address:#x}"
