# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from orchestrator.analysis.compare import Comparison, MetricRatio, Outcome
from orchestrator.analysis.compare import compare_pair as compare

#: As map-latency says it.
BETTER = dict.fromkeys(("mean_us_scanned", "p99_us_scanned", "mean_us_alone", "interference"), "lower")

Boots = Sequence[Mapping[str, float]]


def compare_pair(with_: Boots, without: Boots) -> Comparison:
    return compare(with_, without, better=BETTER)


def boot(scanned: float, alone: float = 60.0) -> dict[str, float]:
    return {
        "mean_us_alone": alone,
        "mean_us_scanned": scanned,
        "p99_us_scanned": scanned * 2,
        "max_us_scanned": 9000.0,
        "interference": scanned / alone,
    }


QUICK = [boot(50, 59), boot(52, 61), boot(51, 60)]
SLOW = [boot(1700, 60), boot(1900, 62), boot(1800, 58)]


def by_metric(comparison: Comparison) -> dict[str, MetricRatio]:
    return {each.metric: each for each in comparison.ratios}


def test_per_vma_locks_that_help() -> None:
    comparison = compare_pair(QUICK, SLOW)
    assert (comparison.boots_with, comparison.boots_without, comparison.discarded) == (3, 3, ())
    ratios = by_metric(comparison)
    assert tuple(ratios) == tuple(BETTER)
    mean = ratios["mean_us_scanned"]
    assert mean.outcome is Outcome.BETTER
    assert mean.ratio.low == pytest.approx(1700 / 52)
    assert mean.ratio.high == pytest.approx(1900 / 50)
    assert ratios["p99_us_scanned"].outcome is Outcome.BETTER
    assert ratios["interference"].outcome is Outcome.BETTER
    assert ratios["mean_us_alone"].outcome is Outcome.NO_DIFFERENCE
    assert comparison.interference_with is not None
    assert comparison.interference_with.median == pytest.approx(0.85)
    assert comparison.interference_with.low == pytest.approx(50 / 59)
    assert comparison.interference_with.high == pytest.approx(52 / 61)
    assert comparison.interference_without is not None
    assert comparison.interference_without.median == pytest.approx(1900 / 62)
    assert comparison.notes == ()


def test_the_other_way_round_is_a_regression() -> None:
    mean = by_metric(compare_pair(SLOW, QUICK))["mean_us_scanned"]
    assert mean.outcome is Outcome.WORSE
    assert mean.ratio.estimate < 1


def test_an_interval_around_one_shows_no_difference_whatever_the_estimate() -> None:
    comparison = compare_pair([boot(50), boot(55), boot(100)], [boot(70), boot(75), boot(80)])
    mean = by_metric(comparison)["mean_us_scanned"]
    assert mean.ratio.estimate > 1.2
    assert mean.outcome is Outcome.NO_DIFFERENCE


def test_maxima_are_not_compared() -> None:
    assert not any("max" in each.metric for each in compare_pair(QUICK, SLOW).ratios)


def test_an_unjudged_boot_is_discarded_and_said_so() -> None:
    comparison = compare_pair(QUICK, [*SLOW, {}])
    assert comparison.discarded == ("boot 4 without: no valid sample",)
    assert comparison.ratios == compare_pair(QUICK, SLOW).ratios
    assert comparison.notes == ("1 of 7 boots discarded",)
    assert comparison.boots_without == 3


def test_too_few_boots_give_an_estimate_and_no_claim() -> None:
    comparison = compare_pair(QUICK[:2], SLOW)
    mean = by_metric(comparison)["mean_us_scanned"]
    assert mean.outcome is Outcome.TOO_FEW
    assert mean.ratio.low is None
    assert mean.ratio.estimate > 30
    assert comparison.notes == ("2 boots with and 3 without are too few for an interval at 90%",)


@pytest.mark.parametrize(("with_", "without"), [([], SLOW), (QUICK, []), ([], []), ([{}], SLOW)])
def test_nothing_to_compare(with_: list[dict[str, float]], without: list[dict[str, float]]) -> None:
    comparison = compare_pair(with_, without)
    assert comparison.ratios == ()
    assert comparison.notes[-1] == "nothing to compare: no usable boot on one side"


def test_numbers_that_are_none_are_left_out() -> None:
    bad = boot(50) | {"mean_us_scanned": 0.0, "p99_us_scanned": float("nan")}
    ratios = by_metric(compare_pair([*QUICK, bad], SLOW))
    assert ratios["mean_us_scanned"].ratio.n_b == 3
    assert ratios["p99_us_scanned"].ratio.n_b == 3
    assert ratios["mean_us_alone"].ratio.n_b == 4


@pytest.mark.parametrize("boots", [3, 2, 0])
def test_survives_results_json(boots: int) -> None:
    comparison = compare_pair(QUICK[:boots], SLOW)
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


def test_of_what_is_better_large_more_is_better() -> None:
    few, many = [{"ops 1/s": n} for n in (10.0, 11.0, 12.0)], [{"ops 1/s": n} for n in (100.0, 110.0, 120.0)]
    for with_, without, outcome in ((many, few, Outcome.BETTER), (few, many, Outcome.WORSE)):
        (each,) = compare(with_, without, better={"ops 1/s": "higher"}).ratios
        assert (each.outcome, each.better) == (outcome, "higher")
    assert compare(many, few, better={}).ratios == ()


@pytest.mark.parametrize("values", [(1e308, 1e-308), (1e-308, 1e308), (1e308, 1e308), (5e-324, 1.0)])
def test_numbers_that_overflow_are_left_out(values: tuple[float, float]) -> None:
    """They may stand in the results of an earlier version."""
    boots = [[{**boot(100.0), "interference": value}] * 4 for value in values]
    comparison = compare_pair(*boots)
    assert "interference" not in {each.metric for each in comparison.ratios}
    assert len(comparison.ratios) == 3
