# SPDX-License-Identifier: GPL-2.0-only
"""The page of a run: what it says, and that nothing in it acts."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from urllib.parse import unquote

import lxml.html
import msgspec
import pytest

from orchestrator.analysis.pairs import pairs, rates
from orchestrator.cell.program import STDERR_MARK
from orchestrator.core.text import clean_str
from orchestrator.report import run_page
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.run.summary import RunResult, SourceResult, compare

HOSTILE = clean_str(
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> \x1b[31m {{ 7*7 }} &amp;"
)


def histogram(middle: float) -> list[tuple[int, int]]:
    """Counts of times around so many µs."""
    uppers = [round(1000 * middle * 1.05**n) for n in range(-60, 120)]
    return [
        (upper, max(1, round(1000 * math.exp(-(((n - 60) / 12) ** 2))))) for n, upper in enumerate(uppers)
    ]


def document(middle: float) -> bytes:
    return msgspec.json.encode(
        {
            "schema_version": 2,
            "benchmark": "map-latency",
            "parameters": {},
            "metrics": {
                "mean_us_scanned": {"value": middle, "unit": "us", "better": "lower", "compare": True}
            },
            "histograms": {"scanned": histogram(middle), "alone": histogram(20)},
            "proofs": [{"name": "worked", "ok": True}],
            "clock_step_ns": 1,
        }
    )


def bench_cell(folder: Path, variant: str, boot: int, middle: float) -> CellResult:
    name = f"7.2-x86_64-{variant}-map-latency-{boot}"
    log = f"cells/{name}/suites/map-latency/map-latency.log"
    (folder / log).parent.mkdir(parents=True)
    (folder / log).write_bytes(document(middle) + STDERR_MARK + b"a word\n")
    return CellResult(
        cell=name,
        label="7.2",
        arch="x86_64",
        variant=variant,
        boot=boot,
        properties={"accelerator": "tcg"},
        suites=(
            SuiteResult(
                suite="map-latency",
                kind="benchmark",
                cases=(Case(id="map-latency/map-latency", verdict=Verdict.PASS, log=log),),
                metrics={"mean_us_scanned": middle},
                better={"mean_us_scanned": "lower"},
            ),
        ),
    )


def functional(variant: str, *cases: Case) -> CellResult:
    return CellResult(
        cell=f"7.2-x86_64-{variant}",
        label="7.2",
        arch="x86_64",
        variant=variant,
        suites=(SuiteResult(suite="maps", cases=cases),),
    )


def result(*cells: CellResult, **more: object) -> RunResult:
    fields: dict[str, object] = {
        "schema_version": 2,
        "id": "20260101-000000-abcd",
        "sources": (SourceResult(label="7.2", source="Linux 7.2.1", digest="d"),),
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:10:00Z",
        "cells": cells,
        "comparisons": compare(cells),
        "pairs": pairs(cells),
        "rates": rates(cells),
    }
    return RunResult(**{**fields, **more})  # type: ignore[arg-type]


@pytest.fixture
def benchmarks(tmp_path: Path) -> list[CellResult]:
    return [
        bench_cell(tmp_path, variant, boot, middle + boot)
        for variant, middle in (("per-vma-lock", 25), ("mmap-lock", 900))
        for boot in range(1, 5)
    ]


PASSED = Case(id="maps/p/one", verdict=Verdict.PASS)
FAILED = Case(
    id="maps/p/two",
    verdict=Verdict.FAIL,
    blame=Blame.KERNEL,
    reason=HOSTILE,
    detail=HOSTILE,
    log="cells/x/<y>.log",
)
SKIPPED = Case(id="maps/p/three", verdict=Verdict.SKIP, reason="no such file")


def page_of(run: RunResult, folder: Path) -> lxml.html.HtmlElement:
    path = run_page.write(run, folder)
    assert path == folder / "report.html"
    return lxml.html.document_fromstring(path.read_bytes())


def test_the_answer_comes_first(tmp_path: Path, benchmarks: list[CellResult]) -> None:
    page = page_of(result(*benchmarks, functional("mmap-lock", PASSED, SKIPPED)), tmp_path)
    answer = page.xpath("//p[@class='answer']")[0].text_content()
    assert answer.startswith("2 cases passed; 1 skipped; map-latency/mean_us_scanned ")
    assert " x [" in answer
    assert answer.endswith("better with per-VMA locks (7.2 x86_64).")
    table = page.xpath("//table")[0].text_content().split()
    assert "PASS" in table
    assert "8" not in table
    # one picture a time of which both variants have the distribution
    assert len(page.xpath("//figure/svg")) == 2
    assert "share of the calls" in page.xpath("//figure/svg")[0].text_content()


def test_a_failure_has_what_a_reader_needs(tmp_path: Path) -> None:
    folder = tmp_path / "cells/7.2-x86_64-mmap-lock"
    folder.mkdir(parents=True)
    (folder / "console.log").write_bytes(b"early\n" * 100 + b"\x1b[31mBUG: the last line\n")
    page = page_of(result(functional("mmap-lock", PASSED, FAILED)), tmp_path)
    text = page.text_content()
    assert "1 case failed, the kernel's fault (maps/p/two); 1 case passed" in text
    assert "sh cells/7.2-x86_64-mmap-lock/reproduce.sh" in text
    assert "BUG: the last line" in text
    assert text.count("early") == 19
    assert page.xpath("//a[text()='log']/@href") == ["cells/x/%3Cy%3E.log"]


def test_nothing_in_the_page_acts_or_loads(tmp_path: Path, benchmarks: list[CellResult]) -> None:
    hostile = functional("mmap-lock", FAILED, msgspec.structs.replace(SKIPPED, reason=HOSTILE, id=HOSTILE))
    hostile = msgspec.structs.replace(hostile, label=HOSTILE, properties={HOSTILE: HOSTILE})
    page = page_of(result(*benchmarks, hostile), tmp_path)
    acting = {"script", "img", "iframe", "link", "object", "embed", "form", "base"}
    assert not acting & {str(element.tag) for element in page.iter()}
    assert not [name for element in page.iter() for name in element.attrib if name.startswith("on")]
    policy = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "49" not in page.xpath("//pre")[0].text_content()
    assert page.xpath("//pre")[0].text_content() == HOSTILE


def test_the_numbers_can_be_taken_along(tmp_path: Path, benchmarks: list[CellResult]) -> None:
    page = page_of(result(*benchmarks), tmp_path)
    (link,) = page.xpath("//a[@download]/@href")
    rows = list(csv.reader(io.StringIO(unquote(link.partition(",")[2]))))
    assert rows[1] == ["7.2", "x86_64", "per-vma-lock", "1", "map-latency", "mean_us_scanned", "26"]
    assert len(rows) == 9


def test_a_page_of_many_cases_is_small(tmp_path: Path) -> None:
    cases = [Case(id=f"maps/p/{n}", verdict=Verdict.PASS) for n in range(60_000)]
    cases += [Case(id=f"maps/s/{n}", verdict=Verdict.SKIP, reason="no") for n in range(20_000)]
    cases += [Case(id=f"maps/f/{n}", verdict=Verdict.FAIL, blame=Blame.KERNEL) for n in range(20_000)]
    page = page_of(result(functional("mmap-lock", *cases)), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
    assert sum(1 for _ in page.iter()) < 5_000
    assert "... and 19950 more in results.json" in page.text_content()


def test_a_run_from_elsewhere_reads_no_other_file(tmp_path: Path, benchmarks: list[CellResult]) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(document(5))
    run = tmp_path / "run"
    (run / "cells").mkdir(parents=True)
    (run / "cells" / "link").symlink_to(tmp_path)

    def outside(cell: CellResult, log: str) -> CellResult:
        (suite,) = cell.suites
        (case,) = suite.cases
        suite = msgspec.structs.replace(suite, cases=(msgspec.structs.replace(case, log=log),))
        return msgspec.structs.replace(cell, suites=(suite,))

    for log in ("../secret", str(secret), "cells/link/secret"):
        page = page_of(result(*(outside(cell, log) for cell in benchmarks)), run)
        assert not page.xpath("//figure")


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    page = page_of(result(functional("mmap-lock", PASSED), interrupted=True, finished_at=""), tmp_path)
    assert page.xpath("//p[@class='answer']")[0].text_content() == "Interrupted, so far; 1 case passed."
    assert "Incomplete" in page.text_content()


def test_markdown(tmp_path: Path, benchmarks: list[CellResult]) -> None:
    lines = run_page.markdown(result(*benchmarks, functional("mmap-lock", PASSED, FAILED))).splitlines()
    assert lines[0].startswith("**1 case failed, the kernel's fault (maps/p/two); 2 cases passed; ")
    assert "| 7.2 x86\\_64 mmap-lock | maps | 1 | 1 | 1 | 0 | FAIL |" in lines
    assert any(
        line.startswith("| `mean_us_scanned` | ") and line.endswith(" better with per-VMA locks |")
        for line in lines
    )
    (failure,) = [line for line in lines if line.startswith("| FAIL, kernel | `maps/p/two` |")]
    assert "\\<script\\>" in failure
