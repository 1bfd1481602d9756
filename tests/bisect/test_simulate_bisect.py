# SPDX-License-Identifier: GPL-2.0-only
"""The search is right as often as it says, and cheap: a little of that each time, all of it in test-long."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from paths import ROOT
from simulate_bisect import (
    RATES,
    SHAPES,
    Case,
    Midpoints,
    fixed,
    make_cases,
    measure_ends,
    search,
    shortfalls,
    simulate,
    write,
)

from orchestrator.bisect.graph import History

PAGE = ROOT / "docs/explanation/bisect-search.md"


@pytest.mark.parametrize("shape", SHAPES)
def test_histories_have_their_size_and_one_end(shape: str) -> None:
    for seed in range(20):
        history = History.of(SHAPES[shape](random.Random(seed), 60))
        assert 60 <= len(history) <= 80
    merges = sum(len(history.parents(commit)) > 1 for commit in history.commits)
    assert (merges > 0) == (shape != "linear")


def test_the_midpoint_is_the_one_nearest_to_half() -> None:
    """A line of four beside a line of eight, merged: git's rule by hand."""
    parents: dict[str, list[str]] = {"a0": [], "b0": []} | {f"b{i}": [f"b{i - 1}"] for i in range(1, 8)}
    parents |= {f"a{i}": [f"a{i - 1}"] for i in range(1, 4)} | {"m": ["a3", "b7"]}
    history = History.of(parents)
    midpoints = Midpoints(Case("", history, frozenset(), frozenset(), "b3"))
    commit = midpoints.next(np.ones(13, np.bool_))
    assert commit is not None
    assert history.commits[commit] in ("b5", "b6")
    # skipped, it takes another that tells something, and ends when there is none
    skipped: set[int] = set()
    while (commit := midpoints.next(np.ones(13, np.bool_), skipped)) is not None:
        assert commit not in skipped
        skipped.add(commit)
    assert len(skipped) == 12


@pytest.mark.parametrize("early", [True, False])
def test_git_bisect_with_enough_repeats_is_right(early: bool) -> None:
    for case in make_cases(8, 1, most=64):
        answer = fixed(case, Midpoints(case), 0.5, 30, early, random.Random(1))
        assert answer.right is not False
        boots = answer.tests - answer.skipped
        assert boots <= 30 * answer.judged
        assert (boots == 30 * answer.judged) or early


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_a_few_searches_are_right(rate: float) -> None:
    answers = []
    for number, case in enumerate(make_cases(12, 3, most=100)):
        rng = random.Random(number)
        answers.append(search(case, rate, measure_ends(rate, rng), rng).right)
    assert answers.count(True) >= 9
    assert answers.count(False) <= (1 if rate < 1 else 0)


def test_the_page_is_written(tmp_path: Path) -> None:
    (tmp_path / PAGE.name).write_text(PAGE.read_text())
    found = simulate(make_cases(4, 5, most=40), (0.75, 1.0))
    write(tmp_path, found, found)
    page = (tmp_path / PAGE.name).read_text()
    assert page.count("| search |") == 4
    assert ET.fromstring((tmp_path / "bisect-search.svg").read_text()).tag.endswith("svg")
    write(tmp_path, found, found)
    assert (tmp_path / PAGE.name).read_text() == page


def test_what_falls_short_is_named() -> None:
    (rows,) = simulate(make_cases(8, 5, most=40), (0.5,))
    mine, *others = rows
    assert shortfalls([rows]) == []
    poor = type(mine)(**{name: getattr(mine, name) for name in mine.__struct_fields__} | {"right": 0})
    assert "0 of 8 right" in shortfalls([[poor, *others]])[0].replace(f"of {mine.called}", "of 8")
    dear = type(mine)(**{name: getattr(mine, name) for name in mine.__struct_fields__} | {"tests": 1e6})
    assert "1000000.00 tests" in shortfalls([[dear, *others]])[0]


def test_the_page_tells_what_was_asked_for() -> None:
    """What is committed was made by 300 graphs or more, at each rate, and holds."""
    body = PAGE.read_text(encoding="utf-8")
    for name in ("bare", "informed"):
        (made,) = re.findall(rf"(?s)<!-- {name}: .*?-->(.*?)<!-- end -->", body)
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if "%" in line]
        assert {row[0] for row in rows if row[1] == "search"} == {f"{rate:.0%}" for rate in RATES}
        for rate, scheme, called, share, tests, *_ in rows:
            if scheme != "search":
                continue
            assert int(called.split(" of ")[1]) >= 300
            assert float(share.split("%")[0]) >= 97
            as_right = [
                float(row[4])
                for row in rows
                if row[0] == rate
                and row[1] != "search"
                and float(row[3].split("%")[0]) >= float(share.split("%")[0])
            ]
            assert float(tests) < min(as_right) * (1.02 if rate == "100%" else 1)


@pytest.mark.long
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_four_hundred_graphs(idle: float) -> None:
    """At each rate at least 97 % of what is called is right, for fewer tests than git bisect with repeats."""
    assert shortfalls(simulate(make_cases(400, 6 + (idle > 0), idle=idle))) == []
