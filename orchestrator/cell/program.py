# SPDX-License-Identifier: GPL-2.0-only
"""One program of a suite in a guest: run, judge, and hold against what this kernel must report."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from orchestrator.core.errors import Inconclusive
from orchestrator.core.text import clean
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.suites import build as suite_build
from orchestrator.suites import delays
from orchestrator.suites.catalog import Expectation, Program, Suite
from orchestrator.suites.delays import Places
from orchestrator.verdict import benchmark, ktap, metrics
from orchestrator.verdict import crash as console
from orchestrator.vm.machine import Guest
from orchestrator.vm.ssh import Late, Lost, Mark, Ran, Silent

_DETAIL_LIMIT = 16384
_SKIP, _XFAIL = 4, 2
#: What a shell ends with for a program that is not there, or cannot be executed.
_NOT_RUN = (126, 127)
#: Seconds until what the guest has written to its log is on the console, on a machine of reference speed.
_MARK_S = 1.0
_ASSERTION = re.compile(r"[\w.-]+\.c:\d+.*(?:Assertion|Expected|expected).*")


class Told(msgspec.Struct, frozen=True):
    """What was found out about something that hangs.

    ``reason`` is one line, empty where nothing is known; ``detail`` names the files with the evidence.
    """

    reason: str = ""
    detail: str = ""


class Look(msgspec.Struct, frozen=True):
    """Looks at a guest in which a program, given by its name, hangs; it takes ``limit_s`` at most.

    It must not raise, and changes no verdict.
    """

    at: Callable[[Guest, str], Told]
    limit_s: float


class Numbers(msgspec.Struct, frozen=True):
    """A benchmark's ``metrics`` by name, and of those to compare which way is ``better``."""

    metrics: dict[str, float] = {}
    better: dict[str, str] = {}

    def and_those(self, other: Numbers) -> Numbers:
        """Both together."""
        return Numbers(self.metrics | other.metrics, self.better | other.better)


class ProgramResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cases of one program. ``lost`` means that the guest cannot be used any more.

    ``before`` is what burned before the program began and after the last look: the case of the program that
    ran before it, or ``boot``.
    """

    cases: tuple[Case, ...]
    numbers: Numbers = Numbers()
    lost: bool = False
    before: Case | None = None


def run(
    guest: Guest,
    suite: Suite,
    name: str,
    *,
    folder: Path,
    root: Path,
    watch: console.Watch,
    places: Callable[[], Places] | None = None,
    look: Look | None = None,
) -> ProgramResult:
    """Run one program of a suite with its own deadline and judge it.

    :param folder: takes the program's output; ``root`` is what logs are named relative to.
    :param places: finds where the kernel is delayed while it runs.
    :param look: is called once it hangs, before anything is killed.
    """
    program = suite.known(name)
    case_id = f"{suite.name}/{name}"
    call = invocation(suite, program)
    limit_s = call.limit_s * guest.factor
    early = list(watch.take())
    mark = Mark.of(case_id)
    watch.expect(mark)
    told: list[Told] = []
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    wide: Places | None = None
    delayed: dict[str, tuple[int, int]] = {}
    lost: Case | None = None
    try:
        if places is not None:
            wide = places()
            delays.begin(guest, wide, name)
        ran = guest.run(
            call.argv,
            limit_s=limit_s,
            env={"ORCHESTRATE_FACTOR": f"{guest.factor:.2f}", "ORCHESTRATE_MARK": f"{mark.first} {case_id}"}
            | call.env,
            cwd=call.cwd,
            options=call.options,
            mark=mark,
            late=Late(lambda: told.append(look.at(guest, name)), look.limit_s) if look else None,
        )
        if wide is not None:
            delayed = delays.end(guest, wide)
    except Inconclusive as error:
        return ProgramResult(cases=(_inconclusive(case_id, error.message),), before=console.before(early))
    except Lost as error:
        if look and not told and isinstance(error, Silent) and not guest.death():
            told.append(look.at(guest, name))
        guest.console.settle()
        seen, more = console.apart(case_id, watch)
        lost = _lost_case(case_id, guest, seen, error, limit_s)
        cases = [*_reported(program, case_id, error.stdout), lost]
        _keep(log, error.stdout, error.stderr)
        numbers = Numbers()
    else:
        if not watch.ended(_MARK_S * guest.factor):
            guest.console.settle()
        seen, more = console.apart(case_id, watch)
        cases, numbers = _judge(suite, program, case_id, ran, limit_s)
        _keep(log, ran.stdout, ran.stderr)
        cases += _widened(case_id, folder / f"{name}.widen.txt", wide, delayed)
        cases = [msgspec.structs.replace(c, duration_s=c.duration_s or _share(ran, cases)) for c in cases]
    cases, burned = console.burn(cases, case_id, seen, keep=lost)
    cases = [msgspec.structs.replace(c, log=str(log.relative_to(root))) for c in cases]
    return ProgramResult(
        cases=tuple(_explain(c, case_id, told) for c in cases),
        numbers=Numbers() if burned else numbers,
        lost=lost is not None,
        before=console.before([*early, *more]),
    )


def _keep(log: Path, stdout: bytes, stderr: bytes) -> None:
    log.write_bytes(stdout + (b"\n--- standard error ---\n" + stderr if stderr else b""))


def _widened(
    case_id: str, file: Path, wide: Places | None, delayed: Mapping[str, tuple[int, int]]
) -> list[Case]:
    if wide is None:
        return []
    file.write_text(delays.told(wide, delayed))
    if any(times for _, times in delayed.values()):
        return []
    return [_inconclusive(f"{case_id}/widen", "no window was made wide: nobody passed the points")]


def _explain(case: Case, case_id: str, told: Sequence[Told]) -> Case:
    """With what was found out while it hung, of the program itself."""
    if case.id != case_id or not told or case.verdict not in (Verdict.TIMEOUT, Verdict.CRASH):
        return case
    reason = "; ".join(dict.fromkeys(word for word in (case.reason, *(t.reason for t in told)) if word))
    detail = "\n\n".join(text for text in (*(t.detail for t in told), case.detail) if text)
    return msgspec.structs.replace(case, reason=reason, detail=detail[:_DETAIL_LIMIT])


def _reported(program: Program, case_id: str, stdout: bytes) -> list[Case]:
    """The cases that were done before the guest went away."""
    if program.parser != "ktap":
        return []
    report = ktap.parse(clean(stdout))
    return list(ktap.to_cases(dataclasses.replace(report, problems=()), case_id)) if report.cases else []


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is run. ``limit_s``: for a machine that boots in a second. ``options``: orc-exec's."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    options: tuple[str, ...]
    limit_s: float


def invocation(suite: Suite, program: Program) -> Invocation:
    """How a program of a suite is run in a guest, but for what is that guest's own."""
    return Invocation(
        argv=tuple(_argv(suite, program)),
        env=suite_build.environment(suite, program),
        cwd=suite_build.working_folder(suite),
        options=(
            *(("--cpus", program.cpus) if program.cpus else ()),
            *(("--nice", str(program.nice)) if program.nice else ()),
        ),
        limit_s=suite.limit_s(program),
    )


def _argv(suite: Suite, program: Program) -> list[str]:
    argv = suite_build.argv(suite, program)
    if program.parser == "ktap":
        # the kselftest harness says on standard error what it expected; only in one stream does it stand
        # beside the case that it is about
        return ["/bin/sh", "-c", 'exec "$0" "$@" 2>&1', *argv]
    return argv


def _share(ran: Ran, cases: Sequence[Case]) -> float:
    return round(ran.facts.wall_ms / 1000 / max(1, len(cases)), 3)


def _lost_case(
    case_id: str, guest: Guest, seen: Sequence[console.Sighting], error: Lost, limit_s: float
) -> Case:
    death = guest.death()
    # where a case is known to have burned, the program's own word is what took its guest down: the last
    if crash := console.crash(case_id, [s for s in seen if s.case == case_id] or seen[-1:]):
        return crash
    detail = "\n".join(guest.console.tail(30))
    if guest.panicked:
        return Case(
            id=case_id,
            verdict=Verdict.CRASH,
            blame=Blame.KERNEL,
            reason=death,
            detail=detail,
            fingerprint="guest-died",
        )
    if death:
        return Case(id=case_id, verdict=Verdict.ERROR, blame=Blame.INFRA, reason=death, detail=detail)
    if not isinstance(error, Silent):
        # somebody closed it, so the kernel was still there to do that
        reason = f"the guest's SSH server went away while its kernel ran on: {error.message}"
        return Case(id=case_id, verdict=Verdict.ERROR, blame=Blame.INFRA, reason=reason, detail=detail)
    return Case(
        id=case_id,
        verdict=Verdict.TIMEOUT,
        blame=Blame.KERNEL,
        reason=f"the guest stopped answering (limit {limit_s:.0f} s): {error.message}",
        detail=detail,
    )


def _judge(
    suite: Suite, program: Program, case_id: str, ran: Ran, limit_s: float
) -> tuple[list[Case], Numbers]:
    facts = ran.facts
    said = clean(ran.stderr, limit=_DETAIL_LIMIT)
    if facts.exec_error:
        reason = f"it could not be started: {facts.exec_error}{_interpreter(suite, program)}"
        return [_error(case_id, reason)], Numbers()
    if unmet := _placement(program, ran):
        return [Case(id=case_id, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=unmet)], Numbers()
    if program.parser == "ktap":
        return _judge_ktap(case_id, ran, limit_s), Numbers()
    if facts.timeout:
        return [_timeout(case_id, ran, limit_s)], Numbers()
    if program.parser in ("map-latency", "benchmark") and facts.exit == 0:
        try:
            return _measured(program, case_id, ran)
        except Inconclusive as error:
            return [_inconclusive(case_id, error.message)], Numbers()
    if suite.user and facts.exit in _NOT_RUN and (program.script or suite.commands):
        # a word that the guest's shell does not know says nothing about the kernel
        reason = f"it, or a program that it needs, could not be run (exit status {facts.exit})"
        last = _last_line(said)
        return [_error(case_id, f"{reason}{': ' + last if last else ''}")], Numbers()
    return [_by_exit(case_id, ran, said, xfail=not suite.user)], Numbers()


def _measured(program: Program, case_id: str, ran: Ran) -> tuple[list[Case], Numbers]:
    if program.parser == "benchmark":
        case, numbers, better = benchmark.judge(benchmark.parse(ran.stdout, program.name), case_id)
        return [case], Numbers(numbers, better)
    case, numbers = metrics.judge(metrics.parse_map_latency(ran.stdout), case_id)
    return [case], Numbers(numbers, metrics.BETTER if numbers else {})


def _interpreter(suite: Suite, program: Program) -> str:
    """What a script of the user's needs that the guest may lack."""
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


def _inconclusive(case_id: str, reason: str) -> Case:
    return Case(id=case_id, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)


def _error(case_id: str, reason: str) -> Case:
    return Case(id=case_id, verdict=Verdict.ERROR, blame=Blame.INFRA, reason=reason)


def _last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")


def _by_exit(case_id: str, ran: Ran, said: str, *, xfail: bool = True) -> Case:
    facts = ran.facts
    last = _last_line(said)
    detail = clean(ran.stdout, limit=_DETAIL_LIMIT) + said
    if facts.exit == 0:
        return Case(id=case_id, verdict=Verdict.PASS)
    if facts.exit == _SKIP:
        return Case(id=case_id, verdict=Verdict.SKIP, reason=last or "the test skips itself (exit status 4)")
    if facts.exit == _XFAIL and xfail:
        return Case(id=case_id, verdict=Verdict.SKIP, reason=f"expected failure: {last or 'exit status 2'}")
    ended = f"exit status {facts.exit}" if facts.exit is not None else _signal_name(facts.signal)
    assertion = _ASSERTION.search(said)
    return Case(
        id=case_id,
        verdict=Verdict.FAIL,
        blame=Blame.KERNEL,
        reason=assertion[0] if assertion else f"{ended}{': ' + last if last else ''}",
        detail=detail,
    )


def _signal_name(number: int | None) -> str:
    try:
        return f"killed by {signal.Signals(number or 0).name}"
    except ValueError:
        return f"killed by signal {number}"


def _judge_ktap(case_id: str, ran: Ran, limit_s: float) -> list[Case]:
    report = ktap.parse(clean(ran.stdout))
    cases = list(ktap.to_cases(report, case_id))
    if ran.facts.timeout:
        cases.append(_timeout(case_id, ran, limit_s))
        return cases
    if ran.facts.exit == _SKIP and not report.cases:
        return [_by_exit(case_id, ran, clean(ran.stderr, limit=_DETAIL_LIMIT))]
    failed = any(c.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE) for c in cases)
    if ran.facts.exit not in (0, _SKIP) and not failed:
        # every line says ok and the program itself says no: its word counts too
        cases.append(_by_exit(case_id, ran, clean(ran.stderr, limit=_DETAIL_LIMIT)))
    return cases


def complete(
    suite: Suite,
    expected: Mapping[str, Expectation],
    away: Mapping[str, str],
    found: Mapping[str, Sequence[Case]],
    *,
    why_not: str = "",
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Hold what was reported against what this kernel must report.

    A program that did not report, reported fewer cases than planned, or skipped where it should run is
    not green. Programs that nobody expected are named.

    :param why_not: the reason why programs were not run at all, where there is one.
    :return: all cases, and the programs that the suite's descriptor does not expect.
    """
    cases: list[Case] = []
    for name, reported in found.items():
        case_id = f"{suite.name}/{name}"
        wanted = expected.get(name)
        reported = list(reported)
        if wanted is not None:
            skipped = [c for c in reported if c.verdict is Verdict.SKIP]
            if wanted.outcome == "pass" and skipped:
                may = tuple(f"{case_id}/{pattern}" for pattern in wanted.skips)
                reported = [
                    _must_run(c)
                    if c.verdict is Verdict.SKIP and not any(fnmatchcase(c.id, p) for p in may)
                    else c
                    for c in reported
                ]
            elif wanted.outcome == "skip":
                reported = [_with_reason(c, wanted.reason) for c in reported]
            own = [c for c in reported if c.id != f"{case_id}/plan"]
            if len(own) < wanted.cases and not any(c.id == case_id for c in own):
                few = f"{wanted.cases} cases expected of this kernel, {len(own)} reported"
                reported.append(_inconclusive(case_id, few))
        cases += reported
    for name in expected:
        if name not in found:
            cases.append(_inconclusive(f"{suite.name}/{name}", why_not or "it did not report: not built"))
    for name, reason in away.items():
        if name not in found:
            cases.append(Case(id=f"{suite.name}/{name}", verdict=Verdict.NA, reason=reason))
    # a suite of the user's without a word about its programs has not forgotten one
    silent = suite.origin == "own" or not (suite.program or suite.expect)
    unknown = () if silent else tuple(sorted(set(found) - set(expected)))
    return tuple(cases), unknown


def _must_run(case: Case) -> Case:
    return _inconclusive(case.id, f"it skipped where it should run: {case.reason}")


def _with_reason(case: Case, reason: str) -> Case:
    if case.verdict is not Verdict.SKIP or not reason:
        return case
    return msgspec.structs.replace(case, reason=reason)
