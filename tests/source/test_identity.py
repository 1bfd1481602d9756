# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.trees import git, make_git_tree, make_tree, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import contents
from orchestrator.core.errors import UserError
from orchestrator.source import git as git_module
from orchestrator.source.identity import (
    check_clean,
    check_tree,
    content_digest,
    digest_of_text,
    git_state,
    makefile_version,
)

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("7", "2", "12", ""), "7.2.12"),
        (("6", "18", "0", "-rc3"), "6.18.0-rc3"),
        (("6", "18", "", ""), "6.18"),
        (("", "2", "1", ""), ""),
        (("$(shell id)", "2", "1", ""), ""),
    ],
)
def test_version_of_the_makefile(tmp_path: Path, parts: tuple[str, str, str, str], expected: str) -> None:
    assert makefile_version(make_tree(tmp_path, version=parts)) == expected


@pytest.mark.parametrize("gone", ["Makefile", "Kconfig", "scripts/kconfig"])
def test_what_a_kernel_tree_must_have(tmp_path: Path, gone: str) -> None:
    check_tree(make_tree(tmp_path), "it")
    target = tmp_path / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(UserError, match=f"it is not a kernel tree: no {gone}"):
        check_tree(tmp_path, "it")


def test_a_makefile_without_version_is_no_kernels(tmp_path: Path) -> None:
    (make_tree(tmp_path) / "Makefile").write_text("all:\n")
    with pytest.raises(UserError, match="VERSION in Makefile"):
        check_tree(tmp_path, "it")


@pytest.mark.parametrize(
    ("left", "remedy"),
    [
        (".config", "mrproper"),
        ("include/config/auto.conf", "mrproper"),
        ("include/generated/utsrelease.h", "mrproper"),
        ("arch/arm64/include/generated/asm/x.h", "ARCH=arm64 mrproper"),
    ],
)
def test_a_tree_in_which_something_was_built_is_refused(tmp_path: Path, left: str, remedy: str) -> None:
    check_clean(make_tree(tmp_path), "it")
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("\n")
    with pytest.raises(UserError, match="the source tree is not clean") as caught:
        check_clean(tmp_path, "it")
    assert f"make -C {tmp_path}" in caught.value.remedy
    assert remedy in caught.value.remedy


def test_the_commands_that_help_can_be_typed(tmp_path: Path) -> None:
    """A path with a space is one word of them."""
    tree = make_tree(tmp_path / "my linux")
    (tree / ".config").touch()
    with pytest.raises(UserError) as caught:
        check_clean(tree, "it")
    make, clone = (shlex.split(words) for words in re.findall(r"`(.*?)`", caught.value.remedy))
    assert make == ["make", "-C", str(tree), "mrproper"]
    assert clone == ["git", "clone", "--shared", str(tree), "DIR"]


# --- git


def test_commit_of_a_clean_git_tree(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    state = git_state(tree)
    assert state is not None
    assert state.commit == git(tree, "rev-parse", "HEAD").strip()
    assert state.dirty == ""


def _nested(tree: Path) -> None:
    (tree / "nested").mkdir()
    git(tree / "nested", "init", "-q")
    (tree / "nested/file").write_text("n\n")


def _staged_rename(tree: Path) -> None:
    git(tree, "mv", "mm/memory.c", "mm/renamed.c")


def _staged(tree: Path) -> None:
    (tree / "mm/memory.c").write_text("int staged;\n")
    git(tree, "add", "mm/memory.c")


def _assumed(tree: Path) -> None:
    git(tree, "update-index", "--assume-unchanged", "mm/memory.c")
    (tree / "mm/memory.c").write_text("int hidden;\n")


def _skipped(tree: Path) -> None:
    git(tree, "update-index", "--skip-worktree", "mm/memory.c")
    (tree / "mm/memory.c").write_text("int skipped;\n")


def _relink(tree: Path) -> None:
    (tree / "include/link.h").unlink()
    (tree / "include/link.h").symlink_to("./linux/mm.h")


CHANGES: dict[str, Callable[[Path], object]] = {
    "tracked": lambda tree: (tree / "mm/memory.c").write_text("int changed;\n"),
    "tracked, other text": lambda tree: (tree / "mm/memory.c").write_text("int changes;\n"),
    "staged": _staged,
    "renamed": _staged_rename,
    "deleted": lambda tree: (tree / "mm/memory.c").unlink(),
    "mode": lambda tree: (tree / "mm/memory.c").chmod(0o755),
    "link": _relink,
    "untracked": lambda tree: (tree / "mm/new.c").write_text("int new;\n"),
    "untracked, odd name": lambda tree: (tree / "-q 1 .N..\n\t.c").write_text("int new;\n"),
    "untracked, no UTF-8": lambda tree: Path(os.fsdecode(os.fsencode(tree) + b"/\xff\xfe.c")).write_text("x"),
    "nested repository": _nested,
    "assume-unchanged": _assumed,
    "skip-worktree": _skipped,
}


def test_every_local_change_has_a_digest_of_its_own(tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    for name, change in CHANGES.items():
        tree = make_git_tree(tmp_path / str(len(seen)))
        change(tree)
        first, second = git_state(tree), git_state(tree)
        assert first is not None
        assert first == second, name
        assert first.dirty, name
        assert first.dirty not in seen, f"{name} looks like {seen.get(first.dirty)}"
        seen[first.dirty] = name
    assert len(seen) == len(CHANGES)


# --- bytes, whatever git makes of them


def _attribute(line: str) -> Callable[[Path], object]:
    """A conversion in the repository's own attributes, and a file that it makes of the same blob."""

    def change(tree: Path) -> None:
        (tree / ".git/info/attributes").parent.mkdir(exist_ok=True)
        (tree / ".git/info/attributes").write_text(f"mm/memory.c {line}\n")
        _check_out_again(tree)

    return change


def _check_out_again(tree: Path) -> None:
    (tree / "mm/memory.c").unlink()
    git(tree, "checkout", "-q", "--", "mm/memory.c")


def _setting(name: str, value: str, then: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(tree: Path) -> None:
        git(tree, "config", name, value)
        then(tree)

    return change


def _filtered(tree: Path) -> None:
    git(tree, "config", "filter.x.smudge", "sed s/memory/filter/")
    git(tree, "config", "filter.x.clean", "sed s/filter/memory/")
    _attribute("filter=x")(tree)


def _replaced(kind: str) -> Callable[[Path], object]:
    """A commit, tree or blob that git shows in place of the one that HEAD names."""

    def change(tree: Path) -> None:
        old = git(tree, "rev-parse", f"HEAD{kind}").strip()
        (tree / "mm/memory.c").write_text(f"int replaced{len(kind)};\n")
        git(tree, "commit", "-q", "-a", "-m", "other")
        new = git(tree, "rev-parse", f"HEAD{kind}").strip()
        git(tree, "reset", "-q", "--hard", "HEAD~1")
        git(tree, "replace", old, new)
        git(tree, "reset", "-q", "--hard")
        _check_out_again(tree)

    return change


def _submodule(tree: Path) -> None:
    inner = make_git_tree(tree.with_name(f"{tree.name}-inner"))
    argv = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    git(tree, *argv)
    git(tree, "commit", "-q", "-a", "-m", "with a submodule")


def _sparse(tree: Path) -> None:
    git(tree, "sparse-checkout", "set", "--no-cone", "/*", "!/fs/")


def _stale_stat(tree: Path) -> None:
    """git's index takes the file for unchanged, by its size and time."""
    file = tree / "mm/memory.c"
    git(tree, "config", "core.trustctime", "false")
    git(tree, "config", "core.checkStat", "minimal")
    os.utime(file, (10**9, 10**9))
    git(tree, "update-index", "--refresh")
    file.write_text("int memorz;\n")
    os.utime(file, (10**9, 10**9))


def _exclude(where: str) -> Callable[[Path], object]:
    def change(tree: Path) -> None:
        rules = tree / ".git/info/exclude" if where == "info" else tree / ".git/rules"
        rules.parent.mkdir(exist_ok=True)
        rules.write_text("localversion*\n")
        git(tree, "config", "core.excludesFile", str(rules))
        (tree / f"localversion-{where}").write_text("-mine\n")

    return change


HIDDEN_CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced commit": _replaced(""),
    "replaced tree": _replaced("^{tree}"),
    "replaced blob": _replaced(":mm/memory.c"),
    "filter": _filtered,
    "end of line": _attribute("eol=crlf"),
    "autocrlf": _setting("core.autocrlf", "true", _check_out_again),
    "encoding": _attribute("working-tree-encoding=UTF-16"),
    "file mode": _setting("core.fileMode", "false", lambda tree: (tree / "mm/memory.c").chmod(0o755)),
    "symlinks": _setting("core.symlinks", "false", lambda tree: _as_text(tree / "include/link.h")),
    "sparse": _sparse,
    "stale stat": _stale_stat,
    "info/exclude": _exclude("info"),
    "excludesFile": _exclude("file"),
    "split index": _setting("core.splitIndex", "true", _assumed),
}


def _as_text(link: Path) -> None:
    target = str(link.readlink())
    link.unlink()
    link.write_text(target)


@pytest.mark.parametrize("change", HIDDEN_CHANGES)
def test_what_git_status_hides_is_a_change(tmp_path: Path, change: str) -> None:
    tree = make_git_tree(tmp_path / "t")
    clean, bytes_ = git_state(tree), content_digest(tree)
    HIDDEN_CHANGES[change](tree)
    # of a replaced blob, git sees it for as long as its index is as young as the file
    assert git(tree, "status", "--porcelain") == "" or change == "replaced blob"
    assert content_digest(tree) != bytes_
    state = git_state(tree)
    assert state is not None
    assert clean is not None
    assert state.commit == clean.commit
    assert state.dirty
    assert state.digest != clean.digest


def test_keywords_and_submodules_are_bytes_too(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    (tree / "mm/memory.c").write_text("/* $Id$ */\n")
    git(tree, "commit", "-q", "-a", "-m", "keyword")
    clean = git_state(tree)
    _attribute("ident")(tree)
    assert "$Id:" in (tree / "mm/memory.c").read_text()
    assert git(tree, "status", "--porcelain") == ""
    assert git_state(tree) != clean
    tree = make_git_tree(tmp_path / "u")
    _submodule(tree)
    with_files = git_state(tree)
    git(tree, "submodule", "--quiet", "deinit", "--all", "--force")
    without = git_state(tree)
    assert with_files is not None
    assert without is not None
    assert (bool(with_files.dirty), without.dirty) == (True, "")


def test_an_ignored_file_counts_without_being_a_local_change(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    clean = git_state(tree)
    assert clean is not None
    digests = {clean.digest}
    for text in ("one\n", "two\n"):
        (tree / "mm/memory.o").write_text(text)
        state = git_state(tree)
        assert state is not None
        assert (state.dirty, bool(state.ignored)) == ("", True)
        digests.add(state.digest)
    assert len(digests) == 3


def test_leftovers_of_tools_and_builds_do_not_count(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    (tree / ".gitignore").write_text(".*\n*~\ntags\n__pycache__\n*.o\n/build\n!.gitignore\n")
    git(tree, "commit", "-q", "-a", "-m", "ignore")
    clean = git_state(tree)
    build = tree / "build"
    for name in (
        ".mm.c.swp",
        "mm/memory.c~",
        "tags",
        "scripts/__pycache__/a.pyc",
        ".vscode/x",
        "build/mm/a.o",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x\n")
    assert git_state(tree) != clean, "a folder named build may hold sources"
    (build / "source").symlink_to(tree)
    (build / "include/config").mkdir(parents=True)
    assert git_state(tree) == clean


def test_own_results_are_no_part_of_a_tree(tmp_path: Path) -> None:
    for tree in (make_git_tree(tmp_path / "git"), make_tree(tmp_path / "plain")):
        before = git_state(tree), content_digest(tree)
        (tree / "runs/1/cells").mkdir(parents=True)
        (tree / "runs/.gitignore").write_bytes(contents.RESULTS)
        (tree / "runs/1/plan.json").write_text("{}\n")
        assert (git_state(tree), content_digest(tree)) == before
        # a mark in a folder of the tree hides nothing that the commit has
        (tree / "mm/.gitignore").write_bytes(contents.RESULTS)
        (tree / "mm/memory.c").write_text("int hidden;\n")
        assert (git_state(tree), content_digest(tree)) != before


def test_a_broken_configuration_of_the_users_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_git_tree(tmp_path / "t")
    before = git_state(tree)
    (tmp_path / ".gitconfig").write_text("[user\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "x")
    assert git_state(tree) == before


def test_deep_folders_are_refused_with_a_limit(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    place = tree / "mm"
    (place / "/".join("a" * contents.MAX_DEPTH)).mkdir(parents=True)
    with pytest.raises(UserError, match="nested more than 100 deep below mm/a/a"):
        content_digest(tree)


def test_what_is_no_local_change(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    os.utime(tree / "mm/memory.c", ns=(1, 1))
    git(tree, "update-index", "--assume-unchanged", "scripts/run.sh")
    git(tree, "update-index", "--skip-worktree", "include/link.h")
    state = git_state(tree)
    assert state is not None
    assert state.dirty == ""


def test_a_change_taken_back_is_none(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    clean = git_state(tree)
    before = (tree / "mm/memory.c").read_text()
    (tree / "mm/memory.c").write_text("int changed;\n")
    assert git_state(tree) != clean
    (tree / "mm/memory.c").write_text(before)
    assert git_state(tree) == clean


def test_looking_at_a_git_tree_writes_nothing_into_it(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    for path in (tree / "mm").iterdir():
        os.utime(path, ns=(10**18, 10**18))
    (tree / "mm/memory.c").write_text("int changed;\n")
    before = snapshot(tree)
    state = git_state(tree)
    assert snapshot(tree) == before
    assert state is not None
    assert state.dirty
    # The same question asked in the usual way does write: the comparison above can fail.
    git(tree, "status")
    assert snapshot(tree) != before


def test_a_program_named_by_the_repository_is_not_run(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(hook))
    git(tree, "config", "filter.x.clean", str(hook))
    git(tree, "config", "diff.external", str(hook))
    (tree / ".gitattributes").write_text("* filter=x diff=x\n")
    os.utime(tree / "mm/memory.c", (10**9, 10**9))
    git_state(tree)
    assert not (tmp_path / "ran").exists()
    git(tree, "status")
    assert (tmp_path / "ran").exists()


def test_variables_of_a_surrounding_git_do_not_mislead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, other = make_git_tree(tmp_path / "t"), make_git_tree(tmp_path / "other", "absent")
    expected = git_state(tree)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_state(tree) == expected


@ROOT_ONLY
def test_a_tree_of_another_user_is_refused_until_the_user_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, home = make_git_tree(tmp_path / "t"), tmp_path / "home"
    home.mkdir()
    for path in [tree, *tree.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    monkeypatch.setenv("HOME", str(home))
    for config in (
        "",
        "[user\n",
        f"[safe]\n\tdirectory = {tree}/mm\n",
        "[safe]\n\tdirectory = *\n\tdirectory =\n",
    ):
        (home / ".gitconfig").write_text(config)
        git_module._safe_in.cache_clear()
        with pytest.raises(UserError, match="belongs to another user") as caught:
            git_state(tree)
        assert caught.value.remedy.endswith(f"git config --global --add safe.directory {tree}")
    for config in (f"[safe]\n\tdirectory = {tree}\n", "[safe]\n\tdirectory = *\n"):
        (home / ".gitconfig").write_text(config)
        git_module._safe_in.cache_clear()
        state = git_state(tree)
        assert state is not None
        assert (len(state.commit), state.dirty) == (40, "")
    # the environment may say it too, as continuous integration does
    (home / ".gitconfig").unlink()
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", str(tree))):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert git_state(tree) is not None


def test_a_directory_inside_someone_elses_repository_has_no_commit(tmp_path: Path) -> None:
    outer = make_git_tree(tmp_path / "outer")
    assert git_state(make_tree(outer / "inner")) is None


@pytest.mark.parametrize("broken", ["unborn", "dangling"])
def test_a_repository_without_a_commit_has_no_commit(tmp_path: Path, broken: str) -> None:
    tree = make_tree(tmp_path)
    if broken == "unborn":
        git(tree, "init", "-q")
    else:
        (tree / ".git").write_text("gitdir: /nonexistent/worktree\n")
    assert git_state(tree) is None


# --- content


TREE_CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "mm/memory.c").write_text("int memorz;\n"),
    "executable": lambda tree: (tree / "mm/memory.c").chmod(0o744),
    "new": lambda tree: (tree / "mm/new.c").write_text("int new;\n"),
    "dot file": lambda tree: (tree / ".new").write_text(""),
    "gone": lambda tree: (tree / "mm/memory.c").unlink(),
    "moved": lambda tree: (tree / "mm/memory.c").rename(tree / "mm/moved.c"),
    "link": _relink,
}


@pytest.mark.parametrize("change", TREE_CHANGES)
def test_content_digest_changes_with(tmp_path: Path, change: str) -> None:
    tree = make_tree(tmp_path / "t")
    before = content_digest(tree, stat_cache=tmp_path / "stat")
    assert content_digest(tree) == before
    assert content_digest(make_tree(tmp_path / "copy")) == before
    TREE_CHANGES[change](tree)
    assert content_digest(tree, stat_cache=tmp_path / "stat") == content_digest(tree) != before


def test_content_digest_does_not_change_with(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    before = content_digest(tree)
    os.utime(tree / "mm/memory.c", ns=(1, 1))
    (tree / "mm/memory.c").chmod(0o664)
    (tree / ".git").mkdir()
    (tree / ".git/HEAD").write_text("x\n")
    assert content_digest(tree) == before


NAMES = st.sampled_from(["a", "b", "a/b", "a.b", "ab", "c/a", "c/b"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(NAMES, st.binary(max_size=3), max_size=4), min_size=2, max_size=2))
def test_equal_digest_means_equal_tree(trees: list[dict[str, bytes]]) -> None:
    digests = []
    for tree in trees:
        if "a" in tree and "a/b" in tree:
            del tree["a"]
        with tempfile.TemporaryDirectory() as name:
            for path, data in tree.items():
                (Path(name) / path).parent.mkdir(exist_ok=True)
                (Path(name) / path).write_bytes(data)
            digests.append(content_digest(Path(name)))
    assert (digests[0] == digests[1]) == (trees[0] == trees[1])


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_digest_of_text_keeps_the_parts_apart(one: list[str], other: list[str]) -> None:
    assert (digest_of_text(*one) == digest_of_text(*other)) == (one == other)


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x92\x01"])
def test_a_damaged_stat_cache_is_ignored(tmp_path: Path, damage: bytes) -> None:
    tree = make_tree(tmp_path / "t")
    before = content_digest(tree, stat_cache=tmp_path / "stat")
    (store,) = (tmp_path / "stat").iterdir()
    store.write_bytes(damage)
    assert content_digest(tree, stat_cache=tmp_path / "stat") == before


def test_a_fifo_in_the_tree_is_not_opened(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    before = content_digest(tree)
    os.mkfifo(tree / "fifo")
    assert content_digest(tree) != before
