# SPDX-License-Identifier: GPL-2.0-only
"""Comparisons of runs on disk, through the command that prints them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.core.errors import UserError
from orchestrator.report.answer import sentence
from orchestrator.results import junit
from orchestrator.results.model import SCHEMA_VERSION, Case, CellResult, SuiteResult, Verdict
from orchestrator.run import summary
from orchestrator.run.summary import RunResult

METRIC = "mean_us_scanned"


def cell(label: str, variant: str, verdict: Verdict, us: float, *, boot: int, **more: str) -> CellResult:
    return CellResult(
        cell=f"{label}-x86_64-{variant}-{boot}",
        label=label,
        arch="x86_64",
        variant=variant,
        boot=boot,
        properties={"accelerator": "tcg", "toolchain": "gcc 12", **more},
        suites=(
            SuiteResult(suite="maps", cases=(Case(id="maps/p", verdict=verdict, reason="a|b <x>"),)),
            SuiteResult(suite="lat", kind="benchmark", metrics={METRIC: us}, better={METRIC: "lower"}),
        ),
    )


def cells(label: str, variant: str, verdict: Verdict, us: float, **more: str) -> list[CellResult]:
    return [cell(label, variant, verdict, us * (1 + n / 1000), boot=n, **more) for n in range(5)]


def write_run(runs: Path, name: str, *groups: list[CellResult], **changes: object) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    result = RunResult(
        schema_version=SCHEMA_VERSION,
        id=name,
        sources=(),
        started_at="",
        cells=tuple(each for group in groups for each in group),
    )
    (folder / "results.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(result, **changes)))
    return folder


def compare(runs: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["compare", "--out", str(runs), *words])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path, "a", cells("7.2", "per-vma-lock", Verdict.PASS, 100))
    write_run(
        tmp_path,
        "b",
        cells("mine", "per-vma-lock", Verdict.FAIL, 150, accelerator="kvm"),
        cells("mine", "mmap-lock", Verdict.PASS, 900),
    )
    return tmp_path


def test_two_runs(runs: Path) -> None:
    result = compare(runs, "a", "b")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert " ".join(lines[:2]) == (
        "b against a: 1 case newly fails; lat/mean_us_scanned 1.50 x worse (x86_64 per-vma-lock)"
    )
    assert "    0 of 5 failed / 5 of 5 failed: a|b <x>" in lines
    assert f"  {METRIC}     1.50 x [1.50 .. 1.50]  worse" in lines
    note = "accelerator differs (x86_64 per-vma-lock): tcg / kvm; times compare only roughly."
    assert note in result.output.replace("\n", " ")
    assert "only b has x86_64 mmap-lock: not compared." in lines
    assert all(len(line) <= 80 for line in lines)


def test_a_regression_is_an_exit_code_only_on_request(runs: Path) -> None:
    assert compare(runs, "a", "b").exit_code == 0
    assert compare(runs, "a", "b", "--fail-on", "regression").exit_code == 1
    assert compare(runs, "b", "a", "--fail-on", "regression").exit_code == 0
    assert compare(runs, "a", "a", "--fail-on", "regression").exit_code == 0


def test_variants_of_one_run(runs: Path) -> None:
    for words in (["b"], ["b:per-vma-lock", "b:mmap-lock"]):
        result = compare(runs, *words)
        assert "b:mmap-lock against b:per-vma-lock: 1 case newly passes" in result.output.replace("\n", " ")


def test_labels_of_one_run(tmp_path: Path) -> None:
    groups = [
        cells(label, variant, Verdict.PASS, us)
        for label, us in (("base", 100), ("mine", 50))
        for variant in ("per-vma-lock", "mmap-lock")
    ]
    write_run(tmp_path, "a", *groups)
    result = compare(tmp_path, "a", "--format", "json")
    fields = json.loads(result.output)
    assert (fields["base"], fields["new"], fields["regressions"]) == ("a:base", "a:mine", 0)
    metrics = fields["difference"]["metrics"]
    assert [(m["place"], m["change"]) for m in metrics] == [
        (["x86_64", "per-vma-lock"], "better"),
        (["x86_64", "mmap-lock"], "better"),
    ]


def test_markdown_of_hostile_words(runs: Path) -> None:
    lines = compare(runs, "a", "b", "--format", "markdown").output.splitlines()
    row = next(line for line in lines if "`maps/p`" in line)
    assert row == (
        "| ❌ newly failing | x86\\_64 per-vma-lock | `maps/p` | 0 of 5 failed | 5 of 5 failed "
        "| a\\|b \\<x\\> |"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "c"], "there is no run 'c'"),
        (["a:per-vma", "b"], "unknown label or variant 'per-vma', did you mean 'per-vma-lock'?"),
        (["a"], "has neither two labels nor two variants"),
        (["a", "b:mmap-lock"], "there is nothing to compare: a has x86_64 per-vma-lock and b:mmap-lock has"),
    ],
)
def test_what_cannot_be_compared(runs: Path, words: list[str], message: str) -> None:
    result = compare(runs, *words)
    assert isinstance(result.exception, UserError)
    assert message in result.exception.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no results yet"),
        (b'{"schema_vers', "cannot be read"),
        (b'{"schema_version": 99, "id": "x", "sources": [], "started_at": ""}', "has schema version 99"),
    ],
)
def test_results_that_cannot_be_read(runs: Path, content: bytes | None, message: str) -> None:
    path = runs / "b" / "results.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = compare(runs, "a", "b")
    assert isinstance(result.exception, UserError)
    assert message in result.exception.message


def test_samples_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "a", cells("7.2", "per-vma-lock", Verdict.PASS, 0.0))
    write_run(tmp_path, "b", [cell("7.2", "per-vma-lock", Verdict.PASS, -1.0, boot=1)])
    result = compare(tmp_path, "a", "b")
    assert result.exit_code == 0
    assert "no difference shown" in result.output


def test_a_run_with_two_sources_is_judged_by_what_is_slower(tmp_path: Path) -> None:
    run = [
        *cells("base", "per-vma-lock", Verdict.PASS, 100),
        *cells("mine", "per-vma-lock", Verdict.PASS, 160),
        *cells("other", "per-vma-lock", Verdict.PASS, 100),
    ]
    result = summary.with_cells(
        RunResult(schema_version=SCHEMA_VERSION, id="a", sources=(), started_at=""), run
    )
    assert result.exit_code() == 1
    (worse,) = [case for each in result.source_comparisons for case in each.cases() if case.blame]
    assert worse.id == f"lat/{METRIC}/x86_64/per-vma-lock"
    assert worse.reason.startswith("mine / base 1.60 x [")
    assert "mine against base: lat/mean_us_scanned 1.60 x worse (x86_64 per-vma-lock)" in sentence(result)
    document = junit.render(summary.annotated_cells(result), run_id="a").decode()
    assert document.count("<failure") == 1
    assert "mine-against-base" in document
    equal = summary.with_cells(result, [cell for cell in run if cell.label != "mine"])
    assert equal.exit_code() == 0
