# SPDX-License-Identifier: GPL-2.0-only
"""From choices to cells. Pure functions: a plan can be printed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from orchestrator.core.errors import UserError, unknown
from orchestrator.plan.choices import Choices
from orchestrator.suites.catalog import Suite

#: The version of ``plan.json``; a plan of a later version is refused.
PLAN_VERSION = 1


class CellPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One cell: kernel × boot parameters × suites.

    ``only_vsyscall`` restricts the suites to the programs to which the ``vsyscall=`` parameter matters.
    ``alone`` cells run while no other cell does. ``boot`` numbers the fresh boots of one kernel, from 1.
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


class PlannedKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the run: its source and its architectures."""

    label: str
    arches: tuple[str, ...]
    describe: str = ""
    digest: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of a run, in the order in which they start, and the choices, so that it can be resumed.

    ``inputs`` are digests of its inputs besides its kernels.
    """

    version: int = PLAN_VERSION
    choices: Choices
    kernels: tuple[PlannedKernel, ...]
    cells: tuple[CellPlan, ...]
    inputs: dict[str, str] = {}


def make(
    choices: Choices,
    *,
    kernels: Sequence[PlannedKernel],
    suites: Sequence[Suite],
    vsyscall_modes: Mapping[str, tuple[str, ...]],
) -> Plan:
    """Lay out the cells.

    Benchmarks come after everything else. Repeated boots are interleaved: the first boot of
    each kernel, the second of each … so that a drift of the host affects all of them.

    :param vsyscall_modes: for each arch the values that its ``vsyscall=`` parameter takes.
    :raises UserError: a machine too small for a suite, or an unknown vsyscall mode.
    """
    for suite in suites:
        if choices.smp < suite.min_cpus:
            raise UserError(
                f"suite {suite.name!r} needs {suite.min_cpus} CPUs, --smp is {choices.smp}",
                remedy=f"Use --smp {suite.min_cpus} or omit the suite.",
            )
    functional = [s for s in suites if s.kind == "functional"]
    bases = [_cell(choices, k.label, a, v) for k in kernels for a in k.arches for v in choices.variants]
    cells: list[CellPlan] = []
    for time in range(1, choices.times + 1):
        for base in bases:
            if functional:
                modes = vsyscall_modes.get(base.arch, ())
                cells += [
                    _numbered(c, choices.times, time) for c in _functional(choices, base, functional, modes)
                ]
    for arch in dict.fromkeys(base.arch for base in bases):
        for suite in suites:
            if suite.kind == "benchmark":
                cells += _benchmark(choices, [b for b in bases if b.arch == arch], suite)
    return Plan(choices=choices, kernels=tuple(kernels), cells=tuple(cells) if suites else tuple(bases))


def _numbered(cell: CellPlan, times: int, time: int) -> CellPlan:
    return msgspec.structs.replace(cell, id=f"{cell.id}-{time}", boot=time) if times > 1 else cell


def _cell(choices: Choices, label: str, arch: str, variant: str) -> CellPlan:
    return CellPlan(
        id="-".join((label, arch, variant, *sorted(choices.flavors))),
        label=label,
        arch=arch,
        variant=variant,
        suites=(),
        smp=choices.smp,
        mem_mib=choices.mem_mib,
        cmdline=choices.cmdline,
    )


def _functional(
    choices: Choices, kernel: CellPlan, suites: Sequence[Suite], modes: tuple[str, ...]
) -> list[CellPlan]:
    names = tuple(s.name for s in suites)
    base = msgspec.structs.replace(kernel, suites=names, alone=any(suite.alone for suite in suites))
    if not choices.vsyscall or not modes:
        return [base]
    selected = modes if choices.vsyscall == "all" else (choices.vsyscall,)
    if strange := set(selected) - set(modes):
        raise unknown("vsyscall mode", strange.pop(), ("all", *modes))
    affected = tuple(s.name for s in suites if any(p.vsyscall for p in s.program))
    cells = []
    for number, mode in enumerate(selected):
        # the first mode's boot runs everything, the further ones only what depends on the mode
        rest = number > 0
        if rest and not affected:
            continue
        cells.append(
            msgspec.structs.replace(
                base,
                id=f"{base.id}-vsyscall-{mode}",
                suites=affected if rest else names,
                cmdline=(*base.cmdline, f"vsyscall={mode}"),
                vsyscall=mode,
                only_vsyscall=rest,
            )
        )
    return cells


def _benchmark(choices: Choices, kernels: Sequence[CellPlan], suite: Suite) -> list[CellPlan]:
    return [
        msgspec.structs.replace(
            base,
            id=f"{base.id}-{suite.name}-{boot}",
            suites=(suite.name,),
            alone=suite.alone,
            boot=boot,
        )
        for boot in range(1, (choices.boots or suite.boots) + 1)
        for base in kernels
    ]
