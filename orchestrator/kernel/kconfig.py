# SPDX-License-Identifier: GPL-2.0-only
"""Kconfig fragments, the check of the final ``.config``, and a wrapper that makes a symbol selectable.

``olddefconfig`` drops requests silently. So every request is compared with the final ``.config``, and a lost
one is reported with the line that made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.errors import UserError, unknown

#: The variant with per-VMA locks, and the one without.
WITH, WITHOUT = "per-vma-lock", "mmap-lock"

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

    :raises UserError: no such file, or not a kconfig line.
    """
    if spec.startswith(("CONFIG_", "# CONFIG_")):
        fragment = Fragment("--kconfig", spec, built_in=False)
    else:
        try:
            fragment = Fragment(spec, Path(spec).read_text(), built_in=False)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--kconfig {spec}: {getattr(error, 'strerror', None) or 'not a text file'}",
                remedy="Name a fragment file, or write CONFIG_X=y itself.",
            ) from error
    fragment.requests()
    return fragment


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


def explain(loss: Lost, tree: Path, config: Mapping[str, str]) -> Lost:
    """The same loss with the unmet dependency, if the tree's Kconfig files show it.

    This reads the symbol's ``depends on`` lines, and does not evaluate Kconfig's language: enclosing ``if``
    blocks and ``select`` chains are ignored.
    """
    definition = re.compile(rf"^(?:menu)?config {re.escape(loss.request.symbol)}$\n((?:[ \t].*\n|\n)*)", re.M)
    is_defined = False
    for path in _kconfig_files(tree):
        text = path.read_text(errors="replace")
        if f"config {loss.request.symbol}\n" not in text:
            continue
        for match in definition.finditer(text):
            is_defined = True
            for depends in re.findall(r"^[ \t]+depends on (.+)$", match[1], re.M):
                symbols = re.findall(r"(?<![\w!])[A-Z][A-Z0-9_]+\b(?!\s*[!=])", depends)
                unmet = [s for s in symbols if config.get(s, "n") == "n"]
                if unmet and loss.got == "n":
                    where = path.relative_to(tree)
                    why = f"it depends on {depends.strip()}, and {', '.join(unmet)} is not set ({where})"
                    return Lost(loss.request, loss.got, why)
    if not is_defined:
        return Lost(loss.request, loss.got, "this tree has no such symbol")
    if loss.request.value == "n":
        return Lost(loss.request, loss.got, "it has no prompt, or something selects it")
    return loss


def _kconfig_files(tree: Path) -> Iterable[Path]:
    # arch/ and drivers/ hold nearly all; a walk of the whole tree would read 1,700 files, which is 0.1 s
    return sorted(tree.rglob("Kconfig*"))


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
