# SPDX-License-Identifier: GPL-2.0-only
"""Run one program of a suite in a guest: start it, watch it, judge it, keep its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import Inconclusive
from orchestrator.evidence.collect import HangProbe, HangReport
from orchestrator.evidence.watch import ConsoleWatch, Sighting
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.suites import delays
from orchestrator.suites.catalog import Suite
from orchestrator.suites.delays import Places
from orchestrator.suites.invocation import invocation
from orchestrator.verdict import crash
from orchestrator.verdict.program import GuestEnd, Numbers, explain, inconclusive, judge, judge_lost
from orchestrator.vm.machine import Guest
from orchestrator.vm.ssh import Futile, Late, Lost, Mark, Ran, Silent, Unreported

#: Seconds until the guest's log reaches the console, on a machine of reference speed.
_MARK_S = 5.0
_MUTED = "its end is not on the console, so kernel reports may be missing: did it mute the console?"
_FLOODED = "the console was flooded while the program ran: it is unknown in which of its cases"
#: Seconds for another connection to a guest whose connection was lost, on a machine of reference speed.
_CONNECT_S = 5.0
#: Console lines to show of a lost guest.
_TAIL = 30
#: What separates the two streams in the log of a program.
STDERR_MARK = b"\n--- standard error ---\n"


class ProgramResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cases of one program. ``lost`` means that the guest cannot be used any more.

    ``before`` is a kernel report from before the program started: a case of the program before, or ``boot``.
    ``fault`` names the kernel's fault that made the guest hang or flood, if one did.
    """

    cases: tuple[Case, ...]
    numbers: Numbers = Numbers()
    lost: bool = False
    before: Case | None = None
    fault: str = ""


class ProgramRun:
    """One run of one program of a suite, with its own deadline.

    The output goes to ``folder``; paths of logs are relative to ``root``. ``probe`` is called if the program
    hangs, before anything is killed.
    """

    def __init__(
        self,
        guest: Guest,
        suite: Suite,
        name: str,
        *,
        folder: Path,
        root: Path,
        watch: ConsoleWatch,
        probe: HangProbe | None = None,
    ) -> None:
        self._guest, self._suite, self._name = guest, suite, name
        self._folder, self._root, self._watch, self._probe = folder, root, watch, probe
        self._id = f"{suite.name}/{name}"
        self._call = invocation(suite, suite.program_or_default(name))
        self._limit_s = self._call.limit_s * guest.factor
        self._hangs: list[HangReport] = []
        self._delayed: dict[str, tuple[int, int]] = {}

    def execute(self, find_places: Callable[[], Places] | None = None) -> ProgramResult:
        """Run the program and judge it.

        :param find_places: finds the points at which to delay the kernel while the program runs.
        """
        early = self._watch.take()
        mark = Mark.of(self._id)
        self._watch.expect(mark)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            places = find_places() if find_places is not None else None
            ran = self._execute(mark, places)
        except Inconclusive as error:
            case = inconclusive(self._id, error.message)
            return ProgramResult(cases=(case,), before=crash.case_before(early))
        except Lost as error:
            return self._after_loss(error, early)
        return self._after_end(ran, places, early)

    def _execute(self, mark: Mark, places: Places | None) -> Ran:
        call = self._call
        if places is not None:
            delays.begin(self._guest, places, self._name)
        ran = self._guest.run(
            call.argv,
            limit_s=self._limit_s,
            env={
                "ORCHESTRATE_FACTOR": f"{self._guest.factor:.2f}",
                "ORCHESTRATE_MARK": f"{mark.first} {self._id}",
            }
            | call.env,
            cwd=call.cwd,
            options=call.options,
            mark=mark,
            late=Late(self._examine, self._probe.limit_s) if self._probe else None,
            futile=self._watch.futile,
        )
        if places is not None:
            self._delayed = delays.end(self._guest, places)
        return ran

    def _examine(self) -> None:
        assert self._probe is not None
        self._hangs.append(self._probe.examine(self._guest, self._name))

    def _after_end(self, ran: Ran, places: Places | None, early: Sequence[Sighting]) -> ProgramResult:
        muted = not self._watch.ended(_MARK_S * self._guest.factor)
        if muted:
            self._guest.console.settle()
            # without a beginning this console shows no marks at all
            muted = self._watch.begun()
        reports, others = crash.split_reports(self._id, self._watch)
        cases, numbers = judge(self._suite, self._name, ran, self._limit_s)
        log = self._write(ran.stdout, ran.stderr)
        cases += self._delay_cases(places)
        share = round(ran.facts.wall_ms / 1000 / max(1, len(cases)), 3)
        cases = [msgspec.structs.replace(c, duration_s=c.duration_s or share) for c in cases]
        cases, overridden = crash.override(cases, self._id, reports, keep=None)
        if muted:
            cases = [inconclusive(c.id, _MUTED) if c.verdict is Verdict.PASS else c for c in cases]
        own = next((case for case in cases if case.id == self._id), None)
        return ProgramResult(
            cases=self._explained(cases, log),
            numbers=Numbers() if overridden or muted else numbers,
            before=crash.case_before([*early, *others]),
            fault=self._fault(own) if own and self._hangs else "",
        )

    def _after_loss(self, error: Lost, early: Sequence[Sighting]) -> ProgramResult:
        guest = self._guest
        hangs = isinstance(error, Silent) or (isinstance(error, Futile) and error.why.hangs)
        if self._probe and not self._hangs and hangs and not guest.death():
            self._examine()
        guest.console.settle()
        reports, others = crash.split_reports(self._id, self._watch)
        end = GuestEnd(
            death=guest.death(),
            panicked=guest.panicked,
            console="\n".join(guest.console.tail(_TAIL)),
            act=self._watch.act(),
            answers=not isinstance(error, Silent | Futile | Unreported) and self._answers(),
            server=next((report.server for report in self._hangs if report.server), ""),
        )
        cases, lost = judge_lost(self._suite, self._name, error, end, reports, self._limit_s)
        if isinstance(error, Futile) and not error.why.hangs:
            # of a flood only the first reports have a place
            cases = [inconclusive(c.id, _FLOODED) if c.verdict is Verdict.PASS else c for c in cases]
        log = self._write(error.stdout, error.stderr)
        cases, _ = crash.override([*cases, lost], self._id, reports, keep=lost)
        return ProgramResult(
            cases=self._explained(cases, log),
            lost=True,
            before=crash.case_before([*early, *others]),
            fault=self._fault(lost) if hangs or isinstance(error, Futile) else "",
        )

    def _answers(self) -> bool:
        """Whether a living guest accepts another connection."""
        if self._guest.death():
            return False
        try:
            self._guest.connect(_CONNECT_S * self._guest.factor)
        except Lost:
            return False
        return True

    def _fault(self, case: Case) -> str:
        """What is the same in other programs that the same fault makes hang or flood."""
        place = next((report.place for report in self._hangs if report.place), "")
        return (
            ""
            if case.blame is not Blame.KERNEL
            else case.fingerprint or f"hang in {place or 'an unknown place'}"
        )

    def _explained(self, cases: Sequence[Case], log: str) -> tuple[Case, ...]:
        return tuple(explain(msgspec.structs.replace(case, log=log), self._id, self._hangs) for case in cases)

    def _write(self, stdout: bytes, stderr: bytes) -> str:
        """Keep the output; its path relative to the root."""
        path = self._folder / f"{self._name}.log"
        path.write_bytes(stdout + (STDERR_MARK + stderr if stderr else b""))
        return str(path.relative_to(self._root))

    def _delay_cases(self, places: Places | None) -> list[Case]:
        """INCONCLUSIVE, unless the kernel was delayed at one of the points."""
        if places is None:
            return []
        (self._folder / f"{self._name}.widen.txt").write_text(delays.summary(places, self._delayed))
        if any(times for _, times in self._delayed.values()):
            return []
        return [
            inconclusive(f"{self._id}/widen", "no window was widened: the kernel passed none of the points")
        ]
