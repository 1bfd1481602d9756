# SPDX-License-Identifier: GPL-2.0-only
"""A series as a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.text import clean_str, one_line
from orchestrator.report import page
from orchestrator.results.model import AT_FAULT, Verdict
from orchestrator.series import cover, performance
from orchestrator.series.matrix import Entry, Fault, Matrix, grouped, sentence
from orchestrator.series.model import Series

_CLASSES = {
    Verdict.PASS: "good",
    Verdict.KNOWN: "note",
    Verdict.SKIP: "dim",
    Verdict.NA: "dim",
    Verdict.INCONCLUSIVE: "note",
    Verdict.ERROR: "note",
}


def render(series: Series, matrix: Matrix) -> str:
    """The page. All text from patches, compilers and guests is sanitised and escaped."""
    return page.render(
        "series/series.html.j2",
        series=series,
        base=series.patches[0],
        tip=series.patches[-1],
        patches=series.patches,
        rows=[(row, matrix.entries[row.name]) for row in matrix.rows if cover.is_informative(matrix, row)],
        class_of=_class_of,
        title_of=_title_of,
        of_series=[_fault(same, matrix) for same in grouped(matrix.of_series)],
        unattributed=[_fault(same, matrix) for same in grouped(matrix.unattributed)],
        at_base=[_fault(same, matrix) for same in grouped(matrix.at_base)],
        culprits={patch.number for patch in matrix.culprits()},
        changes=series.changes,
        in_words=performance.in_words,
        method=cover.method(series),
        machines={arch: what for step in series.steps for arch, what in step.machines.items()},
        legend=cover.LEGEND,
        finished=not series.interrupted and len(series.steps) == len(series.patches),
    )


def _class_of(entry: Entry) -> str:
    if entry.new:
        return "bad"
    if entry.since is not None:
        return "since"
    if entry.verdict in AT_FAULT:
        return "bad"
    return _CLASSES.get(entry.verdict, "dim") if entry.verdict else "dim"


def _title_of(entry: Entry) -> str:
    """The tooltip of an entry."""
    same = "same kernel image as the patch before; " if entry.same else ""
    return one_line(f"{same}{entry.reason or (entry.verdict.value if entry.verdict else 'not reached')}")


def _fault(same: Sequence[Fault], matrix: Matrix) -> dict[str, str]:
    case = same[0].case
    return {
        "text": one_line(sentence(same, matrix.patches), limit=600),
        "detail": clean_str(case.detail, limit=4096),
        "log": case.log,
    }
