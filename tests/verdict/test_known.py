# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.bisected import MARK_DETACHED, START_READ
from paths import ROOT

from orchestrator.analysis.pairs import rates
from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict, exit_code
from orchestrator.verdict import known

TODAY = datetime.date(2026, 11, 20)
ENTRY = known.Entry(
    case="s/p/split*",
    reason="the gap",
    link="docs/findings/1",
    expires=TODAY,
    since="7.2",
    until="7.4",
    variant="per-vma-lock",
    arch=("x86_64",),
)
FAIL = Case(id="s/p/split-lower", verdict=Verdict.FAIL, blame=Blame.KERNEL, reason="a hole")
HERE: dict[str, Any] = {"release": "7.2.12", "variant": "per-vma-lock", "arch": "x86_64", "today": TODAY}


def judge(case: Case, entry: known.Entry = ENTRY, **other: Any) -> Case:
    (found,) = known.judge([case], [entry], **{**HERE, **other})
    return found


def test_what_fails_as_foretold_is_known() -> None:
    case = judge(FAIL)
    assert (case.verdict, case.blame) == (Verdict.KNOWN, Blame.KERNEL)
    assert case.reason == "the gap (docs/findings/1): a hole"


@pytest.mark.parametrize(
    "other",
    [
        {"release": "7.1"},
        {"release": "7.4.1"},
        {"variant": "mmap-lock"},
        {"arch": "arm64"},
    ],
)
def test_elsewhere_it_is_a_failure(other: dict[str, Any]) -> None:
    assert judge(FAIL, **other) == FAIL


@pytest.mark.parametrize(
    "case",
    [
        msgspec.structs.replace(FAIL, id="s/p/merge"),
        msgspec.structs.replace(FAIL, verdict=Verdict.CRASH),
        msgspec.structs.replace(FAIL, verdict=Verdict.TIMEOUT),
        msgspec.structs.replace(FAIL, verdict=Verdict.INCONCLUSIVE),
        msgspec.structs.replace(FAIL, verdict=Verdict.PASS, reason=""),
    ],
)
def test_another_failure_is_not_known(case: Case) -> None:
    assert judge(case) == case


def test_a_crash_is_known_by_its_fingerprint() -> None:
    entry = msgspec.structs.replace(ENTRY, verdict="CRASH", fingerprint=START_READ)
    crash = msgspec.structs.replace(FAIL, verdict=Verdict.CRASH, fingerprint=START_READ)
    assert judge(crash, entry).verdict is Verdict.KNOWN
    assert judge(msgspec.structs.replace(crash, fingerprint=MARK_DETACHED), entry).verdict is Verdict.CRASH


def test_a_case_that_is_called_like_a_pattern() -> None:
    """A case's name may have brackets, and is taken as it is printed."""
    case = msgspec.structs.replace(FAIL, id="s/p/order[2]")
    entry = msgspec.structs.replace(ENTRY, case="s/p/order[2]")
    assert judge(case, entry).verdict is Verdict.KNOWN
    assert judge(msgspec.structs.replace(case, id="s/p/order2"), entry).verdict is Verdict.KNOWN
    assert judge(msgspec.structs.replace(case, id="s/p/order[3]"), entry).verdict is Verdict.FAIL


def test_after_its_day_it_is_red_again_and_says_why() -> None:
    case = judge(FAIL, today=TODAY + datetime.timedelta(days=1))
    assert case.verdict is Verdict.FAIL
    assert case.reason == "a hole [was known until 2026-11-20: the gap (docs/findings/1)]"


def test_what_always_happens_and_did_not_is_told() -> None:
    entry = msgspec.structs.replace(ENTRY, always=True)
    good = Case(id=FAIL.id, verdict=Verdict.PASS)
    assert judge(good, entry).reason.startswith(known.UNEXPECTED_PASS)
    assert judge(good, entry).verdict is Verdict.PASS
    assert judge(good, entry, variant="mmap-lock") == good


def test_it_is_neither_red_nor_green() -> None:
    case = judge(FAIL)
    good = Case(id="s/p/other", verdict=Verdict.PASS)
    assert exit_code([case]) == 4
    assert exit_code([case, good]) == 0
    assert exit_code([FAIL, good]) == 1


def test_in_a_rate_it_counts() -> None:
    def cell(boot: int, case: Case) -> CellResult:
        suite = SuiteResult(suite="s", cases=(case,))
        return CellResult(cell=f"c-{boot}", variant="per-vma-lock", boot=boot, suites=(suite,))

    (rate,) = rates([cell(1, judge(FAIL)), cell(2, Case(id=FAIL.id, verdict=Verdict.PASS))])
    assert (rate.failures, rate.boots) == (1, 2)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / known.FILE
    assert known.load(path) == ()
    path.write_text('[[known]]\ncase = "s/*"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\n')
    (entry,) = known.load(path)
    assert (entry.case, entry.expires) == ("s/*", datetime.date(2027, 1, 1))


ENOUGH = '[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\n', "expires"),
        ('[[known]]\ncase = ""\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\n', "known"),
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\nverdict = "PASS"\n', "PASS"),
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\nwhy = "?"\n', "why"),
        (f"{ENOUGH}symptom = '('\n", "symptom|unterminated|missing"),
        (f"{ENOUGH}rate = {{ count = 'x', per = 'y', most = 0.0 }}\n", "most"),
        (f"{ENOUGH}rate = {{ count = 'x', per = 'y' }}\n", "most"),
        ("[[known]\n", "known.toml"),
    ],
)
def test_a_file_that_says_less_or_more_than_it_must(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / known.FILE
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        known.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("folder", data.suites().values(), ids=lambda path: path.name)
def test_ours_have_a_link_that_leads_somewhere(folder: Path) -> None:
    for entry in known.load(folder / known.FILE):
        assert (ROOT / entry.link).exists()
        assert entry.case.startswith(f"{folder.name}/")


SYMPTOM = r"page \d+ of the cell at 0x[0-9a-f]+ was mapped all the time and is missing "
PASS_OF = " (pass of 512 bytes in 1 reads)"
GAP = "boundary: page 3 of the cell at 0x7f001000 was mapped all the time and is missing" + PASS_OF
RATED = msgspec.structs.replace(
    ENTRY, symptom=SYMPTOM, rate=known.Rate(count="left-out", per="passes", most=1e-3)
)


def gaps(number: int, passes: int = 3000, *, failures: int | None = None, first: str = "") -> Case:
    """A case of maps-coherency, as its program prints it."""
    total = number if failures is None else failures
    first = first or GAP
    lines = [f"failure {n}: {first}" for n in range(1, min(total, 3) + 1)]
    lines += [
        f"work: passes={passes} (least 5) modifications=900 (least 20) overlapped=800 (least 3) repeated=0"
        f" left-out={number:.4g} interruptions=9001",
        "took 1.2 s, seed 7",
        f"{total} failures, the first: {first}",
    ]
    return msgspec.structs.replace(FAIL, reason=lines[-1], detail="\n".join(lines))


@pytest.mark.parametrize(("number", "passes"), [(1, 3000), (3, 3000), (9, 3000), (1, 20), (100, 100_000)])
def test_what_happens_no_more_often_than_foretold_is_known(number: int, passes: int) -> None:
    assert judge(gaps(number, passes), RATED).verdict is Verdict.KNOWN


@pytest.mark.parametrize(("number", "passes"), [(14, 3000), (200, 3000), (3, 20), (160, 100_000), (1, 0)])
def test_what_happens_more_often_is_worse(number: int, passes: int) -> None:
    case = judge(gaps(number, passes), RATED)
    assert (case.verdict, case.blame) == (Verdict.FAIL, Blame.KERNEL)
    assert case.reason.startswith(
        f"{known.WORSE} (the gap (docs/findings/1)): left-out {number} times in {passes} passes"
    )
    assert exit_code([case, Case(id="s", verdict=Verdict.PASS)]) == 1


@pytest.mark.parametrize(
    "case",
    [
        gaps(
            1,
            first="boundary: a mapping across a border that no mapping ever crossed" + PASS_OF,
        ),
        gaps(
            1,
            first="the mapping at 0x7f000000 was there all the time and is missing" + PASS_OF,
        ),
        gaps(1, first="reading: Interrupted system call"),
        gaps(1, first="not done after 20 s"),
        gaps(1, failures=2),
        gaps(0, failures=1),
        msgspec.structs.replace(gaps(1), detail="failure 1: nothing counted"),
        msgspec.structs.replace(gaps(1), detail=gaps(1).detail.replace("left-out", "left-out-not-judged")),
        msgspec.structs.replace(
            gaps(1),
            detail=gaps(1)
            .detail.replace("failure 1: b", "failure 1: killed by b", 1)
            .replace("page 3", "x", 1),
        ),
        msgspec.structs.replace(FAIL, reason="exit status 1"),
    ],
)
def test_another_symptom_is_worse(case: Case) -> None:
    found = judge(case, RATED)
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith(known.WORSE)
    # without a signature the entry hides it, as its author chose
    assert judge(case).verdict is Verdict.KNOWN


def crash(*others: str, detail: str = "") -> Case:
    return msgspec.structs.replace(
        FAIL, verdict=Verdict.CRASH, fingerprint=START_READ, further_fingerprints=others, detail=detail
    )


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (crash(MARK_DETACHED), f"another report: {MARK_DETACHED}"),
        (
            crash(detail="x\n\nThe program said: FAIL: a range is missing\nmore"),
            "the case itself failed: a range",
        ),
        (crash(detail="The program said: TIMEOUT: not done\n"), "the case itself failed: not done"),
    ],
)
def test_a_known_crash_hides_nothing_else(case: Case, why: str) -> None:
    entry = msgspec.structs.replace(ENTRY, verdict="CRASH", fingerprint=START_READ)
    found = judge(case, entry)
    assert (found.verdict, found.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert f"{known.WORSE} (the gap (docs/findings/1)): {why}" in found.reason
    assert judge(crash(detail="The program said: PASS: fine\n"), entry).verdict is Verdict.KNOWN


def test_strict_and_expired_entries_know_nothing_of_worse() -> None:
    after = TODAY + datetime.timedelta(days=1)
    assert "was known until" in judge(gaps(200), RATED, today=after).reason


@pytest.mark.parametrize("folder", data.suites().values(), ids=lambda path: path.name)
def test_ours_have_a_signature_and_a_rate(folder: Path) -> None:
    for entry in known.load(folder / known.FILE):
        # what printk limits has no rate
        assert entry.fingerprint if entry.verdict == "CRASH" else entry.symptom and entry.rate
