# SPDX-License-Identifier: GPL-2.0-only
"""All programs of a cell's suites, run once in as many guests as it takes."""

from __future__ import annotations

import datetime
import functools
import operator
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.cell import fault, health
from orchestrator.cell.boot import not_answering, shut_down
from orchestrator.cell.checkpoint import MOST_ATTEMPTS, ProgramOutcome, Progress
from orchestrator.cell.guests import Guests
from orchestrator.cell.machine import (
    SuiteFiles,
    in_plan,
    kernel_of_other_tests,
    program_queue,
    selftests_tree,
)
from orchestrator.cell.program import ProgramResult, ProgramRun
from orchestrator.cell.state import CellState, meaning
from orchestrator.core.errors import InfraError, Interrupted, OrchestrateError, UserError
from orchestrator.evidence import collect, host
from orchestrator.evidence.collect import HangProbe, HangReport
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Kernel
from orchestrator.results.model import Blame, Case, SuiteResult, Verdict
from orchestrator.suites import catalog, delays
from orchestrator.suites.catalog import Suite
from orchestrator.verdict import known
from orchestrator.verdict.expected import complete
from orchestrator.verdict.program import Numbers, inconclusive
from orchestrator.vm.machine import Guest
from orchestrator.vm.ssh import Lost

#: So many programs of a cell may hang or flood because of the same fault.
_SAME_FAULT = 2
#: Guests of a cell whose memory is kept when a program hangs in them.
_DUMPS = 2


class SuiteRun:
    """All programs of all suites once; ``disturbance`` says why the host makes the figures worthless."""

    def __init__(
        self,
        cell: CellState,
        suites: Sequence[Suite],
        files: SuiteFiles,
        kernel: Kernel,
        progress: Progress | None = None,
    ) -> None:
        """Prepare; nothing is run.

        :param progress: of an earlier attempt, to continue and to write; ``None``: nothing is kept meanwhile.
        """
        self.disturbance = ""
        self._cell, self._suites, self._kernel = cell, suites, kernel
        self._keeps = progress is not None
        self._progress = progress or Progress(key="")
        self._restore()
        queue = program_queue(cell, suites, files)
        self._queue = [each for each in queue if self._outcome(*each).cases is None]

    def _outcome(self, suite: Suite, name: str) -> ProgramOutcome:
        return self._progress.programs.setdefault(f"{suite.name}/{name}", ProgramOutcome())

    def _restore(self) -> None:
        """Take over what an earlier attempt has found."""
        cell, progress = self._cell, self._progress
        cell.guests = max(cell.guests, progress.guests)
        cell.properties = progress.properties | cell.properties
        for case in progress.cases:
            cell.put(case)
        for case_id, outcome in progress.programs.items():
            if outcome.cases is None and outcome.attempts >= MOST_ATTEMPTS:
                error = InfraError(f"the run was killed each of {outcome.attempts} times that it ran")
                outcome.cases = (_error_case(case_id, error),)
        if done := sum(outcome.cases is not None for outcome in progress.programs.values()):
            cell.say("resume", f"{done} programs have ended before")

    def _keep(self) -> None:
        """Write what there is until now."""
        if not self._keeps:
            return
        cell, progress = self._cell, self._progress
        progress.guests, progress.properties = cell.guests, cell.properties
        progress.cases = tuple(cell.cases)
        progress.write(cell.folder)

    def execute(self, guests: Guests) -> None:
        """Run what is queued and add the results to the cell."""
        try:
            while self._queue:
                guest = guests.next(len(self._queue))
                if guest is None:
                    break
                try:
                    self._use(guest, guests)
                finally:
                    guest.close()
                    self._keep()
        except Interrupted:
            self._queue.clear()
        finally:
            guests.close()
        for suite in self._suites:
            self._cell.suites.append(self._result(suite))

    def withdraw_disturbed(self) -> None:
        """Turn the figures of a disturbed boot into INCONCLUSIVE."""
        if not self.disturbance:
            return
        self._cell.properties["host"] = self.disturbance
        self._cell.suites = [self._withdrawn(result) for result in self._cell.suites]

    def _withdrawn(self, result: SuiteResult) -> SuiteResult:
        if result.kind != "benchmark" or not result.metrics:
            return result
        change = {"verdict": Verdict.INCONCLUSIVE, "blame": Blame.INFRA, "reason": self.disturbance}
        cases = tuple(
            msgspec.structs.replace(case, **change) if case.verdict is Verdict.PASS else case
            for case in result.cases
        )
        return msgspec.structs.replace(result, cases=cases, metrics={})

    def _use(self, guest: Guest, guests: Guests) -> None:
        """Run one program, or as many as share a guest, until the guest is lost."""
        before, cpu_before = host.host_sample(), host.cpu_seconds([guest.pid])
        while self._queue:
            suite, name = self._queue.pop(0)
            if not self._run(guest, guests, suite, name):
                return
            if guests.one_each:
                break
        own = host.cpu_seconds([guest.pid]) - cpu_before
        self.disturbance = host.disturbed(before, host.host_sample(), own)
        shut_down(self._cell, guest, after=f"{suite.name}/{name}")

    def _run(self, guest: Guest, guests: Guests, suite: Suite, name: str) -> bool:
        """Run one program; whether its guest can be used any more."""
        case_id = f"{suite.name}/{name}"
        self._cell.say("run", case_id)
        outcome = self._outcome(suite, name)
        outcome.attempts += 1
        self._keep()
        since = time.monotonic()
        try:
            result = self._run_program(guest, suite, name)
        except (Interrupted, UserError):
            raise
        except Exception as error:
            result = self._fault(case_id, error)
        outcome.duration_s = time.monotonic() - since
        if self._cell.host.cancelled():
            # its guest was taken away: the last program's verdict is the interrupt's, not its own
            outcome.attempts -= 1
            self._keep()
            raise Interrupted("interrupted")
        self._add_earlier_report(result.before)
        guests.ahead(len(self._queue))
        since, lost = time.monotonic(), None
        if not result.lost:
            try:
                examine = functools.partial(self._examine_hang, suite, guest, name)
                result = health.check(self._cell, guest, result, case_id, examine)
            except Lost as error:
                lost = error
            except Exception as error:
                result = self._fault(case_id, error, result)
        outcome.cases, outcome.numbers, outcome.fault = result.cases, result.numbers, result.fault
        self._give_up(result.fault)
        self._keep()
        if result.lost:
            self._cell.say("lost", next(case.reason for case in result.cases if case.id == case_id))
        elif lost is not None:
            not_answering(self._cell, lost, since=since, after=case_id)
        return not result.lost and lost is None

    def _give_up(self, fault: str) -> None:
        """Leave out the rest of the cell after the second program that the same fault took down.

        Each further one would cost as much time, and say the same.
        """
        same = [case_id for case_id, outcome in self._progress.programs.items() if outcome.fault == fault]
        if not fault or len(same) < _SAME_FAULT:
            return
        reason = f"not run: {fault} took down {' and '.join(same)}; alone it can still be run"
        for suite, name in self._queue:
            case_id = f"{suite.name}/{name}"
            self._outcome(suite, name).cases = (inconclusive(case_id, reason),)
        if self._queue:
            self._cell.say("given up", f"{len(self._queue)} programs: {reason}")
        self._queue.clear()

    def _fault(self, case_id: str, error: Exception, result: ProgramResult | None = None) -> ProgramResult:
        """The result of a program during which orchestrate itself failed; its guest is not used again."""
        case = _error_case(case_id, fault.error_of(error, self._cell.folder, self._cell.host.root))
        others = [each for each in result.cases if each.id != case_id] if result else []
        return ProgramResult(cases=(*others, case), lost=True)

    def _add_earlier_report(self, crash: Case | None) -> None:
        """A kernel report from between two programs is the first one's; before all of them, the boot's."""
        if crash is None:
            return
        outcome = self._progress.programs.get(crash.id)
        if outcome is None or outcome.cases is None:
            reason = f"after the boot, before the first program: {crash.reason}"
            self._cell.put(msgspec.structs.replace(crash, id="boot", reason=reason))
            return
        outcome.cases = (*(case for case in outcome.cases if case.id != crash.id), crash)

    def _run_program(self, guest: Guest, suite: Suite, name: str) -> ProgramResult:
        points = suite.program_or_default(name).widen
        run = ProgramRun(
            guest,
            suite,
            name,
            folder=self._cell.folder / "suites" / suite.name,
            root=self._cell.host.root,
            watch=self._cell.watch,
            probe=HangProbe(functools.partial(self._examine_hang, suite), collect.limit_s(guest.factor)),
        )
        return run.execute((lambda: delays.find(points, self._kernel, self._cell.arch)) if points else None)

    def _examine_hang(self, suite: Suite, guest: Guest, name: str) -> HangReport:
        """Keep the evidence of a program that hangs; of the first ones the guest's memory too."""
        cell = self._cell
        cell.say("hang", f"{name} hangs: keeping evidence")
        cell.dumps += 1
        return collect.examine(
            guest,
            name,
            folder=cell.folder / "suites" / suite.name,
            root=cell.host.root,
            watch=cell.watch,
            dump=cell.dumps <= _DUMPS,
            debug=lambda: self._vmlinux_with_types,
        )

    @functools.cached_property
    def _vmlinux_with_types(self) -> Path | None:
        """The vmlinux with this kernel's types, if there is one; none is built now."""
        vmlinux = self._kernel.vmlinux
        try:
            return debug_build.vmlinux_with_lines(vmlinux, self._debug_build) if vmlinux is not None else None
        except OrchestrateError:
            # evidence never costs a verdict
            return None

    def _debug_build(self) -> Kernel | None:
        if self._cell.target.tree is None:
            return None
        return debug_build.find(self._cell.kernel_spec(), self._cell.host.store)

    def _result(self, suite: Suite) -> SuiteResult:
        cell = self._cell
        cases, unknown = self._complete(suite)
        if not cell.inputs.choices.strict:
            cases = known.judge(
                cases,
                (*cell.inputs.known, *known.load(suite.folder / known.FILE)),
                release=cell.release,
                variant=cell.plan.variant,
                arch=cell.plan.arch,
                today=datetime.datetime.now(datetime.UTC).date(),
            )
        outcomes = self._outcomes(suite).values()
        numbers = functools.reduce(operator.or_, (outcome.numbers for outcome in outcomes), Numbers())
        return SuiteResult(
            suite=suite.name,
            kind=suite.kind,
            cases=cases,
            metrics=numbers.metrics,
            better=numbers.better,
            unknown_programs=unknown,
            duration_s=round(sum(outcome.duration_s for outcome in outcomes), 3),
        )

    def _complete(self, suite: Suite) -> tuple[tuple[Case, ...], tuple[str, ...]]:
        cell, arch = self._cell, self._cell.plan.arch
        # which programs there are depends on the tree that they were built from
        tree = selftests_tree(cell)
        version = tree.version if tree is not None and suite.origin == "tree" else cell.release
        kernel = kernel_of_other_tests(cell)
        expected = catalog.expected(suite, version, arch, kernel=kernel)
        expected = {name: e for name, e in expected.items() if in_plan(cell, suite, name)}
        elsewhere = {} if cell.plan.only_vsyscall else catalog.excluded(suite, version, arch, kernel=kernel)
        not_run = "interrupted" if cell.host.cancelled() else self._reason_not_run()
        outcomes = self._outcomes(suite).items()
        reported = {name: outcome.cases for name, outcome in outcomes if outcome.cases is not None}
        return complete(suite, expected, elsewhere, reported, not_run=not_run)

    def _outcomes(self, suite: Suite) -> dict[str, ProgramOutcome]:
        """The outcomes of a suite's programs, by program."""
        prefix = f"{suite.name}/"
        return {
            case_id.removeprefix(prefix): outcome
            for case_id, outcome in self._progress.programs.items()
            if case_id.startswith(prefix)
        }

    def _reason_not_run(self) -> str:
        """What stopped the cell before its programs could run."""
        stop = next((case for case in self._cell.cases if case.verdict is not Verdict.PASS), None)
        return f"not run: {stop.id}: {stop.reason}" if stop else ""


def _error_case(case_id: str, error: OrchestrateError) -> Case:
    verdict, blame = meaning(error)
    return Case(id=case_id, verdict=verdict, blame=blame, reason=error.message, detail=error.remedy)
