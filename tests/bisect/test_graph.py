# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes.trees import git
from simulate_bisect import SHAPES, commit_all

from orchestrator.bisect.graph import History
from orchestrator.core.errors import UserError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """c0 is good; c1 and c2 fork from it, m merges them; side forks before c0, the bad end merges it."""
    parents = {
        "root": [],
        "c0": ["root"],
        "side": ["root"],
        "c1": ["c0"],
        "c2": ["c0"],
        "m": ["c1", "c2"],
        "bad": ["m", "side"],
        "beyond": ["bad"],
        "other": ["c1"],
    }
    return commit_all(tmp_path / "repository", parents)


def sha(repository: Path, name: str) -> str:
    return git(repository, "rev-parse", name).strip()


def test_the_history_is_that_of_rev_list(repository: Path) -> None:
    history = History.read(repository, ["c0"], "bad")
    names = {sha(repository, name): name for name in ("c1", "c2", "m", "side", "bad")}
    assert set(history.commits) == set(names)
    assert history.bad == sha(repository, "bad") == history.commits[-1]
    assert history.goods == (sha(repository, "c0"),)
    assert len(history) == 5
    # parents outside are left out, the first one stays first
    assert [names[p] for p in history.parents(sha(repository, "bad"))] == ["m", "side"]
    assert history.parents(sha(repository, "c1")) == ()
    for b in history.commits:
        for a in history.commits:
            argv = ["git", "-C", str(repository), "merge-base", "--is-ancestor", a, b]
            assert history.is_ancestor(a, b) == (subprocess.run(argv, check=False).returncode == 0)
        for parent in history.parents(b):
            assert history.index(parent) < history.index(b)


def test_several_goods_narrow_it(repository: Path) -> None:
    history = History.read(repository, ["c0", "side", "c2"], "bad")
    assert {sha(repository, name) for name in ("c1", "m", "bad")} == set(history.commits)


def test_names_are_peeled(repository: Path) -> None:
    git(repository, "tag", "-a", "-m", "annotated", "v1", "c0")
    assert History.read(repository, ["v1"], "bad^0").goods == (sha(repository, "c0"),)


@pytest.mark.parametrize(
    ("good", "bad", "said", "remedy"),
    [
        (["beyond"], "c0", "swapped", "--good c0 --bad beyond"),
        (["other"], "bad", "not an ancestor of bad bad: both descend from", "If that one is good"),
        (["c0", "other"], "bad", "good other is not an ancestor", "--good "),
        (["c0"], "c0", "the same commit", "an older commit"),
        (["lone"], "bad", "no history in common", "from the history of the bad one"),
        (["nowhere"], "bad", "no commit 'nowhere'", "lists tags"),
        (["c0"], "--all", "no commit '--all'", "lists tags"),
        (["c0:"], "bad", "no commit 'c0:'", "lists tags"),
        ([], "bad", "no good commit", "Name one"),
    ],
)
def test_ends_that_cannot_be(repository: Path, good: list[str], bad: str, said: str, remedy: str) -> None:
    empty = git(repository, "hash-object", "-t", "tree", "/dev/null").strip()
    git(
        repository,
        "update-ref",
        "refs/tags/lone",
        git(repository, "commit-tree", "-m", "lone", empty).strip(),
    )
    with pytest.raises(UserError) as caught:
        History.read(repository, good, bad)
    assert said in caught.value.message
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(("depth", "good"), [(2, "c0"), (3, "side"), (3, "root")])
def test_a_shallow_history_that_is_cut_off_between(
    repository: Path, tmp_path: Path, depth: int, good: str
) -> None:
    """At depth 2 there is no way to c0; at 3 the good ends are reached, but what leads to c0 is not known."""
    shallow = tmp_path / "shallow"
    argv = ["git", "clone", "-q", f"--depth={depth}", "-b", "bad", f"file://{repository}", str(shallow)]
    subprocess.run(argv, check=True, capture_output=True)
    if good == "c0":
        git(shallow, "fetch", "-q", "--depth=1", "origin", "refs/tags/c0:refs/tags/c0")
    with pytest.raises(UserError, match=r"is shallow: its history is cut off between .* and bad") as caught:
        History.read(shallow, [sha(repository, good)], "bad")
    assert "--unshallow" in caught.value.remedy


def test_a_shallow_history_that_is_whole_between(repository: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    argv = ["git", "clone", "-q", "--depth=4", "-b", "bad", f"file://{repository}", str(shallow)]
    subprocess.run(argv, check=True, capture_output=True)
    found, whole = (set(History.read(where, ["bad~2"], "bad").commits) for where in (shallow, repository))
    # What the good end's own history, were it whole, would clear stays suspect.
    assert whole <= found


def test_reading_changes_nothing(repository: Path) -> None:
    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}

    before = state()
    History.read(repository, ["c0"], "bad")
    assert state() == before


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 60])
def test_the_matrix_is_right(shape: str, count: int) -> None:
    parents = SHAPES[shape](random.Random(count), count)
    history = History.of(parents)
    known: dict[str, set[str]] = {}
    for commit in history.commits:
        known[commit] = {commit}.union(*(known[p] for p in parents[commit] if p in parents))
        assert {c for c, there in zip(history.commits, history.row(commit), strict=True) if there} == known[
            commit
        ]
    for commit in history.commits:
        column = history.column(commit)
        assert all(column[history.index(x)] == (commit in known[x]) for x in history.commits)
        assert history.distances(commit).tolist() == [len(known[commit] ^ known[x]) for x in history.commits]
    assert history.distances(None).tolist() == [len(known[x]) for x in history.commits]


@pytest.mark.parametrize("used", [1.0, 0.02])
def test_sums_over_ancestors(used: float) -> None:
    """Few commits are summed up in one way, many in another, many of which few count in a third."""
    numbers = np.random.default_rng(1)
    for count in (50, 1500):
        history = History.of(SHAPES["topics"](random.Random(2), count))
        values = numbers.random((len(history), 3)) * (numbers.random((len(history), 1)) < used)
        wanted = np.array([values[history.row(commit)].sum(axis=0) for commit in history.commits])
        assert history.sums(values) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_a_good_end_has_no_suspect_among_its_ancestors() -> None:
    history = History.of({"a": ["good"], "b": ["a"]}, goods=["good"])
    assert not history.row("good").any()
    with pytest.raises(KeyError):
        history.row("elsewhere")


@pytest.mark.parametrize(
    ("parents", "goods", "said"),
    [
        ({}, [], "0 commits without children"),
        ({"a": [], "b": []}, [], "2 commits without children"),
        ({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]}, [], "its own ancestor"),
        ({"a": []}, ["a"], "both good and suspect"),
    ],
)
def test_parents_that_cannot_be(parents: dict[str, list[str]], goods: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        History.of(parents, goods=goods)


def test_the_order_of_the_parents_given_does_not_matter() -> None:
    assert History.of({"c": ["b"], "b": ["a"], "a": []}).commits == ("a", "b", "c")
