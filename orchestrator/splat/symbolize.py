# SPDX-License-Identifier: GPL-2.0-only
"""Stack traces with lines: ``file:line`` and inlined frames beside each frame of a console.

By addr2line and the symbol table alone. The kernel's own scripts/decode_stacktrace.sh does the same, one
frame and one process at a time; it differs between versions in what it makes of return addresses and of names
that occur twice, and is not there where a tree is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.process import require, tool
from orchestrator.kernel import debug_build

#: Frames of one console that are looked up; a flood beyond that stays as it is.
MAX_FRAMES = 4000
#: addr2line reads all of a vmlinux before its first answer.
_LIMIT_S = 300.0
#: On a command line, whose length is limited.
_AT_ONCE = 500
#: No line of the kernel's own is longer.
_MAX_LINE = 4096
_MOST_IN_LINE = 4
#: A frame that has its place.
DECODED = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+(?: \([A-Z]+\))? \(?(?:[\w.$]+ )?[\w./-]+\.[chS]:\d+")
_LANDMARK = ("start_kernel", "init/main.c:")

# a frame of a module has its name behind it, in brackets
_FRAME = re.compile(
    r"(?<![\w.$])(?P<name>[A-Za-z_][\w.$]{0,255}+)\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?![0-9a-f])(?! \[[a-z]\w*\])"
)
#: What stands before a frame of a trace, and before nothing else: a stamp, perhaps a caller, `?`.
_BEFORE = re.compile(r"(?:\s*+\[[^\]]*+\])*+\s*+(?:\? )?+\(?+")
#: The instruction itself; all other frames name the one after a call.
_EXACT_BEFORE = re.compile(
    r"(?:\bR?E?IP:?(?: [0-9a-f]{2,4}:)?|\bpc : ?|\bPC is at |BUG: KASAN: [\w-]+ in )(?:\s?\[<[^>]*>\])*\s*$"
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
    found: dict[Frame, None] = {}
    for line in lines:
        for match in _matches(line):
            if len(found) < MAX_FRAMES:
                found[_frame(line, match)] = None
    return list(found)


def _matches(line: str) -> Iterable[re.Match[str]]:
    return _FRAME.finditer(line) if len(line) <= _MAX_LINE else ()


def _frame(line: str, match: re.Match[str]) -> Frame:
    before = line[max(0, match.start() - 80) : match.start()]
    exact = bool(_EXACT_BEFORE.search(before) or _EXACT_AFTER.match(line, match.end()))
    return Frame(match["name"], int(match["offset"], 16), int(match["size"], 16), exact)


def look_up(wanted: Sequence[Frame], vmlinux: Path, arch: Arch) -> dict[Frame, tuple[Place, ...]]:
    """The places of frames in a vmlinux with line numbers, innermost first.

    Frames that cannot be told are absent. A name that occurs several times is told by its size.

    :raises UserError: it cannot be read. InfraError: no addr2line, or it fails.
    """
    by_name: dict[str, list[debug_build.Symbol]] = {}
    for symbol in debug_build.text_symbols(vmlinux):
        by_name.setdefault(symbol.name, []).append(symbol)
    addresses: dict[Frame, int] = {}
    for frame in wanted:
        # kallsyms counts to the next symbol it has, which may be one that is no function
        same = [s for s in by_name.get(frame.name, ()) if s.size == frame.size] or by_name.get(frame.name, [])
        if len(same) == 1 and frame.offset <= max(same[0].size, frame.size):
            addresses[frame] = same[0].address + frame.offset - (0 if frame.exact else 1)
    # where the tree was when it was compiled is told by a file that every kernel has
    start = next((s.address for s in by_name.get(_LANDMARK[0], ())), 0)
    told = _addr2line(sorted({*addresses.values(), start} - {0}), vmlinux, arch) if addresses else {}
    top = next(
        (p.where.partition(_LANDMARK[1])[0] for p in told.get(start, ()) if _LANDMARK[1] in p.where), ""
    )
    return {
        frame: tuple(Place(place.function, _short(place.where, top)) for place in told[address])
        for frame, address in addresses.items()
        if told.get(address)
    }


def _addr2line(addresses: Sequence[int], vmlinux: Path, arch: Arch) -> dict[int, tuple[Place, ...]]:
    found: dict[int, list[Place]] = {}
    prefix = arch.compiler_prefix
    package = f"binutils-{prefix.removesuffix('-').replace('_', '-')}" if prefix else "binutils"
    program = require(f"{prefix}addr2line", remedy=f"Install it: apt-get install {package}")
    for start in range(0, len(addresses), _AT_ONCE):
        some = [f"{address:#x}" for address in addresses[start : start + _AT_ONCE]]
        said = tool([program, "-a", "-f", "-i", "-e", str(vmlinux), *some], timeout_s=_LIMIT_S)
        at, function = 0, ""
        for line in said.splitlines():
            if re.fullmatch(r"0x[0-9a-f]+", line):
                at, function = int(line, 16), ""
            elif not function:
                function = line
            else:
                where = re.sub(r" \(discriminator \d+\)$", "", line)
                if function != "??" and not where.startswith("??"):
                    found.setdefault(at, []).append(Place(function, where))
                function = ""
    return {address: tuple(places) for address, places in found.items()}


def _short(where: str, top: str) -> str:
    return where.removeprefix(top).removeprefix("./")


def annotate(lines: Iterable[str], places: Places) -> list[str]:
    """The lines with the places of their frames; what is inlined in one has lines of its own before it.

    A line about one address (``RIP:``) keeps to itself and names them in parentheses.
    """
    done: list[str] = []
    for line in lines:
        matches = [(m, places.get(_frame(line, m), ())) for m in _matches(line)]
        known = [(match, found) for match, found in matches if found]
        if not known or len(known) > _MOST_IN_LINE:
            done.append(line)
            continue
        match, found = known[0]
        if len(known) == 1 and _BEFORE.fullmatch(line[: match.start()]):
            before, (*inlined, outer) = line[: match.start()], found
            done += [f"{before}{place} [inlined]" for place in inlined]
            # the instruction after a call that does not return belongs to the next function
            other = "" if _same(outer.function, match["name"]) else f" (in {outer.function})"
            done.append(f"{line} {outer.where}{other}")
            continue
        for match, found in reversed(known):
            chain = ", inlined in ".join([str(found[0]), *(str(place) for place in found[1:])])
            line = f"{line[: match.end()]} ({chain}){line[match.end() :]}"
        done.append(line)
    return done


def _same(function: str, symbol: str) -> bool:
    """Whether a symbol is that function, as compilers and syscall macros rename it."""
    plain = symbol.partition(".")[0]
    return function == plain or plain.endswith(function.lstrip("_")) or function.endswith(plain.lstrip("_"))


def text(raw: str, vmlinux: Path, arch: Arch) -> str:
    """A text of any sort with the places of its frames; errors as of ``look_up``."""
    lines = raw.split("\n")
    return "\n".join(annotate(lines, look_up(frames(lines), vmlinux, arch)))
