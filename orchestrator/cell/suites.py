# SPDX-License-Identifier: GPL-2.0-only
"""A cell's suites: built, run in guests of the cell's kernel, a disturbed benchmark repeated."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.cell import checkpoint
from orchestrator.cell.guests import Guests
from orchestrator.cell.machine import SuiteFiles, build_suites, guest_spec, selftests_tree, write_reproducer
from orchestrator.cell.state import CellState
from orchestrator.cell.suite_run import SuiteRun
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.core.store import digest_of
from orchestrator.kernel.spec import Kernel
from orchestrator.results.model import Case, SuiteResult, Verdict
from orchestrator.suites.catalog import Suite
from orchestrator.vm.qemu import GuestSpec

_DISTURBED_RETRIES = 2


def run_suites(cell: CellState, kernel: Kernel) -> None:
    """Run the cell's suites and add their results to the cell.

    :raises UserError: a suite of the user's cannot be built.
    """
    suites = _present_suites(cell)
    if not suites:
        return
    since = time.monotonic()
    try:
        files = build_suites(cell, suites)
        spec = guest_spec(cell, kernel, suites, files)
    except UserError:
        raise
    except OrchestrateError as error:
        if cell.host.cancelled():
            raise Interrupted("interrupted") from None
        cell.case("boot", error, since=since)
        cell.say("boot", error.message)
        return
    write_reproducer(cell, kernel, suites, files, spec)
    if any(suite.kind == "functional" for suite in suites):
        # the queue, the plan and all files: a program of another cell has another key
        key = digest_of(kernel.key, cell.properties["guest image"], spec.initrds[1].parent.name, cell.plan)
        progress = checkpoint.load(cell.folder, key)
        guests = Guests(cell, kernel, spec, one_each=True)
        SuiteRun(cell, suites, files, kernel, progress).execute(guests)
    else:
        _measure(cell, suites, files, kernel, spec)


def not_applicable_suite(suite: Suite, reason: str) -> SuiteResult:
    """The result of a suite that does not apply to the cell's kernel."""
    case = Case(id=suite.name, verdict=Verdict.NA, reason=reason)
    return SuiteResult(suite=suite.name, kind=suite.kind, cases=(case,))


def _present_suites(cell: CellState) -> list[Suite]:
    """The suites that there are programs for; the others are recorded as not applicable."""
    suites = []
    for suite in (cell.inputs.suites[name] for name in cell.plan.suites):
        if reason := _lacks(cell, suite):
            cell.suites.append(not_applicable_suite(suite, reason))
        else:
            suites.append(suite)
    return suites


def _lacks(cell: CellState, suite: Suite) -> str:
    tree = selftests_tree(cell)
    if suite.origin != "tree" or tree is None or (tree.path / suite.directory / "Makefile").is_file():
        return ""
    return (
        f"{tree.version} has no {suite.directory}: it is too old for this suite; "
        "--selftests-from takes it from another tree"
    )


def _measure(
    cell: CellState, suites: Sequence[Suite], files: SuiteFiles, kernel: Kernel, spec: GuestSpec
) -> None:
    """Run benchmarks; a boot that the host disturbed is discarded, said so, and repeated."""
    for attempt in range(1 + _DISTURBED_RETRIES):
        cases, count = cell.cases, len(cell.suites)
        run = SuiteRun(cell, suites, files, kernel)
        run.execute(Guests(cell, kernel, spec, one_each=False))
        if not run.disturbance or attempt == _DISTURBED_RETRIES:
            run.withdraw_disturbed()
            return
        cell.say("discarded", run.disturbance)
        cell.cases, cell.suites = cases, cell.suites[:count]
        cell.properties[f"discarded boot {attempt + 1}"] = run.disturbance
