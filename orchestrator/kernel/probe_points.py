# SPDX-License-Identifier: GPL-2.0-only
"""Points of the kernel where a race window can be widened: ``guest/widen.toml``, located in a vmlinux.

The catalogue names them by anchors in a function, such as the instruction behind a call, which survive
another compiler; the module ``guest/widen.c`` takes addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from msgspec import Meta

from orchestrator.core import data
from orchestrator.core.arch import Arch
from orchestrator.core.process import tool

_ANCHOR = re.compile(r"entry|(before|after) call (\w+)(?: #([1-9]))?")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)(.*)$", re.M)
_TARGET = re.compile(r"<([\w.]+)>")


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point. If ``function`` was inlined, it is searched in those of ``inside``, one after the other.

    ``at`` is ``entry``, ``before call F`` or ``after call F``, with `` #2`` for the second call of F.
    ``spins`` are turns of ``cpu_relax()``, ``permille`` how often; ``task`` are the tasks that pass it:
    reader, query, writer.
    """

    name: str
    function: str
    at: Annotated[str, Meta(pattern=rf"\A(?:{_ANCHOR.pattern})\Z")]
    why: str
    task: tuple[str, ...]
    spins: Annotated[int, Meta(ge=1, le=1_000_000)]
    permille: Annotated[int, Meta(ge=1, le=1000)]
    file: str = ""
    inside: tuple[str, ...] = msgspec.field(default=(), name="or")


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    point: tuple[Point, ...]


class _Function(msgspec.Struct, frozen=True):
    start: int
    size: int


def catalogue() -> dict[str, Point]:
    """All points, by name."""
    content = msgspec.toml.decode((data.guest() / "widen.toml").read_bytes(), type=_Catalogue)
    return {point.name: point for point in content.point}


def locate(points: list[Point], vmlinux: Path, arch: Arch) -> dict[str, int]:
    """The addresses of points in a kernel, by name; those that it lacks are missing.

    :raises InfraError: the architecture's objdump is not installed.
    """
    addresses: dict[str, int] = {}
    with vmlinux.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        symbols = list(_functions(table)) if isinstance(table, SymbolTableSection) else []
    for point in points:
        for name in (point.function, *point.inside):
            for function in _functions_named(symbols, name, point.file):
                if (address := _at(point.at, function, vmlinux, arch)) is not None:
                    addresses.setdefault(point.name, address)
            if point.name in addresses:
                break
    return addresses


def _functions(table: SymbolTableSection) -> Iterator[tuple[str, str, _Function]]:
    """Name, source file (of a static function, else empty) and place of each function."""
    file = ""
    for symbol in table.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FILE":
            file = symbol.name
        elif symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_size"]:
            local = symbol["st_info"]["bind"] == "STB_LOCAL"
            yield symbol.name, file if local else "", _Function(symbol["st_value"], symbol["st_size"])


def _functions_named(symbols: list[tuple[str, str, _Function]], name: str, file: str) -> Iterator[_Function]:
    for symbol, where, function in symbols:
        # the compiler's copies have a suffix; its cold parts are not functions
        plain, dot, suffix = symbol.partition(".")
        matches = plain == name and not (dot and suffix.startswith("cold"))
        if matches and (not where or not file or where == Path(file).name):
            yield function


def _at(anchor: str, function: _Function, vmlinux: Path, arch: Arch) -> int | None:
    match = _ANCHOR.fullmatch(anchor)
    assert match is not None, anchor
    side, callee, number = match.groups()
    if not side:
        return function.start
    code = tool(
        [
            f"{arch.compiler_prefix}objdump",
            "-d",
            "--no-show-raw-insn",
            f"--start-address={function.start:#x}",
            f"--stop-address={function.start + function.size:#x}",
            str(vmlinux),
        ],
        timeout_s=120,
        remedy=f"Install it: apt-get install {arch.binutils_package}",
    )
    instructions = [(int(m[1], 16), m[2], m[3]) for m in _INSTRUCTION.finditer(code)]
    calls = [
        place
        for place, (_, word, rest) in enumerate(instructions)
        if re.fullmatch(arch.call, word)
        and (target := _TARGET.search(rest))
        and target[1].partition(".")[0] == callee
    ]
    index = int(number or 1) - 1
    if index >= len(calls):
        return None
    place = calls[index] + (side == "after")
    return instructions[place][0] if place < len(instructions) else None
