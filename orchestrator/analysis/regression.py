# SPDX-License-Identifier: GPL-2.0-only
"""Compare two sides, each the cells of one kernel: which cases changed, and which metrics."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from orchestrator.analysis.compare import usable
from orchestrator.analysis.stats import Ratio, Says, median, ratio_interval, says
from orchestrator.results.model import AT_FAULT, CellResult, Verdict

#: A change of a metric that is smaller is not worth a reader's time, however certain.
EFFECT = 0.05
#: Share of false alarms among the metrics that are called better or worse.
FALSE_DISCOVERY = 0.05
#: A failure rate has changed if equal rates give such counts less often than this.
_RATE_LEVEL = 0.05
_CONFIDENCE = 0.95
#: The same boots always give the same figures.
_SEED = 1

_FAILED = AT_FAULT | {Verdict.KNOWN}

#: Where a value belongs: arch and variant, or those of them that the two sides share.
Place = tuple[str, ...]


class CaseChange(enum.StrEnum):
    """How a case differs between the sides, the gravest first."""

    NEWLY_FAILING = "newly failing"
    MORE_OFTEN = "fails more often"
    VANISHED = "vanished"
    NOT_JUDGED = "no longer judged"
    STILL_FAILING = "still failing"
    FLAKY = "flaky on both sides"
    LESS_OFTEN = "fails less often"
    NEWLY_PASSING = "newly passing"
    NEW = "new"


#: The changes of a case that are regressions.
REGRESSIONS = frozenset((CaseChange.NEWLY_FAILING, CaseChange.MORE_OFTEN))


class MetricChange(enum.StrEnum):
    """What the boots show of a metric, the gravest first."""

    WORSE = "worse"
    PERHAPS_WORSE = "perhaps worse"
    FEW = "too few boots"
    UNDECIDED = "no difference shown"
    SAME = "same within the effect that matters"
    PERHAPS_BETTER = "perhaps better"
    BETTER = "better"


class CaseCount(msgspec.Struct, frozen=True, kw_only=True):
    """The boots of one side in which a case passed, failed, or was not judged."""

    passed: int = 0
    failed: int = 0
    known: int = 0
    unjudged: int = 0
    reason: str = ""

    @property
    def judged(self) -> int:
        """The boots in which it passed or failed."""
        return self.passed + self.failed

    def __str__(self) -> str:
        if not self.judged:
            return "not judged" if self.unjudged else "absent"
        return f"{self.failed} of {self.judged} failed" + (", known" if self.known else "")


class CaseDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A case whose results differ, or that fails on both sides. ``reason`` is that of its last failure."""

    place: Place
    case: str
    change: CaseChange
    base: CaseCount
    new: CaseCount
    reason: str = ""


class MetricDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of both sides.

    ``base`` and ``new`` are medians over boots, ``ratio`` is new over base. ``p`` is that of the rank
    test, ``q`` the same after control of false discoveries over all metrics of the comparison. ``boots`` is
    how many a side could decide, 0 unless the change is a ``PERHAPS``.
    """

    place: Place
    suite: str
    metric: str
    better: str
    base: float
    new: float
    ratio: Ratio
    p: float
    q: float
    change: MetricChange
    boots: int = 0


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two sides, and how many cases and metrics were compared."""

    cases: tuple[CaseDifference, ...]
    metrics: tuple[MetricDifference, ...]
    unchanged: int
    places: tuple[Place, ...]

    @property
    def regressions(self) -> tuple[CaseDifference | MetricDifference, ...]:
        """The cases that newly fail or fail more often, and the metrics that are worse."""
        return (
            *(case for case in self.cases if case.change in REGRESSIONS),
            *(metric for metric in self.metrics if metric.change is MetricChange.WORSE),
        )


def difference(
    base: Mapping[Place, Sequence[CellResult]],
    new: Mapping[Place, Sequence[CellResult]],
    *,
    effect: float = EFFECT,
) -> Difference:
    """Compare two sides place by place; a place that one of them lacks is left out.

    :param base: the cells of each place; likewise ``new``.
    :param effect: the least change of a metric that matters: 0.05 is 5 %.
    """
    places = tuple(place for place in base if place in new)
    cases: list[CaseDifference] = []
    unchanged = 0
    for place in places:
        changed, same = _case_differences(place, base[place], new[place])
        cases += changed
        unchanged += same
    order = list(CaseChange)
    return Difference(
        cases=tuple(sorted(cases, key=lambda case: order.index(case.change))),
        metrics=_metric_differences(places, base, new, effect),
        unchanged=unchanged,
        places=places,
    )


def _case_differences(
    place: Place, base: Sequence[CellResult], new: Sequence[CellResult]
) -> tuple[list[CaseDifference], int]:
    """The changed cases of a place, and the number of unchanged ones."""
    before, after = _counts(base), _counts(new)
    failing = {case for case, count in after.items() if count.failed}
    differences, unchanged = [], 0
    for case in dict.fromkeys((*after, *before)):
        old, now = before.get(case, CaseCount()), after.get(case, CaseCount())
        change = _change(old, now)
        if change is CaseChange.VANISHED and any(case.startswith(f"{above}/") for above in failing):
            # its program crashed: that failure speaks for it
            continue
        if change is None:
            unchanged += 1
        else:
            reason = now.reason or old.reason
            differences.append(
                CaseDifference(place=place, case=case, change=change, base=old, new=now, reason=reason)
            )
    return differences, unchanged


def _counts(cells: Iterable[CellResult]) -> dict[str, CaseCount]:
    verdicts: dict[str, Counter[Verdict]] = {}
    reasons: dict[str, str] = {}
    for cell in cells:
        for case in cell.all_cases():
            verdicts.setdefault(case.id, Counter())[case.verdict] += 1
            if case.verdict is not Verdict.PASS:
                reasons[case.id] = case.reason
    return {
        case: CaseCount(
            passed=count[Verdict.PASS],
            failed=sum(count[verdict] for verdict in _FAILED),
            known=count[Verdict.KNOWN],
            unjudged=count.total() - count[Verdict.PASS] - sum(count[verdict] for verdict in _FAILED),
            reason=reasons.get(case, ""),
        )
        for case, count in verdicts.items()
    }


def _change(base: CaseCount, new: CaseCount) -> CaseChange | None:
    """How a case changed; ``None`` if it did not."""
    present = base.judged + base.unjudged, new.judged + new.unjudged
    if new.failed > new.known and not base.failed:
        return CaseChange.NEWLY_FAILING
    if not present[1]:
        return CaseChange.VANISHED if base.passed else None
    if not present[0]:
        return CaseChange.NEW
    if not new.judged or not base.judged:
        return CaseChange.NOT_JUDGED if base.judged else None
    if not base.failed and not new.failed:
        return None
    if base.known == base.failed and new.failed > new.known:
        return CaseChange.NEWLY_FAILING
    if not base.passed and not new.failed:
        return CaseChange.NEWLY_PASSING
    if _rate_p(new, base) < _RATE_LEVEL:
        return CaseChange.MORE_OFTEN
    if _rate_p(base, new) < _RATE_LEVEL:
        return CaseChange.NEWLY_PASSING if not new.failed else CaseChange.LESS_OFTEN
    return CaseChange.FLAKY if base.passed or new.passed else CaseChange.STILL_FAILING


def _rate_p(more: CaseCount, less: CaseCount) -> float:
    """Fisher's exact probability that ``more`` fails so much more often by chance."""
    from scipy.stats import fisher_exact

    table = [[more.failed, more.passed], [less.failed, less.passed]]
    return float(fisher_exact(table, alternative="greater").pvalue)


class _Samples(msgspec.Struct, frozen=True, kw_only=True):
    place: Place
    suite: str
    metric: str
    better: str
    base: list[float]
    new: list[float]


def _metric_differences(
    places: Iterable[Place],
    base: Mapping[Place, Sequence[CellResult]],
    new: Mapping[Place, Sequence[CellResult]],
    effect: float,
) -> tuple[MetricDifference, ...]:
    samples = [each for place in places for each in _samples(place, base[place], new[place])]
    if not samples:
        return ()
    from scipy.stats import false_discovery_control

    p_values = [_rank_p(each.new, each.base) for each in samples]
    q_values = [float(q) for q in false_discovery_control(p_values)]
    return tuple(
        _metric_difference(each, p, q, effect, len(samples))
        for each, p, q in zip(samples, p_values, q_values, strict=True)
    )


def _samples(place: Place, base: Sequence[CellResult], new: Sequence[CellResult]) -> list[_Samples]:
    better: dict[tuple[str, str], str] = {}
    for cell in (*base, *new):
        for suite in cell.suites:
            better |= {(suite.suite, metric): way for metric, way in suite.better.items()}
    return [
        _Samples(place=place, suite=suite, metric=metric, better=way, base=at_base, new=at_new)
        for (suite, metric), way in better.items()
        if (at_base := _boots(base, suite, metric)) and (at_new := _boots(new, suite, metric))
    ]


def _boots(cells: Sequence[CellResult], suite: str, metric: str) -> list[float]:
    return usable([each.metrics for cell in cells for each in cell.suites if each.suite == suite], metric)


def _rank_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact probability of ranks so different if boots were exchanged (Mann and Whitney, two-sided)."""
    import numpy as np
    from scipy.stats import mannwhitneyu, permutation_test, rankdata

    values = (*a, *b)
    if len(set(values)) == len(values):
        return float(mannwhitneyu(a, b, method="exact").pvalue)
    if min(len(a), len(b)) < 2:
        # equal values, and too few boots to show anything
        return 1.0

    def shift(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        difference: np.ndarray = np.mean(x, axis=axis) - np.mean(y, axis=axis)
        return difference

    ranks = np.split(rankdata(values), [len(a)])
    # all orders of up to 7 and 7 boots, more are sampled
    test = permutation_test(ranks, shift, vectorized=True, n_resamples=9999, rng=np.random.default_rng(_SEED))
    return float(test.pvalue)


def _metric_difference(each: _Samples, p: float, q: float, effect: float, tests: int) -> MetricDifference:
    ratio = ratio_interval(each.new, each.base, _CONFIDENCE)
    change = _metric_change(ratio, each.better, q, effect)
    perhaps = change in (MetricChange.PERHAPS_WORSE, MetricChange.PERHAPS_BETTER)
    return MetricDifference(
        place=each.place,
        suite=each.suite,
        metric=each.metric,
        better=each.better,
        base=median(each.base),
        new=median(each.new),
        ratio=ratio,
        p=p,
        q=q,
        change=change,
        boots=_deciding_boots(tests, min(len(each.base), len(each.new))) if perhaps else 0,
    )


def _metric_change(ratio: Ratio, better: str, q: float, effect: float) -> MetricChange:
    if ratio.low is None or ratio.high is None:
        return MetricChange.FEW
    least, most = 1 / (1 + effect), 1 + effect
    if least <= ratio.low and ratio.high <= most:
        return MetricChange.SAME
    if ratio.low <= most and ratio.high >= least:
        return MetricChange.UNDECIDED
    worse, certain = says(ratio, better) is Says.WORSE, q <= FALSE_DISCOVERY
    if worse:
        return MetricChange.WORSE if certain else MetricChange.PERHAPS_WORSE
    return MetricChange.BETTER if certain else MetricChange.PERHAPS_BETTER


def _deciding_boots(tests: int, boots: int) -> int:
    """Boots a side with which a single one of so many metrics can be certain; more than there were."""
    needed = boots + 1
    while 2 * tests / math.comb(2 * needed, needed) > FALSE_DISCOVERY:
        needed += 1
    return needed
