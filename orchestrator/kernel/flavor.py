# SPDX-License-Identifier: GPL-2.0-only
"""Flavors: kernels for diagnosis, beside the variants. A flavor is a file of ``kconfigs/flavors``.

Besides its kconfig requests the file has lines for orchestrate, ``#: key: value``: ``reason`` (what it
finds), ``slower`` (factor on all time limits), ``mem`` (MiB that its guests need at least), ``not with NAME``
(a flavor that it excludes, and why), ``no races`` (why suites that race are of no use on it), ``since`` (the
kernel version that has all of its symbols), ``gcc`` and ``clang`` (the least major version that compiles it),
``module`` (a C file of ``guest/`` that is built against the kernel, for its guests), ``kmemleak`` (why it is
scanned for leaks after each program).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.core.toolchain import Toolchain
from orchestrator.kernel.kconfig import Fragment
from orchestrator.source.model import version_numbers

_FACT = re.compile(r"^#: ([a-z -]+): (.+)$", re.M)
_KEYS = frozenset({"reason", "slower", "mem", "no races", "since", "gcc", "clang", "module", "kmemleak"})
_EXCLUDES = "not with "


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """A flavor, from its file.

    ``mem_mib`` 0: no more than any guest. ``not_with`` has reasons by flavor, ``compilers`` the least major
    version by family (``gcc``, ``clang``); ``no_races`` and ``since`` are empty without such a limit.
    """

    name: str
    reason: str
    fragment: Fragment
    slower: float = 1.0
    mem_mib: int = 0
    not_with: Mapping[str, str] = {}
    no_races: str = ""
    since: str = ""
    compilers: Mapping[str, int] = {}
    module: Path | None = None
    kmemleak: bool = False


def names() -> tuple[str, ...]:
    """The names of all flavors."""
    return tuple(data.flavors())


def load(name: str) -> Flavor:
    """The flavor of that name.

    :raises UserError: there is none.
    :raises ValueError: its file lacks a reason or has an unknown key.
    """
    path = data.choose("flavor", name, data.flavors())
    text = path.read_text()
    facts = dict(_FACT.findall(text))
    not_with = {key.removeprefix(_EXCLUDES): why for key, why in facts.items() if key.startswith(_EXCLUDES)}
    if unknown := {key for key in facts if not key.startswith(_EXCLUDES)} - _KEYS:
        raise ValueError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    if "reason" not in facts:
        raise ValueError(f"{path}: it has no reason")
    return Flavor(
        name=name,
        reason=facts["reason"],
        fragment=Fragment(f"kconfigs/flavors/{name}.config", text),
        slower=float(facts.get("slower", 1)),
        mem_mib=int(facts.get("mem", 0)),
        module=data.guest() / facts["module"] if "module" in facts else None,
        kmemleak="kmemleak" in facts,
        not_with=not_with,
        no_races=facts.get("no races", ""),
        since=facts.get("since", ""),
        compilers={family: int(facts[family]) for family in ("gcc", "clang") if family in facts},
    )


def combine(flavor_names: Sequence[str]) -> tuple[Flavor, ...]:
    """The flavors of a kernel, each once, in the order of their names.

    :raises UserError: one does not exist, or two cannot be one kernel.
    """
    flavors = tuple(load(name) for name in sorted(set(flavor_names)))
    for flavor in flavors:
        for other, why in flavor.not_with.items():
            if other in flavor_names:
                raise UserError(
                    f"a kernel cannot be of the flavors {flavor.name!r} and {other!r} at once: {why}",
                    remedy="Run them one after the other.",
                )
    return flavors


def slower(flavor_names: Sequence[str]) -> float:
    """The factor of these flavors together on all time limits."""
    return math.prod(flavor.slower for flavor in combine(flavor_names))


def mem_mib(flavor_names: Sequence[str]) -> int:
    """The least memory of their guests, in MiB."""
    return max((flavor.mem_mib for flavor in combine(flavor_names)), default=0)


def no_races(flavor_names: Sequence[str]) -> str:
    """Why suites that race are useless on their kernel; empty if they are not."""
    return next((f"flavor {f.name!r}: {f.no_races}" for f in combine(flavor_names) if f.no_races), "")


def too_old(flavor_names: Sequence[str], version: str) -> str:
    """Why a kernel of this version is too old for them; empty if it is not."""
    for flavor in combine(flavor_names):
        if flavor.since and version_numbers(version) < version_numbers(flavor.since):
            return f"flavor {flavor.name!r} needs Linux {flavor.since} or later"
    return ""


def check_compiler(flavor_names: Sequence[str], compiler: Toolchain) -> None:
    """Demand a compiler that can compile all of them.

    :raises UserError: it is too old for one.
    """
    for flavor in combine(flavor_names):
        least = flavor.compilers.get(compiler.family, 0)
        if 0 < compiler.major < least:
            raise UserError(
                f"flavor {flavor.name!r} needs {compiler.family} {least} or later, "
                f"{compiler.compiler} is {compiler.version}",
                remedy=f"Name another one with --toolchain, such as {compiler.family}-{least}.",
            )


def module(flavor_names: Sequence[str]) -> Path | None:
    """The source of the module that is built for their kernel, if one of them has one."""
    return next((flavor.module for flavor in combine(flavor_names) if flavor.module), None)


def kmemleak(flavor_names: Sequence[str]) -> bool:
    """Whether their kernel is scanned for leaked memory after each program."""
    return any(flavor.kmemleak for flavor in combine(flavor_names))


def word(flavor_names: Sequence[str]) -> str:
    """The flavors as one word: ``kasan+lockdep``, empty if there are none."""
    return "+".join(sorted(set(flavor_names)))
