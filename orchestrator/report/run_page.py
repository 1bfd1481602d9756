# SPDX-License-Identifier: GPL-2.0-only
"""A run as a page of HTML (``report.html``), and as Markdown for the page of a CI job."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from orchestrator.analysis.compare import Comparison, Outcome, usable
from orchestrator.analysis.stats import median
from orchestrator.cell.program import STDERR_MARK
from orchestrator.core.errors import Inconclusive
from orchestrator.core.files import write_atomically
from orchestrator.core.text import clean, one_line
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.report import chart, page
from orchestrator.report.answer import BAD, Kernel, Row, count, grouped, rows, sentence
from orchestrator.report.markdown import code, escape, row
from orchestrator.results.model import AT_FAULT, Case, CellResult, SuiteResult, Verdict
from orchestrator.run.summary import RunResult, SourceResult, SuiteComparison, rate_text
from orchestrator.verdict import benchmark

#: The name of the page in the folder of a run.
FILE = "report.html"
#: Failures that are shown one by one; cases that are listed below one reason; charts of a benchmark.
_MOST, _MOST_CHARTS = 50, 4
_CONSOLE_LINES, _CONSOLE_BYTES = 20, 16384

_CLASSES = {Verdict.PASS: "good", Verdict.SKIP: "dim", Verdict.NA: "dim"} | dict.fromkeys(AT_FAULT, "bad")
_OUTCOMES = {Outcome.BETTER: "good", Outcome.WORSE: "bad"}


class _Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    suite: str
    label: str
    arch: str
    comparison: Comparison
    with_: dict[str, float]
    without: dict[str, float]
    charts: tuple[str, ...]


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A case that went wrong, with the cells in which it did so in the same way."""

    case: Case
    cells: tuple[str, ...]
    console: str


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    ids: tuple[str, ...]


def write(result: RunResult, folder: Path) -> Path:
    """Write the page into the folder of its run; returns its path.

    :raises InfraError: it cannot be written.
    """
    path = folder / FILE
    write_atomically(path, html(result, folder).encode())
    return path


def html(result: RunResult, folder: Path) -> str:
    """The page: one file without script, that loads nothing.

    :param folder: the folder of the run, with the consoles and the documents of the benchmarks.
    """
    all_rows = list(rows(result.cells))
    columns = list(dict.fromkeys(row.kernel for row in all_rows))
    failures = _failures(result.cells)
    return page.render(
        "report/run.html.j2",
        result=result,
        answer=sentence(result),
        kernels="; ".join(
            f"{s.label}: {s.source}" if s.label != s.source else s.label for s in result.sources
        ),
        columns=columns,
        matrix=list(_matrix(all_rows, columns)),
        class_of=lambda verdict: _CLASSES.get(verdict, "note"),
        outcome_class=lambda outcome: _OUTCOMES.get(outcome, "dim"),
        counts=_counts,
        benchmarks=[_benchmark(each, result.cells, folder) for each in result.comparisons],
        failures=[_with_console(each, folder) for each in failures[:_MOST]],
        more_failures=len(failures[_MOST:]),
        pairs=result.pairs[:_MOST],
        rates=[(rate, rate_text(rate)) for rate in result.rates if rate.failures][:_MOST],
        known=_by_reason(result.cells, (Verdict.KNOWN,)),
        skipped=_by_reason(result.cells, (Verdict.SKIP, Verdict.NA)),
        most=_MOST,
        environment=list(_environment(result.cells)),
        numbers=_csv(result.cells),
    )


def markdown(result: RunResult) -> str:
    """The answer, the matrix, the gains and the failures."""
    lines = [f"**{escape(sentence(result))}**", ""]
    lines += ["| kernel | suite | boots | pass | bad | skip | verdict |", "|---|---|---:|---:|---:|---:|---|"]
    for each in rows(result.cells):
        verdict = each.verdict.value if each.verdict else "interrupted"
        numbers = (each.counts.get(Verdict.PASS, 0), each.bad, each.skipped)
        lines.append(
            row(escape(" ".join(each.kernel)), escape(each.suite), each.boots, *map(str, numbers), verdict)
        )
    for compared in result.comparisons:
        title = f"{compared.suite}, {compared.label} {compared.arch}: without / with per-VMA locks"
        lines += ["", escape(title), "", "| metric | without / with | |", "|---|---:|---|"]
        for ratio in compared.comparison.ratios:
            factor = f"{ratio.ratio.estimate:.2f} x{ratio.ratio.interval}"
            lines.append(row(code(ratio.metric), factor, ratio.outcome.value))
    failures = _failures(result.cells)
    if failures:
        lines += ["", "| verdict | case | cells | reason |", "|---|---|---|---|"]
    for failure in failures[:_MOST]:
        case = failure.case
        verdict = f"{case.verdict.value}, {case.blame.value}" if case.blame else case.verdict.value
        cells = (
            failure.cells[0]
            if len(failure.cells) == 1
            else f"{failure.cells[0]} and {len(failure.cells) - 1} more"
        )
        lines.append(row(verdict, code(case.id), escape(cells), escape(one_line(case.reason))))
    if failures[_MOST:]:
        lines += ["", f"... and {len(failures) - _MOST} more"]
    return "\n".join(lines)


def _source_text(source: SourceResult) -> str:
    return source.label if source.label == source.source else f"{source.label}: {source.source}"


def _matrix(all_rows: Sequence[Row], columns: Sequence[Kernel]) -> Iterator[tuple[str, list[Row | None]]]:
    for same in grouped(all_rows, lambda row: row.suite):
        by_kernel = {row.kernel: row for row in same}
        yield same[0].suite, [by_kernel.get(kernel) for kernel in columns]


def _counts(row: Row) -> str:
    words = [f"{number} {verdict.value}" for verdict, number in row.counts.items()]
    boots = [count(int(row.boots), "boot")] if row.boots not in ("", "1") else []
    return ", ".join(words + boots)


def _benchmark(each: SuiteComparison, cells: Sequence[CellResult], folder: Path) -> _Benchmark:
    own = [cell for cell in cells if (cell.label, cell.arch) == (each.label, each.arch)]
    legs = {leg: [cell for cell in own if cell.variant == leg] for leg in (WITHOUT, WITH)}

    def medians(leg: str) -> dict[str, float]:
        boots = [suite.metrics for cell in legs[leg] for suite in cell.suites if suite.suite == each.suite]
        names = [ratio.metric for ratio in each.comparison.ratios]
        return {name: median(usable(boots, name)) for name in names}

    return _Benchmark(
        suite=each.suite,
        label=each.label,
        arch=each.arch,
        comparison=each.comparison,
        with_=medians(WITH),
        without=medians(WITHOUT),
        charts=tuple(_charts(each.suite, legs, folder)),
    )


def _charts(suite: str, legs: dict[str, list[CellResult]], folder: Path) -> Iterator[str]:
    """The distributions of the times that both variants have."""
    histograms: dict[str, dict[str, list[chart.Histogram]]] = {}
    for leg, cells in legs.items():
        for cell in cells:
            for each in cell.suites:
                if each.suite == suite and each.metrics:
                    for name, histogram in _histograms(each, folder).items():
                        histograms.setdefault(name, {}).setdefault(leg, []).append(histogram)
    both = {name: boots for name, boots in histograms.items() if len(boots) == len(legs)}
    for name, boots in list(both.items())[:_MOST_CHARTS]:
        yield chart.distributions(name.removeprefix("ns_"), boots)


def _histograms(suite: SuiteResult, folder: Path) -> dict[str, chart.Histogram]:
    """The histograms of the benchmark's document, which is its program's log."""
    for case in suite.cases:
        path = _inside(folder, case.log)
        if path is not None and path.is_file() and path.stat().st_size <= benchmark.MAX_STDOUT:
            try:
                stdout = path.read_bytes().partition(STDERR_MARK)[0]
                document = benchmark.parse(stdout, case.id.rpartition("/")[2])
            except Inconclusive:
                continue
            return dict(document.histograms)
    return {}


def _failures(cells: Sequence[CellResult]) -> list[_Failure]:
    bad = [(case, cell.cell) for cell in cells for case in cell.all_cases() if case.verdict in BAD]
    same = grouped(bad, lambda each: (each[0].id, each[0].verdict, each[0].reason))
    return [
        _Failure(case=each[0][0], cells=tuple(dict.fromkeys(cell for _, cell in each)), console="")
        for each in same
    ]


def _with_console(failure: _Failure, folder: Path) -> _Failure:
    path = _inside(folder, f"cells/{failure.cells[0]}/console.log")
    if path is None or not path.is_file():
        return failure
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _CONSOLE_BYTES))
        lines = clean(stream.read()).splitlines()[-_CONSOLE_LINES:]
    return msgspec.structs.replace(failure, console="\n".join(lines))


def _inside(folder: Path, name: str) -> Path | None:
    """A file of the run; ``None`` of a name that leads out of it, as a run from elsewhere may have."""
    path = (folder / name).resolve() if name else None
    return path if path is not None and path.is_relative_to(folder.resolve()) else None


def _by_reason(cells: Sequence[CellResult], verdicts: Sequence[Verdict]) -> list[_Group]:
    cases = [case for cell in cells for case in cell.all_cases() if case.verdict in verdicts]
    return [
        _Group(reason=same[0].reason, ids=tuple(dict.fromkeys(case.id for case in same)))
        for same in grouped(cases, lambda case: case.reason)
    ]


def _environment(cells: Sequence[CellResult]) -> Iterator[tuple[Kernel, dict[str, str]]]:
    for same in grouped(cells, lambda cell: (cell.label, cell.arch, cell.variant)):
        yield (same[0].label, same[0].arch, same[0].variant), same[0].properties


def _csv(cells: Sequence[CellResult]) -> str:
    """Each boot's numbers, one a line; empty without any."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("label", "arch", "variant", "boot", "suite", "metric", "value"))
    numbers = [
        (cell.label, cell.arch, cell.variant, cell.boot, suite.suite, metric, value)
        for cell in cells
        for suite in cell.suites
        for metric, value in suite.metrics.items()
    ]
    writer.writerows(numbers)
    return out.getvalue() if numbers else ""
