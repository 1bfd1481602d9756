# SPDX-License-Identifier: GPL-2.0-only
"""Base against tip: what is judged, at which confidence, and what is said."""

from __future__ import annotations

import random

import msgspec
import pytest

from orchestrator.results.model import CellResult, SuiteResult, Verdict
from orchestrator.series import performance


def boots(label: str, values: list[float], variant: str = "mmap-lock") -> list[CellResult]:
    return [
        CellResult(
            cell=f"{label}-{n}", label=label, arch="arm64", variant=variant, boot=n,
            suites=(
                SuiteResult(
                    suite="map-latency", kind="benchmark",
                    metrics={"mean_us_alone": value, "interference": value} if value else {},
                    better={"mean_us_alone": "lower", "interference": "lower"},
                ),
            ),
        )
        for n, value in enumerate(values, 1)
    ]  # fmt: skip


BASE = [2.0, 2.02, 1.98, 2.01, 1.99]


def judged(tip: list[float], base: list[float] = BASE) -> tuple[str, Verdict]:
    changes = performance.compare([*boots("base", base), *boots("tip", tip)], base="base", tip="tip")
    assert {change.metric for change in changes} == {"mean_us_alone", "interference"}
    (says,) = {change.says.value for change in changes}
    (verdict,) = {case.verdict for case in performance._cases([], changes, "tip")}
    return says, verdict


@pytest.mark.parametrize(
    ("tip", "says", "verdict"),
    [
        ([3.0, 3.02, 2.98, 3.01, 2.99], "worse", Verdict.FAIL),
        ([1.0, 1.02, 0.98, 1.01, 0.99], "better", Verdict.PASS),
        (BASE, "same within the effect that matters", Verdict.PASS),
        # sure, and too small for anybody to be at fault
        ([2.06, 2.061, 2.062, 2.063, 2.064], "same within the effect that matters", Verdict.PASS),
        ([3.0], "too few boots", Verdict.INCONCLUSIVE),
    ],
)
def test_what_is_said(tip: list[float], says: str, verdict: Verdict) -> None:
    assert judged(tip) == (says, verdict)


def test_boots_without_a_sample_do_not_count() -> None:
    assert judged([3.0, 0.0, 0.0, 0.0, 0.0])[0] == "too few boots"


def test_a_metric_in_which_a_slower_kernel_cancels_out_hides_none() -> None:
    """12 µs more in each mmap(): the ratio of two means stays what it was, the means do not."""

    def slower(cell: CellResult) -> CellResult:
        (suite,) = cell.suites
        metrics = {**suite.metrics, "mean_us_alone": suite.metrics["mean_us_alone"] * 1.6}
        return msgspec.structs.replace(cell, suites=(msgspec.structs.replace(suite, metrics=metrics),))

    cells = [*boots("base", BASE), *map(slower, boots("tip", BASE))]
    changes = performance.compare(cells, base="base", tip="tip")
    assert {change.metric: change.says.value for change in changes} == {
        "mean_us_alone": "worse",
        "interference": "same within the effect that matters",
    }
    verdicts = {case.id: case.verdict for case in performance._cases([], changes, "tip")}
    assert verdicts == {
        "map-latency/mean_us_alone": Verdict.FAIL,
        "map-latency/interference": Verdict.PASS,
    }


def test_equal_kernels_are_seldom_called_worse() -> None:
    """Four kernels without a difference: at most a twentieth of the series has a false alarm."""
    dice = random.Random(6)
    wrong = 0
    for _ in range(60):
        cells = []
        for variant in "abcd":
            for label in ("base", "tip"):
                cells += boots(
                    label, [dice.lognormvariate(0, 0.3) for _ in range(performance.BOOTS)], variant
                )
        changes = performance.compare(cells, base="base", tip="tip")
        wrong += any(case.verdict is Verdict.FAIL for case in performance._cases([], changes, "tip"))
    assert wrong <= 60 * 0.05


def test_trouble_of_the_base_is_not_the_tips() -> None:
    from orchestrator.results.model import Case

    def crashed(label: str) -> CellResult:
        return CellResult(
            cell=f"{label}-1", label=label, cases=(Case(id="boot", verdict=Verdict.CRASH, reason="oops"),)
        )

    assert [c.verdict for c in performance._cases([crashed("base")], [], "tip")] == [Verdict.INCONCLUSIVE]
    assert [c.verdict for c in performance._cases([crashed("tip")], [], "tip")] == [Verdict.CRASH]
    assert [c.verdict for c in performance._cases([], [], "tip")] == [Verdict.INCONCLUSIVE]
