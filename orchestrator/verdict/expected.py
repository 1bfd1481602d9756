# SPDX-License-Identifier: GPL-2.0-only
"""Compares what a suite's programs reported with what this kernel must report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from orchestrator.results.model import Case, Verdict
from orchestrator.suites.catalog import Expectation, Suite
from orchestrator.verdict.program import inconclusive


def complete(
    suite: Suite,
    expected: Mapping[str, Expectation],
    elsewhere: Mapping[str, str],
    reported: Mapping[str, Sequence[Case]],
    *,
    not_run: str = "",
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """All cases of a suite, and the programs that its descriptor does not expect.

    A program that did not report, reported fewer cases than planned, or skipped where it should run is
    not green.

    :param expected: by program, what it must report on this kernel.
    :param elsewhere: programs for other kernels, with the reason.
    :param reported: by program, the cases that it reported.
    :param not_run: the reason why programs were not run at all, where there is one.
    """
    cases: list[Case] = []
    for name, of_program in reported.items():
        cases += _compared(f"{suite.name}/{name}", of_program, expected.get(name))
    for name in expected:
        if name not in reported:
            reason = not_run or "it did not report: not built"
            cases.append(inconclusive(f"{suite.name}/{name}", reason))
    for name, reason in elsewhere.items():
        if name not in reported:
            cases.append(Case(id=f"{suite.name}/{name}", verdict=Verdict.NA, reason=reason))
    # a user's suite whose descriptor names no program has not forgotten one
    silent = suite.origin == "own" or not (suite.program or suite.expect)
    unknown = () if silent else tuple(sorted(set(reported) - set(expected)))
    return tuple(cases), unknown


def _compared(case_id: str, cases: Sequence[Case], expectation: Expectation | None) -> list[Case]:
    if expectation is None:
        return list(cases)
    if expectation.outcome == "pass":
        optional = tuple(f"{case_id}/{pattern}" for pattern in expectation.skips)
        cases = [_must_run(case, optional) for case in cases]
    elif expectation.outcome == "skip":
        cases = [_with_reason(case, expectation.reason) for case in cases]
    own = [case for case in cases if case.id != f"{case_id}/plan"]
    if len(own) < expectation.cases and not any(case.id == case_id for case in own):
        few = f"{expectation.cases} cases expected of this kernel, {len(own)} reported"
        return [*cases, inconclusive(case_id, few)]
    return list(cases)


def _must_run(case: Case, optional: Sequence[str]) -> Case:
    if case.verdict is not Verdict.SKIP or any(fnmatchcase(case.id, pattern) for pattern in optional):
        return case
    return inconclusive(case.id, f"it skipped where it should run: {case.reason}")


def _with_reason(case: Case, reason: str) -> Case:
    if case.verdict is not Verdict.SKIP or not reason:
        return case
    return msgspec.structs.replace(case, reason=reason)
