# SPDX-License-Identifier: GPL-2.0-only
"""One cell from start to end: configure, build, boot, prove, run the suites, shut down.

Every failure becomes a case with a verdict and a blame; only a mistake of the user is raised as an error.
"""

from __future__ import annotations

import contextlib
import shutil
import time

import msgspec

from orchestrator.cell import artifacts, checkpoint, fault, reproduce, stack_traces
from orchestrator.cell.host import Host
from orchestrator.cell.job import PREBUILT_VARIANT, CellJob
from orchestrator.cell.kernel import make_kernel
from orchestrator.cell.state import CellState, NotApplicable, Say
from orchestrator.cell.suites import not_applicable_suite, run_suites
from orchestrator.core.errors import InfraError, Interrupted, UserError
from orchestrator.core.events import now
from orchestrator.core.files import write_atomically
from orchestrator.plan.inputs import not_applicable
from orchestrator.results.model import Case, CellResult, Verdict

#: The case of a fault that belongs to no step of the cell.
_FAULT = "cell"


def execute(job: CellJob, host: Host, say: Say) -> CellResult:
    """Execute a cell. Its folder below the run directory gets the evidence.

    If the run is cancelled, the cell ends soon, with the results so far.

    :raises UserError: the cell cannot be what the user requested.
    """
    cell = CellState(job, host, say)
    # a killed attempt may have left it; with results of programs it is continued
    if not checkpoint.exists(cell.folder):
        shutil.rmtree(cell.folder, ignore_errors=True)
    _write_reproducer(cell)
    result = _result(cell)
    try:
        return stack_traces.add_to_result(cell, result)
    except Exception as error:
        _record_fault(cell, error)
        return msgspec.structs.replace(result, cases=tuple(cell.cases))


def _write_reproducer(cell: CellState) -> None:
    """Write a script that calls orchestrate; once the cell has a guest, another one replaces it."""
    argv = reproduce.command(cell.plan, cell.inputs, cell.target.source)
    script = reproduce.by_orchestrate(cell.plan.id, cell.target.describe, argv)
    write_atomically(cell.folder / reproduce.NAME, script.encode(), mode=0o755)


def _result(cell: CellState) -> CellResult:
    started, since = now(), time.monotonic()
    plan = cell.plan
    try:
        _execute(cell)
    except NotApplicable as error:
        cell.cases = [Case(id="config", verdict=Verdict.NA, reason=error.message)]
        cell.suites = [not_applicable_suite(cell.inputs.suites[name], error.message) for name in plan.suites]
    except Interrupted:
        cell.say("interrupted", "ended early")
    except UserError:
        raise
    except Exception as error:
        _record_fault(cell, error)
    if cell.prebuilt_variant:
        cell.properties[PREBUILT_VARIANT] = cell.prebuilt_variant
    return CellResult(
        cell=plan.id,
        label=plan.label,
        arch=plan.arch,
        variant=plan.variant,
        release=cell.release,
        boot=plan.boot,
        started_at=started,
        duration_s=round(time.monotonic() - since, 3),
        interrupted=cell.host.cancelled(),
        properties=cell.properties,
        cases=tuple(cell.cases),
        suites=tuple(cell.suites),
    )


def _record_fault(cell: CellState, error: Exception) -> None:
    """Whatever is raised inside a cell is an ERROR of that cell; the run continues."""
    known = fault.error_of(error, cell.folder, cell.host.root)
    cell.case(_FAULT, known, since=time.monotonic())
    cell.say("error", known.message)


def _execute(cell: CellState) -> None:
    if reason := not_applicable(
        cell.inputs, cell.target, cell.plan.variant, prebuilt_variant=cell.prebuilt_variant
    ):
        raise NotApplicable(reason)
    kernel = make_kernel(cell)
    if kernel is None:
        return
    # the run stands on its own; a full disk is noticed where results are written
    with contextlib.suppress(InfraError):
        artifacts.keep_kernel(cell.host.root, kernel)
    if cell.plan.suites:
        run_suites(cell, kernel)
