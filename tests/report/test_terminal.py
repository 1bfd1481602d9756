# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator.analysis.pairs import pairs, rates
from orchestrator.core.text import clean
from orchestrator.report import terminal
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.run.summary import RunResult
from orchestrator.verdict.known import UNEXPECTED_PASS

HOSTILE = clean(b"[red]x[/red] [/nope] \x1b[31m\x07 :smile: \xff" + b"long " * 60)


def result(*cells: CellResult, **more: object) -> RunResult:
    given = {
        "schema_version": 2,
        "id": "20260101-000000-abcd",
        "sources": (),
        "pairs": pairs(cells),
        "rates": rates(cells),
        "started_at": "",
        "cells": cells,
    }
    return RunResult(**{**given, **more})  # type: ignore[arg-type]


def cell(
    *cases: Case, variant: str = "mmap-lock", boot: int = 0, label: str = "7.2.1", arch: str = "x86_64"
) -> CellResult:
    return CellResult(
        cell=f"{label}-{arch}-{variant}" + (f"-{boot}" if boot else ""),
        label=label,
        arch=arch,
        variant=variant,
        boot=boot,
        suites=(SuiteResult(suite="maps", cases=cases),),
    )


def case(verdict: Verdict = Verdict.PASS, reason: str = "", id: str = "maps/p") -> Case:
    return Case(id=id, verdict=verdict, reason=reason, blame=Blame.KERNEL)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    monkeypatch.setenv("COLUMNS", "80")

    def show(of: RunResult, folder: Path = Path("/runs/1")) -> list[str]:
        terminal.print_summary(terminal.console(), of, folder)
        return capsys.readouterr().out.splitlines()

    return show


def row(lines: list[str], word: str) -> list[str]:
    return next(line.split() for line in lines if word in line)


def test_a_green_run(shown) -> None:  # type: ignore[no-untyped-def]
    lines = shown(result(cell(case(), case(), case(Verdict.SKIP), case(Verdict.NA))))
    assert row(lines, "mmap-lock") == ["7.2.1", "x86_64", "mmap-lock", "maps", "1", "2", "0", "2", "PASS"]
    assert lines[-1] == "results: /runs/1"
    assert not any("again:" in line for line in lines)


@pytest.mark.parametrize("verdict", ["FAIL", "CRASH", "TIMEOUT", "ERROR", "INCONCLUSIVE"])
def test_what_went_wrong_is_named(shown, verdict: str) -> None:  # type: ignore[no-untyped-def]
    lines = shown(result(cell(case(), case(Verdict(verdict), "the reason"))))
    assert row(lines, "mmap-lock  maps")[3:] == ["maps", "1", "1", "1", "0", verdict]
    assert f"{verdict}, kernel  7.2.1-x86_64-mmap-lock: maps/p: the reason" in lines
    assert "again:   sh /runs/1/cells/7.2.1-x86_64-mmap-lock/reproduce.sh" in lines


def test_a_cell_that_did_not_get_to_its_suites(shown) -> None:  # type: ignore[no-untyped-def]
    cases = (case(id="config"), case(Verdict.FAIL, "no", id="build"))
    broken = CellResult(cell="c", label="7.2", arch="arm64", variant="mmap-lock", cases=cases)
    assert row(shown(result(broken)), "mmap-lock  build") == [
        "7.2",
        "arm64",
        "mmap-lock",
        "build",
        "0",
        "1",
        "0",
        "FAIL",
    ]


def test_a_suite_without_cases_is_not_green(shown) -> None:  # type: ignore[no-untyped-def]
    assert row(shown(result(cell())), "maps")[-1] == "INCONCLUSIVE"


def test_of_many_only_some_are_listed(shown) -> None:  # type: ignore[no-untyped-def]
    lines = shown(result(cell(*(case(Verdict.FAIL, f"r{n}") for n in range(25)))))
    assert sum(": maps/p: r" in line for line in lines) == 10
    assert "... and 15 more" in lines


def test_eighty_columns(shown) -> None:  # type: ignore[no-untyped-def]
    label = "7.2.1-rc7-00123-gabcdef012345-with-a-long-series"
    lines = shown(result(cell(case(), label=label, variant="per-vma-lock")))
    table = lines[: next(n for n, line in enumerate(lines) if line.startswith("results:"))]
    assert max(map(len, table)) <= 80
    assert label.replace("-", "") in "".join(line.split("  ")[0] for line in table).replace("-", "").replace(
        " ", ""
    )


def test_the_boots_of_a_kernel_are_one_row(shown) -> None:  # type: ignore[no-untyped-def]
    boots = [cell(case(), case(id="maps/q"), boot=n) for n in range(1, 200)]
    bad = cell(case(Verdict.FAIL, "r"), case(id="maps/q"), boot=200)
    lines = shown(result(*boots, bad))
    assert row(lines, "mmap-lock  maps")[3:] == ["maps", "200", "399", "1", "0", "FAIL"]
    said = "\n".join(lines)
    assert "maps/p: 1 of 200 boots failed: 0.5 %, 95 % interval 0.1 .. 2.8 %" in said
    assert "1 case never failed in 200 boots (95 %: the rate is below 1.9 %)" in said


def test_known_failures_have_a_column_and_a_line(shown) -> None:  # type: ignore[no-untyped-def]
    known = CellResult(
        cell="7.2.1-x86_64-per-vma-lock",
        label="7.2.12",
        arch="x86_64",
        variant="per-vma-lock",
        suites=(SuiteResult(suite="maps-coherency", cases=(case(), case(Verdict.KNOWN, "a gap"))),),
    )
    lines = shown(result(known, known))
    assert row(lines, "per-vma-lock maps-coherency")[3:] == [
        "maps-coherency",
        "2",
        "2",
        "0",
        "2",
        "0",
        "KNOWN",
    ]
    assert "KNOWN  7.2.1-x86_64-per-vma-lock: maps/p: a gap" in lines
    assert max(len(line) for line in lines) <= 80
    unseen = case(Verdict.PASS, f"{UNEXPECTED_PASS}: a gap (link)")
    lines = shown(
        result(msgspec.structs.replace(known, suites=(SuiteResult(suite="maps", cases=(unseen,)),)))
    )
    assert f"look at  7.2.1-x86_64-per-vma-lock: maps/p: {UNEXPECTED_PASS}: a gap (link)" in lines
    assert "known" not in next(line for line in lines if line.startswith("kernel")).split()


def test_what_the_pair_says(shown) -> None:  # type: ignore[no-untyped-def]
    lines = shown(result(cell(case(Verdict.CRASH, "r"), variant="per-vma-lock"), cell(case())))
    assert "7.2.1 x86_64: maps/p fails only with per-VMA locks: suspect the lock code" in lines


def test_hostile_text_is_shown_as_it_is(shown) -> None:  # type: ignore[no-untyped-def]
    suite = SuiteResult(suite="maps", cases=(case(Verdict.FAIL, HOSTILE),), unknown_programs=("[/x]", "[b]y"))
    name = "7.2-[red]x[/none]"
    lines = shown(result(CellResult(cell=name, label=name, suites=(suite,))), Path("/runs [1]/[bold]x"))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert f"{name}: maps/p: {HOSTILE}" in text
    assert "not in the manifest of maps: [/x], [b]y" in text
    assert "results: '/runs [1]/[bold]x'" in text


def test_an_interrupted_run_says_so(shown, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/orchestrate")
    assert shown(result(interrupted=True))[-2:] == [
        "interrupted; finished cells are kept",
        "resume:  orchestrate run --resume /runs/1",
    ]


def test_the_command_is_named_as_it_can_be_called(shown, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """After `make run` nothing is in PATH."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    command = shown(result(interrupted=True))[-1].split()[1]
    assert Path(command).is_absolute()
    assert Path(command).name == "orchestrate"


def test_logs_of_what_went_wrong_and_of_the_users_commands_are_named(shown) -> None:  # type: ignore[no-untyped-def]
    bad = Case(id="maps/p", verdict=Verdict.FAIL, log="cells/c/suites/maps/p.log")
    good = Case(id="cmd/cmd", verdict=Verdict.PASS, log="cells/c/suites/cmd/cmd.log")
    suites = (SuiteResult(suite="maps", cases=(bad,)), SuiteResult(suite="cmd", cases=(good,)))
    lines = shown(result(CellResult(cell="c", label="7.2", arch="arm64", variant="v", suites=suites)))
    assert "    /runs/1/cells/c/suites/maps/p.log" in lines
    assert "output:  /runs/1/cells/c/suites/cmd/cmd.log" in lines
