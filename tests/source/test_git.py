# SPDX-License-Identifier: GPL-2.0-only
"""What git is asked about histories whose dates mean nothing, and what of the user's reaches it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from fakes.trees import git, make_git_tree

from orchestrator.bisect.graph import History
from orchestrator.core.errors import UserError
from orchestrator.series import input as series_input
from orchestrator.source.git import (
    GitError,
    commits_between,
    first_parents_between,
    is_ancestor,
    merge_base,
    run_git,
)

#: Committer dates: as in a linearised -rt tree, all alike, and at random.
DATES: dict[str, Callable[[int, random.Random], int]] = {
    "going back": lambda n, _: 1_700_000_000 - 86_400 * n,
    "equal": lambda _n, _: 1_600_000_000,
    "random": lambda _n, dice: dice.randrange(1_000_000_000, 1_700_000_000),
    "blocks": lambda n, _: 1_600_000_000 + 1_000_000 * (-1 if n // 12 % 2 else 1) + n,
}

Parents = dict[str, tuple[str, ...]]


def _graph(count: int, dice: random.Random) -> list[tuple[int, ...]]:
    """The parents of each commit: long lines that fork and merge, and now and then a root."""
    tips = [0]
    parents: list[tuple[int, ...]] = [()]
    for n in range(1, count):
        at = dice.randrange(len(tips))
        chosen: tuple[int, ...] = (tips[at],)
        if len(tips) > 1 and dice.random() < 0.15:
            other = dice.randrange(len(tips))
            if other != at:
                chosen += (tips[other],)
                if dice.random() < 0.7:
                    tips.pop(other)
                    at = tips.index(chosen[0])
        fork = dice.random()
        if fork < 0.1:
            tips.append(n)
            chosen = (dice.randrange(n),)
        elif fork < 0.11:
            tips.append(n)
            chosen = ()
        else:
            tips[at] = n
        parents.append(chosen)
    return parents


def _import(folder: Path, graph: Sequence[tuple[int, ...]], dates: Iterable[int]) -> Parents:
    """Make the history with `git fast-import`; the names of its commits, oldest first, with their parents."""
    git(folder.parent, "init", "-q", str(folder))
    lines = []
    for n, (parents, date) in enumerate(zip(graph, dates, strict=True)):
        head = f"commit refs/heads/c{n}\nmark :{n + 1}\ncommitter A <a@example.org> {date} +0000\n"
        lines.append(f"{head}data <<END\nchange {n}\nEND\n")
        for word, parent in zip(("from", "merge", "merge"), parents, strict=False):
            lines.append(f"{word} :{parent + 1}\n")
    marks = folder / "marks"
    run_git(folder, "fast-import", "--quiet", f"--export-marks={marks}", data="".join(lines).encode())
    names = {int(mark[1:]) - 1: name for mark, name in map(str.split, marks.read_text().splitlines())}
    return {names[n]: tuple(names[p] for p in graph[n]) for n in range(len(graph))}


def _reachable(parents: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """The ancestors of each commit, itself among them, by brute force."""
    reachable: dict[str, set[str]] = {}
    for commit, of in parents.items():
        reachable[commit] = {commit}.union(*(reachable[parent] for parent in of))
    return reachable


@pytest.mark.slow
@pytest.mark.parametrize("dates", DATES)
def test_ancestry_does_not_depend_on_dates(tmp_path: Path, dates: str) -> None:
    """200 random pairs for each kind of dates: 800 in all, each compared with brute force."""
    dice = random.Random(dates)
    graph = _graph(240, dice)
    parents = _import(tmp_path / "r", graph, [DATES[dates](n, dice) for n in range(len(graph))])
    above, names = _reachable(parents), list(parents)
    related = 0
    for _ in range(200):
        old, new = dice.choice(names), dice.choice(names)
        if dice.random() < 0.6:
            old = dice.choice(sorted(above[new]))
        _check_pair(tmp_path / "r", parents, above, old, new)
        related += old in above[new] and old != new
    assert related > 50


def _check_pair(repository: Path, parents: Parents, above: dict[str, set[str]], old: str, new: str) -> None:
    between = above[new] - above[old]
    assert is_ancestor(repository, old, new) == (old in above[new])
    common = above[old] & above[new]
    best = {c for c in common if not any(c in above[other] and c != other for other in common)}
    base = merge_base(repository, old, new)
    assert base in best if best else base == ""
    commits = commits_between(repository, [old], new)
    assert commits == {commit: parents[commit] for commit in between}
    order = {commit: n for n, commit in enumerate(commits)}
    assert all(
        order[parent] < n for commit, n in order.items() for parent in parents[commit] if parent in order
    )
    if old == new or old not in above[new]:
        with pytest.raises(UserError):
            History.read(repository, [old], new)
        return
    history = History.read(repository, [old], new)
    assert set(history.commits) == between
    for one, other in itertools.islice(itertools.product(history.commits, repeat=2), 50):
        assert history.is_ancestor(one, other) == (one in above[other])
    chain, at = [], new
    while at in between:
        chain.append(at)
        at = (*parents[at], "")[0]
    assert list(first_parents_between(repository, old, new)) == chain[::-1]
    source = series_input._of_range(repository, "", f"{old}..{new}")
    assert (source.base, source.tip) == (old, new)
    assert len(source.notes) == any(len(parents[commit]) > 1 for commit in chain)


def test_a_line_whose_dates_go_back_from_a_base_with_merges(tmp_path: Path) -> None:
    """What fails with `git rev-list tip --not base`: it takes old ancestors of the base for newer ones."""
    # a base of long age beside a young line; the tip is older than all of it
    graph = [(), *((n,) for n in range(30)), (0,), (31, 30), (32,), (33,)]
    dates = [1_000, *(2_000 + n for n in range(30)), 900_000, 901_000, 10, 9]
    parents = _import(tmp_path / "r", graph, dates)
    names = list(parents)
    above = _reachable(parents)
    for old, new in itertools.product((names[30], names[32], names[5], names[31]), (names[34], names[33])):
        _check_pair(tmp_path / "r", parents, above, old, new)


def test_grafts_and_replacements_do_not_change_ancestry(tmp_path: Path) -> None:
    parents = _import(tmp_path / "r", [(), (0,), (1,), ()], [4, 3, 2, 1])
    first, second, third, other = parents
    (tmp_path / "r/.git/info").mkdir(exist_ok=True)
    (tmp_path / "r/.git/info/grafts").write_text(f"{third} {other}\n")
    git(tmp_path / "r", "replace", "--graft", second, other)
    assert is_ancestor(tmp_path / "r", first, third)
    assert not is_ancestor(tmp_path / "r", other, third)
    assert list(commits_between(tmp_path / "r", [first], third)) == [second, third]


def test_nothing_that_a_repository_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, mark = make_git_tree(tmp_path / "t"), tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $* >>{mark}\ncat\n")
    program.chmod(0o755)
    (tree / ".gitattributes").write_text("*.c diff=d filter=f\n")
    (tree / "mm/memory.c").write_text("int two;\n")
    git(tree, "commit", "-q", "-a", "-m", "two")
    for name in (
        *("diff.external", "diff.d.command", "diff.d.textconv", "filter.f.clean", "filter.f.smudge"),
        *("core.pager", "core.fsmonitor", "core.sshCommand", "core.editor", "gpg.program"),
    ):
        git(tree, "config", name, str(program))
    git(tree, "config", "log.showSignature", "true")
    for name in ("GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND", "GIT_ASKPASS"):
        monkeypatch.setenv(name, str(program))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    for argv in (
        ["show", "--stat", "HEAD"],
        ["log", "-p"],
        ["diff", "HEAD~1", "HEAD"],
        ["format-patch", "--stdout", "-1"],
        ["ls-files", "--others"],
    ):
        run_git(tree, *argv)
    with pytest.raises(GitError):
        run_git(tree, "fetch", "ssh://host.invalid/x")
    assert not mark.exists(), mark.read_text()
    git(tree, "show", "HEAD")
    assert mark.exists(), "the programs above would have run"
