# SPDX-License-Identifier: GPL-2.0-only
"""The result of a run (``results.json``), and the comparisons across its cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.analysis.compare import Comparison, compare_pair
from orchestrator.analysis.pairs import PairFinding, Rate, pairs, rates
from orchestrator.analysis.regression import MetricChange, MetricDifference, difference
from orchestrator.core import text as txt
from orchestrator.core.errors import UserError
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.results.model import (
    SCHEMA_VERSION,
    Blame,
    Case,
    CellResult,
    SuiteResult,
    Verdict,
    bisect_exit_code,
    exit_code,
)

#: The name of the file in the folder of a run.
FILE = "results.json"


class SuiteComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark's two variants on one arch."""

    label: str
    arch: str
    suite: str
    comparison: Comparison


class SourceComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of another source of the run, compared with those of its first one (``base``)."""

    base: str
    label: str
    metrics: tuple[MetricDifference, ...]

    def cases(self) -> tuple[Case, ...]:
        """A case for each metric; a worse one is a failure of the kernel."""
        return tuple(
            Case(
                id=f"{metric.suite}/{metric.metric}/{'/'.join(metric.place)}",
                verdict=Verdict.FAIL if metric.change is MetricChange.WORSE else Verdict.PASS,
                blame=Blame.KERNEL if metric.change is MetricChange.WORSE else Blame.NONE,
                reason=f"{self.label} / {self.base} {metric.ratio.estimate:.2f} x{metric.ratio.interval}: "
                f"{metric.change} ({metric.better} is better)",
            )
            for metric in self.metrics
        )


class SourceResult(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the run, with its source."""

    label: str
    source: str
    digest: str
    tree_class: str = ""
    maps_read_under_vma_locks: bool | None = None

    def __post_init__(self) -> None:
        """Make the text safe to show: a prebuilt image describes itself."""
        msgspec.structs.force_setattr(self, "label", txt.name(self.label))
        msgspec.structs.force_setattr(self, "source", txt.name(self.source))


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``results.json``."""

    schema_version: int
    id: str
    sources: tuple[SourceResult, ...]
    started_at: str
    finished_at: str = ""
    interrupted: bool = False
    cells: tuple[CellResult, ...] = ()
    comparisons: tuple[SuiteComparison, ...] = ()
    source_comparisons: tuple[SourceComparison, ...] = ()
    pairs: tuple[PairFinding, ...] = ()
    rates: tuple[Rate, ...] = ()

    def exit_code(self, *, bisect: bool = False) -> int:
        """The exit code of the run (design §5); only cases of suites can make it green.

        :param bisect: in the language of ``git bisect run``.
        """
        judge = bisect_exit_code if bisect else exit_code
        return judge(self._deciding_cases(), interrupted=self.interrupted)

    def _deciding_cases(self) -> list[Case]:
        own = [c for cell in self.cells for c in cell.cases if c.verdict is not Verdict.PASS]
        worse = [c for each in self.source_comparisons for c in each.cases() if c.verdict is not Verdict.PASS]
        return own + [c for cell in self.cells for s in cell.suites for c in s.cases] + worse


def read(folder: Path) -> RunResult:
    """The results of the run in a folder.

    :raises UserError: it has none yet, or another version of orchestrate wrote them.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
        result = msgspec.json.decode(content, type=RunResult)
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no results yet", remedy="Wait for its first cell, or resume the run."
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy="Resume the run first.") from None
    if result.schema_version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {result.schema_version}; this orchestrate reads {SCHEMA_VERSION}",
            remedy="Read it with the version of orchestrate that wrote it.",
        )
    return result


def with_cells(result: RunResult, cells: Sequence[CellResult]) -> RunResult:
    """The result with these cells, and the comparisons that follow from them."""
    return msgspec.structs.replace(
        result,
        cells=tuple(cells),
        comparisons=compare(cells),
        source_comparisons=compare_sources(cells),
        pairs=pairs(cells),
        rates=rates(cells),
    )


def of_cell(cell: CellResult) -> str:
    """A cell's result in words: ``maps 8 passed, 2 skipped``."""
    words = []
    for case in cell.cases:
        if case.verdict.value not in ("PASS", "NA"):
            words.append(f"{case.id}: {case.verdict.value}: {case.reason}")
    for suite in cell.suites:
        counts: dict[str, int] = {}
        for case in suite.cases:
            counts[case.verdict.value] = counts.get(case.verdict.value, 0) + 1
        words.append(f"{suite.suite}: " + (", ".join(f"{n} {v}" for v, n in counts.items()) or "nothing ran"))
    return "; ".join(words) or ("ended early" if cell.interrupted else "built")


def compare(cells: Sequence[CellResult]) -> tuple[SuiteComparison, ...]:
    """Compare the variants of each benchmark, for each kernel label and arch that has both."""
    boots: dict[tuple[str, str, str], dict[str, list[dict[str, float]]]] = {}
    better: dict[str, dict[str, str]] = {}
    for cell in cells:
        for suite in cell.suites:
            if suite.kind == "benchmark":
                pair = boots.setdefault((cell.label, cell.arch, suite.suite), {})
                pair.setdefault(cell.variant, []).append(suite.metrics)
                better.setdefault(suite.suite, {}).update(suite.better)
    comparisons = []
    for (label, arch, suite_name), pair in boots.items():
        if any(map(bool, pair.get(WITH, []))) and any(map(bool, pair.get(WITHOUT, []))):
            comparison = compare_pair(pair[WITH], pair[WITHOUT], better=better[suite_name])
            comparisons.append(
                SuiteComparison(label=label, arch=arch, suite=suite_name, comparison=comparison)
            )
    return tuple(comparisons)


def compare_sources(cells: Sequence[CellResult]) -> tuple[SourceComparison, ...]:
    """Compare the benchmarks of each further source with those of the first, kernel by kernel."""
    kernels: dict[str, dict[tuple[str, ...], list[CellResult]]] = {}
    for cell in cells:
        if any(suite.better for suite in cell.suites):
            kernels.setdefault(cell.label, {}).setdefault((cell.arch, cell.variant), []).append(cell)
    if len(kernels) < 2:
        return ()
    base, *others = kernels
    compared = [
        SourceComparison(base=base, label=label, metrics=difference(kernels[base], kernels[label]).metrics)
        for label in others
    ]
    return tuple(each for each in compared if each.metrics)


def annotated_cells(result: RunResult) -> list[CellResult]:
    """The cells, with the findings of pairs and the failure rates added to their properties.

    Comparisons of sources come first, as cells of their own.
    """
    cells = [
        CellResult(
            cell=f"{each.label}-against-{each.base}",
            label=each.label,
            suites=(SuiteResult(suite="comparison", cases=each.cases()),),
        )
        for each in result.source_comparisons
    ]
    for cell in result.cells:
        ids = {case.id for case in cell.all_cases()}
        same = (cell.label, cell.arch)
        more = {
            f"pair: {p.case}": p.says for p in result.pairs if (p.label, p.arch) == same and p.case in ids
        }
        more |= {
            f"rate: {r.case}": rate_text(r)
            for r in result.rates
            if (r.label, r.arch, r.variant) == (*same, cell.variant) and r.case in ids
        }
        cells.append(msgspec.structs.replace(cell, properties=cell.properties | more))
    return cells


def rate_text(rate: Rate) -> str:
    """``3 of 200 boots failed: 1.5 %, 95 % interval 0.5 .. 4.3 %``."""
    return (
        f"{rate.failures} of {rate.boots} boots failed: {rate.failures / rate.boots:.1%}, "
        f"95 % interval {rate.low * 100:.1f} .. {rate.high * 100:.1f} %"
    ).replace("%,", " %,")
