# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import random

import pytest

from orchestrator.analysis.regression import CaseChange, Difference, MetricChange, difference
from orchestrator.results.model import Case, CellResult, SuiteResult, Verdict

PLACE = ("x86_64", "per-vma-lock")
FAIL, PASS, SKIP = Verdict.FAIL, Verdict.PASS, Verdict.SKIP
KNOWN, CRASH = Verdict.KNOWN, Verdict.CRASH


def cell(**cases: Verdict) -> CellResult:
    results = tuple(Case(id=f"s/{name.replace('__', '/')}", verdict=v) for name, v in cases.items())
    return CellResult(cell="c", suites=(SuiteResult(suite="s", cases=results),))


def boots(*verdicts: Verdict) -> list[CellResult]:
    return [cell(case=verdict) for verdict in verdicts]


def compared(base: list[CellResult], new: list[CellResult], *, effect: float = 0.05) -> Difference:
    return difference({PLACE: base}, {PLACE: new}, effect=effect)


@pytest.mark.parametrize(
    ("base", "new", "change"),
    [
        ([PASS], [FAIL], "newly failing"),
        ([PASS], [CRASH], "newly failing"),
        ([SKIP], [FAIL], "newly failing"),
        ([], [FAIL], "newly failing"),
        ([KNOWN], [FAIL], "newly failing"),
        ([PASS], [KNOWN], "flaky on both sides"),
        ([PASS] * 20, [PASS] * 19 + [FAIL], "newly failing"),
        ([FAIL], [PASS], "newly passing"),
        ([FAIL, PASS], [PASS, PASS], "flaky on both sides"),
        ([FAIL] * 8 + [PASS] * 2, [PASS] * 10, "newly passing"),
        ([FAIL] + [PASS] * 9, [FAIL] * 8 + [PASS] * 2, "fails more often"),
        ([FAIL] * 9 + [PASS], [FAIL] * 2 + [PASS] * 8, "fails less often"),
        ([FAIL] * 2 + [PASS] * 8, [FAIL] * 3 + [PASS] * 7, "flaky on both sides"),
        ([FAIL], [FAIL], "still failing"),
        ([KNOWN], [KNOWN], "still failing"),
        ([PASS], [], "vanished"),
        ([], [PASS], "new"),
        ([PASS], [SKIP], "no longer judged"),
        ([FAIL], [Verdict.INCONCLUSIVE], "no longer judged"),
        ([PASS], [PASS], None),
        ([SKIP], [PASS], None),
        ([SKIP], [], None),
    ],
)
def test_the_change_of_a_case(base: list[Verdict], new: list[Verdict], change: str | None) -> None:
    result = compared(boots(*base) or [cell()], boots(*new) or [cell()])
    assert [each.change.value for each in result.cases] == ([change] if change else [])
    assert result.unchanged == (change is None)
    assert len(result.regressions) == (change in ("newly failing", "fails more often"))


def test_the_cases_of_a_program_that_crashed_are_not_called_vanished() -> None:
    result = compared([cell(p__one=PASS, p__two=PASS)], [cell(p=CRASH)])
    assert [(each.case, each.change) for each in result.cases] == [("s/p", CaseChange.NEWLY_FAILING)]


def bench(values: list[float], *, better: str = "lower", name: str = "us") -> list[CellResult]:
    return [
        CellResult(
            cell="c",
            suites=(SuiteResult(suite="b", kind="benchmark", metrics={name: value}, better={name: better}),),
        )
        for value in values
    ]


@pytest.mark.parametrize(
    ("new", "better", "change"),
    [
        ([150, 152, 149, 151, 153], "lower", "worse"),
        ([150, 152, 149, 151, 153], "higher", "better"),
        ([50, 52, 49, 51, 53], "lower", "better"),
        ([100, 101, 99, 102, 98], "lower", "same within the effect that matters"),
        # surely different, and too little to matter
        ([103, 103.1, 103.2, 103.3, 103.4], "lower", "same within the effect that matters"),
        ([90, 140, 80, 150, 100], "lower", "no difference shown"),
        ([150, 151], "lower", "too few boots"),
    ],
)
def test_the_change_of_a_metric(new: list[float], better: str, change: str) -> None:
    base = [100.0, 101, 99, 100.5, 99.5]
    (metric,) = compared(bench(base, better=better), bench(new, better=better)).metrics
    assert metric.change.value == change


def test_a_change_that_is_not_certain_among_many_says_how_many_boots_would_decide() -> None:
    dice = random.Random(1)
    quiet = {f"m{n}": [dice.gauss(100, 1) for _ in range(10)] for n in range(29)}

    def side(of: slice, loud: float) -> list[CellResult]:
        columns = {name: values[of] for name, values in quiet.items()}
        columns["loud"] = [loud * dice.gauss(1, 0.01) for _ in range(5)]
        return [
            CellResult(
                cell="c",
                suites=(
                    SuiteResult(
                        suite="b",
                        kind="benchmark",
                        metrics={name: values[boot] for name, values in columns.items()},
                        better=dict.fromkeys(columns, "lower"),
                    ),
                ),
            )
            for boot in range(5)
        ]

    by_name = {m.metric: m for m in compared(side(slice(5), 100), side(slice(5, 10), 200)).metrics}
    assert by_name["loud"].change is MetricChange.PERHAPS_WORSE
    # 2 / C(14, 7) x 30 < 5 %, 2 / C(12, 6) x 30 is not
    assert by_name["loud"].boots == 7


def test_counts_with_ties_are_compared_too() -> None:
    (metric,) = compared(bench([1, 1, 2, 2, 2]), bench([4, 4, 4, 5, 4])).metrics
    assert metric.change is MetricChange.WORSE
    # 2 of the 252 orders are so far apart
    assert metric.p == pytest.approx(2 / 252)
    (metric,) = compared(bench([3] * 5), bench([3] * 5)).metrics
    assert (metric.change, metric.p) == (MetricChange.SAME, 1)


@pytest.mark.parametrize(("base", "new"), [([3], [3]), ([3], [3, 3, 4]), ([2, 3, 3], [3]), ([0], [0])])
def test_ties_of_a_single_boot_show_nothing(base: list[float], new: list[float]) -> None:
    for metric in compared(bench(base), bench(new)).metrics:
        assert (metric.change, metric.p) == (MetricChange.FEW, 1)


def test_equal_kernels_are_rarely_called_different() -> None:
    """False alarms over 100 comparisons of ten metrics, with noise of 10 %: at most those allowed."""
    dice = random.Random(2)
    alarms = 0
    for _ in range(100):
        sides = [
            [
                CellResult(
                    cell="c",
                    suites=(
                        SuiteResult(
                            suite="b",
                            kind="benchmark",
                            metrics={f"m{n}": dice.lognormvariate(3, 0.1) for n in range(10)},
                            better={f"m{n}": "lower" for n in range(10)},
                        ),
                    ),
                )
                for _ in range(7)
            ]
            for _ in range(2)
        ]
        metrics = compared(*sides).metrics
        alarms += any(m.change in (MetricChange.WORSE, MetricChange.BETTER) for m in metrics)
    assert alarms <= 0.05 * 100
