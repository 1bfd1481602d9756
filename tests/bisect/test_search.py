# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from fakes.trees import git
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_bisect import SHAPES, commit_all

from orchestrator.bisect.graph import History
from orchestrator.bisect.search import Finish, Rates, Search
from orchestrator.core.errors import Inconclusive

ALWAYS = Rates(shown_bad=12, boots_bad=12, shown_good=0, boots_good=12)
FLAKY = Rates(shown_bad=4, boots_bad=16, shown_good=0, boots_good=16)


def line(count: int) -> History:
    return History.of(SHAPES["linear"](random.Random(0), count))


def shaped(shape: str, count: int, seed: int) -> History:
    return History.of(SHAPES[shape](random.Random(seed), count))


def alike(_: str) -> float:
    return 1.0


def find(
    search: Search, culprit: str, rate: float = 1.0, seed: int = 0, broken: Collection[str] = ()
) -> list[str]:
    """What is booted until it is over; what is broken cannot be judged."""
    rng, booted = random.Random(seed), []
    while not search.finished:
        (commit,) = search.candidates(alike)
        booted.append(commit)
        if commit in broken:
            search.skip(commit)
            continue
        search.observe(commit, search.history.is_ancestor(culprit, commit) and rng.random() < rate)
    return booted


# --- what is believed


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
    shown_bad=st.integers(1, 12),
    data=st.data(),
)
def test_the_posterior_is_one(shape: str, count: int, seed: int, shown_bad: int, data: st.DataObject) -> None:
    """Whatever is observed, left out and found equal: it sums to 1, and nothing left out is selected."""
    history = shaped(shape, count, seed)
    search = Search(history, Rates(shown_bad=shown_bad, boots_bad=12, shown_good=0, boots_good=12))
    commits = st.sampled_from(history.commits)
    excluded = set()
    for what in data.draw(
        st.lists(st.sampled_from(["observe", "observe", "skip", "exclude", "same"]), max_size=12)
    ):
        if what == "observe":
            search.observe(data.draw(commits), data.draw(st.booleans()))
        elif what in ("skip", "exclude"):
            excluded.add(commit := data.draw(commits))
            getattr(search, what)(commit)
        else:
            # equalities drawn at random may leave nobody: then it is refused, and all stays as it was
            with contextlib.suppress(Inconclusive):
                search.same(data.draw(commits), data.draw(commits))
        posterior = search.posterior()
        assert list(posterior) == list(history.commits)
        assert sum(posterior.values()) == pytest.approx(1)
        assert all(0 <= p <= 1 for p in posterior.values())
        assert not excluded & set(search.candidates(alike, 2))
        suspects = search.suspects(0.9)
        assert sum(p for _, p in suspects) >= 0.9 * (1 - 1e-9)
        assert sum(p for _, p in suspects[:-1]) < 0.9
        culprit = search.culprit()
        assert (
            (culprit is not None)
            == (search.finished is Finish.SURE)
            == (max(posterior.values()) >= search.confidence)
        )


def test_the_posterior_is_that_of_the_formula() -> None:
    """By hand, with three commits: rates integrated over in steps."""
    search = Search(line(3), FLAKY)
    boots = [("c1", False), ("c1", False), ("c0", False), ("c2", True)]
    for commit, shown in boots:
        search.observe(commit, shown)
    rates = (np.arange(100_000) + 0.5) / 100_000
    weights = []
    for culprit in range(3):
        shown_, missed, false, clean = 4, 12, 0, 16
        for commit, shown in boots:
            bad = int(commit[1]) >= culprit
            shown_, missed = shown_ + (bad and shown), missed + (bad and not shown)
            false, clean = false + (not bad and shown), clean + (not bad and not shown)
        # one of the bad end's boots did not show it: it never shows always; 1/2 r^-1/2 is Beta(1/2, 1)
        on_bad = np.mean(rates**shown_ * (1 - rates) ** missed * 0.5 * rates**-0.5)
        # b (1-q)^(b-1) is Beta(1, b), 20 times rarer than the fault
        b = 20 * 17 / 4.5
        on_good = 0.99 * (false == 0) + 0.01 * np.mean(rates**false * (1 - rates) ** (clean + b - 1) * b)
        weights.append(on_bad * on_good)
    assert list(search.posterior().values()) == pytest.approx([w / sum(weights) for w in weights], rel=1e-3)


def test_the_order_of_observations_does_not_matter() -> None:
    history = shaped("nested", 40, 3)
    rng = random.Random(1)
    boots = [(rng.choice(history.commits), rng.random() < 0.5) for _ in range(30)]
    found = []
    for _ in range(2):
        search = Search(history, FLAKY)
        for commit, shown in boots:
            search.observe(commit, shown)
        found.append(search.posterior())
        boots.reverse()
    assert found[0] == pytest.approx(found[1])


def test_the_choice_is_the_most_informative() -> None:
    """Against the entropies of all posteriors, worked out one by one."""

    def entropy(search: Search) -> float:
        return -sum(p * math.log2(p) for p in search.posterior().values() if p)

    def after(seen: list[tuple[str, bool]]) -> Search:
        search = Search(history, FLAKY)
        for commit, shown in seen:
            search.observe(commit, shown)
        return search

    history = shaped("topics", 30, 5)
    seen = [("c12", False), ("c12", False), ("c20", True), ("c9", False)]
    search = after(seen)
    expected = {}
    for commit in history.commits:
        chance = search.chance(commit)
        expected[commit] = chance * entropy(after([*seen, (commit, True)])) + (1 - chance) * entropy(
            after([*seen, (commit, False)])
        )
    (chosen,) = search.candidates(alike)
    assert expected[chosen] == pytest.approx(min(expected.values()), abs=1e-4)
    assert search.probabilities() == pytest.approx(after(seen).probabilities())  # asking changes nothing


# --- the plain case


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 100, 127])
def test_a_fault_that_always_shows_is_found_by_halving(count: int) -> None:
    """Judged commits: no more than halving needs, and one. Boots: some are looked at twice, few."""
    history, tests = line(count), 0
    for culprit in history.commits:
        search = Search(history, ALWAYS)
        booted = find(search, culprit)
        assert search.culprit() == culprit
        assert len(set(booted)) <= math.ceil(math.log2(count)) + 1
        tests += len(booted)
    assert tests / count <= math.log2(count) + 0.25


def git_bisect(repository: Path, history: History, culprit: str) -> tuple[str, int]:
    """The real one: what it finds, and how many commits it judges; a work tree is not needed."""
    said = git(repository, "bisect", "start", "--no-checkout", history.bad, *history.goods)
    judged = 0
    while " is the first bad commit" not in said:
        head = git(repository, "rev-parse", "BISECT_HEAD").strip()
        judged += 1
        said = git(repository, "bisect", "bad" if history.is_ancestor(culprit, head) else "good", head)
    git(repository, "bisect", "reset")
    return said.split()[0], judged


@pytest.mark.parametrize("shape", SHAPES)
def test_no_more_commits_are_judged_than_git_bisect_judges(shape: str, tmp_path: Path) -> None:
    parents = SHAPES[shape](random.Random(7), 40)
    whole = {
        "good": [],
        **{name: [p if p in parents else "good" for p in of] for name, of in parents.items()},
    }
    whole["c0"] = ["good"]
    repository = commit_all(tmp_path / "repository", whole)
    git(repository, "tag", "bad", list(parents)[-1])
    history = History.read(repository, ["good"], "bad")
    assert len(history) == len(parents)
    ours = theirs = 0
    for culprit in history.commits[::13]:
        found, judged = git_bisect(repository, history, culprit)
        assert found == culprit
        search = Search(history, ALWAYS)
        mine = len(set(find(search, culprit)))
        assert search.culprit() == culprit
        assert mine <= judged + 1
        ours, theirs = ours + mine, theirs + judged
    assert ours <= 1.1 * theirs


def test_a_contradiction_is_recovered_from() -> None:
    """All said that it always shows; then a commit that showed it once does not."""
    search = Search(line(64), ALWAYS)
    booted = find(search, "c20")
    assert search.culprit() == "c20"
    # c40 was wrongly judged bad never; c50 shows nothing now and then, although after c20
    search.observe("c63", False)
    search.observe("c50", False)
    assert search.culprit() is None
    assert search.finished is None
    more = find(search, "c20", rate=0.8)
    assert search.culprit() == "c20"
    assert set(more) & set(booted)


def test_a_false_alarm_is_recovered_from() -> None:
    """c10 showed it once and has it not. It may be taken for the culprit, until that is looked at again."""
    search = Search(line(64), ALWAYS)
    search.observe("c10", True)
    find(search, "c40")
    search.observe("c10", False)
    find(search, "c40")
    assert search.culprit() == "c40"


def test_a_rate_measured_in_few_boots_is_not_taken_for_known() -> None:
    """The same share out of four times the boots: a boot that misses weighs more."""
    seen = []
    for times in (1, 4):
        rates = Rates(shown_bad=4 * times, boots_bad=8 * times, shown_good=0, boots_good=8 * times)
        search = Search(line(2), rates)
        for _ in range(6):
            search.observe("c0", False)
        seen.append(search.posterior()["c0"])
    assert seen[0] > 1.5 * seen[1]


def test_a_rare_fault_of_the_first_commit_is_found() -> None:
    """Nothing in the history is good then, and yet "it is always there" must not stay possible for ever."""
    search = Search(line(300), Rates(shown_bad=4, boots_bad=12, shown_good=0, boots_good=12))
    assert len(find(search, "c0", rate=0.3)) < 150
    assert search.culprit() == "c0"


def test_false_alarms_of_the_good_end_are_reckoned_with() -> None:
    search = Search(line(64), Rates(shown_bad=11, boots_bad=12, shown_good=2, boots_good=12))
    rng = random.Random(4)
    while not search.finished:
        (commit,) = search.candidates(alike)
        search.observe(commit, rng.random() < (0.9 if int(commit[1:]) >= 40 else 0.15))
    assert search.culprit() == "c40"


# --- what cannot be judged, and what need not be


def test_what_cannot_be_judged_stays_suspect() -> None:
    search = Search(line(32), ALWAYS)
    for i in range(10, 14):
        search.skip(f"c{i}")
    booted = find(search, "c12")
    assert search.finished is Finish.HIDDEN
    assert search.culprit() is None
    # c14 is the first after them that can be judged
    assert {commit for commit, _ in search.suspects()} == {"c10", "c11", "c12", "c13", "c14"}
    # near to them it steps with care, as nobody knows that four are all
    assert len(set(booted)) <= 8


def test_a_culprit_beside_what_cannot_be_judged_is_found() -> None:
    search = Search(line(32), ALWAYS)
    for i in range(10, 14):
        search.skip(f"c{i}")
    find(search, "c15")
    assert search.culprit() == "c15"


@pytest.mark.parametrize("first", range(27, 35))
def test_a_stretch_that_cannot_be_judged_is_left_at_once(first: int) -> None:
    """The middle of 70 is among 8 that cannot be judged: not each of them is tried."""
    broken = {f"c{i}" for i in range(first, first + 8)}
    for culprit in (0, 10, 20, first - 4, first + 12, 50, 60, 69):
        search = Search(line(70), ALWAYS)
        booted = find(search, f"c{culprit}", broken=broken)
        assert search.culprit() == f"c{culprit}"
        assert len(broken & set(booted)) <= 3
        assert len(booted) <= math.ceil(math.log2(70)) + 3


def test_a_culprit_in_a_stretch_has_its_neighbours_tried_at_last() -> None:
    broken = {f"c{i}" for i in range(28, 36)}
    search = Search(line(70), ALWAYS)
    find(search, "c30", broken=broken)
    assert search.finished is Finish.HIDDEN
    assert {commit for commit, _ in search.suspects()} == {*broken, "c36"}


@pytest.mark.parametrize(("shape", "seed"), [("nested", 0), ("nested", 1), ("topics", 3)])
def test_a_stretch_is_left_across_merges(shape: str, seed: int) -> None:
    """What one commit breaks and another mends: all that has the one and not the other."""
    history = shaped(shape, 300, seed)
    (start,) = Search(history, ALWAYS).candidates(alike)
    breaks = history.commits[history.index(start) - 6]
    mends = [commit for commit in history.commits if history.is_ancestor(start, commit)][11]
    after, mended = history.column(breaks), history.column(mends)
    broken = {commit for commit, out in zip(history.commits, after & ~mended, strict=True) if out}
    assert start in broken
    for place in (3, 60, 120, 290):
        search = Search(history, ALWAYS)
        booted = find(search, history.commits[place], broken=broken)
        assert search.culprit() == history.commits[place]
        assert len(broken & set(booted)) <= 2


def test_what_need_not_be_looked_at_again_says_nothing_of_others() -> None:
    search = Search(line(70), ALWAYS)
    (first,) = search.candidates(alike)
    search.exclude(first)
    assert search.candidates(alike) == ["c33"]
    assert first == "c34"


def test_nothing_can_be_judged() -> None:
    search = Search(line(3), FLAKY)
    for commit in search.history.commits:
        search.skip(commit)
    assert search.finished is Finish.HIDDEN
    assert search.candidates(alike) == []


def test_equal_kernels_clear_what_lies_between() -> None:
    """And of a merge both what one side and what the other brought, where they differ."""
    search = Search(line(8), FLAKY)
    search.same("c2", "c5")
    assert {c for c, p in search.posterior().items() if p == 0} == {"c3", "c4", "c5"}
    before = search.posterior()
    one, other = Search(line(8), FLAKY), Search(line(8), FLAKY)
    for each, commit in ((one, "c2"), (other, "c5")):
        each.same("c5", "c2")
        each.observe(commit, True)
    assert one.posterior() == pytest.approx(other.posterior())
    assert one.posterior() != pytest.approx(before)


def test_a_kernel_equal_to_the_good_one() -> None:
    history = History.of({"a": ["good"], "b": ["a"], "c": ["b"]}, goods=["good"])
    search = Search(history, ALWAYS)
    search.same("good", "b")
    assert search.culprit() == "c"
    with pytest.raises(Inconclusive, match="leaves no commit"):
        search.same("b", "c")
    assert search.culprit() == "c"


def test_more_boots_of_the_ends_count_too() -> None:
    history = History.of({"a": ["good"], "b": ["a"]}, goods=["good"])
    search = Search(history, FLAKY)
    before = search.chance("b")
    search.observe("b", True)
    assert search.chance("b") > before
    before = search.chance("b")
    for _ in range(20):
        search.observe("good", False)
    assert search.chance("b") == pytest.approx(before)


def test_commits_that_touch_nothing_compiled_are_all_but_cleared() -> None:
    history = line(64)
    harmless = {f"c{i}": 0.0 for i in range(64) if i % 4}
    search = Search(history, ALWAYS, prior=harmless)
    assert max(search.posterior()[commit] for commit in harmless) == pytest.approx(1e-6 / 16, rel=1e-3)
    booted = find(search, "c20")
    assert search.culprit() == "c20"
    assert len(booted) <= 5
    # and yet one of them is found if the likely ones beside it say otherwise, time and again
    search = Search(history, FLAKY, prior=harmless)
    for _ in range(60):
        search.observe("c20", False)
    for _ in range(10):
        search.observe("c21", True)
    find(search, "c21", rate=0.5)
    assert search.culprit() == "c21"


@pytest.mark.parametrize("prior", [{"c0": -1.0}, {"c1": math.nan}, {"c0": 0.0, "c1": 0.0}])
def test_weights_that_cannot_be(prior: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Search(line(2), ALWAYS, prior=prior)


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Search(line(2), ALWAYS, confidence=1)
    with pytest.raises(ValueError, match="more shown than booted"):
        Rates(shown_bad=2, boots_bad=1, shown_good=0, boots_good=1)
    search = Search(line(2), ALWAYS)
    wrongs: tuple[Callable[[], object], ...] = (
        lambda: search.observe("x", True),
        lambda: search.exclude("x"),
        lambda: search.skip("x"),
        lambda: search.same("x", "c0"),
    )
    for wrong in wrongs:
        with pytest.raises(KeyError):
            wrong()


# --- what it costs


def test_a_cheaper_boot_is_preferred_where_it_tells_nearly_as_much() -> None:
    search = Search(line(64), ALWAYS)
    (dear,) = search.candidates(alike)
    (cheap,) = search.candidates(lambda commit: 1.0 if commit == "c40" else 5.0)
    assert (dear, cheap) == ("c31", "c40")
    # the bad end is known: however cheap, it tells nothing
    (useful,) = search.candidates(lambda commit: 0.001 if commit == "c63" else 5.0)
    assert useful == "c31"


def test_a_dear_build_is_worth_several_boots() -> None:
    """One boot of a rare fault tells little: seen alone, a kernel that is built seems the better buy."""
    search = Search(line(256), Rates(shown_bad=4, boots_bad=40, shown_good=0, boots_good=40))
    for _ in range(3):
        search.observe("c4", False)

    def minutes(commit: str) -> float:
        return 0.5 if commit == "c4" else 20.0

    assert search.candidates(minutes) == ["c4"]
    (far,) = search.candidates(minutes, again=0.5)
    assert 60 < int(far[1:]) < 160


def test_where_builds_are_dear_few_kernels_are_built() -> None:
    built = []
    for culprit in ("c17", "c64", "c100"):
        search = Search(line(128), FLAKY)
        rng = random.Random(5)
        kernels: set[str] = set()

        def minutes(commit: str, kernels: set[str] = kernels) -> float:
            return 1.0 if commit in kernels else 21.0

        while not search.finished:
            (commit,) = search.candidates(minutes, again=1.0)
            kernels.add(commit)
            search.observe(commit, int(commit[1:]) >= int(culprit[1:]) and rng.random() < 0.25)
        assert search.culprit() == culprit
        built.append(len(kernels))
    assert sum(built) <= 3 * (7 + 2)


def test_what_comes_next_is_known_ahead() -> None:
    """The second and third are what is asked for after either outcome of the first."""
    search = Search(line(64), ALWAYS)
    first, *then = search.candidates(alike, 3)
    wanted = []
    for shown in (True, False):
        after = Search(line(64), ALWAYS)
        after.observe(first, shown)
        wanted += after.candidates(alike)
    assert sorted(then) == sorted(wanted)
    assert search.candidates(alike) == [first]


def test_the_same_observations_give_the_same_search() -> None:
    first, second = (find(Search(shaped("tangle", 60, 4), FLAKY), "c33", rate=0.3, seed=8) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_fifteen_thousand_commits_are_no_trouble() -> None:
    """As many as between v6.16 and v6.17. Generous: this machine may be slow and busy."""
    parents = SHAPES["topics"](random.Random(1), 15_000)
    started = time.process_time()
    history = History.of(parents)
    assert history.ancestors.nbytes < 40 << 20
    search = Search(history, FLAKY)
    assert time.process_time() - started < 5
    started = time.process_time()
    (commit,) = search.candidates(alike)
    assert time.process_time() - started < 4
    assert 0.2 < history.row(commit).mean() < 0.6
    search.observe(commit, True)
    search.exclude(history.commits[5])
    assert search.finished is None
    for _ in range(5):
        search.observe(search.candidates(alike)[0], False)
        (commit,) = search.candidates(alike)
        search.skip(commit)
    started = time.process_time()
    search.candidates(alike)
    assert time.process_time() - started < 4
