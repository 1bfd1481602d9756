# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.stats import (
    Like,
    Ratio,
    _mann_whitney_counts,
    decide,
    median,
    median_ratio,
    poisson_tail,
    ratio_interval,
    says,
    wilson_interval,
)

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)
BOOTS = st.lists(POSITIVE, min_size=1, max_size=8)


def test_median() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        median([])


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 4), (2, 3), (3, 3), (4, 3), (4, 5)])
def test_the_null_distribution_is_that_of_all_orders(m: int, n: int) -> None:
    """Counted by hand: every way to choose which of m + n ranks are a's."""
    seen: Counter[int] = Counter()
    for ranks in itertools.combinations(range(m + n), m):
        seen[sum(rank - i for i, rank in enumerate(ranks))] += 1
    assert _mann_whitney_counts(m, n) == tuple(seen[u] for u in range(m * n // 2 + 1))


def test_three_against_three_at_90_percent_is_the_whole_range() -> None:
    ratio = ratio_interval([10, 12, 14], [2, 3, 4], 0.90)
    assert ratio.low == pytest.approx(10 / 4)
    assert ratio.high == pytest.approx(14 / 2)
    assert ratio.confidence_actual == pytest.approx(0.90)
    assert (ratio.n_a, ratio.n_b) == (3, 3)
    assert ratio.estimate == pytest.approx(4)  # the fifth of 2.5, 3, 3.33, 3.5, 4, 4.67, 5, 6, 7


def test_five_against_five_at_95_percent() -> None:
    """The third order statistic from either end: P(U <= 2) = 4/252 (any table of Mann-Whitney's U)."""
    a, b = [1.0, 2, 4, 8, 16], [1.0, 3, 9, 27, 81]
    pairwise = sorted(x / y for x in a for y in b)
    ratio = ratio_interval(a, b, 0.95)
    assert ratio.low == pytest.approx(pairwise[2])
    assert ratio.high == pytest.approx(pairwise[-3])
    assert ratio.confidence_actual == pytest.approx(1 - 8 / 252)


@pytest.mark.parametrize(
    ("n_a", "n_b", "confidence"), [(1, 1, 0.5), (2, 2, 0.9), (2, 3, 0.9), (1, 18, 0.9), (3, 3, 0.91)]
)
def test_too_few_boots_give_no_interval(n_a: int, n_b: int, confidence: float) -> None:
    ratio = ratio_interval([2.0] * n_a, [1.0] * n_b, confidence)
    assert ratio.estimate == pytest.approx(2)
    assert (ratio.low, ratio.high, ratio.confidence_actual) == (None, None, None)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], [1.0]),
        ([1.0], []),
        ([0.0], [1.0]),
        ([1.0], [-1.0]),
        ([math.nan], [1.0]),
        ([1.0], [math.inf]),
        ([1e308], [1e-308]),
    ],
)
def test_what_has_no_ratio(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="a ratio needs"):
        ratio_interval(a, b)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, -0.1])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        ratio_interval([1.0], [1.0], confidence)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        wilson_interval(1, 2, confidence)


@given(BOOTS, BOOTS)
def test_interval_holds_the_estimate_and_keeps_its_promise(a: list[float], b: list[float]) -> None:
    ratio = ratio_interval(a, b)
    if ratio.low is None:
        assert ratio.high is None
        return
    assert ratio.high is not None
    assert ratio.confidence_actual is not None
    assert ratio.low <= ratio.estimate <= ratio.high
    assert ratio.confidence_actual >= 0.9


@given(BOOTS, BOOTS, st.floats(min_value=1e-3, max_value=1e3))
def test_scaling_one_side_scales_the_ratio(a: list[float], b: list[float], factor: float) -> None:
    plain, scaled = ratio_interval(a, b), ratio_interval([x * factor for x in a], b)
    assert scaled.estimate == pytest.approx(plain.estimate * factor, rel=1e-6)
    if plain.low is not None and plain.high is not None:
        assert scaled.low == pytest.approx(plain.low * factor, rel=1e-6)
        assert scaled.high == pytest.approx(plain.high * factor, rel=1e-6)
    else:
        assert scaled.low is None


@given(BOOTS, BOOTS)
def test_swapping_sides_gives_the_inverse(a: list[float], b: list[float]) -> None:
    one, other = ratio_interval(a, b), ratio_interval(b, a)
    assert other.estimate == pytest.approx(1 / one.estimate, rel=1e-6)
    if one.low is not None and one.high is not None:
        assert other.low == pytest.approx(1 / one.high, rel=1e-6)
        assert other.high == pytest.approx(1 / one.low, rel=1e-6)
        assert other.confidence_actual == one.confidence_actual


@pytest.mark.parametrize(("n_a", "n_b", "confidence"), [(3, 3, 0.90), (5, 4, 0.90), (10, 10, 0.95)])
def test_coverage(n_a: int, n_b: int, confidence: float) -> None:
    """As often as it says the interval holds the true ratio: here of skewed (log-normal) latencies."""
    rng = random.Random(20251120)
    rounds, true, hits, actual = 2000, 3.0, 0, 0.0
    for _ in range(rounds):
        a = [true * rng.lognormvariate(0, 0.5) for _ in range(n_a)]
        b = [rng.lognormvariate(0, 0.5) for _ in range(n_b)]
        ratio = ratio_interval(a, b, confidence)
        assert ratio.low is not None
        assert ratio.high is not None
        hits += ratio.low <= true <= ratio.high
        actual = ratio.confidence_actual or 0.0
    # Four standard errors of the count.
    assert hits / rounds == pytest.approx(actual, abs=4 * math.sqrt(actual * (1 - actual) / rounds))


def test_wilson_against_published_values() -> None:
    # R: prop.test(3, 200, correct = FALSE); Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (k, n), (low, high) in published.items():
        assert wilson_interval(k, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_stays_in_bounds_and_is_symmetric(failures: int, passes: int) -> None:
    n = failures + passes
    low, high = wilson_interval(failures, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= failures / n <= high
    other_low, other_high = wilson_interval(passes, n)
    assert (other_low, other_high) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_refuses_what_cannot_be(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="failures in"):
        wilson_interval(k, n)


# --- ratio of medians, decisions


def test_the_bootstrap_brackets_the_ratio_of_medians() -> None:
    rng = random.Random(1)
    a = [14 * math.exp(rng.gauss(0, 0.1)) for _ in range(12)]
    b = [10 * math.exp(rng.gauss(0, 0.1)) for _ in range(12)]
    found = median_ratio(a, b)
    assert found.estimate == median(a) / median(b)
    assert found.low is not None
    assert found.high is not None
    assert 1.2 < found.low < found.estimate < found.high < 1.7
    assert (found.n_a, found.n_b, found.confidence_actual) == (12, 12, 0.95)
    assert median_ratio(a, b) == found  # no chance in it
    narrow = median_ratio(a, b, 0.5)
    assert narrow.low is not None
    assert found.low < narrow.low


def test_constant_boots_have_an_interval_without_width() -> None:
    """scipy's BCa answers NaN for them, with a warning."""
    found = median_ratio([3.0] * 4, [2.0] * 5)
    assert (found.low, found.estimate, found.high) == (1.5, 1.5, 1.5)


def test_two_boots_have_no_interval() -> None:
    found = median_ratio([3.0, 4], [1.0, 2, 3])
    assert (found.estimate, found.low, found.high, found.confidence_actual) == (1.75, None, None, None)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, hits = random.Random(2), 0
    for _ in range(60):
        a, b = ([scale * math.exp(rng.gauss(0, 0.3)) for _ in range(15)] for scale in (1.3, 1.0))
        found = median_ratio(a, b, 0.9)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.3 <= found.high
    assert hits >= 48


@pytest.mark.parametrize("function", [median_ratio, ratio_interval])
def test_a_ratio_of_what_has_none(function: Callable[..., object]) -> None:
    for a, b, confidence in (
        ([], [1.0], 0.9),
        ([1.0], [0.0], 0.9),
        ([math.inf], [1.0], 0.9),
        ([1.0], [1.0], 1),
    ):
        with pytest.raises(ValueError, match=r"ratio|confidence"):
            function(a, b, confidence)


GOOD, BAD = [10.0, 10.5, 9.8, 10.2, 10.1], [14.0, 14.5, 13.7, 14.2, 14.9]


@pytest.mark.parametrize(("good", "bad"), [(GOOD, BAD), (BAD, GOOD)], ids=["slower", "less throughput"])
def test_a_clear_candidate_is_decided_in_few_boots(good: list[float], bad: list[float]) -> None:
    assert decide(good, bad, []).like is Like.MORE
    assert decide(good, bad, [bad[0]]).like is Like.MORE
    like_bad = decide(good, bad, bad[:2])
    assert (like_bad.like, like_bad.beyond) == (Like.BAD, 2)
    assert like_bad.odds > 1 / 0.03
    like_good = decide(good, bad, good[:2])
    assert (like_good.like, like_good.beyond) == (Like.GOOD, 0)
    assert like_good.odds < 0.03
    assert like_good.midpoint == pytest.approx(math.sqrt(10.1 * 14.2))
    assert like_good.to_good
    assert like_good.to_good.estimate == pytest.approx(1, rel=0.05)
    assert like_good.to_bad
    assert like_good.to_bad.estimate == pytest.approx(median(good) / median(bad), rel=0.05)
    # two boots decide against five, and have an interval too
    assert like_good.to_bad.interval


def test_one_outlier_weighs_no_more_than_one_boot() -> None:
    assert decide(GOOD, BAD, [10.0, 10.1, 900.0]).odds == decide(GOOD, BAD, [10.0, 10.1, 14.0]).odds
    assert decide(GOOD, BAD, [10.0, 10.1, 900.0]).like is Like.MORE
    assert decide(GOOD, BAD, [10.0, 10.1, 900.0, 9.9, 10.2, 10.1, 10.0]).like is Like.GOOD


def test_a_smaller_error_takes_more_boots() -> None:
    assert decide(GOOD, BAD, BAD[:2], error=0.001).like is Like.MORE
    assert decide(GOOD, BAD, [*BAD, *BAD], error=0.001).like is Like.BAD


def test_ends_of_few_boots_decide_nothing() -> None:
    assert decide(GOOD[:3], BAD, BAD).like is Like.MORE
    assert decide(GOOD, BAD[:3], GOOD).like is Like.MORE


def test_what_cannot_be_decided() -> None:
    for good, bad, candidate in ((GOOD, [], GOOD), (GOOD, GOOD, GOOD), (GOOD, BAD, [0.0]), ([-1.0], BAD, [])):
        with pytest.raises(ValueError, match=r"ratio|same median|decision"):
            decide(good, bad, candidate)


@pytest.mark.parametrize("noise", ["narrow", "wide", "heavy tails", "two humps"])
def test_decisions_are_as_often_wrong_as_stated(noise: str) -> None:
    """40 % worse, looked at after each of interleaved boots: at most 3 % wrong (within chance, of 400)."""
    rng = random.Random(noise)
    draw: dict[str, Callable[[], float]] = {
        "narrow": lambda: math.exp(rng.gauss(0, 0.1)),
        "wide": lambda: math.exp(rng.gauss(0, 0.25)),
        "heavy tails": lambda: math.exp(0.15 * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1, 1))),
        "two humps": lambda: (2 if rng.random() < 0.2 else 1) * math.exp(rng.gauss(0, 0.1)),
    }
    wrong = undecided = 0
    for trial in range(400):
        good, bad, candidate = ([scale * draw[noise]() for _ in range(4)] for scale in (1.0, 1.4, 1.0))
        scale, truth = ((1.0, Like.GOOD), (1.4, Like.BAD))[trial % 2]
        candidate = []
        found = Like.MORE
        while found is Like.MORE and len(candidate) < 60:
            for boots, level in ((good, 1.0), (bad, 1.4), (candidate, scale)):
                boots.append(level * draw[noise]())
            found = decide(good, bad, candidate).like
        wrong += found not in (truth, Like.MORE)
        undecided += found is Like.MORE
    assert wrong <= 400 * 0.03 + 2 * math.sqrt(400 * 0.03)
    assert undecided <= 20


@pytest.mark.parametrize(
    ("low", "high", "better", "said"),
    [
        (1.1, 1.3, "lower", "worse"),
        (1.1, 1.3, "higher", "better"),
        (0.7, 0.9, "lower", "better"),
        (0.7, 0.9, "higher", "worse"),
        (0.9, 1.1, "lower", "no difference shown"),
        (None, None, "lower", "too few boots"),
    ],
)
def test_which_way_is_better(low: float | None, high: float | None, better: str, said: str) -> None:
    ratio = Ratio(estimate=1.0, low=low, high=high, confidence_actual=None, n_a=5, n_b=5)
    assert says(ratio, better) == said


@given(st.lists(st.floats(min_value=1e-150, max_value=1e150), min_size=4, max_size=6))
def test_figures_of_any_size_have_finite_ratios(values: list[float]) -> None:
    found = ratio_interval(values, values[::-1])
    assert all(math.isfinite(number) for number in (found.estimate, found.low or 0.0, found.high or 0.0))


@pytest.mark.parametrize(
    ("count", "expected", "tail"), [(0, 0, 1), (0, 5, 1), (1, 0, 0), (1, 1, 1 - math.exp(-1)), (3, 2, 0.3233)]
)
def test_the_tail_of_a_poisson_count(count: float, expected: float, tail: float) -> None:
    assert poisson_tail(count, expected) == pytest.approx(tail, abs=1e-4)
