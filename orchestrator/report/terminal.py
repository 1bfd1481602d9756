# SPDX-License-Identifier: GPL-2.0-only
"""The summary of a run on the terminal: the table, the failures, the next command."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orchestrator.core.text import clean_str
from orchestrator.plan.plan import Plan
from orchestrator.report.answer import BAD, count, grouped, rows, sentence
from orchestrator.report.difference import metric_tables
from orchestrator.results.model import Case, CellResult, Verdict
from orchestrator.run.estimate import Cost, cpus
from orchestrator.run.summary import RunResult, SuiteComparison, rate_text
from orchestrator.suites.catalog import COMMAND
from orchestrator.verdict.known import UNEXPECTED_PASS

_STYLE = {Verdict.PASS: "green", Verdict.SKIP: "yellow", Verdict.NA: "dim", Verdict.KNOWN: "yellow"}


class _SafeConsole(Console):
    """A terminal that shows text of guests, patches and compilers as text, whoever prints it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something to print."""
        for segment in super().render(renderable, options):
            text = segment.text
            yield segment if segment.control else Segment(clean_str(text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """The terminal, or the pipe in its place."""
    # names of cells, suites and folders come from users: markup in them is text
    return _SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_summary(out: Console, result: RunResult, folder: Path) -> None:
    """Print the table, the comparison, the failures, and the next command to type."""
    out.print()
    out.print(sentence(result), soft_wrap=True)
    out.print()
    out.print(_table(result.cells))
    for each in result.comparisons:
        _comparison(out, each, result)
    for compared in result.source_comparisons:
        for title, table in metric_tables(compared.metrics):
            out.print()
            out.print(f"{title}: {compared.label} / {compared.base}", soft_wrap=True)
            out.print("\n".join(table), soft_wrap=True)
    _rates(out, result)
    bad = [(cell, case) for cell in result.cells for case in cell.all_cases() if case.verdict in BAD]
    for cell, case in bad[:10]:
        blame = f", {case.blame.value}" if case.blame.value else ""
        line = Text(f"{case.verdict.value}{blame}  ", style="red")
        out.print(line + Text(f"{cell.cell}: {case.id}: {case.reason}", style=""), soft_wrap=True)
        if case.log:
            out.print(Text(f"    {folder / case.log}", style="dim"), soft_wrap=True)
    if len(bad) > 10:
        out.print(f"... and {len(bad) - 10} more")
    _known_failures(out, result)
    for pair in result.pairs[:10]:
        out.print(f"{pair.label} {pair.arch}: {pair.case} {pair.says}", soft_wrap=True)
    for cell in result.cells:
        for suite in cell.suites:
            if suite.unknown_programs:
                out.print(
                    f"not in the manifest of {suite.suite}: {', '.join(suite.unknown_programs)}",
                    soft_wrap=True,
                )
    _outputs(out, result, folder)
    out.print(f"results: {shlex.quote(str(folder))}", soft_wrap=True)
    if bad and not result.interrupted:
        script = folder / "cells" / bad[0][0].cell / "reproduce.sh"
        out.print(f"again:   sh {shlex.quote(str(script))}", soft_wrap=True)
    if result.interrupted:
        print_resume(out, "run", folder, "cells")


def print_resume(out: Console, verb: str, folder: Path, parts: str) -> None:
    """Print how to resume an interrupted run or series.

    :param parts: what it consists of, in the plural.
    """
    out.print(f"interrupted; finished {parts} are kept")
    default = folder.parent == Path("runs").absolute()
    name = folder.name if default else shlex.quote(str(folder))
    out.print(f"resume:  {program_name()} {verb} --resume {name}", soft_wrap=True)


def program_name() -> str:
    """The name of this program as the user types it."""
    here = Path(sys.executable).with_name("orchestrate")
    return "orchestrate" if shutil.which("orchestrate") else shlex.quote(str(here))


def _known_failures(out: Console, result: RunResult) -> None:
    """Failures that are known, and known failures that passed; cells with the same text together."""
    expected_failures = [
        (case, cell.cell)
        for cell in result.cells
        for case in cell.all_cases()
        if case.verdict is Verdict.KNOWN or _passed_unexpectedly(case)
    ]
    for same in grouped(expected_failures, lambda each: (each[0].id, each[0].verdict)):
        case, cells = same[0][0], list(dict.fromkeys(cell for _, cell in same))
        word = "KNOWN  " if case.verdict is Verdict.KNOWN else "look at  "
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        line = Text(word, style="yellow") + Text(f"{cells[0]}{more}: {case.id}: {case.reason}", style="")
        out.print(line, soft_wrap=True)


def _passed_unexpectedly(case: Case) -> bool:
    return case.verdict is Verdict.PASS and case.reason.startswith(UNEXPECTED_PASS)


def _outputs(out: Console, result: RunResult, folder: Path) -> None:
    """The logs of the user's own commands."""
    logs = [
        folder / case.log
        for cell in result.cells
        for suite in cell.suites
        if suite.suite == COMMAND
        for case in suite.cases
        if case.log and case.verdict not in BAD
    ]
    for log in logs[:4]:
        out.print(f"output:  {shlex.quote(str(log))}", soft_wrap=True)
    if len(logs) > 4:
        out.print(f"         ... and {len(logs) - 4} more")


#: What a dry run did: the targets of make that it ran are the tree's code.
_HAPPENED = "Nothing was built or booted; make tinyconfig and olddefconfig of the tree ran where not cached."


def print_plan(out: Console, plan: Plan, cost: Cost) -> None:
    """Print a plan and its cost."""
    table = _columns("kernel", "arch", "variant", "state")
    for kernel in cost.kernels:
        state = f"{kernel.state}: {kernel.note}" if kernel.note else kernel.state
        if kernel.state == "build":
            cost_text = f"about {kernel.cpu_s / 60:.0f} CPU-minutes" if kernel.cpu_s else "cost unknown"
            state = f"to be built, {cost_text}"
        table.add_row(kernel.label, kernel.arch, kernel.variant, state)
    out.print(table)
    out.print()
    table = _columns("cell", "suites", "boots", "usually")
    for cells in grouped(plan.cells, lambda c: (c.label, c.arch, c.variant, c.suites, c.only_vsyscall)):
        first = cells[0]
        durations = [cost.cells[cell.id] for cell in cells]
        seconds = sum(s for s in durations if s)
        usually = "unknown" if None in durations else f"{seconds:.0f} s"
        name = first.id if len(cells) == 1 else first.id.removesuffix(f"-{first.boot}")
        table.add_row(name, ", ".join(first.suites) or "(build)", str(len(cells)), usually)
    out.print(table)
    out.print()
    jobs = cpus(plan.choices.jobs)
    to_build = [kernel for kernel in cost.kernels if kernel.state == "build"]
    costs = [kernel.cpu_s for kernel in to_build if kernel.cpu_s is not None]
    timed = [seconds for seconds in cost.cells.values() if seconds is not None]
    words = [f"{count(len(plan.cells), 'cell')}, {count(len(to_build), 'kernel')} to build."]
    if costs:
        minutes = cost.build_s(jobs) / 60
        words.append(f"Builds: {minutes:.0f} min on {jobs} CPUs ({len(costs)} of {len(to_build)} known).")
    if timed:
        words.append(f"Guests: {sum(timed) / 60:.1f} min ({len(timed)} of {len(plan.cells)} known).")
    out.print(" ".join([*words, _HAPPENED]), soft_wrap=True)


def _columns(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        numeric = name in ("boots", "pass", "bad", "known", "skip")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table


def _table(cells: Sequence[CellResult]) -> Table:
    verdicts = {case.verdict for cell in cells for case in cell.all_cases()}
    known = ("known",) if Verdict.KNOWN in verdicts else ()
    table = _columns("kernel", "arch", "variant", "suite", "boots", "pass", "bad", *known, "skip", "verdict")
    # ten columns in 80 characters
    table.padding = (0, 1 if known else 2, 0, 0)
    for row in rows(cells):
        if row.verdict is None:
            table.add_row(*row.kernel, row.suite)
            continue
        numbers = (
            row.counts.get(Verdict.PASS, 0),
            row.bad,
            *((row.counts.get(Verdict.KNOWN, 0),) if known else ()),
            row.skipped,
        )
        verdict = Text(row.verdict.value, style=_STYLE.get(row.verdict, "red"))
        table.add_row(*row.kernel, row.suite, row.boots, *map(str, numbers), verdict)
    return table


def _rates(out: Console, result: RunResult) -> None:
    """Failure rates over fresh boots, and a bound for cases that never failed."""
    if not result.rates:
        return
    out.print()
    never = [rate for rate in result.rates if not rate.failures]
    for rate in result.rates:
        if rate.failures:
            kernel = f"{rate.label} {rate.arch} {rate.variant}"
            out.print(f"{kernel}: {rate.case}: {rate_text(rate)}", soft_wrap=True)
    for same in grouped(never, lambda r: (r.label, r.arch, r.variant, r.boots)):
        rate = same[0]
        kernel = f"{rate.label} {rate.arch} {rate.variant}"
        cases, boots = count(len(same), "case"), count(rate.boots, "boot")
        out.print(
            f"{kernel}: {cases} never failed in {boots} (95 %: the rate is below {rate.high * 100:.1f} %)",
            soft_wrap=True,
        )


def _comparison(out: Console, each: SuiteComparison, result: RunResult) -> None:
    compared = each.comparison
    out.print()
    out.print(
        f"{each.suite}, {each.label} {each.arch}: without / with per-VMA locks, "
        f"{compared.boots_without} + {compared.boots_with} boots",
        soft_wrap=True,
    )
    width = max((len(metric.metric) for metric in compared.ratios), default=0)
    for metric in compared.ratios:
        ratio = metric.ratio
        out.print(
            f"  {metric.metric:<{width}} {ratio.estimate:8.2f} x{ratio.interval}  {metric.outcome.value}",
            soft_wrap=True,
        )
    for name, spread in (("with", compared.interference_with), ("without", compared.interference_without)):
        if spread:
            out.print(
                f"  interference {name:<8} {spread.median:.2f} [{spread.low:.2f} .. {spread.high:.2f}]"
                "  (mean with scanners / mean without)",
                soft_wrap=True,
            )
    source = next((s for s in result.sources if s.label == each.label), None)
    if source is not None and source.maps_read_under_vma_locks is False:
        out.print("  this tree reads maps under mmap_lock in both: a negative control", soft_wrap=True)
    for note in compared.notes:
        out.print(f"  {note}", soft_wrap=True)
