# SPDX-License-Identifier: GPL-2.0-only
"""The summary of a series on the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orchestrator.report.terminal import print_resume
from orchestrator.series import cover, performance
from orchestrator.series.matrix import Matrix, grouped, sentence
from orchestrator.series.model import Series

_WIDTH = 80
_MOST_FAULTS = 10


def print_summary(out: Console, series: Series, matrix: Matrix, folder: Path) -> None:
    """Print the matrix, the failures with their patches, and the next command to type."""
    out.print()
    for patch in series.patches:
        number = "base" if not patch.number else str(patch.number)
        merge = " (merge)" if patch.merge else ""
        subject = f"{number:>4}  {patch.commit[:12]} {patch.subject}{merge}"
        out.print(subject if len(subject) <= _WIDTH else f"{subject[: _WIDTH - 1]}…", soft_wrap=True)
    out.print()
    for line in cover.table(matrix, _WIDTH):
        out.print(_coloured(line), soft_wrap=True)
    out.print()
    _changes(out, series)
    faults = grouped(matrix.of_series)
    for same in faults[:_MOST_FAULTS]:
        out.print(Text(sentence(same, matrix.patches), style="red"), soft_wrap=True)
        if log := same[0].case.log:
            out.print(Text(f"    {folder / log}", style="dim"), soft_wrap=True)
    if len(faults) > _MOST_FAULTS:
        out.print(f"... and {len(faults) - _MOST_FAULTS} more")
    for same in grouped((*matrix.unattributed, *matrix.at_base))[:_MOST_FAULTS]:
        out.print(Text(sentence(same, matrix.patches), style="yellow"), soft_wrap=True)
    culprits = matrix.culprits()
    if culprits:
        out.print(f"culprits: {', '.join(str(patch) for patch in culprits)}", soft_wrap=True)
    elif not series.interrupted:
        out.print("no patch introduced a failure")
    out.print(f"results: {shlex.quote(str(folder))}  (series.html, cover.txt, junit.xml)", soft_wrap=True)
    if series.interrupted:
        print_resume(out, "series", folder, "steps")


def _coloured(line: str) -> Text:
    text = Text(line)
    text.highlight_regex(r" (?:FAIL|CRASH|TIME)\b", "bold red")
    text.highlight_regex(r" \^\d+", "red")
    text.highlight_regex(r" (?:\?|err|known|skip)(?= |$)", "yellow")
    text.highlight_regex(r" (?:ok|=)(?= |$)", "green")
    return text


def _changes(out: Console, series: Series) -> None:
    for change in series.changes:
        name = f"{change.suite} {change.arch} {change.variant} {change.metric}"
        out.print(f"{name}: tip / base {performance.in_words(change.ratio)}  {change.says}", soft_wrap=True)
    if series.changes:
        out.print()
