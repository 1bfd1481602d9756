# SPDX-License-Identifier: GPL-2.0-only
"""The folder of a run in a kernel tree: nothing in it is a change of the tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.trees import git, make_git_tree, make_tree

from orchestrator.core import contents
from orchestrator.run import latest
from orchestrator.run.directory import RunDirectory
from orchestrator.source.identity import content_digest, git_state


def _run(runs: Path, name: str, kind: str) -> None:
    place = RunDirectory(runs / name)
    if kind == "run":
        place.create()
        place.write("plan.json", b"{}\n")
        latest.link(runs)
    with place.lock():
        place.write("x.json", name.encode())


@pytest.mark.parametrize("out", ["runs", "results/of mine", "empty"])
@pytest.mark.parametrize("kind", ["run", "bisect"])
def test_results_in_a_tree_do_not_change_it(tmp_path: Path, out: str, kind: str) -> None:
    tree, plain = make_git_tree(tmp_path / "git"), make_tree(tmp_path / "plain")
    before = git_state(tree), content_digest(plain)
    for top in (tree, plain):
        if out == "empty":
            (top / out).mkdir()
        for name in ("1", "2"):
            _run(top / out, name, kind)
    assert (git_state(tree), content_digest(plain)) == before
    assert git(tree, "status", "--porcelain", "--ignored=no") == ""


def test_a_run_beside_files_of_the_users_is_marked_alone(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "git")
    before = git_state(tree)
    _run(tree, "bisect-1", "bisect")
    assert git_state(tree) == before
    assert not (tree / "mm/.gitignore").exists()
    assert (tree / ".gitignore").read_bytes() != contents.RESULTS
    (tree / "bisect-1/.gitignore").unlink()
    assert git_state(tree) != before, "it is the mark that hides it"
