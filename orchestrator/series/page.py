# SPDX-License-Identifier: GPL-2.0-only
"""A series as a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.text import clean_str, one_line
from orchestrator.report import page
from orchestrator.results.model import AT_FAULT, Verdict
from orchestrator.series import cover, performance
from orchestrator.series.matrix import Entry, Fault, Matrix, sentence, together
from orchestrator.series.model import Series

_CLASSES = {
    Verdict.PASS: "good",
    Verdict.KNOWN: "note",
    Verdict.SKIP: "dim",
    Verdict.NA: "dim",
    Verdict.INCONCLUSIVE: "note",
    Verdict.ERROR: "note",
}


def render(series: Series, found: Matrix) -> str:
    """The page. All that came from patches, compilers and guests is cleaned and escaped."""
    return page.render(
        "series/series.html.j2",
        series=series,
        base=series.patches[0],
        tip=series.patches[-1],
        patches=series.patches,
        rows=[(row, found.entries[row.name]) for row in found.rows if cover.is_shown(found, row)],
        class_of=_class_of,
        title_of=_title_of,
        of_series=[_fault(same, found) for same in together(found.of_series)],
        untold=[_fault(same, found) for same in together(found.untold)],
        at_base=[_fault(same, found) for same in together(found.at_base)],
        culprits={patch.number for patch in found.culprits()},
        changes=series.changes,
        in_words=performance.in_words,
        method=cover.method(series),
        machines={arch: what for step in series.steps for arch, what in step.machines.items()},
        legend=cover.LEGEND,
        finished=not series.interrupted and len(series.steps) == len(series.patches),
    )


def _class_of(entry: Entry) -> str:
    if entry.began:
        return "bad"
    if entry.since is not None:
        return "since"
    if entry.verdict in AT_FAULT:
        return "bad"
    return _CLASSES.get(entry.verdict, "dim") if entry.verdict else "dim"


def _title_of(entry: Entry) -> str:
    """What a pointer that rests on an entry is told."""
    same = "same kernel image as the patch before; " if entry.same else ""
    return one_line(f"{same}{entry.reason or (entry.verdict.value if entry.verdict else 'not reached')}")


def _fault(same: Sequence[Fault], found: Matrix) -> dict[str, str]:
    case = same[0].case
    return {
        "said": one_line(sentence(same, found.patches), limit=600),
        "detail": clean_str(case.detail, limit=4096),
        "log": case.log,
    }
