# SPDX-License-Identifier: GPL-2.0-only
"""A comparison of two sides as text for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import msgspec

from orchestrator.analysis.regression import (
    REGRESSIONS,
    CaseChange,
    CaseDifference,
    MetricDifference,
)
from orchestrator.core.text import one_line
from orchestrator.report.answer import count, grouped, metric_parts
from orchestrator.report.markdown import code, escape, row
from orchestrator.run.sides import Comparison

_WIDTH = 79
#: Cases of one kind that are shown one by one.
_MOST = 20


def as_json(comparison: Comparison) -> str:
    """The whole comparison; its fields are those of `Comparison`, with the ``regressions`` counted."""
    fields = msgspec.to_builtins(comparison)
    fields["regressions"] = len(comparison.difference.regressions)
    return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()


def sentence(comparison: Comparison) -> str:
    """The answer in one sentence: ``B against A: 2 cases newly fail; maps/x is 1.6 x worse``."""
    difference = comparison.difference
    parts = []
    for change, verb in (
        (CaseChange.NEWLY_FAILING, "newly fail"),
        (CaseChange.MORE_OFTEN, "fail more often"),
        (CaseChange.VANISHED, "vanished"),
        (CaseChange.NEWLY_PASSING, "newly pass"),
    ):
        if names := {case.case for case in difference.cases if case.change is change}:
            parts.append(f"{count(len(names), 'case')} {verb if len(names) > 1 else _singular(verb)}")
    parts += metric_parts(difference.metrics)
    if not parts:
        parts = ["no difference shown"]
    return f"{comparison.new} against {comparison.base}: {'; '.join(parts)}"


def as_text(comparison: Comparison) -> str:
    """Text for a terminal of 80 columns; paths of cases may be longer."""
    difference = comparison.difference
    lines = _wrapped(sentence(comparison))
    for change, cases in _by_change(difference.cases):
        lines += ["", f"{change.value}:"]
        for case in cases[:_MOST]:
            lines.append(f"  {' '.join(case.place)}  {case.case}")
            lines.append(
                f"    {case.base} / {case.new}" + (f": {one_line(case.reason)}" if case.reason else "")
            )
        lines += [f"  ... and {len(cases) - _MOST} more"] if len(cases) > _MOST else []
    for title, table in metric_tables(difference.metrics):
        lines += ["", f"{title}: new / base", *table]
    lines += ["", *(part for line in _closing(comparison) for part in _wrapped(line))]
    return "\n".join(lines)


def as_markdown(comparison: Comparison) -> str:
    """Markdown for a CI job's page or a merge request."""
    difference = comparison.difference
    lines = [f"**{escape(sentence(comparison))}**"]
    if difference.cases:
        lines += ["", "| | kernel | case | base | new | reason |", "|---|---|---|---|---|---|"]
        for change, cases in _by_change(difference.cases):
            mark = "❌" if change in REGRESSIONS else ""
            for case in cases[:_MOST]:
                first = (f"{mark} {change.value}".strip(), escape(" ".join(case.place)), code(case.case))
                lines.append(row(*first, str(case.base), str(case.new), escape(one_line(case.reason))))
            if len(cases) > _MOST:
                lines.append(row(f"... and {len(cases) - _MOST} more", "", "", "", "", ""))
    if difference.metrics:
        lines += ["", "| kernel | metric | base | new | new / base | |", "|---|---|---:|---:|---:|---|"]
        for metric in difference.metrics:
            ratio = f"{metric.ratio.estimate:.2f} x{metric.ratio.interval}"
            name = code(f"{metric.suite}/{metric.metric}")
            values = f"{metric.base:.4g}", f"{metric.new:.4g}"
            lines.append(row(escape(" ".join(metric.place)), name, *values, ratio, _change(metric)))
    lines += ["", *(f"{escape(line)}  " for line in _closing(comparison))]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)


def _change(metric: MetricDifference) -> str:
    if metric.boots:
        return f"{metric.change.value}; {metric.boots} boots a side could decide"
    return metric.change.value


def _closing(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    compared = f"{count(difference.unchanged, 'other case')} unchanged"
    if difference.metrics:
        compared += f"; {count(len(difference.metrics), 'metric')} compared, 5 % false discoveries allowed"
    return [f"{compared}.", *(f"{note}." for note in comparison.notes)]


def _by_change(cases: Iterable[CaseDifference]) -> Iterator[tuple[CaseChange, list[CaseDifference]]]:
    for change in CaseChange:
        # a case that only one side can have says nothing of a fault
        if (same := [case for case in cases if case.change is change]) and change is not CaseChange.NEW:
            yield change, same


def metric_tables(metrics: Iterable[MetricDifference]) -> Iterator[tuple[str, list[str]]]:
    """For each kernel and benchmark a title without what was compared, and a line for each metric."""
    for same in grouped(metrics, lambda each: (each.place, each.suite)):
        first, width = same[0], max(len(each.metric) for each in same)
        title = f"{first.suite}, {' '.join(first.place)}, {first.ratio.n_a} + {first.ratio.n_b} boots"
        yield (
            title,
            [
                f"  {each.metric:<{width}} {each.ratio.estimate:8.2f} x{each.ratio.interval}  {_change(each)}"
                for each in same
            ],
        )


def _singular(verb: str) -> str:
    words = {"newly fail": "newly fails", "fail more often": "fails more often", "newly pass": "newly passes"}
    return words.get(verb, verb)
