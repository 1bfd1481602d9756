# SPDX-License-Identifier: GPL-2.0-only
"""Add ``file:line`` and the inlined functions to each frame of a console's stack traces.

It needs only addr2line and the symbol table. The kernel's own scripts/decode_stacktrace.sh does the same, but
starts a process for each frame, needs a tree, and its versions differ in how they treat return addresses and
names that occur twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.process import require, tool
from orchestrator.kernel import debug_build
from orchestrator.splat import formats

#: Frames of one console that are looked up; further ones stay as printed.
MAX_FRAMES = 4000
#: addr2line reads all of a vmlinux before its first answer.
_LIMIT_S = 300.0
#: Addresses on one command line, whose length is limited.
_AT_ONCE = 500
#: The kernel prints no longer line.
_MAX_LINE = 4096
_MOST_IN_LINE = 4
#: A frame with its place.
DECODED = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+(?: \([A-Z]+\))? \(?(?:[\w.$]+ )?[\w./-]+\.[chS]:\d+")
_LANDMARK = ("start_kernel", "init/main.c:")

# a frame of a module has its name behind it, in brackets
_FRAME = re.compile(
    r"(?<![\w.$])(?P<name>[A-Za-z_][\w.$]{0,255}+)\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?![0-9a-f])(?! \[[a-z]\w*\])"
)
#: The text before a frame of a trace: a stamp, perhaps a caller, `?`.
_BEFORE = re.compile(r"(?:\s*+\[[^\]]*+\])*+\s*+(?:\? )?+\(?+")
#: These name the instruction itself; all other frames name the one after a call.
_EXACT_BEFORE = re.compile(
    rf"(?:\b(?:{formats.pattern('pc', 'R?E?IP:?(?: [0-9a-f]{2,4}:)?', 'PC is at ')})|BUG: KASAN: [\w-]+ in )"
    r"(?:\s?\[<[^>]*>\])*\s*$"
)
_EXACT_AFTER = re.compile(r" \([A-Z]*P[A-Z]*\)")


class Place(msgspec.Struct, frozen=True):
    """A function and where in its source: ``mm/mmap.c:12``."""

    function: str
    where: str

    def __str__(self) -> str:
        return f"{self.function} {self.where}"


class Frame(msgspec.Struct, frozen=True):
    """A frame as printed; ``exact`` where it is the instruction itself and not one after a call."""

    name: str
    offset: int
    size: int
    exact: bool


Places = Mapping[Frame, tuple[Place, ...]]


def frames(lines: Iterable[str]) -> list[Frame]:
    """The different frames in some lines, the first ``MAX_FRAMES`` of them."""
    distinct: dict[Frame, None] = {}
    for line in lines:
        for match in _matches(line):
            if len(distinct) < MAX_FRAMES:
                distinct[_frame(line, match)] = None
    return list(distinct)


def _matches(line: str) -> Iterable[re.Match[str]]:
    return _FRAME.finditer(line) if len(line) <= _MAX_LINE else ()


def _frame(line: str, match: re.Match[str]) -> Frame:
    before = line[max(0, match.start() - 80) : match.start()]
    exact = bool(_EXACT_BEFORE.search(before) or _EXACT_AFTER.match(line, match.end()))
    return Frame(match["name"], int(match["offset"], 16), int(match["size"], 16), exact)


def look_up(stack_frames: Sequence[Frame], vmlinux: Path, arch: Arch) -> dict[Frame, tuple[Place, ...]]:
    """The places of frames in a vmlinux with line numbers, innermost first.

    Frames that cannot be resolved are absent. A name that occurs several times is resolved by its size.

    :raises UserError: it cannot be read.
    :raises InfraError: no addr2line, or it fails.
    """
    by_name: dict[str, list[debug_build.Symbol]] = {}
    for symbol in debug_build.text_symbols(vmlinux):
        by_name.setdefault(symbol.name, []).append(symbol)
    addresses: dict[Frame, int] = {}
    for frame in stack_frames:
        # kallsyms counts to the next symbol it has, which need not be a function
        same = [s for s in by_name.get(frame.name, ()) if s.size == frame.size] or by_name.get(frame.name, [])
        if len(same) == 1 and frame.offset <= max(same[0].size, frame.size):
            addresses[frame] = same[0].address + frame.offset - (0 if frame.exact else 1)
    # a file that every kernel has shows where the tree was when it was compiled
    start = next((s.address for s in by_name.get(_LANDMARK[0], ())), 0)
    places = _addr2line(sorted({*addresses.values(), start} - {0}), vmlinux, arch) if addresses else {}
    top = next(
        (p.where.partition(_LANDMARK[1])[0] for p in places.get(start, ()) if _LANDMARK[1] in p.where), ""
    )
    return {
        frame: tuple(Place(place.function, _short(place.where, top)) for place in places[address])
        for frame, address in addresses.items()
        if places.get(address)
    }


def _addr2line(addresses: Sequence[int], vmlinux: Path, arch: Arch) -> dict[int, tuple[Place, ...]]:
    places: dict[int, list[Place]] = {}
    remedy = f"Install it: apt-get install {arch.binutils_package}"
    program = require(f"{arch.compiler_prefix}addr2line", remedy=remedy)
    for start in range(0, len(addresses), _AT_ONCE):
        some = [f"{address:#x}" for address in addresses[start : start + _AT_ONCE]]
        output = tool([program, "-a", "-f", "-i", "-e", str(vmlinux), *some], timeout_s=_LIMIT_S)
        at, function = 0, ""
        for line in output.splitlines():
            if re.fullmatch(r"0x[0-9a-f]+", line):
                at, function = int(line, 16), ""
            elif not function:
                function = line
            else:
                where = re.sub(r" \(discriminator \d+\)$", "", line)
                if function != "??" and not where.startswith("??"):
                    places.setdefault(at, []).append(Place(function, where))
                function = ""
    return {address: tuple(chain) for address, chain in places.items()}


def _short(where: str, top: str) -> str:
    return where.removeprefix(top).removeprefix("./")


def annotate(lines: Iterable[str], places: Places) -> list[str]:
    """The lines with the places of their frames; inlined functions get lines of their own before the frame.

    A line about one address (``RIP:``) stays one line, with the places in parentheses.
    """
    output: list[str] = []
    for line in lines:
        matches = [(m, places.get(_frame(line, m), ())) for m in _matches(line)]
        placed = [(match, chain) for match, chain in matches if chain]
        if not placed or len(placed) > _MOST_IN_LINE:
            output.append(line)
            continue
        match, chain = placed[0]
        if len(placed) == 1 and _BEFORE.fullmatch(line[: match.start()]):
            before, (*inlined, outer) = line[: match.start()], chain
            output += [f"{before}{place} [inlined]" for place in inlined]
            # the instruction after a call that does not return belongs to the next function
            other = "" if _same(outer.function, match["name"]) else f" (in {outer.function})"
            output.append(f"{line} {outer.where}{other}")
            continue
        for match, chain in reversed(placed):
            names = ", inlined in ".join(map(str, chain))
            line = f"{line[: match.end()]} ({names}){line[match.end() :]}"
        output.append(line)
    return output


def _same(function: str, symbol: str) -> bool:
    """Whether a symbol is that function under the names that compilers and syscall macros give."""
    plain = symbol.partition(".")[0]
    return function == plain or plain.endswith(function.lstrip("_")) or function.endswith(plain.lstrip("_"))
