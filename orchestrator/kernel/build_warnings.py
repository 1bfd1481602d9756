# SPDX-License-Identifier: GPL-2.0-only
"""The warnings of a build, by the unit that was compiled, so that two builds can be compared.

A build that goes on in an object directory of an earlier one compiles only what has changed, and prints the
warnings of nothing else. So they are kept in a ledger beside the objects: what is compiled anew replaces its
own entries, the rest stays.
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

#: What make says of its own clock and jobs is about the host.
_NOT_OURS = re.compile(r"^(?:make|gmake)(?:\[\d+\])?: |jobserver")

_COMPILED = re.compile(r"^  (?:CC|AS|LD|AR|HOSTCC|RUSTC|MODPOST|DTC)\s+(?:\[M\]\s+)?(\S+)$", re.M)
_SAID = re.compile(
    r"^\S*ld(?:\.\w+)?: warning: (?P<link>.+)$"
    r"|^WARNING: modpost: (?P<modpost>.+)$"
    r"|^(?:\S*ld(?:\.\w+)?: )?(?P<file>[^\s:]+?)(?::\(?[^\s:()]+\)?)?(?::\d+)*:"
    r" +(?:warning|WARNING): (?P<what>.+)$"
)
_CHAIN = re.compile(r"^(?:In file included|\s+) ?from ([^\s:]+):\d+")


class Warned(msgspec.Struct, frozen=True, array_like=True):
    """One warning: ``text`` is the same wherever in its file it stands, ``shown`` as the compiler said it."""

    text: str
    shown: str


#: The warnings by the unit (a path without its suffix) whose compilation gave them.
Ledger = dict[str, list[Warned]]


def read(log: bytes, tree: Path | None = None) -> tuple[Ledger, set[str]]:
    """The warnings in a build's log, and the units that it compiled.

    :param tree: the top of the tree; names below it are shown from there.
    """
    found: Ledger = {}
    text = clean(log)
    top = f"{tree}/" if tree else ""
    above = ""
    for line in text.splitlines():
        if chain := _CHAIN.match(line):
            above = chain[1]
            continue
        said = _SAID.match(line)
        if said is None or _NOT_OURS.match(line):
            # "In function ..." stands between the chain and what is said
            if ": In function " not in line and ": At top level" not in line:
                above = ""
            continue
        file = _below(said["file"] or "", top)
        what = said["what"] or said["link"] or said["modpost"]
        unit = "modpost" if said["modpost"] else _unit(_below(above, top) or file) if file else "vmlinux"
        shown = line.replace(top, "") if top else line
        shown = one_line(re.sub(r"^(?:\.\./)+", "", shown))
        found.setdefault(unit, []).append(Warned(_normal(f"{file}: {what}" if file else what), shown))
        above = ""
    units = {_unit(name) for name in _COMPILED.findall(text)}
    return found, units | ({"modpost"} if "  MODPOST " in text else set())


def merged(before: Mapping[str, list[Warned]], log: bytes, tree: Path | None = None) -> Ledger:
    """The ledger after a build with this log went on from the state that ``before`` describes."""
    said, compiled = read(log, tree)
    kept = {unit: list(each) for unit, each in before.items() if unit not in compiled and unit not in said}
    return kept | said


def new(before: Mapping[str, list[Warned]], after: Mapping[str, list[Warned]]) -> list[str]:
    """What ``after`` warns of and ``before`` does not, as the compiler said it, each once.

    The same words twice in a unit are two warnings.
    """
    found = []
    for unit, said in sorted(after.items()):
        left = Counter(each.text for each in before.get(unit, ()))
        for each in said:
            if left[each.text]:
                left[each.text] -= 1
            else:
                found.append(each.shown)
    return list(dict.fromkeys(found))


def load(path: Path) -> Ledger | None:
    """A ledger from a file; ``None`` where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except (OSError, msgspec.MsgspecError):
        return None


def dump(ledger: Mapping[str, list[Warned]]) -> bytes:
    """The content of a ledger's file."""
    return msgspec.json.encode(ledger, order="sorted")


def _below(name: str, top: str) -> str:
    return re.sub(r"^(?:\.\./|\./)+", "", name.removeprefix(top) if top else name)


def _unit(name: str) -> str:
    return re.sub(r"\.(?:o|c|S|s|rs|ko|mod|mod\.c)$", "", re.sub(r"^(?:\.\./|\./)+", "", name))


def _normal(text: str) -> str:
    """Without what differs between two builds of the same fault: lines, offsets, sizes, kinds of quotes."""
    text = re.sub(r"[‘’`]", "'", text)
    text = re.sub(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?", "", text)
    return one_line(re.sub(r"\b\d+\b", "#", text), limit=1000)
