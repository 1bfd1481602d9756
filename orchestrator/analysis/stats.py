# SPDX-License-Identifier: GPL-2.0-only
"""Small-sample statistics; each number comes from one boot.

Boots are few and their latencies are not normal, so nothing here assumes a distribution. Intervals come from
counting orders (Mann-Whitney) or from the bootstrap, decisions from the side of a midpoint that a boot is on.

numpy and scipy are imported where they are used: the import takes a second, which other commands do not pay.
"""

from __future__ import annotations

import enum
import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from statistics import median as _median
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: The same boots always give the same figures.
_SEED = 1
#: No figure that a benchmark measures is larger, or smaller than its inverse.
_LARGEST = 1e150
#: With fewer boots of an end its share beyond the midpoint means nothing: they determine the midpoint.
_FEWEST = 4


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The ratio a/b of two groups of boots.

    ``low`` and ``high`` are ``None`` where there are too few boots for the requested confidence; then
    ``confidence_actual`` is ``None`` too. Otherwise it is the confidence of the exact distribution, at least
    the requested one (``0.9`` means 90 %).
    """

    estimate: float
    low: float | None
    high: float | None
    confidence_actual: float | None
    n_a: int
    n_b: int

    @property
    def interval(self) -> str:
        """Text to print after the estimate: `` [0.48 .. 0.57]``, or nothing."""
        return "" if self.low is None or self.high is None else f" [{self.low:.2f} .. {self.high:.2f}]"


class Says(enum.StrEnum):
    """What the interval of a ratio a/b shows about a."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference shown"
    FEW = "too few boots"


def says(ratio: Ratio, better: str) -> Says:
    """What a ratio shows.

    :param better: which values are better: ``lower`` or ``higher``.
    """
    if ratio.low is None or ratio.high is None:
        return Says.FEW
    if ratio.low <= 1 <= ratio.high:
        return Says.SAME
    return Says.BETTER if (ratio.high < 1) == (better == "lower") else Says.WORSE


class Like(enum.StrEnum):
    """Which end a candidate is like, as far as its boots show."""

    GOOD = "good"
    BAD = "bad"
    MORE = "more"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate's boots show.

    ``odds`` is the likelihood ratio of the bad end to the good one, and
    ``beyond`` how many of them are on the bad end's side of ``midpoint``. ``to_good`` and ``to_bad`` are
    the effect (:func:`ratio_interval`: two boots can have one), ``None`` without boots of the candidate.
    """

    like: Like
    odds: float
    midpoint: float
    beyond: int
    to_good: Ratio | None
    to_bad: Ratio | None


def usable(value: float) -> bool:
    """Whether a number can be part of a ratio: positive, and so near 1 that no ratio or sum overflows."""
    return 1 / _LARGEST <= value <= _LARGEST


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
    :raises ValueError: an empty group, a value that is not `usable`, a confidence outside (0, 1).
    """
    _check_positive(a, b, confidence)
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


def median_ratio(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The ratio of medians a/b, with a bootstrap interval over the boots of each side.

    The interval is bias-corrected and accelerated (Efron, 1987) where that is defined, else of percentiles;
    with constant boots it has no width. ``confidence_actual`` is the requested one. With few boots, or many
    ties, the real one is lower; :func:`ratio_interval` is exact. Fewer than three on one side
    give no interval.

    :param a: one positive number for each boot; likewise ``b``.
    :raises ValueError: an empty group, a value that is not `usable`, a confidence outside (0, 1).
    """
    import numpy as np
    from scipy.stats import bootstrap

    _check_positive(a, b, confidence)
    estimate = median(a) / median(b)
    nothing = Ratio(estimate=estimate, low=None, high=None, confidence_actual=None, n_a=len(a), n_b=len(b))
    if min(len(a), len(b)) < 3:
        return nothing

    def ratio(x: Floats, y: Floats, axis: int = -1) -> Floats:
        quotient: Floats = np.median(x, axis=axis) / np.median(y, axis=axis)
        return quotient

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # scipy warns about degenerate data, and returns NaN
            warnings.simplefilter("ignore")
            interval = bootstrap(
                (np.asarray(a, float), np.asarray(b, float)),
                ratio,
                method=method,
                confidence_level=confidence,
                n_resamples=4999,
                rng=np.random.default_rng(_SEED),
            ).confidence_interval
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            break
    return msgspec.structs.replace(
        nothing, low=float(interval.low), high=float(interval.high), confidence_actual=confidence
    )


def decide(
    good: Sequence[float], bad: Sequence[float], candidate: Sequence[float], *, error: float = 0.03
) -> Decision:
    """Whether a candidate's metric is like that of the good or of the bad end, or more boots are needed.

    Call it after each boot of the candidate, best with new boots of the ends in between: where the ends
    overlap, their shares must be known as well. Each value counts only by its side of the geometric mean of
    the ends' medians, so no outlier weighs more than one boot. The share beyond that midpoint is integrated
    over for either end, given its boots (Jeffreys' prior). The decision falls when one end explains the
    candidate's boots 1/``error`` times better than the other. This is a sequential test of Wald's kind: if
    the ends really differ, the probability of the wrong end is at most ``error``, however often it is called
    (Ville). A candidate that is like neither end may never be decided; the caller must limit the boots.

    :param good: one positive number for each boot; likewise ``bad``. With fewer than four values the result
        is ``more``.
    :param error: probability of a wrong decision.
    :raises ValueError: an empty end, ends with one median, a value that is not `usable`.
    """
    _check_positive(good, bad, 1 - error)
    if not all(map(usable, candidate)):
        raise ValueError("a decision needs positive, finite values")
    midpoint = math.sqrt(median(good) * median(bad))
    sign = math.copysign(1.0, median(bad) - median(good))
    if median(bad) == median(good):
        raise ValueError("the ends have the same median: nothing to decide between")

    def beyond(values: Sequence[float]) -> int:
        return sum((value - midpoint) * sign > 0 for value in values)

    n_beyond, boots = beyond(candidate), len(candidate)
    odds = math.exp(
        _log_predictive(n_beyond, boots, beyond(bad), len(bad))
        - _log_predictive(n_beyond, boots, beyond(good), len(good))
    )
    like = Like.MORE
    if min(len(good), len(bad)) >= _FEWEST:
        like = Like.BAD if odds >= 1 / error else Like.GOOD if odds <= error else Like.MORE
    return Decision(
        like=like,
        odds=odds,
        midpoint=midpoint,
        beyond=n_beyond,
        to_good=ratio_interval(candidate, good) if candidate else None,
        to_bad=ratio_interval(candidate, bad) if candidate else None,
    )


def _log_predictive(n_beyond: int, boots: int, n_beyond_before: int, boots_before: int) -> float:
    """Logarithm of the probability of these boots in this order, after others, at an unknown rate."""

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    a, b = n_beyond_before + 0.5, boots_before - n_beyond_before + 0.5
    return log_beta(a + n_beyond, b + boots - n_beyond) - log_beta(a, b)


def _check_positive(a: Sequence[float], b: Sequence[float], confidence: float) -> None:
    if not a or not b:
        raise ValueError("a ratio needs at least one value on each side")
    if not all(map(usable, (*a, *b))):
        raise ValueError("a ratio needs positive, finite values")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")


def poisson_tail(count: float, expected: float) -> float:
    """The probability of at least ``count`` events where ``expected`` are expected (Poisson, exact)."""
    if count <= 0:
        return 1.0
    from scipy.special import gammainc

    # the regularised lower gamma function (NIST DLMF 8.4.10)
    return float(gammainc(count, expected))


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a failure rate: ``k`` failures in ``n`` tries.

    Unlike the normal interval it stays within 0…1 and is useful at k = 0 (E. B. Wilson, 1927).
    Without tries it is (0, 1).

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
    # at both ends the exact value is 0 or 1, whatever the rounding gives
    low = 0.0 if k == 0 else (middle - half) / scale
    high = 1.0 if k == n else (middle + half) / scale
    return low, high


@lru_cache(maxsize=256)
def _rank(m: int, n: int, confidence: float) -> tuple[int, float]:
    """Which order statistic (from 1) bounds the interval, and its confidence; 0 if none does."""
    # the decimal, not the float: 1 - 0.9 is a little less than 0.1 in binary, and 3 v 3 needs exactly 0.1
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
