# SPDX-License-Identifier: GPL-2.0-only
"""Blame: made-up results of patches, and which of them is named for what."""

from __future__ import annotations

import msgspec
import pytest
from fakes.series import result, series_of

from orchestrator.results.model import Case, Verdict
from orchestrator.series import matrix
from orchestrator.series.model import Row, RowResult

BUILD = Row(check="build", arch="arm64", variant="mmap-lock")
WARNED = Row(check="warnings", arch="arm64", variant="mmap-lock")
MAPS = Row(check="maps", arch="arm64", variant="mmap-lock")
BENCH = Row(check="bench", arch="arm64", variant="mmap-lock")


def line(row: Row, letters: str) -> tuple[list[str], matrix.Matrix]:
    found = matrix.judge(series_of({row: [result(row, letter) for letter in letters]}))
    return [entry.text for entry in found.entries[row.name]], found


@pytest.mark.parametrize(
    ("letters", "shown", "blamed"),
    [
        ("....", "ok ok ok ok", []),
        (".=.=", "ok = ok =", []),
        ("..FF", "ok ok FAIL ^2", [(2, 1, None)]),
        # at the base already: told, and not the series's
        ("FFF", "FAIL ^0 ^0", [(0, None, None)]),
        # broken and mended: each patch must stand on its own
        (".F.", "ok FAIL ok", [(1, 0, 2)]),
        ("F.F", "FAIL ok FAIL", [(0, None, 1), (2, 1, None)]),
        # what could not be judged widens the suspicion
        (".-F", "ok - FAIL", [(2, 0, None)]),
        (".e?F", "ok err ? FAIL", [(3, 0, None)]),
        ("-F", "- FAIL", [(1, None, None)]),
        ("eF", "err FAIL", [(1, None, None)]),
        # unjudged in between does not begin it anew
        (".F?F", "ok FAIL ? ^1", [(1, 0, None)]),
        (".FeT", "ok FAIL err ^1", [(1, 0, None)]),
        (".kks", "ok known known skip", []),
        ("nnn", "n/a n/a n/a", []),
    ],
)
def test_blame(letters: str, shown: str, blamed: list[tuple[int, int | None, int | None]]) -> None:
    texts, found = line(BUILD, letters)
    assert " ".join(texts) == shown
    assert [(f.patch, f.after, f.fixed_at) for f in found.faults] == blamed


def test_a_case_that_only_exists_when_it_crashes_was_good_before() -> None:
    good = RowResult(cases=(Case(id="maps/race/x", verdict=Verdict.PASS),))
    crashed = Case(id="maps/race", verdict=Verdict.CRASH, fingerprint="f")
    found = matrix.judge(series_of({MAPS: [good, RowResult(cases=(crashed,)), good]}))
    (fault,) = found.faults
    assert (fault.patch, fault.after, fault.fixed_at) == (1, 0, 2)


def test_the_same_report_in_another_program_is_not_new() -> None:
    def crash(name: str) -> RowResult:
        return RowResult(cases=(Case(id=name, verdict=Verdict.CRASH, fingerprint="lockdep-1"),))

    good = RowResult(cases=(Case(id="maps/a/x", verdict=Verdict.PASS),))
    found = matrix.judge(series_of({MAPS: [good, crash("maps/a"), crash("maps/b")]}))
    assert [fault.patch for fault in found.faults] == [1]
    assert [entry.text for entry in found.entries[MAPS.name]] == ["ok", "CRASH", "^1"]


def test_a_new_report_counts_in_a_case_that_fails_already() -> None:
    failed = RowResult(cases=(Case(id="maps/a", verdict=Verdict.FAIL),))
    crashed = RowResult(cases=(Case(id="maps/a", verdict=Verdict.CRASH, fingerprint="new"),))
    found = matrix.judge(series_of({MAPS: [failed, crashed, crashed]}))
    assert [(fault.patch, fault.after) for fault in found.faults] == [(0, None), (1, 0)]
    assert [entry.text for entry in found.entries[MAPS.name]] == ["FAIL", "CRASH", "^1"]


def test_a_new_failure_shows_beside_an_old_one() -> None:
    def both(a: Verdict, b: Verdict) -> RowResult:
        return RowResult(cases=(Case(id="maps/a", verdict=a), Case(id="maps/b", verdict=b)))

    rows: list[RowResult | None] = [
        both(Verdict.FAIL, Verdict.PASS),
        both(Verdict.FAIL, Verdict.FAIL),
        both(Verdict.FAIL, Verdict.FAIL),
    ]
    found = matrix.judge(series_of({MAPS: rows}))
    assert [entry.text for entry in found.entries[MAPS.name]] == ["FAIL", "FAIL", "^0"]
    assert [fault.case.id for fault in found.of_series] == ["maps/b"]
    assert [fault.case.id for fault in found.at_base] == ["maps/a"]
    assert found.culprits() == (found.patches[1],)


def test_each_new_warning_is_its_patchs_own() -> None:
    texts, found = line(WARNED, ".FF.")
    assert texts == ["ok", "FAIL", "FAIL", "ok"]
    assert [(f.patch, f.after, f.fixed_at) for f in found.faults] == [(1, 0, None), (2, 1, None)]


def test_a_benchmark_at_the_tip_is_the_whole_seriess() -> None:
    _, found = line(BENCH, "---F")
    (fault,) = found.faults
    assert (
        matrix.sentence([fault], found.patches)
        == "one of the patches 1 to 3: bench arm64 mmap-lock: FAIL: why"
    )


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ({BUILD: "..", MAPS: ".."}, 0),
        ({BUILD: "..", MAPS: ".="}, 0),
        ({BUILD: ".F", MAPS: ".-"}, 1),
        ({BUILD: "..", MAPS: ".F."}, 1),
        # its own checks alone make nothing green
        ({BUILD: ".."}, 4),
        ({BUILD: "..", MAPS: "ss"}, 4),
        ({BUILD: "..", MAPS: ".e"}, 3),
        # a test that fails without the series: neither red nor green
        ({BUILD: "..", MAPS: "FF"}, 4),
        ({BUILD: "..", MAPS: "FF", Row(check="proc"): ".."}, 0),
        # what all rests on fails without it: nothing was judged there
        ({BUILD: "FF", Row(check="proc"): ".."}, 4),
        # nothing before it was judged
        ({MAPS: "eF", Row(check="proc"): ".."}, 3),
        ({MAPS: "-F", Row(check="proc"): ".."}, 4),
    ],
)
def test_exit_code(rows: dict[Row, str], code: int) -> None:
    series = series_of({row: [result(row, letter) for letter in letters] for row, letters in rows.items()})
    assert matrix.series_exit_code(series, matrix.judge(series)) == code
    broken_off = msgspec.structs.replace(series, interrupted=True)
    assert matrix.series_exit_code(broken_off, matrix.judge(broken_off)) == 130


def test_sentences_name_patch_check_and_reason() -> None:
    _, found = line(BUILD, ".F.")
    assert matrix.sentence(found.faults, found.patches) == (
        "patch 1 (000000000000 'mm: change 1'): build arm64 mmap-lock: FAIL: why; good again at patch 2"
    )
    _, found = line(BUILD, "F")
    assert matrix.sentence(found.faults, found.patches).startswith("fails without the series: build")
    _, found = line(BUILD, "-F")
    assert "no patch before could be judged" in matrix.sentence(found.faults, found.patches)


def test_junit_is_red_only_where_the_series_made_it_so() -> None:
    letters = ".FF"
    series = series_of({MAPS: [result(MAPS, letter, name="maps/a") for letter in letters]})
    found = matrix.judge(series)
    told = [matrix.junit_cases(MAPS, found, step.rows[MAPS.name], step.number)[0] for step in series.steps]
    assert [case.verdict for case in told] == [Verdict.PASS, Verdict.FAIL, Verdict.KNOWN]
    assert {case.id for case in told} == {"maps/arm64/mmap-lock/a"}
    assert told[2].reason == "fails since patch 1: why"
    series = series_of({MAPS: [result(MAPS, "F", name="maps/a")]})
    (case,) = matrix.junit_cases(MAPS, matrix.judge(series), series.steps[0].rows[MAPS.name], 0)
    assert (case.verdict, case.reason) == (Verdict.KNOWN, "fails without the series: why")


def test_the_same_on_several_kernels_is_told_once() -> None:
    def failed(row: Row) -> list[RowResult | None]:
        reason = f"cannot build 7.2 {row.arch} {row.variant}: mm/a.c:1: odd"
        bad = RowResult(cases=(Case(id="build", verdict=Verdict.FAIL, reason=reason),))
        return [result(row, "."), bad]

    one, other = BUILD, Row(check="build", arch="arm64", variant="per-vma-lock")
    found = matrix.judge(series_of({one: failed(one), other: failed(other)}))
    (same,) = matrix.grouped(found.of_series)
    assert matrix.sentence(same, found.patches).startswith(
        "patch 1 (000000000000 'mm: change 1'): build arm64 mmap-lock, arm64 per-vma-lock: FAIL: cannot build"
    )


def test_another_kernel_tells_which_patch_brought_a_report() -> None:
    def crash(letter: str) -> RowResult | None:
        return result(MAPS, letter, name="maps/a", fingerprint="f" if letter == "C" else "")

    other = Row(check="maps", arch="x86_64", variant="mmap-lock")
    rows = {MAPS: [crash(c) for c in ".--C"], other: [crash(c) for c in "...C"]}
    assert {(f.patch, f.after) for f in matrix.judge(series_of(rows)).faults} == {(3, 2)}
    # not where the other kernel shows it earlier, or not at all
    rows = {MAPS: [crash(c) for c in ".--C"], other: [crash(c) for c in "...."]}
    assert {(f.patch, f.after) for f in matrix.judge(series_of(rows)).faults} == {(3, 0)}
