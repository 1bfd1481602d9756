# SPDX-License-Identifier: GPL-2.0-only
"""The warnings of a build, by the unit that was compiled, so that two builds can be compared.

A build in the object directory of an earlier one compiles only what has changed, and prints only the warnings
of that. So a ledger beside the objects has all warnings: a compiled unit replaces its own entries, the rest
stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchestrator.core.text import clean, one_line

#: The file of a ledger, beside the objects and in the store's entry of a kernel.
NAME = "warnings.json"

#: Warnings of make about its clock and jobs are about the host.
_OF_MAKE = re.compile(r"^(?:make|gmake)(?:\[\d+\])?: |jobserver")

_COMPILED = re.compile(r"^  (?:CC|AS|LD|AR|HOSTCC|RUSTC|MODPOST|DTC)\s+(?:\[M\]\s+)?(\S+)$", re.M)
_WARNING = re.compile(
    r"^\S*ld(?:\.\w+)?: warning: (?P<link>.+)$"
    r"|^WARNING: modpost: (?P<modpost>.+)$"
    r"|^(?:\S*ld(?:\.\w+)?: )?(?P<file>[^\s:]+?)(?::\(?[^\s:()]+\)?)?(?::\d+)*:"
    r" +(?:warning|WARNING): (?P<what>.+)$"
)
_CHAIN = re.compile(r"^(?:In file included|\s+) ?from ([^\s:]+):\d+")


class BuildWarning(msgspec.Struct, frozen=True, array_like=True):
    """One warning: ``text`` without line numbers, ``line`` as the compiler printed it."""

    text: str
    line: str


#: The warnings by the unit (a path without its suffix) whose compilation printed them.
Ledger = dict[str, list[BuildWarning]]


def read(log: bytes, tree: Path | None = None) -> tuple[Ledger, set[str]]:
    """The warnings in a build's log, and the units that it compiled.

    :param tree: the top of the tree; names below it are shortened.
    """
    ledger: Ledger = {}
    text = clean(log)
    top = f"{tree}/" if tree else ""
    above = ""
    for line in text.splitlines():
        if chain := _CHAIN.match(line):
            above = chain[1]
            continue
        match = _WARNING.match(line)
        if match is None or _OF_MAKE.match(line):
            # "In function ..." is between the chain and the warning
            if ": In function " not in line and ": At top level" not in line:
                above = ""
            continue
        file = _below(match["file"] or "", top)
        what = match["what"] or match["link"] or match["modpost"]
        unit = "modpost" if match["modpost"] else _unit(_below(above, top) or file) if file else "vmlinux"
        message = line.replace(top, "") if top else line
        message = one_line(re.sub(r"^(?:\.\./)+", "", message))
        ledger.setdefault(unit, []).append(
            BuildWarning(_normal(f"{file}: {what}" if file else what), message)
        )
        above = ""
    units = {_unit(name) for name in _COMPILED.findall(text)}
    return ledger, units | ({"modpost"} if "  MODPOST " in text else set())


def merge(before: Mapping[str, list[BuildWarning]], log: bytes, tree: Path | None = None) -> Ledger:
    """The ledger after a build with this log in the object directory of the ledger ``before``."""
    warnings, compiled = read(log, tree)
    rest = {
        unit: list(each) for unit, each in before.items() if unit not in compiled and unit not in warnings
    }
    return rest | warnings


def new(before: Mapping[str, list[BuildWarning]], after: Mapping[str, list[BuildWarning]]) -> list[str]:
    """The warnings of ``after`` that ``before`` lacks, as the compiler printed them, each once.

    The same text twice in a unit counts as two warnings.
    """
    messages = []
    for unit, warnings in sorted(after.items()):
        earlier = Counter(each.text for each in before.get(unit, ()))
        for each in warnings:
            if earlier[each.text]:
                earlier[each.text] -= 1
            else:
                messages.append(each.line)
    return list(dict.fromkeys(messages))


def load(path: Path) -> Ledger | None:
    """A ledger from a file; ``None`` if there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except (OSError, msgspec.MsgspecError):
        return None


def dump(ledger: Mapping[str, list[BuildWarning]]) -> bytes:
    """The content of a ledger's file."""
    return msgspec.json.encode(ledger, order="sorted")


def _below(name: str, top: str) -> str:
    return re.sub(r"^(?:\.\./|\./)+", "", name.removeprefix(top) if top else name)


def _unit(name: str) -> str:
    return re.sub(r"\.(?:o|c|S|s|rs|ko|mod|mod\.c)$", "", re.sub(r"^(?:\.\./|\./)+", "", name))


def _normal(text: str) -> str:
    """A warning without lines, offsets, sizes and kinds of quotes, which differ between builds."""
    text = re.sub(r"[‘’`]", "'", text)
    text = re.sub(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?", "", text)
    return one_line(re.sub(r"\b\d+\b", "#", text), limit=1000)
