# SPDX-License-Identifier: GPL-2.0-only
"""Decide whether a metric got worse. Good, bad and candidate boot in turn, so a drift of the host hits all.

``analysis.stats.decide`` decides, with as few boots as it can.
"""

from __future__ import annotations

from orchestrator.analysis import stats
from orchestrator.bisect.journal import Subject
from orchestrator.bisect.predicate import Judgement, Kind, MetricWorse
from orchestrator.bisect.recorder import Recorder
from orchestrator.bisect.search import Rates
from orchestrator.bisect.setup import Setup
from orchestrator.core.errors import Inconclusive, UserError, unknown

#: ``decide`` needs four boots of each end.
_FEWEST = 4
#: Rounds after which a candidate that is like neither end is given up.
_MOST = 16


class Numbers:
    """The values of a metric at the ends. Every candidate adds some."""

    def __init__(self, recorder: Recorder, setup: Setup, predicate: MetricWorse) -> None:
        self._recorder = recorder
        self._good = Subject(commit=setup.good[0])
        self._bad = Subject(commit=setup.bad)
        self._predicate = predicate
        self._least = max(setup.ends, _FEWEST)
        self.goods: list[float] = []
        self.bads: list[float] = []
        self._better = "lower"
        self._others: list[str] = []

    def _boot(self, subject: Subject, why: str) -> float | None:
        judgement = self._recorder.boot(subject, why).judgement
        if judgement.value is None or judgement.value <= 0:
            self._others.append(judgement.reason or f"{judgement.value}")
            return None
        self._better = judgement.better or self._better
        return judgement.value

    def _round(self) -> None:
        """One boot of each end."""
        for subject, values in ((self._good, self.goods), (self._bad, self.bads)):
            value = self._boot(subject, "end")
            if value is None:
                self._check_name(subject)
            else:
                values.append(value)

    def _check_name(self, subject: Subject) -> None:
        """:raises UserError: boots of an end have metrics, but none of this name."""
        suite, metric = self._predicate.suite, self._predicate.metric
        results = self._recorder.results(subject)
        names = {name for r in results for s in r.suites if s.suite == suite for name in s.metrics}
        if names and metric not in names:
            raise unknown(
                "metric", f"{suite}/{metric}", sorted(f"{suite}/{name}" for name in names), where="--metric"
            )

    def rates(self) -> Rates:
        """Boot the ends until they differ.

        :raises UserError: no boot has the metric; the first one already if it has others.
        :raises Inconclusive: they do not differ, or the bad end is better; the message has the figures.
        """
        for number in range(1, 2 * _MOST + 1):
            self._round()
            if number == 2 and not self.goods + self.bads:
                raise UserError(
                    f"neither end has a value to compare: {self._others[0]}",
                    remedy="Name a benchmark and one of its metrics; the table of a run shows them.",
                )
            if number >= self._least and min(len(self.goods), len(self.bads)) >= _FEWEST and self._differ():
                break
        else:
            raise Inconclusive(
                f"the ends do not differ in {self._predicate.metric}: {self.figures()}",
                remedy="Use a quieter host, or name another metric.",
            )
        worse = stats.median(self.bads) > stats.median(self.goods)
        if worse != (self._better == "lower"):
            raise Inconclusive(
                f"the bad end is better in {self._predicate.metric}: {self.figures()}",
                remedy="Swap the ends.",
            )
        self._recorder.say(f"the ends differ: {self.figures()}")
        # each candidate is booted until it is decided
        return Rates(shown_bad=_MOST, boots_bad=_MOST, shown_good=0, boots_good=_MOST)

    def _differ(self) -> bool:
        if stats.median(self.goods) == stats.median(self.bads):
            return False
        alike = (
            stats.decide(self.goods, self.bads, self.bads).like,
            stats.decide(self.goods, self.bads, self.goods).like,
        )
        return alike == (stats.Like.BAD, stats.Like.GOOD)

    def figures(self) -> str:
        """The medians of both ends and their ratio, in words."""
        if not (self.goods and self.bads):
            return f"{len(self.goods)} and {len(self.bads)} boots gave a value"
        ratio = stats.median_ratio(self.bads, self.goods)
        good, bad = stats.median(self.goods), stats.median(self.bads)
        counts = f"{len(self.goods)} and {len(self.bads)} boots"
        return f"good {good:g}, bad {bad:g}, {ratio.estimate:.2f} x{ratio.interval}, {counts}"

    def judge(self, subject: Subject, why: str) -> Judgement:
        """Boot a candidate and both ends in turn until it is like one of them."""
        values: list[float] = []
        first = len(self._others)
        for _ in range(_MOST):
            value = self._boot(subject, why)
            if value is None and not values and len(self._others) - first >= 2:
                break
            if value is None:
                continue
            values.append(value)
            decision = stats.decide(self.goods, self.bads, values)
            if decision.like is not stats.Like.MORE:
                kind = Kind.BAD if decision.like is stats.Like.BAD else Kind.GOOD
                return Judgement(kind=kind, reason=_effect(decision, values), value=stats.median(values))
            self._round()
        reason = self._others[-1] if len(self._others) > first else "it is like neither end"
        return Judgement(kind=Kind.SKIP, reason=reason)


def _effect(decision: stats.Decision, values: list[float]) -> str:
    words = f"{len(values)} boots, median {stats.median(values):g}"
    for name, ratio in (("good", decision.to_good), ("bad", decision.to_bad)):
        if ratio is not None:
            words += f", {ratio.estimate:.2f} x {name}{ratio.interval}"
    return f"{words}, odds {decision.odds:.3g}"
