# SPDX-License-Identifier: GPL-2.0-only
"""What the host lacks, or where it failed, by the log of a build (``host_faults.toml``).

A compiler quotes the source that it complains about, and sources have strings such as "No space left on
device". So lines that a tree can choose are no evidence: indented ones (compilers quote in these) and the
texts of ``#error``, ``#warning`` and assertions.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

#: Lines whose text is the source's, not a tool's.
_QUOTED = re.compile(
    r"^(?:[ \t].*|.*(?:#(?:error|warning)\b(?!.*Sorry, your)|static assertion failed|_Static_assert"
    r"|declared with attribute).*)$",
    re.M,
)
_HEADER = re.compile(
    r"^(?P<place>[^\s:]+):\d+(?::\d+)?: (?:fatal )?error: "
    r"'?(?P<header>[\w./+-]+)'?(?:: No such file or directory|' file not found| file not found)",
    re.M,
)
#: Where programs of the host are, and headers of the host that include others.
_HOST_PROGRAM = re.compile(r"(?:scripts|tools|certs|usr|arch/\w+/(?:tools|boot/tools))/|/usr/")
_LIBRARY = re.compile(
    r"(?:cannot find|unable to find library|library not found for) -l(?P<library>[\w.+-]+)", re.M
)
#: A program by its name, or by a path of the host; one with another path is the tree's own.
_NAME = r"(?<![\w./+-])(?:/(?:usr/)?(?:local/)?s?bin/)?(?P<tool>[A-Za-z0-9_][\w.+-]*)"
_TOOLS = tuple(
    re.compile(pattern, re.M)
    for pattern in (
        rf"{_NAME}: (?:[Cc]ommand )?not found",
        rf"^make(?:\[\d+\])?: (?!Makefile|Kbuild|Kconfig){_NAME}: No such file or directory",
        rf"\benv: [‘'`]?{_NAME}[’']?: No such file or directory",
        rf"(?:compiler|linker|assembler) ['‘]{_NAME}['’] not found",
        rf"{_NAME}: bad interpreter: No such file or directory",
        r"[Rr]ust (?:compiler|bindings generator) '(?P<tool>\w+)' could not be found",
        r"invalid linker name in argument '-fuse-ld=(?P<tool>lld)'",
    )
)


class Fault(msgspec.Struct, frozen=True):
    """What failed on the host, and what to do."""

    reason: str
    remedy: str


class _Pattern(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a log; if ``strong`` is set, it must match in that line too, else it is only a warning."""

    pattern: str
    reason: str
    remedy: str
    strong: str = ""

    def fault(self, text: str) -> Fault | None:
        for match in re.compile(self.pattern, re.M).finditer(text):
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            line = text[start : end if end >= 0 else None]
            if not self.strong or re.search(self.strong, line):
                groups = {name: value or "" for name, value in match.groupdict().items()}
                return Fault(self.reason.format(**groups), self.remedy.format(**groups))
        return None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    resource: tuple[_Pattern, ...]
    kernel: tuple[_Pattern, ...]
    headers: dict[str, str]
    libraries: dict[str, str]
    tools: dict[str, str]


@functools.cache
def _table() -> _Table:
    path = Path(__file__).with_suffix(".toml")
    return msgspec.convert(msgspec.toml.decode(path.read_bytes()), type=_Table)


def of_resources(log: str) -> Fault | None:
    """A lack of memory, space or the like, or a compiler that dies: for any program that is compiled."""
    return _first(_table().resource, _tools_only(log))


def of_kernel(log: str, tree: Path) -> Fault | None:
    """What ended the build of a kernel although its sources may be fine.

    :param tree: the top of its tree; the log may name files below it by their full paths.
    """
    text = _tools_only(log)
    return (
        _first(_table().resource, text)
        or _first(_table().kernel, text)
        or _missing_header(text, tree)
        or _missing_library(text)
    )


def missing_tool(log: str) -> Fault | None:
    """A program that a build did not find; it may have done without, if there is another error."""
    text = _tools_only(log)
    for pattern in _TOOLS:
        if match := pattern.search(text):
            name = match["tool"]
            return Fault(f"{name} is missing", f"apt-get install {package(name)}")
    return None


def package(tool: str) -> str:
    """Debian's package of a program that the kernel's makefiles call."""
    if known := _table().tools.get(tool):
        return known
    if match := re.fullmatch(r"((?:[a-z0-9_]+-)+)(gcc|ld|as|nm|objcopy|strip|ar)(?:-\d+)?", tool):
        part = "gcc" if match[2] == "gcc" else "binutils"
        return f"{part}-{match[1].rstrip('-').replace('_', '-')}"
    return tool


def _tools_only(log: str) -> str:
    return _QUOTED.sub("", log)


def _first(patterns: tuple[_Pattern, ...], text: str) -> Fault | None:
    return next((fault for pattern in patterns if (fault := pattern.fault(text))), None)


def _missing_header(text: str, tree: Path) -> Fault | None:
    for match in _HEADER.finditer(text):
        place = re.sub(r"^(?:\.{1,2}/)+", "", match["place"].removeprefix(f"{tree}/"))
        if not _HOST_PROGRAM.match(place):
            continue
        for pattern, name in _table().headers.items():
            if re.fullmatch(pattern, match["header"]):
                return Fault(f"{match['header']} is missing ({place})", f"apt-get install {name}")
    return None


def _missing_library(text: str) -> Fault | None:
    if match := _LIBRARY.search(text):
        name = match["library"]
        known = _table().libraries.get(name)
        remedy = f"apt-get install {known}" if known else f"Install the package with lib{name}."
        return Fault(f"the library {name} is missing", remedy)
    return None
