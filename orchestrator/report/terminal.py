# SPDX-License-Identifier: GPL-2.0-only
"""The closing table of a run, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.results.model import Case, CellResult, Verdict
from orchestrator.run import RunResult, SuiteComparison

_BAD = (Verdict.CRASH, Verdict.FAIL, Verdict.TIMEOUT, Verdict.ERROR, Verdict.INCONCLUSIVE)
_STYLE = {Verdict.PASS: "green", Verdict.SKIP: "yellow", Verdict.NA: "dim"}


def console(*, stderr: bool = False) -> Console:
    """The terminal, or the pipe in its place."""
    # names of cells, suites and folders are not ours: what looks like markup in them is text
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def closing(out: Console, result: RunResult, folder: Path) -> None:
    """Print the table, the comparison, what went wrong, and the next command to type."""
    out.print()
    out.print(_table(result.cells))
    for each in result.comparisons:
        _comparison(out, each, result)
    bad = [(cell, case) for cell in result.cells for case in cell.all_cases() if case.verdict in _BAD]
    for cell, case in bad[:10]:
        blame = f", {case.blame.value}" if case.blame.value else ""
        line = Text(f"{case.verdict.value}{blame}  ", style="red")
        out.print(line + Text(f"{cell.cell}: {case.id}: {case.reason}", style=""), soft_wrap=True)
    if len(bad) > 10:
        out.print(f"... and {len(bad) - 10} more")
    for cell in result.cells:
        for suite in cell.suites:
            if suite.unknown_programs:
                out.print(
                    f"not in the manifest of {suite.suite}: {', '.join(suite.unknown_programs)}",
                    soft_wrap=True,
                )
    out.print(f"results: {shlex.quote(str(folder))}", soft_wrap=True)
    if bad:
        script = folder / "cells" / bad[0][0].cell / "reproduce.sh"
        out.print(f"again:   sh {shlex.quote(str(script))}", soft_wrap=True)
    if result.interrupted:
        out.print("interrupted; what had ended before is kept")


def _table(cells: Iterable[CellResult]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("cell", "suite", "pass", "fail", "skip", "verdict"):
        table.add_column(
            name, justify="right" if name in ("pass", "fail", "skip") else "left", overflow="fold"
        )
    for cell in cells:
        own = [case for case in cell.cases if case.verdict in _BAD]
        if cell.interrupted and not cell.suites:
            table.add_row(cell.cell, "(interrupted)", "", "", "", "")
        elif own or not cell.suites:
            _row(table, cell.cell, own[0].id if own else "(build)", own or cell.cases)
        for suite in cell.suites:
            _row(table, cell.cell, suite.suite, suite.cases)
    return table


def _row(table: Table, cell: str, suite: str, cases: Iterable[Case]) -> None:
    counts = Counter(case.verdict for case in cases)
    bad = next((v for v in _BAD if counts[v]), None)
    # a suite of which some cases passed and the rest were skipped with reason is green
    verdict = bad or (Verdict.PASS if counts[Verdict.PASS] else next(iter(counts), Verdict.INCONCLUSIVE))
    table.add_row(
        cell,
        suite,
        str(counts[Verdict.PASS]),
        str(sum(counts[v] for v in _BAD)),
        str(counts[Verdict.SKIP] + counts[Verdict.NA]),
        Text(verdict.value, style=_STYLE.get(verdict, "red")),
    )


def _comparison(out: Console, each: SuiteComparison, result: RunResult) -> None:
    compared = each.comparison
    out.print()
    out.print(
        f"{each.suite}, {each.label} {each.arch}: without / with per-VMA locks, "
        f"{compared.boots_without} + {compared.boots_with} boots",
        soft_wrap=True,
    )
    for metric in compared.ratios:
        ratio = metric.ratio
        interval = ""
        if ratio.low is not None and ratio.high is not None:
            interval = f"  [{ratio.low:.2f} .. {ratio.high:.2f}]"
        out.print(
            f"  {metric.metric:<16} {ratio.estimate:8.2f} x{interval}  {metric.outcome.value}", soft_wrap=True
        )
    for name, spread in (("with", compared.interference_with), ("without", compared.interference_without)):
        if spread:
            out.print(
                f"  interference {name:<8} {spread.median:.2f} [{spread.low:.2f} .. {spread.high:.2f}]"
                "  (mean with scanners / mean without)",
                soft_wrap=True,
            )
    if not result.maps_read_under_vma_locks:
        out.print("  this tree reads maps under mmap_lock in both: a negative control", soft_wrap=True)
    for note in compared.notes:
        out.print(f"  {note}", soft_wrap=True)
