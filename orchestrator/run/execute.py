# SPDX-License-Identifier: GPL-2.0-only
"""Execute a plan through an engine and write the results.

Results are written as they arrive, by atomic rename: a run that is killed keeps them, and a resumed one
repeats only the cells that have no ``result.json``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from orchestrator.cell import checkpoint
from orchestrator.cell.job import CellJob, ObjectFolder
from orchestrator.core.events import Events, now
from orchestrator.engine.protocol import Engine, Progress
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import CellPlan, Plan
from orchestrator.plan.target import Target
from orchestrator.results import junit
from orchestrator.results.model import AT_FAULT, SCHEMA_VERSION, CellResult
from orchestrator.run import latest, summary
from orchestrator.run.directory import RunDirectory
from orchestrator.run.summary import RunResult, SourceResult

#: Seconds of writing results that no cell is too short for.
_CHEAP_S = 0.5


def execute(
    plan: Plan,
    inputs: Inputs,
    directory: RunDirectory,
    engine: Engine,
    events: Events,
    *,
    junit_path: Path | None = None,
    earlier: Mapping[str, CellResult] | None = None,
    objects: ObjectFolder = lambda _arch, _variant: None,
    linked: bool = False,
    fail_fast: bool = False,
    on_finished: Callable[[str], None] = lambda _cell: None,
) -> RunResult:
    """Execute a plan; results are on disk after every cell.

    If the engine is cancelled, guests and builds end at once. The result is then marked ``interrupted``.

    :param earlier: results of an earlier attempt, whose cells are not repeated.
    :param objects: returns the folder of incremental builds for an arch and a variant.
    :param linked: whether to update the link ``latest`` beside the run.
    :param fail_fast: start no cell after one in which the kernel or a test is at fault.
    :param on_finished: called with the id of each finished cell.
    :raises UserError: a cell cannot be what the user requested.
    """
    result = RunResult(
        schema_version=SCHEMA_VERSION,
        id=directory.id,
        sources=tuple(_source_result(target) for target in inputs.targets.values()),
        started_at=now(),
    )
    directory.write(latest.PLAN, msgspec.json.format(msgspec.json.encode(plan), indent=1))
    if linked:
        latest.link(directory.path.parent)
    cells = dict(earlier or {})
    current: dict[str, str] = {}
    pace = Pace()

    def jobs() -> Iterator[CellJob]:
        for cell in plan.cells:
            if cell.id in cells or (inputs.choices.until_fail and _has_failed(cell, plan, inputs, cells)):
                continue
            if fail_fast and any(map(_is_at_fault, cells.values())):
                events.emit("", "", "--fail-fast: no further cell is started; --resume runs the rest")
                return
            job = CellJob.of(cell, inputs, cells, objects)
            current[cell.id] = job.attempt
            yield job

    for report in engine.run(jobs(), directory.path):
        if isinstance(report, Progress):
            events.record(report.event)
            continue
        cell = report.result
        if current.get(cell.cell) != report.attempt:
            # another attempt has replaced this one
            continue
        del current[cell.cell]
        cells[cell.cell] = cell
        if not cell.interrupted:
            directory.write(f"cells/{cell.cell}/result.json", msgspec.json.encode(cell))
            checkpoint.discard(directory.path / "cells" / cell.cell)
        if pace.is_due():
            with pace.measured():
                result = _write(directory, result, plan, cells, junit_path, interrupted=engine.cancelled())
        on_finished(cell.cell)
        events.emit(cell.cell, "done", summary.of_cell(cell))
    result = msgspec.structs.replace(result, finished_at=now())
    return _write(directory, result, plan, cells, junit_path, interrupted=engine.cancelled())


class Pace:
    """How often the results of a run that goes on are written.

    Each time costs as much as all cells so far: after each cell the work would grow with the square of what
    the guests report. So it takes a tenth of the run's time at most. ``result.json`` of each cell is kept
    meanwhile, and the end of the run writes everything.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether they are to be written now."""
        return self._clock() >= self._next

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Write them in this context."""
        since = self._clock()
        yield
        cost_s = self._clock() - since
        self._next = self._clock() + (9 * cost_s if cost_s > _CHEAP_S else 0.0)


def replace_cell(directory: RunDirectory, cell: CellResult) -> None:
    """Replace the result of a cell, and rewrite the files that depend on it.

    :raises UserError: another process executes the run, or it cannot be read.
    """
    plan = directory.plan()
    with directory.lock():
        result = summary.read(directory.path)
        cells = {each.cell: each for each in result.cells} | {cell.cell: cell}
        directory.write(f"cells/{cell.cell}/result.json", msgspec.json.encode(cell))
        _write(directory, result, plan, cells, None, interrupted=result.interrupted)


def _has_failed(cell: CellPlan, plan: Plan, inputs: Inputs, cells: Mapping[str, CellResult]) -> bool:
    """Whether an earlier repeat of the same cell has failed."""
    if not cell.boot or any(inputs.suites[name].kind == "benchmark" for name in cell.suites):
        return False
    same = msgspec.structs.replace(cell, id="", boot=0)
    return any(
        _is_at_fault(cells[other.id])
        for other in plan.cells
        if other.id in cells and msgspec.structs.replace(other, id="", boot=0) == same
    )


def _is_at_fault(cell: CellResult) -> bool:
    return any(case.verdict in AT_FAULT for case in cell.all_cases())


def _source_result(target: Target) -> SourceResult:
    return SourceResult(
        label=target.label,
        source=target.describe,
        digest=target.digest,
        tree_class=target.tree_class.value if target.tree_class else "",
        maps_read_under_vma_locks=target.maps_read_under_vma_locks,
    )


def _write(
    directory: RunDirectory,
    result: RunResult,
    plan: Plan,
    cells: Mapping[str, CellResult],
    junit_path: Path | None,
    *,
    interrupted: bool,
) -> RunResult:
    # in the order of the plan, not in the order in which the cells ended
    result = summary.with_cells(result, [cells[c.id] for c in plan.cells if c.id in cells])
    result = msgspec.structs.replace(result, interrupted=interrupted)
    directory.write(summary.FILE, msgspec.json.format(msgspec.json.encode(result), indent=1))
    annotated = summary.annotated_cells(result)
    junit.write(directory.path / "junit.xml", annotated, run_id=result.id)
    if junit_path is not None:
        junit.write(junit_path, annotated, run_id=result.id, folder=directory.path)
    return result
