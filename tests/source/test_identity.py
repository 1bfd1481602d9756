# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fakes.trees import git, make_git_tree, make_tree, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import UserError
from orchestrator.source import identity
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


def test_what_is_no_local_change(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    (tree / "mm/memory.o").write_text("ignored\n")
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
def test_a_tree_of_another_user(tmp_path: Path) -> None:
    tree = make_git_tree(tmp_path / "t")
    for path in [tree, *tree.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    state = git_state(tree)
    assert state is not None
    assert state.dirty == ""


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


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    real = identity._describe_files

    def record(top: Path, names: Sequence[bytes]) -> list[bytes]:
        read.extend(names)
        return real(top, names)

    monkeypatch.setattr(identity, "_describe_files", record)
    monkeypatch.setattr(identity, "_RACY_NS", -(10**12))
    tree = make_tree(tmp_path / "t")
    content_digest(tree, stat_cache=tmp_path / "stat")
    assert len(read) == len([path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()])
    read.clear()
    stat = (tree / "mm/memory.c").stat()
    (tree / "mm/memory.c").write_text("int memorz;\n")
    os.utime(tree / "mm/memory.c", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = content_digest(tree, stat_cache=tmp_path / "stat")
    assert read == [b"mm/memory.c"]
    assert after == content_digest(tree)


def test_a_file_that_changed_just_now_is_not_believed_later(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    content_digest(tree, stat_cache=tmp_path / "stat")
    (store,) = (tmp_path / "stat").iterdir()
    assert identity._load(store) == {}


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
