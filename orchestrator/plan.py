# SPDX-License-Identifier: GPL-2.0-only
"""From choices to cells: pure, so that a plan can be shown before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.errors import UserError
from orchestrator.suites import catalog


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the user chose. Empty ``suites`` means none (a build only)."""

    arches: tuple[str, ...]
    variants: tuple[str, ...]
    suites: tuple[str, ...] = ()
    vsyscall: str = ""
    boots: int = 0
    smp: int = 2
    mem_mib: int = 512
    cmdline: tuple[str, ...] = ()
    accel: str = "auto"
    toolchain: str = "gcc"
    kconfig: tuple[str, ...] = ()
    config: str = ""
    jobs: int = 0


class CellPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One cell: kernel × boot parameters × suites.

    ``only_vsyscall`` restricts the suites to the programs to which the ``vsyscall=`` parameter matters.
    ``alone`` cells run while nothing else does. ``boot`` numbers the fresh boots of a benchmark from 1.
    """

    id: str
    label: str
    arch: str
    variant: str
    suites: tuple[str, ...]
    smp: int
    mem_mib: int
    cmdline: tuple[str, ...] = ()
    vsyscall: str = ""
    only_vsyscall: bool = False
    alone: bool = False
    boot: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of a run, in the order in which they start."""

    choices: Choices
    label: str
    cells: tuple[CellPlan, ...]


def make(choices: Choices, *, label: str, vsyscall_modes: dict[str, tuple[str, ...]]) -> Plan:
    """Lay out the cells.

    Benchmarks come after everything else and are interleaved: first boot of each variant, second boot of
    each … so that a drift of the host falls on all of them alike.

    :param label: what the kernel is called in cell names.
    :param vsyscall_modes: for each arch the values that its ``vsyscall=`` parameter takes.
    :raises UserError: an unknown suite, or a machine too small for one.
    """
    suites = [catalog.load(name) for name in choices.suites]
    for suite in suites:
        if choices.smp < suite.min_cpus:
            raise UserError(
                f"suite {suite.name!r} needs {suite.min_cpus} CPUs, --smp is {choices.smp}",
                remedy=f"Use --smp {suite.min_cpus} or leave the suite out.",
            )
    functional = [s for s in suites if s.kind == "functional"]
    benchmarks = [s for s in suites if s.kind == "benchmark"]
    cells: list[CellPlan] = []
    for arch in choices.arches:
        for variant in choices.variants:
            if functional:
                cells += _functional(choices, label, arch, variant, functional, vsyscall_modes.get(arch, ()))
    for arch in choices.arches:
        for suite in benchmarks:
            cells += _benchmark(choices, label, arch, suite)
    if not suites:
        cells = [_cell(choices, label, a, v) for a in choices.arches for v in choices.variants]
    return Plan(choices=choices, label=label, cells=tuple(cells))


def _cell(choices: Choices, label: str, arch: str, variant: str, *marks: str) -> CellPlan:
    return CellPlan(
        id="-".join((label, arch, variant, *marks)),
        label=label,
        arch=arch,
        variant=variant,
        suites=(),
        smp=choices.smp,
        mem_mib=choices.mem_mib,
        cmdline=choices.cmdline,
    )


def _functional(
    choices: Choices,
    label: str,
    arch: str,
    variant: str,
    suites: Sequence[catalog.Suite],
    modes: tuple[str, ...],
) -> list[CellPlan]:
    names = tuple(s.name for s in suites)
    base = msgspec.structs.replace(_cell(choices, label, arch, variant), suites=names)
    if not choices.vsyscall or not modes:
        return [base]
    wanted = modes if choices.vsyscall == "all" else (choices.vsyscall,)
    if unknown := set(wanted) - set(modes):
        raise UserError(
            f"unknown vsyscall mode {unknown.pop()!r}", remedy=f"Known are: all, {', '.join(modes)}."
        )
    touched = tuple(s.name for s in suites if any(p.vsyscall for p in s.program))
    cells = []
    for number, mode in enumerate(wanted):
        # the first mode's boot runs everything, the further ones what the mode matters to
        rest = number > 0
        if rest and not touched:
            continue
        cells.append(
            msgspec.structs.replace(
                base,
                id=f"{base.id}-vsyscall-{mode}",
                suites=touched if rest else names,
                cmdline=(*base.cmdline, f"vsyscall={mode}"),
                vsyscall=mode,
                only_vsyscall=rest,
            )
        )
    return cells


def _benchmark(choices: Choices, label: str, arch: str, suite: catalog.Suite) -> list[CellPlan]:
    return [
        msgspec.structs.replace(
            _cell(choices, label, arch, variant, suite.name, str(boot)),
            suites=(suite.name,),
            alone=suite.alone,
            boot=boot,
        )
        for boot in range(1, (choices.boots or suite.boots) + 1)
        for variant in choices.variants
    ]
