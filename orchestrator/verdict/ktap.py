# SPDX-License-Identifier: GPL-2.0-only
"""From the KTAP of a test program to verdicts.

`parse` keeps the lines, `to_cases` judges them. Nothing is dropped in favour of green: an inconsistent report
never yields only PASSes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.core import text as txt
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.suites.ktap_parser import KtapCase, Report, parse

__all__ = ["KtapCase", "Report", "parse", "to_cases"]

#: Characters of diagnostics that a case keeps; the log has the rest.
DETAIL_LIMIT = 64 * 1024

# Diagnostics are matched up to this length: some of the patterns would need square time for more.
_LINE = 1000
_EXPECTED = re.compile(r"\S+\.\w+:\d+:[^:]+:\s*Expected\b.*")
_ASSERTION = re.compile(r".*\bAssertion\b.*\bfailed\b.*")
_LOCATED = re.compile(r"\S+\.\w+:\d+:[^:]+:.*")
# KUnit's, which has the values on the lines that follow
_EXPECTATION = re.compile(r"\S+: (?:EXPECTATION|ASSERTION) FAILED at \S+:\d+")
# what a harness says about its own work, and what the kernel says meanwhile: no reason of a failure
_HARNESS = re.compile(
    r"\s*(?:(?:RUN|OK|FAIL|Starting \d+ tests|overriding timeout|timeout set|timeout=)\b"
    r"|(?:PASSED|FAILED|Totals|module|Subtest):|Planned tests != run tests"
    r"|\S+: pass:\d+ fail:\d+ |\S+\.speed: |pragma [+-]|\[\s*+\d+\.\d+\]).*"
)
_END_LINE = re.compile(r".*: Test (?:terminated|failed|exited|ended)\b.*")
_TERMINATED_BY_TIMEOUT = re.compile(r".*: Test terminated by timeout")
_MISSING_PROGRAM = re.compile(r"Warning: file \S+ is (?:missing|not executable)")

#: KTAP has no word for "nothing was shown"; programs use this prefix of a SKIP reason.
_INCONCLUSIVE = "inconclusive:"

#: The signal behind an exit status that a test reports in place of a reason.
_SIGNALS = {132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 137: "SIGKILL", 139: "SIGSEGV"}


def to_cases(report: Report, prefix: str) -> tuple[Case, ...]:
    """Cases for ``results.json`` from a report; ids are ``prefix`` and the path of names below it.

    A component that only repeats the program (``selftests: proc: proc-maps-race`` under a prefix that ends
    in ``proc-maps-race``; the fixture in ``proc_maps_race.maps.x``) is left out, so that a program has the
    same ids with and without kselftest's runner. All inconsistencies are one INCONCLUSIVE case,
    ``<prefix>/plan``; a bail-out is a FAIL, ``<prefix>/bail-out``.
    """
    used_ids: set[str] = set()
    counters: dict[str, int] = {}
    cases = [_case(case, txt.unique(_id(prefix, case.path), used_ids, counters)) for case in report.cases]
    if report.skip_all is not None and not report.cases:
        reason = report.skip_all or "the program skips all its tests without a reason"
        cases.append(
            Case(id=txt.unique(prefix, used_ids, counters), verdict=Verdict.SKIP, reason=txt.one_line(reason))
        )
    if report.bailed_out is not None:
        cases.append(
            Case(
                id=txt.unique(f"{prefix}/bail-out", used_ids, counters),
                verdict=Verdict.FAIL,
                blame=Blame.TEST,
                reason=txt.one_line(f"bailed out: {report.bailed_out or 'no reason given'}"),
            )
        )
    problems = list(report.problems) or (["nothing reported"] if not cases else [])
    if problems:
        cases.append(
            Case(
                id=txt.unique(f"{prefix}/plan", used_ids, counters),
                verdict=Verdict.INCONCLUSIVE,
                blame=Blame.INFRA,
                reason=txt.one_line("; ".join(problems)),
                detail="\n".join(problems) if len(problems) > 1 else "",
            )
        )
    return tuple(cases)


def _id(prefix: str, path: Sequence[str]) -> str:
    parts = [prefix]
    for name in path:
        program = parts[-1].rpartition("/")[2]
        if name.startswith("selftests: "):
            name = name.rpartition(": ")[2]
            if name == program:
                continue
        fixture, dot, test = name.partition(".")
        if dot and test and fixture.replace("_", "-") == program.replace("_", "-"):
            name = test
        parts.append(name)
    return "/".join(parts)


def _case(case: KtapCase, case_id: str) -> Case:
    verdict, blame, reason = _judge(case)
    detail = "" if verdict is Verdict.PASS else "\n".join(case.diagnostics)
    return Case(
        id=case_id,
        verdict=verdict,
        blame=blame,
        reason=txt.one_line(reason),
        detail=txt.clean_str(detail, limit=DETAIL_LIMIT),
    )


def _judge(case: KtapCase) -> tuple[Verdict, Blame, str]:
    match case.directive:
        case "SKIP" if case.reason.lower().startswith(_INCONCLUSIVE):
            reason = case.reason[len(_INCONCLUSIVE) :].strip()
            return Verdict.INCONCLUSIVE, Blame.INFRA, reason or "without a reason"
        case "SKIP":
            return Verdict.SKIP, Blame.NONE, case.reason or _skip_line(case) or "skipped without a reason"
        case "XFAIL":
            return Verdict.SKIP, Blame.NONE, f"expected failure: {case.reason or 'no reason given'}"
        case "TODO":
            return Verdict.SKIP, Blame.NONE, f"expected failure (TODO): {case.reason or 'no reason given'}"
        case "XPASS":
            return Verdict.FAIL, Blame.TEST, f"unexpected pass: {case.reason or 'no reason given'}"
    if not case.failing:
        return Verdict.PASS, Blame.NONE, case.reason
    if any(_MISSING_PROGRAM.match(line) for line in case.diagnostics):
        return Verdict.ERROR, Blame.INFRA, "the test program is missing or cannot be executed"
    if case.directive == "EXIT" and case.reason in ("126", "127"):
        return (
            Verdict.ERROR,
            Blame.INFRA,
            f"the program, or one that it needs, could not be run (exit={case.reason})",
        )
    # the harness prints "terminated by timeout" for most failed assertions: the assertion is the reason
    if assertion := _first(case, _EXPECTED, _ASSERTION, _EXPECTATION):
        return Verdict.FAIL, Blame.KERNEL, assertion
    if case.directive == "TIMEOUT":
        return Verdict.TIMEOUT, Blame.TEST, f"timed out: {case.reason or 'no time given'}"
    if end_line := _first(case, _TERMINATED_BY_TIMEOUT):
        return Verdict.TIMEOUT, Blame.TEST, end_line
    if case.directive == "ERROR":
        return Verdict.FAIL, Blame.TEST, f"error: {case.reason or 'no reason given'}"
    if case.directive == "EXIT":
        signal = _SIGNALS.get(int(case.reason))
        status = f"exit={case.reason}" + (f" ({signal})" if signal else "")
        reason = _first(case, _LOCATED) or _last_words(case)
        return Verdict.FAIL, Blame.KERNEL, f"{reason} [{status}]" if reason else status
    reason = _first(case, _LOCATED, _END_LINE) or case.reason or _last_words(case)
    return Verdict.FAIL, Blame.KERNEL, reason or "not ok, without a reason"


def _first(case: KtapCase, *patterns: re.Pattern[str]) -> str:
    """The first diagnostic that matches the first of the patterns that any matches, or nothing."""
    for pattern in patterns:
        for line in case.diagnostics:
            if pattern.fullmatch(line[:_LINE]):
                return line
    return ""


def _skip_line(case: KtapCase) -> str:
    """The reason that a test printed before it left with the exit status for SKIP."""
    return next((line for line in case.diagnostics if re.search(r"\b(?i:skip)", line)), "")


def _last_words(case: KtapCase) -> str:
    spoken = (line for line in reversed(case.diagnostics) if not _HARNESS.fullmatch(line[:_LINE]))
    return next((line for line in spoken if not line.startswith("selftests: ")), "")
