# SPDX-License-Identifier: GPL-2.0-only
"""What one program of a suite printed, and how it ended, as cases."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Sequence

import msgspec

from orchestrator.core.errors import Inconclusive
from orchestrator.core.text import clean
from orchestrator.evidence.collect import HangReport
from orchestrator.evidence.watch import Sighting
from orchestrator.results.model import GUEST_DIED, Blame, Case, Verdict
from orchestrator.suites.catalog import Program, Suite
from orchestrator.verdict import benchmark, ktap
from orchestrator.verdict.crash import console_case
from orchestrator.vm.ssh import Futile, Lost, Ran, Silent, Unreported

_DETAIL_LIMIT = 16384
_SKIP, _XFAIL = 4, 2
#: A shell's exit status for a program that does not exist, or cannot be executed.
_NOT_RUN = (126, 127)
_ASSERTION = re.compile(r"[\w.-]+\.c:\d+.*(?:Assertion|Expected|expected).*")


class Numbers(msgspec.Struct, frozen=True):
    """A benchmark's ``metrics`` by name, and for those to compare which direction is ``better``."""

    metrics: dict[str, float] = {}
    better: dict[str, str] = {}

    def __or__(self, other: Numbers) -> Numbers:
        return Numbers(self.metrics | other.metrics, self.better | other.better)


class GuestEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that went away while a program ran.

    ``death`` says how, empty where its QEMU still runs. ``console`` are the last lines of its console.
    ``act`` is what userland did to take it down, in the kernel's words. ``answers``: its SSH server accepts a
    new connection. ``server`` says what happened to that, if its kernel still tells.
    """

    death: str
    panicked: bool
    console: str
    act: str = ""
    answers: bool = False
    server: str = ""


def judge(suite: Suite, name: str, ran: Ran, limit_s: float) -> tuple[list[Case], Numbers]:
    """The cases of a program that ended, or that was ended when its time was over.

    :param limit_s: its time limit in this guest, in seconds.
    """
    program, case_id = suite.program_or_default(name), f"{suite.name}/{name}"
    facts = ran.facts
    stderr = clean(ran.stderr, limit=_DETAIL_LIMIT)
    if facts.exec_error:
        reason = f"it could not be started: {facts.exec_error}{_interpreter(suite, program)}"
        return [_error(case_id, reason)], Numbers()
    if mismatch := _placement(program, ran):
        return [inconclusive(case_id, mismatch)], Numbers()
    if program.parser == "ktap":
        return _of_ktap(case_id, ran, limit_s), Numbers()
    if facts.timeout:
        return [_timeout(case_id, ran, limit_s)], Numbers()
    if program.parser == "benchmark" and facts.exit == 0:
        try:
            case, numbers, better = benchmark.judge(benchmark.parse(ran.stdout, program.name), case_id)
            return [case], Numbers(numbers, better)
        except Inconclusive as error:
            return [inconclusive(case_id, error.message)], Numbers()
    if suite.user and facts.exit in _NOT_RUN and (program.script or suite.commands):
        # a word that the guest's shell does not know says nothing about the kernel
        reason = f"it, or a program that it needs, could not be run (exit status {facts.exit})"
        last = _last_line(stderr)
        return [_error(case_id, f"{reason}{': ' + last if last else ''}")], Numbers()
    return [_by_exit(case_id, ran, stderr, xfail=not suite.user)], Numbers()


def judge_lost(
    suite: Suite, name: str, error: Lost, guest: GuestEnd, reports: Sequence[Sighting], limit_s: float
) -> tuple[list[Case], Case]:
    """The cases that a program had reported when its guest went away, and the one that says what happened.

    :param reports: what the console shows of it.
    """
    program, case_id = suite.program_or_default(name), f"{suite.name}/{name}"
    return _reported(program, case_id, error.stdout), _lost(case_id, error, guest, reports, limit_s)


def explain(case: Case, case_id: str, hangs: Sequence[HangReport]) -> Case:
    """The program's own case with what was learned while it hung."""
    if case.id != case_id or not hangs or case.verdict not in (Verdict.TIMEOUT, Verdict.CRASH):
        return case
    reasons = dict.fromkeys(reason for reason in (case.reason, *(h.reason for h in hangs)) if reason)
    detail = "\n\n".join(text for text in (*(h.detail for h in hangs), case.detail) if text)
    return msgspec.structs.replace(case, reason="; ".join(reasons), detail=detail[:_DETAIL_LIMIT])


def inconclusive(case_id: str, reason: str) -> Case:
    """A case that proves nothing, for a reason of the infrastructure's."""
    return Case(id=case_id, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)


def _error(case_id: str, reason: str, detail: str = "") -> Case:
    return Case(id=case_id, verdict=Verdict.ERROR, blame=Blame.INFRA, reason=reason, detail=detail)


def _reported(program: Program, case_id: str, stdout: bytes) -> list[Case]:
    if program.parser != "ktap":
        return []
    report = ktap.parse(clean(stdout))
    return list(ktap.to_cases(dataclasses.replace(report, problems=()), case_id)) if report.cases else []


def _lost(case_id: str, error: Lost, guest: GuestEnd, reports: Sequence[Sighting], limit_s: float) -> Case:
    # where a report belongs to a known case, that of the program itself took its guest down: the last one
    own = [report for report in reports if report.case == case_id]
    if crash := console_case(case_id, own or reports[-1:]):
        if isinstance(error, Futile):
            crash = msgspec.structs.replace(crash, reason=f"{crash.reason}; {error.message}")
        return crash
    if reason := _by_userland(error, guest):
        return Case(id=case_id, verdict=Verdict.FAIL, blame=Blame.TEST, reason=reason, detail=guest.console)
    if isinstance(error, Futile):
        return inconclusive(case_id, error.message)
    if guest.panicked:
        return Case(
            id=case_id,
            verdict=Verdict.CRASH,
            blame=Blame.KERNEL,
            reason=guest.death,
            detail=guest.console,
            fingerprint=GUEST_DIED,
        )
    if guest.death:
        return _error(case_id, guest.death, guest.console)
    if not isinstance(error, Silent):
        # something closed the connection, so the kernel was still there to do that
        reason = f"the guest's SSH server went away while its kernel ran on: {error.message}"
        return _error(case_id, reason, guest.console)
    return Case(
        id=case_id,
        verdict=Verdict.TIMEOUT,
        blame=Blame.KERNEL,
        reason=f"the guest stopped answering (limit {limit_s:.0f} s): {error.message}",
        detail=guest.console,
    )


def _by_userland(error: Lost, guest: GuestEnd) -> str:
    """What a program did to its guest, as a reason; empty if the kernel or the host may be at fault."""
    if guest.act and (guest.panicked or not guest.death):
        return f"userland took the guest down: {guest.act}"
    if guest.death:
        return ""
    if isinstance(error, Unreported):
        return f"the runner that watches the program was ended or deceived: {error.message}"
    if guest.server:
        return f"the guest's SSH server {guest.server} while its kernel ran on"
    if guest.answers and not isinstance(error, Silent):
        return f"the program's SSH session was ended from inside the guest: {error.message}"
    return ""


def _interpreter(suite: Suite, program: Program) -> str:
    """The interpreter of a user's script, which the guest may lack."""
    if not program.script:
        return ""
    try:
        with (suite.folder / program.script).open("rb") as stream:
            first = stream.readline(256)
    except OSError:
        return ""
    words = clean(first.removeprefix(b"#!")).split() if first.startswith(b"#!") else []
    return f" (is {words[0]}, which its first line asks for, in one of the `packages`?)" if words else ""


def _placement(program: Program, ran: Ran) -> str:
    if program.nice and ran.facts.nice != program.nice:
        return f"nice {program.nice} was asked for, the process had {ran.facts.nice}"
    if program.cpus and ran.facts.cpus != program.cpus:
        return f"CPUs {program.cpus} were asked for, the process had {ran.facts.cpus or 'none'}"
    return ""


def _timeout(case_id: str, ran: Ran, limit_s: float) -> Case:
    stuck = ran.facts.stuck
    return Case(
        id=case_id,
        verdict=Verdict.TIMEOUT,
        blame=Blame.KERNEL if stuck else Blame.TEST,
        reason=f"not done within {limit_s:.0f} s" + (", and it cannot be killed" if stuck else ""),
        detail=clean(ran.stdout + ran.stderr, limit=_DETAIL_LIMIT),
    )


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _by_exit(case_id: str, ran: Ran, stderr: str, *, xfail: bool = True) -> Case:
    facts = ran.facts
    last = _last_line(stderr)
    if facts.exit == 0:
        return Case(id=case_id, verdict=Verdict.PASS)
    if facts.exit == _SKIP:
        return Case(id=case_id, verdict=Verdict.SKIP, reason=last or "the test skips itself (exit status 4)")
    if facts.exit == _XFAIL and xfail:
        return Case(id=case_id, verdict=Verdict.SKIP, reason=f"expected failure: {last or 'exit status 2'}")
    ended = f"exit status {facts.exit}" if facts.exit is not None else _signal_name(facts.signal)
    assertion = _ASSERTION.search(stderr)
    return Case(
        id=case_id,
        verdict=Verdict.FAIL,
        blame=Blame.KERNEL,
        reason=assertion[0] if assertion else f"{ended}{': ' + last if last else ''}",
        detail=clean(ran.stdout, limit=_DETAIL_LIMIT) + stderr,
    )


def _signal_name(number: int | None) -> str:
    try:
        return f"killed by {signal.Signals(number or 0).name}"
    except ValueError:
        return f"killed by signal {number}"


def _of_ktap(case_id: str, ran: Ran, limit_s: float) -> list[Case]:
    report = ktap.parse(clean(ran.stdout))
    cases = list(ktap.to_cases(report, case_id))
    if ran.facts.timeout:
        return [*cases, _timeout(case_id, ran, limit_s)]
    stderr = clean(ran.stderr, limit=_DETAIL_LIMIT)
    if ran.facts.exit == _SKIP and not report.cases:
        return [_by_exit(case_id, ran, stderr)]
    failed = any(c.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE) for c in cases)
    if ran.facts.exit not in (0, _SKIP) and not failed:
        # every line says ok and the exit status does not: it counts as well
        cases.append(_by_exit(case_id, ran, stderr))
    return cases
