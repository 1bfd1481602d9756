# SPDX-License-Identifier: GPL-2.0-only
"""The cost of a plan: which kernels exist, and how long builds and boots took on this host."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.arch import Arch
from orchestrator.core.errors import OrchestrateError, UserError
from orchestrator.core.store import Store
from orchestrator.kernel import build
from orchestrator.plan.inputs import Inputs, kernel_spec, not_applicable
from orchestrator.plan.plan import CellPlan, Plan
from orchestrator.results.model import CellResult
from orchestrator.run import latest

_RUNS = 20


class KernelCost(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the plan. ``state`` is prebuilt, cached, build, NA or error.

    ``note`` has the reason. ``cpu_s`` is the estimated CPU time of its build, ``None`` if it is not known.
    """

    label: str
    arch: str
    variant: str
    state: str
    note: str = ""
    cpu_s: float | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a plan. ``cells`` has the usual seconds of each cell, ``None`` if not known."""

    kernels: tuple[KernelCost, ...]
    cells: dict[str, float | None]

    def build_s(self, cpus: int) -> float:
        """Wall-clock seconds of the builds whose cost is known, on ``cpus`` CPUs."""
        return sum(k.cpu_s or 0.0 for k in self.kernels if k.state == "build") / max(1, cpus)


def cost(
    plan: Plan, inputs: Inputs, store: Store, runs: Path, say: Callable[[str], None] = lambda _: None
) -> Cost:
    """Estimate the cost of a plan. Kernels are configured, not built; nothing is booted.

    :param runs: the folder of earlier runs.
    :raises UserError: a kernel cannot be what the user requested.
    """
    # the first configuration of a kernel takes seconds
    say("checking which kernels are built")
    kernels = dict.fromkeys((cell.label, cell.arch, cell.variant) for cell in plan.cells)
    return Cost(
        kernels=tuple(_kernel(inputs, store, *kernel) for kernel in kernels),
        cells=_usual(plan, runs),
    )


class Remaining:
    """What is left of a run, by the usual durations of its cells on this host."""

    def __init__(self, plan: Plan, runs: Path, done: Iterable[str] = ()) -> None:
        self._usual = _usual(plan, runs)
        self._done = set(done)

    def done(self, cell: str) -> None:
        """Count a cell as finished."""
        self._done.add(cell)

    def progress(self) -> tuple[float, str]:
        """The finished share of the work, 0 to 1, and a word: ``2 of 8 cells, about 6 min left``."""
        known = [seconds for seconds in self._usual.values() if seconds]
        typical = statistics.fmean(known) if known else 1.0
        weights = {cell: seconds or typical for cell, seconds in self._usual.items()}
        left = sum(weight for cell, weight in weights.items() if cell not in self._done)
        text = f"{len(self._done)} of {len(weights)} cells"
        if known and left:
            text += f", guests for about {_duration(left)} left"
        return 1 - left / (sum(weights.values()) or 1), text


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _usual(plan: Plan, runs: Path) -> dict[str, float | None]:
    """The usual seconds of each cell, without its build; ``None`` if not known."""
    durations = _durations(runs)
    return {cell.id: durations.get(_shape(cell)) for cell in plan.cells}


def incremental_builds(arch: Arch, store: Store, *, cold: int, warm: int, jobs: int) -> str:
    """The usual time of builds in words: ``cold`` from nothing, ``warm`` on the objects of another commit."""
    full, changed = (build.usual_cost_s(arch, store, warm=each) for each in (False, True))
    if full is None:
        return "not known on this host yet"
    minutes = (full * cold + (full if changed is None else changed) * warm) / cpus(jobs) / 60
    return f"{minutes:.0f} min on {cpus(jobs)} CPUs{' at most' if changed is None else ''}"


def _kernel(inputs: Inputs, store: Store, label: str, arch: str, variant: str) -> KernelCost:
    target = inputs.targets[label]

    def result(state: str, note: str = "", cpu_s: float | None = None) -> KernelCost:
        return KernelCost(label=label, arch=arch, variant=variant, state=state, note=note, cpu_s=cpu_s)

    if target.prebuilt is not None:
        return result("prebuilt", "its variant is read from the guest")
    if reason := not_applicable(inputs, target, variant):
        return result("NA", reason)
    try:
        spec = kernel_spec(inputs, label, arch, variant)
        if build.is_built(spec, store):
            return result("cached")
    except UserError:
        raise
    except OrchestrateError as error:
        return result("error", error.message)
    return result("build", cpu_s=build.usual_cost_s(arches.load(arch), store))


def _shape(cell: CellPlan) -> tuple[str, str, tuple[str, ...]]:
    return (cell.arch, cell.variant, tuple(sorted(cell.suites)))


def _durations(runs: Path) -> dict[tuple[str, str, tuple[str, ...]], float]:
    """The median seconds of similar cells in the newest runs, without configuration and build."""
    durations = defaultdict(list)
    for folder in latest.folders(runs, "cells")[: -_RUNS - 1 : -1]:
        for path in folder.glob("cells/*/result.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                cell = msgspec.json.decode(path.read_bytes(), type=CellResult)
                rest = sum(c.duration_s for c in cell.cases if c.id in ("config", "build"))
                key = (cell.arch, cell.variant, tuple(sorted(s.suite for s in cell.suites)))
                durations[key].append(max(0.0, cell.duration_s - rest))
    return {key: statistics.median(seconds) for key, seconds in durations.items()}


def boot_seconds(runs: Path, arch: str, variant: str, suites: Iterable[str]) -> float | None:
    """The usual seconds of a cell with these suites, without its build; ``None`` if not known."""
    return _durations(runs).get((arch, variant, tuple(sorted(suites))))


def cpus(jobs: int) -> int:
    """The number of CPUs that a build uses."""
    return min(jobs or os.cpu_count() or 1, os.cpu_count() or 1)
