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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\n', "expires"),
        ('[[known]]\ncase = ""\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\n', "known"),
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\nverdict = "PASS"\n', "PASS"),
        ('[[known]]\ncase = "s"\nreason = "r"\nlink = "l"\nexpires = 2027-01-01\nwhy = "?"\n', "why"),
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
