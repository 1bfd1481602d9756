# SPDX-License-Identifier: GPL-2.0-only
"""Kconfig fragments, the check of the final ``.config``, and a wrapper that makes a symbol selectable.

``olddefconfig`` drops requests silently. So every request is compared with the final ``.config``, and a lost
one is reported with the line that made it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.arch import Arch
from orchestrator.core.errors import UserError, unknown
from orchestrator.core.store import absolute
from orchestrator.core.text import one_line

#: The variant with per-VMA locks, and the one without.
WITH, WITHOUT = "per-vma-lock", "mmap-lock"

#: Losses that a message lists; of more it has the number.
_LISTED = 5

_SET = re.compile(r"^CONFIG_(\w+)=(.*)$")
_UNSET = re.compile(r"^# CONFIG_(\w+) is not set$")

#: The second definition that gives PER_VMA_LOCK a prompt; the tree's own keeps its ``default y``.
_PROMPT = """
config PER_VMA_LOCK
	bool "Per-VMA locks"
	depends on ARCH_SUPPORTS_PER_VMA_LOCK && MMU && SMP
"""


class Request(msgspec.Struct, frozen=True):
    """One line of a fragment: the symbol without ``CONFIG_``, the requested value, and the place."""

    symbol: str
    value: str
    origin: str
    line: int

    def __str__(self) -> str:
        return f"CONFIG_{self.symbol}={self.value} ({self.origin}:{self.line})"


class Lost(msgspec.Struct, frozen=True):
    """A request that the final configuration does not grant."""

    request: Request
    got: str
    why: str = ""

    def __str__(self) -> str:
        why = f"; {self.why}" if self.why else ""
        return f"{self.request} became {self.got}{why}"


class Fragment(msgspec.Struct, frozen=True):
    """A named text of requests; ``built_in``: it is the project's, not the user's."""

    name: str
    text: str
    built_in: bool = msgspec.field(name="ours", default=True)

    def requests(self) -> list[Request]:
        """The requests in order.

        :raises UserError: on a line that is neither a request, a comment nor empty.
        """
        requests = []
        for number, line in enumerate(self.text.splitlines(), 1):
            line = line.strip()
            if match := _SET.match(line):
                requests.append(Request(match[1], match[2], self.name, number))
            elif match := _UNSET.match(line):
                requests.append(Request(match[1], "n", self.name, number))
            elif line and not line.startswith("#"):
                raise UserError(
                    f"{self.name}:{number}: not a kconfig line: {line[:60]!r}",
                    remedy="Write CONFIG_X=y, or `# CONFIG_X is not set`.",
                )
        return requests


def variants() -> tuple[str, ...]:
    """The names of all variants; the one with the feature first."""
    return tuple(sorted(data.variants(), reverse=True))


def own_fragments(arch: str, variant: str) -> list[Fragment]:
    """The project's fragments for a kernel, in the order of merging.

    :raises UserError: for an unknown variant.
    """
    if variant not in variants():
        raise unknown("variant", variant, variants())
    names = ("base.config", f"{arch}.config", f"variants/{variant}.config")
    return [Fragment(f"kconfigs/{name}", (data.kconfigs() / name).read_text()) for name in names]


def user_fragment(spec: str) -> Fragment:
    """The fragment that ``--kconfig`` names: a file, or ``CONFIG_X=value`` itself.

    :raises UserError: no such file, not a kconfig line, or no line at all.
    """
    if spec.startswith(("CONFIG_", "# CONFIG_")):
        fragment = Fragment("--kconfig", spec, built_in=False)
    else:
        fragment = Fragment(spec, _text(spec, "--kconfig"), built_in=False)
    if not fragment.requests():
        raise UserError(
            f"--kconfig {spec}: it requests nothing", remedy="Write CONFIG_X=y, or `# CONFIG_X is not set`."
        )
    return fragment


def user_base(name: str) -> str:
    """The text of the file of ``--config``; empty without one.

    :raises UserError: it cannot be read, or is no .config.
    """
    if not name:
        return ""
    text = _text(name, "--config")
    requests = 0
    for number, line in enumerate(text.splitlines(), 1):
        if _SET.match(line) or _UNSET.match(line):
            requests += 1
        elif line.strip() and not line.startswith("#"):
            raise UserError(
                f"--config {name}:{number}: no line of a .config: {one_line(line, limit=60)!r}",
                remedy="Give a .config, such as a kernel's in /boot, or `zcat /proc/config.gz`.",
            )
    if not requests:
        raise UserError(
            f"--config {name}: no line of it sets a symbol{'; the file is empty' if not text else ''}",
            remedy="Give a .config, such as a kernel's in /boot, or `zcat /proc/config.gz`.",
        )
    return text


def other_architecture(text: str, arch: Arch) -> str:
    """The kernel's name of the architecture that a .config says it is for, if it is another; else empty."""
    match = re.search(r"^# Linux/(\w+) \S+ .*Configuration$", text, re.M)
    return match[1] if match and match[1] not in (arch.make_arch, arch.image.split("/")[1]) else ""


def check_base(base: str, arch: Arch) -> None:
    """Refuse a base that says of itself that it is another architecture's.

    :raises UserError: it is; all of its drivers would be dropped silently.
    """
    if other := other_architecture(base, arch):
        raise UserError(
            f"--config: it is a configuration for {other}, and a kernel for {arch.name} is to be built",
            remedy="Give one of that architecture, or choose with --arch.",
        )


def _text(name: str, option: str) -> str:
    try:
        content = absolute(Path(name)).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            raise UserError(f"{option} {name}: it is compressed", remedy="Unpack it first, with zcat.")
        return "\n".join(content.decode("utf-8-sig").splitlines()) + ("\n" if content else "")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(
            f"{option} {name}: {reason}",
            remedy="Name a file."
            if option == "--config"
            else "Name a fragment file, or write CONFIG_X=y itself.",
        ) from error


def check_user_fragments(fragments: Iterable[Fragment], arch: str) -> None:
    """Refuse a user's request for a symbol that the variant decides.

    :raises UserError: there is one; the message names the line.
    """
    decided = {r.symbol for v in variants() for r in own_fragments(arch, v)[-1].requests()}
    for fragment in fragments:
        for request in fragment.requests():
            if request.symbol in decided:
                raise UserError(
                    f"{request}: this symbol is decided by the variant",
                    remedy=f"Use --variant ({', '.join(variants())}) and drop the line.",
                )


def parse_config(text: str) -> dict[str, str]:
    """A ``.config`` as symbol → value, without those that are not set."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _SET.match(line))}


def merge(base: str, fragments: Sequence[Fragment]) -> str:
    """A ``.config`` in which the fragments' requests replace the values of their symbols."""
    last = {request.symbol: request for fragment in fragments for request in fragment.requests()}
    lines = []
    for line in base.splitlines():
        match = _SET.match(line) or _UNSET.match(line)
        if match is None or match[1] not in last:
            lines.append(line)
    for r in last.values():
        lines.append(f"# CONFIG_{r.symbol} is not set" if r.value == "n" else f"CONFIG_{r.symbol}={r.value}")
    return "\n".join(lines) + "\n"


def lost(fragments: Sequence[Fragment], config: Mapping[str, str]) -> list[Lost]:
    """The requests that did not survive; of several for one symbol only the last counts."""
    last = {request.symbol: request for fragment in fragments for request in fragment.requests()}
    return [
        Lost(request, config.get(request.symbol, "n"))
        for request in last.values()
        if config.get(request.symbol, "n") != request.value
    ]


def listing(losses: Sequence[Lost], tree: Path, config: Mapping[str, str]) -> str:
    """The first losses, explained, and the number of the others: part of a message."""
    words = [one_line(str(loss)) for loss in explain(losses[:_LISTED], tree, config)]
    more = len(losses) - len(words)
    return "; ".join(words) + (f"; and {more} more requests" if more else "")


def explain(losses: Sequence[Lost], tree: Path, config: Mapping[str, str]) -> list[Lost]:
    """The same losses with the unmet dependencies, as far as the tree's Kconfig files show them.

    This reads the symbols' ``depends on`` lines, and does not evaluate Kconfig's language: enclosing ``if``
    blocks and ``select`` chains are ignored.
    """
    definitions = _definitions({loss.request.symbol for loss in losses}, tree)
    return [
        msgspec.structs.replace(loss, why=_why(loss, definitions.get(loss.request.symbol, []), config))
        for loss in losses
    ]


def _definitions(symbols: Collection[str], tree: Path) -> dict[str, list[tuple[str, str]]]:
    """The definitions of symbols, each with its file: all of the tree's 1,700 files are read, once."""
    definition = re.compile(
        rf"^(?:menu)?config ({'|'.join(sorted(map(re.escape, symbols)))})$\n((?:[ \t].*\n|\n)*)", re.M
    )
    result: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(tree.rglob("Kconfig*")) if symbols else ():
        if path.is_file():
            for match in definition.finditer(path.read_text(errors="replace")):
                result.setdefault(match[1], []).append((str(path.relative_to(tree)), match[2]))
    return result


def _why(loss: Lost, definitions: Sequence[tuple[str, str]], config: Mapping[str, str]) -> str:
    for where, text in definitions:
        for depends in re.findall(r"^[ \t]+depends on (.+)$", text, re.M):
            symbols = re.findall(r"(?<![\w!])[A-Z][A-Z0-9_]+\b(?!\s*[!=])", depends)
            unmet = [symbol for symbol in symbols if config.get(symbol, "n") == "n"]
            if unmet and loss.got == "n":
                return f"it depends on {depends.strip()}, and {', '.join(unmet)} is not set ({where})"
    if not definitions:
        return "this tree has no such symbol"
    return "it has no prompt, or something selects it" if loss.request.value == "n" else ""


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Symbols whose values differ, each with its two values."""
    return {
        symbol: (one.get(symbol, "n"), other.get(symbol, "n"))
        for symbol in sorted(set(one) | set(other))
        if one.get(symbol, "n") != other.get(symbol, "n")
    }


def write_wrapper(tree: Path, folder: Path) -> Path:
    """Write the top Kconfig that gives PER_VMA_LOCK a prompt; for ``KBUILD_KCONFIG``.

    The tree's own text is copied into it: it begins with ``mainmenu``, which cannot be sourced.
    Kconfig lets a symbol be defined twice, and the tree itself stays untouched.
    """
    wrapper = folder / "Kconfig.wrapper"
    text = (tree / "Kconfig").read_text() + _PROMPT
    # make configures again if its time changes
    if not wrapper.is_file() or wrapper.read_text() != text:
        wrapper.write_text(text)
    return wrapper
