# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.stats import _mann_whitney_counts, median, ratio_interval, wilson_interval

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
    [([], [1.0]), ([1.0], []), ([0.0], [1.0]), ([1.0], [-1.0]), ([math.nan], [1.0]), ([1.0], [math.inf])],
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
