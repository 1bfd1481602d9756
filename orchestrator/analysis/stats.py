# SPDX-License-Identifier: GPL-2.0-only
"""Small-sample statistics for numbers of which each comes from one boot.

Boots are few and their latencies are not normal, so nothing here assumes a distribution: the interval of a
ratio comes from counting orders (Mann-Whitney), not from a variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from statistics import median as _median

import msgspec


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The ratio a/b of two groups of boots.

    ``low`` and ``high`` are ``None`` where there are too few boots for the confidence asked for; then
    ``confidence_actual`` is ``None`` too. Otherwise it is what the exact distribution really gives, at least
    what was asked for (``0.9`` means 90 %).
    """

    estimate: float
    low: float | None
    high: float | None
    confidence_actual: float | None
    n_a: int
    n_b: int


def median(values: Sequence[float]) -> float:
    """The median; of an even number the mean of the middle two.

    :raises ValueError: on no values.
    """
    if not values:
        raise ValueError("the median of no values")
    return float(_median(values))


def ratio_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.90) -> Ratio:
    """Estimate and interval of the ratio of typical values a/b.

    The estimate is Hodges and Lehmann's on the log scale: the median of all pairwise ratios. The interval
    runs between order statistics of these, chosen from the exact null distribution of Mann and Whitney's U
    (Hollander, Wolfe and Chicken, *Nonparametric Statistical Methods*, on the two-sample location problem).
    With 3 against 3 at 90 % it is the smallest and the largest pairwise ratio; fewer give no interval. Ties
    make it wider than need be, never too narrow.

    :param a: one positive number for each boot; likewise ``b``.
    :raises ValueError: an empty group, a value that is not positive and finite, a confidence outside (0, 1).
    """
    if not a or not b:
        raise ValueError("a ratio needs at least one value on each side")
    if not all(math.isfinite(value) and value > 0 for value in (*a, *b)):
        raise ValueError("a ratio needs positive, finite values")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    differences = sorted(x - y for x in logs_a for y in logs_b)
    estimate = math.exp(median(differences))
    rank, actual = _rank(len(a), len(b), confidence)
    if rank == 0:
        return Ratio(estimate=estimate, low=None, high=None, confidence_actual=None, n_a=len(a), n_b=len(b))
    return Ratio(
        estimate=estimate,
        low=math.exp(differences[rank - 1]),
        high=math.exp(differences[-rank]),
        confidence_actual=actual,
        n_a=len(a),
        n_b=len(b),
    )


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a failure rate: ``k`` failures in ``n`` tries.

    Unlike k/n ± something it stays within 0…1 and says something useful at k = 0 (E. B. Wilson, 1927).
    No tries say nothing: (0, 1).

    :raises ValueError: ``k`` outside 0…``n``, or a confidence outside (0, 1).
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} failures in {n} tries")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = k / n
    middle = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At both ends the exact value is 0 or 1; rounding must not say otherwise.
    low = 0.0 if k == 0 else (middle - half) / scale
    high = 1.0 if k == n else (middle + half) / scale
    return low, high


@lru_cache(maxsize=256)
def _rank(m: int, n: int, confidence: float) -> tuple[int, float]:
    """Which order statistic (from 1) bounds the interval, and its confidence; 0 if none does."""
    # As written, not as stored: 1 - 0.9 in binary is a little less than 0.1, and 3 v 3 needs exactly 0.1.
    tail = (1 - Fraction(str(confidence))) / 2
    total = math.comb(m + n, m)
    below, rank = 0, 0
    for count in _mann_whitney_counts(m, n):
        if Fraction(below + count, total) > tail:
            break
        below += count
        rank += 1
    return rank, float(1 - 2 * Fraction(below, total))


@lru_cache(maxsize=64)
def _mann_whitney_counts(m: int, n: int) -> tuple[int, ...]:
    """Of all orders of m and n values, how many have U = 0, 1, … m·n/2: the coefficients of a q-binomial."""
    top = m * n // 2
    counts = [1] + [0] * top
    for i in range(1, m + 1):
        step = n + i
        for u in range(top, step - 1, -1):  # times 1 - q^(n+i)
            counts[u] -= counts[u - step]
        for u in range(i, top + 1):  # divided by 1 - q^i
            counts[u] += counts[u - i]
    return tuple(counts)
