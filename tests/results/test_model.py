# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from itertools import chain, combinations, permutations

import pytest

from orchestrator.core import errors
from orchestrator.results.model import (
    GRAVITY,
    Blame,
    Case,
    CellResult,
    SuiteResult,
    Verdict,
    exit_code,
    worst,
)

#: Design §5: what a verdict alone makes of a verb. `None`: nothing, it neither passes nor fails.
TABLE = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.CRASH: 1,
    Verdict.TIMEOUT: 1,
    Verdict.KNOWN: None,
    Verdict.SKIP: None,
    Verdict.NA: None,
    Verdict.INCONCLUSIVE: 4,
    Verdict.ERROR: 3,
}
PRECEDENCE = (2, 130, 1, 3, 4, 0)


def subsets() -> list[tuple[Verdict, ...]]:
    return list(chain.from_iterable(combinations(Verdict, n) for n in range(len(Verdict) + 1)))


def expected(verdicts: tuple[Verdict, ...], *, interrupted: bool) -> int:
    codes = {code for verdict in verdicts if (code := TABLE[verdict]) is not None}
    if 0 not in codes:
        codes.add(4)  # a run in which nothing passed
    if interrupted:
        codes.add(130)
    return next(code for code in PRECEDENCE if code in codes)


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(Verdict) == set(GRAVITY)
    assert len(GRAVITY) == len(set(GRAVITY))


@pytest.mark.parametrize("interrupted", [False, True])
def test_exit_code_walks_the_table(interrupted: bool) -> None:
    for verdicts in subsets():
        cases = [Case(id=verdict, verdict=verdict) for verdict in verdicts]
        want = expected(verdicts, interrupted=interrupted)
        assert exit_code(cases, interrupted=interrupted) == want, verdicts
        assert exit_code(cases[::-1] * 2, interrupted=interrupted) == want, verdicts


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ("", 4),
        ("PASS", 0),
        ("PASS SKIP NA", 0),
        ("SKIP", 4),
        ("NA", 4),
        ("PASS INCONCLUSIVE", 4),
        ("PASS ERROR INCONCLUSIVE", 3),
        ("PASS FAIL ERROR", 1),
        ("CRASH ERROR", 1),
        ("TIMEOUT", 1),
    ],
)
def test_exit_code_by_example(verdicts: str, code: int) -> None:
    assert exit_code(Case(id=v, verdict=Verdict(v)) for v in verdicts.split()) == code


def test_errors_leave_with_the_codes_of_the_table() -> None:
    codes = {kind.__name__: kind.exit_code for kind in errors.OrchestrateError.__subclasses__()}
    assert codes == {"UserError": 2, "InfraError": 3, "KernelError": 1, "Inconclusive": 4, "Interrupted": 130}


def test_the_gravest_verdict_stands() -> None:
    assert worst([]) is Verdict.INCONCLUSIVE
    for verdict in Verdict:
        assert worst([verdict]) is verdict
    for one, other in permutations(Verdict, 2):
        gravest = one if GRAVITY.index(one) < GRAVITY.index(other) else other
        assert worst([one, other]) is worst([other, one]) is gravest


def test_worst_never_prefers_green() -> None:
    """Gravity and exit codes must not disagree: whatever is worse than PASS for one is for the other."""
    for verdict, code in TABLE.items():
        if code:
            assert worst([verdict, Verdict.PASS]) is verdict
        elif verdict is not Verdict.KNOWN:
            assert worst([verdict, Verdict.PASS]) is Verdict.PASS
    # what is known is no red, and no green either
    assert worst([Verdict.KNOWN, Verdict.PASS]) is Verdict.KNOWN
    for fault in (Verdict.FAIL, Verdict.CRASH, Verdict.TIMEOUT):
        for lesser in (Verdict.ERROR, Verdict.INCONCLUSIVE):
            assert worst([lesser, fault]) is fault
    assert worst([Verdict.INCONCLUSIVE, Verdict.ERROR]) is Verdict.ERROR


def test_all_cases_keeps_order() -> None:
    def case(name: str) -> Case:
        return Case(id=name, verdict=Verdict.PASS, blame=Blame.NONE)

    suites = (SuiteResult(suite="s", cases=(case("b"),)), SuiteResult(suite="t", cases=(case("c"),)))
    cell = CellResult(cell="x", cases=(case("a"),), suites=suites)
    assert [c.id for c in cell.all_cases()] == ["a", "b", "c"]
