# SPDX-License-Identifier: GPL-2.0-only
"""Flavors: kernels made for diagnosis, beside the variants. A flavor is a file of ``kconfigs/flavors``.

Besides its kconfig requests the file has lines for us, ``#: key: value``: ``reason`` (what it finds),
``slower`` (factor on all time limits), ``mem`` (MiB that its guests need at least), ``not with`` (flavors
that it excludes), ``module`` (a C file of ``guest/`` that is built against the kernel, for its guests).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator import data
from orchestrator.errors import UserError
from orchestrator.kernel.kconfig import Fragment

_SAYING = re.compile(r"^#: ([a-z ]+): (.+)$", re.M)


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """A flavor as its file tells it. ``mem_mib`` 0: no more than any guest."""

    name: str
    reason: str
    fragment: Fragment
    slower: float = 1.0
    mem_mib: int = 0
    not_with: tuple[str, ...] = ()
    module: Path | None = None


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
    if unknown := set(said) - {"reason", "slower", "mem", "not with", "module"}:
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
        not_with=tuple(said.get("not with", "").replace(",", " ").split()),
    )


def combine(chosen: Sequence[str]) -> tuple[Flavor, ...]:
    """The flavors of a kernel, each once, in the order of their names.

    :raises UserError: one does not exist, or two cannot be one kernel.
    """
    found = tuple(load(name) for name in sorted(set(chosen)))
    for flavor in found:
        for other in flavor.not_with:
            if other in chosen:
                raise UserError(
                    f"a kernel cannot be of the flavors {flavor.name!r} and {other!r} at once",
                    remedy="Run them one after the other.",
                )
    return found


def slower(chosen: Sequence[str]) -> float:
    """By how much the time limits grow under these flavors together."""
    return math.prod(flavor.slower for flavor in combine(chosen))


def mem_mib(chosen: Sequence[str]) -> int:
    """The memory that their guests need at least."""
    return max((flavor.mem_mib for flavor in combine(chosen)), default=0)


def module(chosen: Sequence[str]) -> Path | None:
    """The source of the module that is built for their kernel, if one of them has one."""
    return next((flavor.module for flavor in combine(chosen) if flavor.module), None)


def word(chosen: Sequence[str]) -> str:
    """The flavors as one word: ``kasan+lockdep``, empty where there are none."""
    return "+".join(sorted(set(chosen)))
