# SPDX-License-Identifier: GPL-2.0-only
"""Compare a benchmark's numbers with and without per-VMA locks, one sample a boot (design §4, rule 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from orchestrator.analysis import stats
from orchestrator.analysis.stats import Ratio, Says, median, ratio_interval, says


class Outcome(StrEnum):
    """What the interval of a ratio, without over with, shows."""

    BETTER = f"{Says.BETTER} with per-VMA locks"
    WORSE = f"{Says.WORSE} with per-VMA locks"
    NO_DIFFERENCE = Says.SAME
    TOO_FEW = Says.FEW


#: The ratio is about its numerator, the kernel without.
_OUTCOMES = {
    Says.BETTER: Outcome.WORSE,
    Says.WORSE: Outcome.BETTER,
    Says.SAME: Outcome.NO_DIFFERENCE,
    Says.FEW: Outcome.TOO_FEW,
}


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one variant over the ``n`` boots that have it."""

    median: float
    low: float
    high: float
    n: int


class MetricRatio(msgspec.Struct, frozen=True, kw_only=True):
    """One metric, without per-VMA locks over with them: 2.0 means that they halve it.

    ``better`` is ``lower`` or ``higher``.
    """

    metric: str
    better: str = "lower"
    ratio: Ratio
    outcome: Outcome


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two variants side by side.

    ``boots_with`` and ``boots_without`` count the boots that were used; ``discarded`` names every other
    boot. It gave no numbers; neither does a disturbed one.
    ``ratios`` are in the order of the request, without metrics that one side lacks.
    ``notes`` are sentences for the report.
    """

    boots_with: int
    boots_without: int
    discarded: tuple[str, ...]
    interference_with: Spread | None
    interference_without: Spread | None
    ratios: tuple[MetricRatio, ...]
    notes: tuple[str, ...]


def compare_pair(
    with_: Sequence[Mapping[str, float]],
    without: Sequence[Mapping[str, float]],
    *,
    better: Mapping[str, str],
    confidence: float = 0.90,
) -> Comparison:
    """Compare the boots of a kernel with per-VMA locks and of one without.

    :param with_: the suite's metrics of each boot; empty if it could not be judged. Likewise ``without``.
    :param better: the metrics to compare; for each whether ``lower`` or ``higher`` is better.
    """
    used_with, dropped_with = _split_boots("with", with_)
    used_without, dropped_without = _split_boots("without", without)
    ratios = tuple(
        _metric_ratio(metric, way, above, below, confidence)
        for metric, way in better.items()
        if (above := usable(used_without, metric)) and (below := usable(used_with, metric))
    )
    discarded = dropped_with + dropped_without
    notes = []
    if discarded:
        notes.append(f"{len(discarded)} of {len(with_) + len(without)} boots discarded")
    if not ratios:
        notes.append("nothing to compare: no usable boot on one side")
    elif any(each.outcome is Outcome.TOO_FEW for each in ratios):
        notes.append(
            f"{len(used_with)} boots with and {len(used_without)} without are too few "
            f"for an interval at {confidence:.0%}"
        )
    return Comparison(
        boots_with=len(used_with),
        boots_without=len(used_without),
        discarded=discarded,
        interference_with=_spread(usable(used_with, "interference")),
        interference_without=_spread(usable(used_without, "interference")),
        ratios=ratios,
        notes=tuple(notes),
    )


def _split_boots(
    variant: str, boots: Sequence[Mapping[str, float]]
) -> tuple[list[Mapping[str, float]], tuple[str, ...]]:
    dropped = (f"boot {n} {variant}: no valid sample" for n, boot in enumerate(boots, start=1) if not boot)
    return [boot for boot in boots if boot], tuple(dropped)


def usable(boots: Sequence[Mapping[str, float]], metric: str) -> list[float]:
    """The values of a metric that can be part of a ratio."""
    values = (boot.get(metric, 0.0) for boot in boots)
    return [value for value in values if stats.usable(value)]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(median=median(values), low=min(values), high=max(values), n=len(values))


def _metric_ratio(
    metric: str, better: str, without: Sequence[float], with_: Sequence[float], confidence: float
) -> MetricRatio:
    ratio = ratio_interval(without, with_, confidence)
    return MetricRatio(metric=metric, better=better, ratio=ratio, outcome=_OUTCOMES[says(ratio, better)])
