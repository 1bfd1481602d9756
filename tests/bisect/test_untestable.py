# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import random

import numpy as np
import pytest
from simulate_bisect import SHAPES

from orchestrator.bisect.graph import History
from orchestrator.bisect.untestable import Stretches


def line(count: int) -> History:
    return History.of(SHAPES["linear"](random.Random(0), count))


def drawn(skipped: set[int], judged: set[int], at: int, most: int) -> float:
    """The share of stretches, their lengths and places drawn, which are as was seen and go on to a commit.

    The end above the skipped ones alone is drawn: that it is more than n away from the first goes with 1 / n.
    """
    first = min(skipped)
    ends = [first + n for n in range(1, most)]
    weights = [1 / (end - first) - 1 / (end - first + 1) for end in ends]
    fits = [
        (end, weight)
        for end, weight in zip(ends, weights, strict=True)
        if all(each < end for each in skipped) and all(each >= end for each in judged if each > first)
    ]
    return sum(weight for end, weight in fits if at < end) / sum(weight for _, weight in fits)


@pytest.mark.parametrize("skipped", [{30}, {30, 33}, {20, 24, 33}])
@pytest.mark.parametrize("judged", [{10}, {50}, {10, 40, 60}])
def test_the_chance_is_that_of_lengths_of_unknown_scale(skipped: set[int], judged: set[int]) -> None:
    """By hand, in a line: a stretch that is more than n long goes with 1 / n."""
    history = line(100)
    chance = Stretches(history).chance({f"c{i}" for i in skipped}, {f"c{i}" for i in judged} | {"c99"})
    for at in range(max(skipped) + 1, min(each for each in {*judged, 99} if each > 33)):
        assert chance[at] == pytest.approx(drawn(skipped, {*judged, 99}, at, 100), rel=1e-6)


def test_none_was_skipped() -> None:
    assert not Stretches(line(5)).chance((), {"c4"}).any()


def test_a_judged_commit_ends_a_stretch() -> None:
    """What lies beyond it is as if nothing had been skipped; what is between two skipped ones, hardly."""
    chance = Stretches(line(100)).chance({"c30", "c40"}, {"c45", "c99"})
    assert not chance[45:].any()
    assert chance[31:40].min() >= 0.95 > chance[29]
    two = Stretches(line(100)).chance({"c30", "c40"}, {"c35", "c99"})
    assert two[35] == 0
    assert two[50] < chance[44]
    assert two[29] == pytest.approx(1 / 2 * 30 / 31)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_certain_but_what_was_seen(shape: str) -> None:
    """Each commit that was not skipped may be one that can be judged, and a judged one is."""
    rng = random.Random(3)
    for _ in range(10):
        history = History.of(SHAPES[shape](rng, 60), goods=["good"])
        names = rng.sample(history.commits, 12)
        skipped, judged = set(names[:6]) - {history.bad}, {*names[6:], "good", history.bad}
        chance = Stretches(history).chance(skipped, judged)
        at = {commit: p for commit, p in zip(history.commits, chance, strict=True) if commit not in skipped}
        assert all(0 <= p < 1 for p in at.values())
        assert all(at[commit] == 0 for commit in judged - {"good"})
        assert np.array_equal(chance, Stretches(history).chance(sorted(skipped), sorted(judged)))
