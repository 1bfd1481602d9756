# SPDX-License-Identifier: GPL-2.0-only
"""What a plan would cost: which kernels are there, and how long the rest took when it was last done here."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.errors import OrchestrateError, UserError
from orchestrator.core.store import Store
from orchestrator.kernel import build
from orchestrator.plan.inputs import Inputs, kernel_spec, not_applicable
from orchestrator.plan.plan import CellPlan, Plan
from orchestrator.results.model import CellResult
from orchestrator.run import latest

_RUNS = 20


class KernelCost(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the plan. ``state`` is prebuilt, cached, build, NA or the error that stands in its way.

    ``cpu_s`` are the CPU seconds that its build will take by what others took; ``None``: not known.
    """

    label: str
    arch: str
    variant: str
    state: str
    note: str = ""
    cpu_s: float | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's cost. Of ``cells`` the seconds each took in earlier runs, ``None`` where there was none."""

    kernels: tuple[KernelCost, ...]
    cells: dict[str, float | None]

    def build_s(self, cpus: int) -> float:
        """Wall-clock seconds of the builds whose cost is known, with that many CPUs at work."""
        return sum(k.cpu_s or 0.0 for k in self.kernels if k.state == "build") / max(1, cpus)


def cost(
    plan: Plan, inputs: Inputs, store: Store, runs: Path, say: Callable[[str], None] = lambda _: None
) -> Cost:
    """What the plan would cost. Kernels are configured for it, not built; nothing is booted.

    :param runs: the folder of earlier runs.
    :raises UserError: a kernel cannot be what was asked for.
    """
    # configuring takes its time, where it was not done before
    say("looking which kernels are there")
    kernels = dict.fromkeys((cell.label, cell.arch, cell.variant) for cell in plan.cells)
    earlier = _earlier(runs)
    return Cost(
        kernels=tuple(_kernel(inputs, store, *kernel) for kernel in kernels),
        cells={cell.id: earlier.get(_like(cell)) for cell in plan.cells},
    )


def _kernel(inputs: Inputs, store: Store, label: str, arch: str, variant: str) -> KernelCost:
    target = inputs.targets[label]

    def known(state: str, note: str = "", cpu_s: float | None = None) -> KernelCost:
        return KernelCost(label=label, arch=arch, variant=variant, state=state, note=note, cpu_s=cpu_s)

    if target.prebuilt is not None:
        return known("prebuilt", "its variant is read from the guest")
    if reason := not_applicable(inputs, target, variant):
        return known("NA", reason)
    try:
        spec = kernel_spec(inputs, label, arch, variant)
        if build.is_built(spec, store):
            return known("cached")
    except UserError:
        raise
    except OrchestrateError as error:
        return known("error", error.message)
    return known("build", cpu_s=build.usual_cost_s(arches.load(arch), store))


def _like(cell: CellPlan) -> tuple[str, str, tuple[str, ...]]:
    return (cell.arch, cell.variant, tuple(sorted(cell.suites)))


def _earlier(runs: Path) -> dict[tuple[str, str, tuple[str, ...]], float]:
    """The median seconds of like cells in the newest runs, without their configurations and builds."""
    took = defaultdict(list)
    for folder in latest.begun(runs, "cells")[: -_RUNS - 1 : -1]:
        for path in folder.glob("cells/*/result.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                cell = msgspec.json.decode(path.read_bytes(), type=CellResult)
                rest = sum(c.duration_s for c in cell.cases if c.id in ("config", "build"))
                key = (cell.arch, cell.variant, tuple(sorted(s.suite for s in cell.suites)))
                took[key].append(max(0.0, cell.duration_s - rest))
    return {key: statistics.median(seconds) for key, seconds in took.items()}


def boot_seconds(runs: Path, arch: str, variant: str, suites: Iterable[str]) -> float | None:
    """What a cell of those suites usually took in earlier runs, its build aside; ``None``: not known."""
    return _earlier(runs).get((arch, variant, tuple(sorted(suites))))


def cpus(jobs: int) -> int:
    """How many CPUs a build will use."""
    return min(jobs or os.cpu_count() or 1, os.cpu_count() or 1)
