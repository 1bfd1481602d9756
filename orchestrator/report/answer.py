# SPDX-License-Identifier: GPL-2.0-only
"""What a run shows, in a sentence and as a matrix: shared by terminal, page and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from orchestrator.analysis.compare import MetricRatio, Outcome
from orchestrator.analysis.regression import MetricChange, MetricDifference
from orchestrator.results.model import AT_FAULT, Case, CellResult, Verdict, worst
from orchestrator.run.summary import RunResult, SourceComparison, SuiteComparison

_T = TypeVar("_T")

#: Verdicts that a reader must look at.
BAD = (Verdict.CRASH, Verdict.FAIL, Verdict.TIMEOUT, Verdict.ERROR, Verdict.INCONCLUSIVE)
_UNJUDGED = (Verdict.ERROR, Verdict.INCONCLUSIVE)
#: The metric that speaks for a benchmark, if it has one of them.
_SPEAKING = ("interference",)
#: Names in a sentence, before it only counts.
_NAMED = 2
#: Changes of metrics in a sentence, before it only counts.
_LARGEST = 3

Kernel = tuple[str, str, str]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A suite of a kernel over all its boots, or a cell that failed itself.

    ``kernel`` is label, arch and variant; ``boots`` is empty for a cell's own case.
    """

    kernel: Kernel
    suite: str
    boots: str = ""
    counts: Mapping[Verdict, int] = {}

    @property
    def verdict(self) -> Verdict | None:
        """The gravest verdict; ``None`` of an interrupted cell. Passes with skips are green."""
        return None if self.suite == INTERRUPTED else worst(self.counts)

    @property
    def bad(self) -> int:
        """The cases to look at."""
        return sum(self.counts.get(verdict, 0) for verdict in BAD)

    @property
    def skipped(self) -> int:
        """The cases that were skipped, or do not apply."""
        return self.counts.get(Verdict.SKIP, 0) + self.counts.get(Verdict.NA, 0)


INTERRUPTED = "(interrupted)"


def rows(cells: Iterable[CellResult]) -> Iterator[Row]:
    """One row for each suite of a kernel, over all its boots, and one for each cell that failed itself."""
    for same in grouped(cells, lambda c: (c.label, c.arch, c.variant)):
        kernel = (same[0].label, same[0].arch, same[0].variant)
        own = [case for cell in same for case in cell.cases if case.verdict in BAD]
        bare = [cell for cell in same if not cell.suites]
        if any(cell.interrupted for cell in bare):
            yield Row(kernel=kernel, suite=INTERRUPTED)
        if own:
            yield _row(kernel, own[0].id, "", own)
        elif bare and not any(cell.interrupted for cell in bare):
            yield _row(kernel, "(build)", "", [case for cell in bare for case in cell.cases])
        suites = [(suite, cell) for cell in same for suite in cell.suites]
        for group in grouped(suites, lambda each: each[0].suite):
            cases = [case for suite, _ in group for case in suite.cases]
            yield _row(kernel, group[0][0].suite, str(len(group)), cases)


def _row(kernel: Kernel, suite: str, boots: str, cases: Iterable[Case]) -> Row:
    return Row(kernel=kernel, suite=suite, boots=boots, counts=Counter(case.verdict for case in cases))


def grouped(items: Iterable[_T], key: Callable[[_T], object]) -> list[list[_T]]:
    """Items of equal keys together, in the order of their first ones."""
    groups: dict[object, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def sentence(result: RunResult) -> str:
    """What is right, what is not, what could not be judged, and what is gained."""
    cases = [case for cell in result.cells for case in cell.all_cases()]
    tested = [case for cell in result.cells for suite in cell.suites for case in suite.cases]
    parts = [
        *_wrong([case for case in cases if case.verdict in AT_FAULT]),
        *_unjudged([case for case in cases if case.verdict in _UNJUDGED]),
        *_right(tested),
        *(part for each in result.source_comparisons for part in _changes(each)),
        *(part for each in result.comparisons for part in _gain(each)),
    ]
    if result.interrupted:
        parts.insert(0, "interrupted, so far")
    text = "; ".join(parts) or "nothing was tested"
    return f"{text[0].upper()}{text[1:]}."


def _wrong(cases: list[Case]) -> Iterator[str]:
    for same in grouped(cases, lambda case: case.blame):
        ids = list(dict.fromkeys(case.id for case in same))
        names = f" ({', '.join(ids)})" if len(ids) <= _NAMED else f" ({ids[0]}, ...)"
        fault = f", the {same[0].blame.value}'s fault" if same[0].blame else ""
        yield f"{count(len(ids), 'case')} failed{fault}{names}"


def _unjudged(cases: list[Case]) -> Iterator[str]:
    if cases:
        ids = list(dict.fromkeys(case.id for case in cases))
        reasons = Counter(case.reason for case in cases if case.reason).most_common(1)
        reason = f": {reasons[0][0]}" if reasons else ""
        yield f"{count(len(ids), 'case')} could not be judged{reason}"


def _right(cases: list[Case]) -> Iterator[str]:
    by_id: dict[str, set[Verdict]] = {}
    for case in cases:
        by_id.setdefault(case.id, set()).add(case.verdict)
    passed = sum(verdicts <= {Verdict.PASS, Verdict.NA, Verdict.SKIP} for verdicts in by_id.values())
    skipped = sum(verdicts <= {Verdict.NA, Verdict.SKIP} for verdicts in by_id.values())
    known = sum(Verdict.KNOWN in verdicts for verdicts in by_id.values())
    if passed - skipped:
        yield f"{count(passed - skipped, 'case')} passed"
    if known:
        yield f"{known} failed as known"
    if skipped:
        yield f"{skipped} skipped"


def metric_parts(metrics: Sequence[MetricDifference]) -> Iterator[str]:
    """The largest changes, the worse ones first: ``map-latency/mean_us 1.60 x worse (x86_64 mmap-lock)``."""
    for change in (MetricChange.WORSE, MetricChange.BETTER):
        same = sorted((each for each in metrics if each.change is change), key=_effect, reverse=True)
        for each in same[:_LARGEST]:
            where = " ".join(each.place)
            yield f"{each.suite}/{each.metric} {_effect(each):.2f} x {change.value} ({where})"
        if len(same) > _LARGEST:
            yield f"{len(same) - _LARGEST} more metrics {change.value}"


def _effect(each: MetricDifference) -> float:
    return max(each.ratio.estimate, 1 / each.ratio.estimate)


def _changes(compared: SourceComparison) -> Iterator[str]:
    for part in metric_parts(compared.metrics):
        yield f"{compared.label} against {compared.base}: {part}"


def _gain(each: SuiteComparison) -> Iterator[str]:
    """The speaking metric of a benchmark: ``map-latency: interference 25.1 x [20.2 .. 31.0] better …``."""
    ratio = speaking(each.comparison.ratios)
    if ratio is not None and ratio.outcome in (Outcome.BETTER, Outcome.WORSE):
        factor = ratio.ratio.estimate
        worth = factor if factor >= 1 else 1 / factor
        low, high = ratio.ratio.low or factor, ratio.ratio.high or factor
        ends = sorted((low, high) if factor >= 1 else (1 / low, 1 / high))
        yield (
            f"{each.suite}/{ratio.metric} {worth:.2f} x [{ends[0]:.2f} .. {ends[1]:.2f}]"
            f" {ratio.outcome.value} ({each.label} {each.arch})"
        )


def speaking(ratios: Iterable[MetricRatio]) -> MetricRatio | None:
    """The metric that speaks for a benchmark: a preferred one, else the first."""
    by_name = {ratio.metric: ratio for ratio in ratios}
    return next((by_name[name] for name in (*_SPEAKING, *by_name) if name in by_name), None)


def count(number: int, what: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {what}" + ("" if number == 1 else "s")
