# SPDX-License-Identifier: GPL-2.0-only
"""The suites there are: one folder with one ``suite.toml`` each."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator import data
from orchestrator.errors import UserError


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One program of a suite.

    ``timeout_s`` 0 means the suite's; it is for a machine that boots in a second and is scaled by what
    was measured. ``cpus`` and ``nice`` are set for the process and read back. ``vsyscall`` tells that the
    ``vsyscall=`` boot parameter matters to it.
    """

    name: str
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    parser: Literal["exit", "ktap", "map-latency"] = "exit"
    timeout_s: float = 0.0
    cpus: str = ""
    nice: int = 0
    vsyscall: bool = False


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program must report on kernels from ``since`` up to but without ``until``.

    ``arch`` empty means all; ``outcome`` "skip" that the test itself refuses there, for ``reason``.
    """

    program: str
    since: str = ""
    until: str = ""
    arch: tuple[str, ...] = ()
    outcome: Literal["pass", "skip"] = "pass"
    reason: str = ""
    cases: int = 1


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a suite of our own is compiled: one static binary a program."""

    sources: tuple[str, ...] = ()
    cflags: tuple[str, ...] = ("-O2",)


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A suite's descriptor; see docs/suites.md for the meaning of each field."""

    name: str
    description: str
    kind: Literal["functional", "benchmark"]
    origin: Literal["own", "tree"]
    directory: str = ""
    all_programs: bool = False
    alone: bool = False
    boots: int = 1
    min_cpus: int = 1
    timeout_s: float = 60.0
    build: Build = Build()
    program: tuple[Program, ...] = ()
    expect: tuple[Expectation, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the descriptor and the sources lie."""
        return data.selftests() / self.name

    def limit_s(self, program: Program) -> float:
        """The program's own time-out, or the suite's."""
        return program.timeout_s or self.timeout_s

    def known(self, name: str) -> Program:
        """The descriptor's word about a program, or the defaults where it is silent."""
        return next((p for p in self.program if p.name == name), Program(name=name))


#: What `orchestrate run` runs when no suite is named.
DEFAULT = ("maps", "map-latency")


def names() -> tuple[str, ...]:
    """All suites there is a folder for."""
    return tuple(data.suites())


@functools.cache
def load(name: str) -> Suite:
    """The suite of that name.

    :raises UserError: there is none, or its descriptor cannot be read; the message names the field.
    """
    path = data.choose("suite", name, data.suites()) / "suite.toml"
    try:
        suite = msgspec.toml.decode(path.read_bytes(), type=Suite)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{path}: {error}", remedy="See docs/suites.md.") from None
    if suite.name != name:
        raise UserError(
            f"{path}: its name is {suite.name!r}, its folder's {name!r}", remedy="Make them equal."
        )
    return suite


def numbers(version: str) -> tuple[int, ...]:
    """A kernel version for comparison: ``7.2-rc3`` and ``7.2.12-gabc`` both begin with ``(7, 2)``."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[-+~]", version)[0])[:3])


def expected(suite: Suite, version: str, arch: str) -> dict[str, Expectation]:
    """What the suite's programs must report on that kernel version and arch, by program."""
    if not suite.expect:
        return {p.name: Expectation(program=p.name) for p in suite.program}
    at = numbers(version)
    return {
        e.program: e
        for e in suite.expect
        if (not e.arch or arch in e.arch)
        and (not e.since or numbers(e.since) <= at)
        and (not e.until or at < numbers(e.until))
    }


def elsewhere(suite: Suite, version: str, arch: str) -> dict[str, str]:
    """Programs that the suite knows, but not for that kernel, each with the reason."""
    here = expected(suite, version, arch)
    away: dict[str, str] = {}
    for e in suite.expect:
        if e.program not in here:
            since = (
                f"since {e.since}"
                if e.since
                else f"until {e.until}"
                if e.until
                else f"on {', '.join(e.arch)}"
            )
            away.setdefault(e.program, f"not in this kernel's tree: it is there {since}")
    return away
