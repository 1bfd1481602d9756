# SPDX-License-Identifier: GPL-2.0-only
"""Which commits touch what is compiled."""

from __future__ import annotations

from pathlib import Path

from fakes.linux import commit_file
from fakes.trees import git, make_git_tree

from orchestrator.bisect import relevance
from orchestrator.bisect.graph import History


def test_files_are_read_from_what_kbuild_leaves(tmp_path: Path) -> None:
    tree, objects = tmp_path / "tree", tmp_path / "o"
    (objects / "mm").mkdir(parents=True)
    (objects / "mm/.a.o.cmd").write_text(
        f"savedcmd_mm/a.o := gcc -I{tree}/include -c -o mm/a.o {tree}/mm/a.c\n\n"
        f"deps_mm/a.o := \\\n    $(wildcard include/config/X) \\\n  {tree}/include/linux/mm.h \\\n"
    )
    (objects / "mm/a.o").write_text(f"{tree}/mm/other.c")
    assert relevance.compiled(objects, tree) >= {"mm/a.c", "include/linux/mm.h"}
    assert "mm/other.c" not in relevance.compiled(objects, tree)
    assert relevance.compiled(tmp_path / "none", tree) == frozenset()


def test_commits_that_touch_nothing_compiled_are_believed_in_last(tmp_path: Path) -> None:
    repository = make_git_tree(tmp_path / "linux")
    good = git(repository, "rev-parse", "HEAD").strip()
    doc = commit_file(repository, "Documentation/x", "words\n")
    code = commit_file(repository, "mm/memory.c", "int m;\n")
    make = commit_file(repository, "drivers/x/Makefile", "# x\n")
    git(repository, "checkout", "-q", "-b", "side", doc)
    other = commit_file(repository, "drivers/x/x.c", "int x;\n")
    git(repository, "checkout", "-q", "-")
    git(repository, "merge", "-q", "--no-edit", "side")
    merge = git(repository, "rev-parse", "HEAD").strip()
    history = History.read(repository, [good], merge)
    found = relevance.weights(repository, history, {"mm/memory.c"})
    assert set(found) == {doc, other, merge}
    assert set(history.commits) - set(found) == {code, make}
    assert relevance.weights(repository, history, ()) == {}
    assert set(relevance.weights(repository, history, {"nothing"})) == {doc, code, other, merge}
