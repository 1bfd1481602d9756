# SPDX-License-Identifier: GPL-2.0-only
"""What a series is told as: terminal, page, cover letter. The golden files are in data/series."""

from __future__ import annotations

import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from fakes.series import result, series_of
from paths import DATA
from rich.console import Console

from orchestrator.analysis.regression import MetricChange
from orchestrator.analysis.stats import ratio_interval
from orchestrator.core.text import one_line
from orchestrator.plan.choices import Choices
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.series import cover, matrix
from orchestrator.series import page as series_page
from orchestrator.series import terminal as shown
from orchestrator.series.model import Change, PatchKernel, Row, RowResult, Scope, Series, Step

GOLDEN = DATA / "series"
HOSTILE = "<script>alert(1)</script>\x1b[31m & co"


def example() -> Series:
    """Five patches: one breaks a build on one arch, one adds a splat, the rest are harmless."""
    kernels = [(a, v) for a in ("x86_64", "arm64") for v in ("per-vma-lock", "mmap-lock")]
    applies = Row(check="applies")
    rows: dict[Row, list[RowResult | None]] = {applies: [result(applies, ".") for _ in range(6)]}

    def put(check: str, arch: str, variant: str, letters: str, **more: str) -> None:
        row = Row(check=check, arch=arch, variant=variant)
        rows[row] = [result(row, letter, **more) for letter in letters]

    for arch, variant in kernels:
        broken = (arch, variant) == ("arm64", "mmap-lock")
        put("build", arch, variant, "..FF.." if broken else "......")
    for arch, variant in kernels:
        broken = (arch, variant) == ("arm64", "mmap-lock")
        put("warnings", arch, variant, "..--.." if broken else "......")
    put("compile", "riscv-nommu", "", "ssssss")
    put("warnings", "riscv-nommu", "", "------")
    for arch, variant in kernels:
        broken = (arch, variant) == ("arm64", "mmap-lock")
        put("boot", arch, variant, ".=--.." if broken else ".=....")
    for arch, variant in kernels:
        broken = (arch, variant) == ("arm64", "mmap-lock")
        letters = ".=--CC" if broken else ".=..CC"
        put("maps", arch, variant, letters, name="maps/proc-maps-race", fingerprint="lockdep:maps")
    for arch, variant in kernels:
        put("bench", arch, variant, "-----.", name="map-latency/interference")
    series = series_of(
        rows, started_at="2026-11-26T10:00:00.000+00:00", finished_at="2026-11-26T11:00:00.000+00:00"
    )
    crash = Case(
        id="maps/proc-maps-race", verdict=Verdict.CRASH, blame=Blame.KERNEL, fingerprint="lockdep:maps",
        reason="possible circular locking dependency detected", detail="WARNING: possible circular\nlocking",
        log="patches/0004-tests/cells/patch-4-arm64-per-vma-lock/console.log",
    )  # fmt: skip
    steps = []
    for step in series.steps:
        here = {
            name: RowResult(cases=(crash,)) if name.startswith("maps ") and step.number >= 4 else found
            for name, found in step.rows.items()
        }
        gcc = {"x86_64": "gcc 12.2.0", "arm64": "aarch64-linux-gnu-gcc 12.2.0"}
        steps.append(
            Step(
                number=step.number, rows=here, finished=True,
                kernels={
                    f"{a} {v}": PatchKernel(image="i", release="7.2.1", toolchain=gcc[a]) for a, v in kernels
                },
                machines={a: "QEMU 7.2, tcg, 2 CPUs, 512 MiB" for a, _ in kernels},
            )
        )  # fmt: skip
    asked = Scope(
        choices=Choices(arches=("x86_64", "arm64"), variants=("per-vma-lock", "mmap-lock")),
        folder="/home/me/linux", name="base..maps", also=("riscv-nommu",), bench=("map-latency",),
    )  # fmt: skip
    changes = [
        Change(
            arch=arch, variant="per-vma-lock", suite="map-latency", metric=metric, better="lower", base=2.0,
            tip=1.5, ratio=ratio_interval([1.5, 1.4, 1.6], [2.0, 2.1, 1.9]), says=says,
        )
        for arch in ("x86_64", "arm64")
        for metric, says in (("mean_us_alone", MetricChange.SAME), ("interference", MetricChange.BETTER))
    ]  # fmt: skip
    patches = tuple(
        msgspec.structs.replace(
            patch, subject=one_line(f"mm: {HOSTILE}") if patch.number == 3 else patch.subject
        )
        for patch in series.patches
    )
    return msgspec.structs.replace(
        series, id="series-20261126-100000-abcd", steps=tuple(steps), scope=asked, changes=tuple(changes),
        patches=patches, notes=("1 of its commits is a merge",),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cover, "_version", lambda: "0.1.0")


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("ORCHESTRATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"ORCHESTRATE_GOLDEN=1 writes {name} anew, to be looked at"


def test_the_page_is_what_it_was() -> None:
    series = example()
    check_golden("series.html", series_page.render(series, matrix.judge(series)))


def test_the_cover_letter_is_what_it_was() -> None:
    series = example()
    text = cover.text(series, matrix.judge(series))
    assert max(map(len, text.splitlines())) <= cover.WIDTH
    check_golden("cover.txt", text)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_alone_and_harmless() -> None:
    series = example()
    text = series_page.render(series, matrix.judge(series))
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text
    links = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert links
    assert all(link and not re.match(r"[a-z]+:|/", link) for link in links)
    # as many entries as checks that are shown times patches
    marks = [
        attributes
        for tag, attributes in page.tags
        if tag == "td" and "mark" in (attributes.get("class") or "")
    ]
    assert len(marks) == (1 + 4 + 4 + 1 + 4 + 4 + 4) * 6
    assert all(mark["title"] for mark in marks)


def test_exactly_the_two_are_named() -> None:
    found = matrix.judge(example())
    assert [patch.number for patch in found.culprits()] == [2, 4]
    assert [fault.row.name for fault in found.of_series if fault.patch == 2] == ["build arm64 mmap-lock"]


def terminal(series: Series) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, highlight=False, markup=False, emoji=False)
    shown.print_summary(console, series, matrix.judge(series), Path("/runs/series-x"))
    return stream.getvalue()


def test_the_terminal_has_80_columns() -> None:
    said = terminal(example())
    head, table, *_ = said.strip("\n").split("\n\n")
    assert max(map(len, f"{head}\n{table}".splitlines())) <= 80
    assert "\x1b" not in said
    assert "culprits: patch 2 " in said
    assert "/runs/series-x/patches/0004-tests/" in said


def test_many_patches_go_on_below() -> None:
    row = Row(check="build", arch="arm64", variant="mmap-lock")
    series = series_of({row: [result(row, ".") for _ in range(40)]})
    lines = cover.table(matrix.judge(series), 80)
    assert max(map(len, lines)) <= 80
    heads = " ".join(line.removeprefix("patch") for line in lines if line.startswith("patch")).split()
    assert heads == [str(n) for n in range(40)]


def test_a_series_that_was_broken_off_says_so() -> None:
    series = example()
    series = msgspec.structs.replace(series, steps=series.steps[:2], interrupted=True, finished_at="")
    found = matrix.judge(series)
    assert "The test is incomplete" in cover.text(series, found)
    assert "Incomplete:" in series_page.render(series, found)
    said = terminal(series)
    assert "series --resume" in said
    assert "no patch introduced a failure" not in said


def test_what_nothing_is_known_of_can_be_told() -> None:
    series = msgspec.structs.replace(example(), steps=(), changes=())
    found = matrix.judge(series)
    assert cover.text(series, found)
    assert series_page.render(series, found)
    assert terminal(series)
