# SPDX-License-Identifier: GPL-2.0-only
"""Flavors: kernels made for diagnosis, beside the variants. A flavor is a file of ``kconfigs/flavors``.

Besides its kconfig requests the file has lines for us, ``#: key: value``: ``reason`` (what it finds),
``slower`` (factor on all time limits), ``mem`` (MiB that its guests need at least), ``not with NAME`` (a
flavor that it excludes, and why), ``no races`` (why suites that race are of no use on it), ``since`` (the
kernel version that has all of its symbols), ``gcc`` and ``clang`` (the least major version that compiles
it), ``module`` (a C file of ``guest/`` that is built against the kernel, for its guests), ``kmemleak`` (why
it is asked after each program what that has lost).
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

_SAYING = re.compile(r"^#: ([a-z -]+): (.+)$", re.M)
_KEYS = frozenset({"reason", "slower", "mem", "no races", "since", "gcc", "clang", "module", "kmemleak"})
_EXCLUDES = "not with "


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """A flavor as its file tells it.

    ``mem_mib`` 0: no more than any guest. ``not_with`` has reasons by flavor, ``compilers`` the least major
    version by family (``gcc``, ``clang``); ``no_races`` and ``since`` are empty where there is no such limit.
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
    """All flavors there is a file for."""
    return tuple(data.flavors())


def load(name: str) -> Flavor:
    """The flavor of that name.

    :raises UserError: there is none; ValueError: its file lacks a reason or has an unknown line for us.
    """
    path = data.choose("flavor", name, data.flavors())
    text = path.read_text()
    said = dict(_SAYING.findall(text))
    not_with = {key.removeprefix(_EXCLUDES): why for key, why in said.items() if key.startswith(_EXCLUDES)}
    if unknown := {key for key in said if not key.startswith(_EXCLUDES)} - _KEYS:
        raise ValueError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    if "reason" not in said:
        raise ValueError(f"{path}: it gives no reason")
    return Flavor(
        name=name,
        reason=said["reason"],
        fragment=Fragment(f"kconfigs/flavors/{name}.config", text),
        slower=float(said.get("slower", 1)),
        mem_mib=int(said.get("mem", 0)),
        module=data.guest() / said["module"] if "module" in said else None,
        kmemleak="kmemleak" in said,
        not_with=not_with,
        no_races=said.get("no races", ""),
        since=said.get("since", ""),
        compilers={family: int(said[family]) for family in ("gcc", "clang") if family in said},
    )


def combine(chosen: Sequence[str]) -> tuple[Flavor, ...]:
    """The flavors of a kernel, each once, in the order of their names.

    :raises UserError: one does not exist, or two cannot be one kernel.
    """
    found = tuple(load(name) for name in sorted(set(chosen)))
    for flavor in found:
        for other, why in flavor.not_with.items():
            if other in chosen:
                raise UserError(
                    f"a kernel cannot be of the flavors {flavor.name!r} and {other!r} at once: {why}",
                    remedy="Run them one after the other.",
                )
    return found


def slower(chosen: Sequence[str]) -> float:
    """By how much the time limits grow under these flavors together."""
    return math.prod(flavor.slower for flavor in combine(chosen))


def mem_mib(chosen: Sequence[str]) -> int:
    """The memory that their guests need at least."""
    return max((flavor.mem_mib for flavor in combine(chosen)), default=0)


def no_races(chosen: Sequence[str]) -> str:
    """Why suites that race are of no use on their kernel; empty where they are."""
    return next((f"flavor {f.name!r}: {f.no_races}" for f in combine(chosen) if f.no_races), "")


def too_old(chosen: Sequence[str], version: str) -> str:
    """Which of them a kernel of this version is too old for, and by how much; empty where it is not."""
    for flavor in combine(chosen):
        if flavor.since and version_numbers(version) < version_numbers(flavor.since):
            return f"flavor {flavor.name!r} needs Linux {flavor.since} or later"
    return ""


def check_compiler(chosen: Sequence[str], compiler: Toolchain) -> None:
    """Demand a compiler that all of them can be compiled with.

    :raises UserError: it is too old for one.
    """
    for flavor in combine(chosen):
        least = flavor.compilers.get(compiler.family, 0)
        if 0 < compiler.major < least:
            raise UserError(
                f"flavor {flavor.name!r} needs {compiler.family} {least} or later, "
                f"{compiler.compiler} is {compiler.version}",
                remedy=f"Name another one with --toolchain, such as {compiler.family}-{least}.",
            )


def module(chosen: Sequence[str]) -> Path | None:
    """The source of the module that is built for their kernel, if one of them has one."""
    return next((flavor.module for flavor in combine(chosen) if flavor.module), None)


def kmemleak(chosen: Sequence[str]) -> bool:
    """Whether their kernel is asked after each program for the memory that nobody points at any more."""
    return any(flavor.kmemleak for flavor in combine(chosen))


def word(chosen: Sequence[str]) -> str:
    """The flavors as one word: ``kasan+lockdep``, empty where there are none."""
    return "+".join(sorted(set(chosen)))
