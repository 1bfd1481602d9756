# SPDX-License-Identifier: GPL-2.0-only
"""What a user may mean by a series, in real repositories; and what he may not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.linux import commit_file
from fakes.trees import git, make_git_tree, snapshot

from orchestrator.core.errors import InfraError, UserError
from orchestrator.series import input
from orchestrator.series.model import Patch
from orchestrator.source import checkout

pytestmark = pytest.mark.slow

Commits = Callable[..., tuple[Patch, ...]]


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """A tree with three commits on top of the tag ``base``."""
    repository = make_git_tree(tmp_path / "linux")
    git(repository, "tag", "base")
    commit_file(repository, "mm/memory.c", "int memory;\nint one;\n", "mm: one")
    commit_file(repository, "mm/memory.c", "int memory;\nint one;\nint two;\n", "mm: two")
    commit_file(repository, "fs/proc/task_mmu.c", "int show_map;\nint three;\n", "proc: three")
    return repository


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    """What a series comes to: read, and made commits of a workshop."""

    def make(source: str | Path, series: str | Path) -> tuple[Patch, ...]:
        found = input.read(str(source), str(series), tmp_path / "fetched", lambda _: None)
        with checkout.opened(found.folder, cache=tmp_path / "cache") as shop:
            shutil.rmtree(tmp_path / "apply", ignore_errors=True)
            (tmp_path / "apply").mkdir()
            patches = input.commits(found, shop, tmp_path / "apply")
            for patch in patches:
                shop.check_out(patch.commit)
            return patches

    return make


def mbox(repository: Path, to: Path, *more: str, which: str = "base..HEAD") -> Path:
    to.write_text(git(repository, "format-patch", "--stdout", *more, which))
    return to


def subjects(patches: tuple[Patch, ...]) -> list[str]:
    return [patch.subject for patch in patches]


ALL = ["one", "mm: one", "mm: two", "proc: three"]


def test_a_range_is_its_commits_as_they_are(linux: Path, commits: Commits) -> None:
    before = snapshot(linux)
    patches = commits(linux, "base..HEAD")
    assert subjects(patches) == ALL
    assert [patch.number for patch in patches] == [0, 1, 2, 3]
    assert [p.commit for p in patches[1:]] == git(linux, "rev-list", "--reverse", "base..HEAD").split()
    assert snapshot(linux) == before
    # the end is HEAD, and the beginning may stand with the source
    assert commits(linux, "base..") == patches
    assert commits(f"{linux}@base", "..HEAD") == patches


def test_an_mbox_says_its_base_itself(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    before = snapshot(linux)
    patches = commits(linux, file)
    assert subjects(patches) == ALL
    assert patches[0].commit == git(linux, "rev-parse", "base").strip()
    assert commits(linux, file) == patches, "the same commits again"
    assert snapshot(linux) == before


def test_a_cover_letter_is_no_patch_and_its_base_counts(
    linux: Path, tmp_path: Path, commits: Commits
) -> None:
    folder = tmp_path / "patches"
    git(linux, "format-patch", "--cover-letter", "--base=base", "-o", str(folder), "base..HEAD")
    assert "base-commit" in (folder / "0000-cover-letter.patch").read_text()
    assert subjects(commits(linux, folder)) == ALL


def test_the_named_base_wins_and_is_told(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    git(linux, "checkout", "-q", "base")
    other = commit_file(linux, "mm/else.c", "int other;\n", "elsewhere")
    found = input.read(f"{linux}@{other}", str(file), tmp_path, lambda _: None)
    assert found.base == other
    assert f"tested on {other[:12]}" in found.notes[0]
    assert subjects(commits(f"{linux}@{other}", file)) == ["elsewhere", *ALL[1:]]


def test_no_base_at_all(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox")
    with pytest.raises(UserError, match=r"s\.mbox does not name its base") as caught:
        commits(linux, file)
    assert f"--source {linux}@BASE" in caught.value.remedy
    assert subjects(commits(f"{linux}@base", file)) == ALL


def test_a_base_that_the_repository_lacks(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    base = git(linux, "rev-parse", "base").strip()
    file.write_text(file.read_text().replace(base, "1234567" + base[7:]))
    with pytest.raises(UserError, match=f"was made on 1234567{base[7:12]}, which .* does not have"):
        commits(linux, file)


def test_two_bases(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    file.write_text(file.read_text() + f"\nbase-commit: {'9' * 40}\n")
    with pytest.raises(UserError, match="names 2 bases"):
        commits(linux, file)


def test_a_patch_that_does_not_apply_is_named_with_its_hunk(
    linux: Path, tmp_path: Path, commits: Commits
) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    file.write_text(file.read_text().replace(" int one;\n+int two;", " int other;\n+int two;"))
    with pytest.raises(UserError, match=r"patch 2 of 3 \('mm: two'\) does not apply .*hunk #1"):
        commits(linux, file)


def test_mails_of_a_series_are_kept_and_each_stands_alone(
    linux: Path, tmp_path: Path, commits: Commits
) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    found = input.read(str(linux), str(file), tmp_path, lambda _: None)
    input.copy_mails(found, tmp_path / "out")
    kept = input.copy_names(found)
    assert kept == ("input/01-s.mbox",)
    assert (tmp_path / "out" / kept[0]).read_text() == file.read_text()
    with checkout.opened(linux, cache=tmp_path / "cache") as shop:
        (tmp_path / "w").mkdir()
        patches = input.commits(found, shop, tmp_path / "w")
        one = tmp_path / "one.patch"
        one.write_bytes(input.as_file(patches[1], shop.path))
    assert subjects(commits(f"{linux}@base", one)) == ALL[:2]


@pytest.mark.parametrize(
    ("series", "message", "remedy"),
    [
        ("HEAD..base", "does not come after", "Swap them"),
        ("base..base", "there is no patch between", "older commit first"),
        ("base...HEAD", "a range of commits", r"base\.\.HEAD"),
        ("base..nowhere", "has no revision 'nowhere'", ""),
        ("..HEAD", "has no base", "DIR@BASE"),
        ("nothing", "'nothing' is not a series", "an mbox, a folder of patches"),
        ("", "'' is not a series", "an mbox"),
    ],
)
def test_ranges_that_are_none(linux: Path, commits: Commits, series: str, message: str, remedy: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        commits(linux, series)
    assert not remedy or __import__("re").search(remedy, caught.value.remedy)


@pytest.mark.parametrize(
    "word", ["../series.mbox", "./x/../v3.mbox", "a/../b", "v1..v2.mbox", "/no/../x.patch", ".../t.mbox.gz"]
)
def test_a_path_with_two_dots_is_no_range(linux: Path, commits: Commits, word: str) -> None:
    with pytest.raises(UserError, match="is not a series: there is no such file or folder"):
        commits(linux, word)


@pytest.mark.parametrize(
    "word", ["20240101..1@example.org", "<a...b@example.org>", "https://lore.example/a..b@x/"]
)
def test_a_message_id_with_two_dots_is_no_range(b4: None, linux: Path, commits: Commits, word: str) -> None:
    assert subjects(commits(linux, word)) == ALL


def test_a_range_of_names_with_an_at_sign(linux: Path, commits: Commits) -> None:
    git(linux, "branch", "me@work", "base")
    assert subjects(commits(linux, "me@work..HEAD")) == ALL
    assert subjects(commits(linux, "HEAD@{2}..HEAD")) == ["mm: one", *ALL[2:]]
    assert subjects(commits(linux, "me@work..")) == ALL


def test_prerequisites_that_the_base_lacks(linux: Path, tmp_path: Path, commits: Commits) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base", which="HEAD~1..HEAD")
    assert file.read_text().count("prerequisite-patch-id") == 2
    with pytest.raises(UserError, match=r"needs other patches first, which its base .*: patch-id ") as caught:
        commits(linux, file)
    assert f"--source {linux}@BRANCH" in caught.value.remedy
    # a base that has them, also by other commits
    assert subjects(commits(f"{linux}@HEAD~1", file)) == ["mm: two", "proc: three"]
    tip = git(linux, "rev-parse", "HEAD").strip()
    git(linux, "checkout", "-q", "-b", "other", "base")
    commit_file(linux, "mm/else.c", "int other;\n", "elsewhere")
    git(linux, "cherry-pick", f"{tip}~2", f"{tip}~1")
    read = input.read(f"{linux}@other", str(file), tmp_path, lambda _: None)
    assert read.notes == (
        f"the series was made on {git(linux, 'rev-parse', 'base')[:12]}, but is tested on {read.base[:12]}",
    )
    # the user's base is taken, but what it lacks is said
    read = input.read(f"{linux}@base", str(file), tmp_path, lambda _: None)
    assert "needs other patches first" in read.notes[-1]


def test_what_cannot_be_looked_up_is_said(linux: Path, tmp_path: Path) -> None:
    file = mbox(linux, tmp_path / "s.mbox", "--base=base")
    file.write_text(file.read_text().replace("\n---\n", "\n---\nDepends-on: the other series\n", 1))
    read = input.read(str(linux), str(file), tmp_path, lambda _: None)
    assert read.prerequisites == ("series the other series",)
    assert read.notes[-1].endswith("does not seem to have: series the other series")


def test_only_the_chosen_version_names_the_base(linux: Path, tmp_path: Path, commits: Commits) -> None:
    old = mbox(linux, tmp_path / "1", "--base=HEAD~2", "-v1", which="HEAD~2..HEAD").read_text()
    file = tmp_path / "t.mbox"
    file.write_text(old + mbox(linux, tmp_path / "2", "--base=base", "-v2").read_text())
    read = input.read(str(linux), str(file), tmp_path, lambda _: None)
    assert (read.base, read.version) == (git(linux, "rev-parse", "base").strip(), "v2")
    assert read.notes == ("t.mbox: v1 (2 patches) is left out: v2 is newer",)
    assert subjects(commits(linux, file)) == ALL


def test_the_base_named_twice(linux: Path, commits: Commits) -> None:
    with pytest.raises(UserError, match="named twice"):
        commits(f"{linux}@base", "base..HEAD")


def test_histories_that_part(linux: Path, commits: Commits) -> None:
    fork = git(linux, "rev-parse", "HEAD~1").strip()
    git(linux, "checkout", "-q", "-b", "side", fork)
    commit_file(linux, "mm/side.c", "int side;\n")
    with pytest.raises(UserError, match="does not come after") as caught:
        commits(linux, "master..side" if "master" in git(linux, "branch") else "main..side")
    assert fork[:12] in caught.value.remedy


def test_a_merge_is_one_patch_with_all_that_it_brings(linux: Path, tmp_path: Path, commits: Commits) -> None:
    trunk = git(linux, "symbolic-ref", "--short", "HEAD").strip()
    git(linux, "checkout", "-q", "-b", "side", "base")
    commit_file(linux, "mm/side.c", "int side;\n", "side: a")
    commit_file(linux, "mm/side.c", "int side;\nint b;\n", "side: b")
    git(linux, "checkout", "-q", trunk)
    git(linux, "merge", "-q", "--no-ff", "-m", "Merge side", "side")
    patches = commits(linux, "base..HEAD")
    assert subjects(patches) == [*ALL, "Merge side"]
    assert [patch.merge for patch in patches] == [False] * 4 + [True]
    found = input.read(str(linux), "base..HEAD", tmp_path, lambda _: None)
    assert found.notes == ("1 of its commits is a merge: each is one patch, with all commits that it merged",)


def test_more_than_any_series_has(linux: Path, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input, "MOST", 2)
    with pytest.raises(UserError, match="there are 3 commits between"):
        commits(linux, "base..HEAD")


def test_sources_that_are_no_repository(linux: Path, tmp_path: Path, commits: Commits) -> None:
    for source, message in [
        ("", "no repository is given"),
        ("debian:trixie", "not a folder"),
        (tmp_path / "absent", "not a folder"),
        (f"{linux}@", "no revision after the @"),
        (f"{linux}@nowhere", "has no revision 'nowhere'"),
    ]:
        with pytest.raises(UserError, match=message):
            commits(source, "..HEAD")
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="is not the top of a git repository"):
        commits(tmp_path / "plain", "a..b")


def test_a_revision_that_is_no_kernel(tmp_path: Path, commits: Commits) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    commit_file(other, "a", "a\n")
    commit_file(other, "a", "b\n")
    with pytest.raises(UserError, match="kernel"):
        commits(other, "HEAD~1..HEAD")


# b4

_B4 = """#!/bin/sh
# am -o FOLDER ID
[ "$1 $2" = "am -o" ] || exit 2
case $4 in
*lost*) echo "ERROR: could not find it" >&2; exit 1 ;;
*empty*) exit 0 ;;
esac
cp "$B4_MBOX" "$3/v1_series.mbx"
cp "$B4_COVER" "$3/v1_series.cover"
"""


@pytest.fixture
def b4(tmp_path: Path, linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A b4 that has one series, the base of which stands in the cover letter alone."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "b4").write_text(_B4)
    (tools / "b4").chmod(0o755)
    cover = tmp_path / "cover"
    cover.write_text(
        "From 0 Mon Sep 17 00:00:00 2001\nFrom: a <a@example.invalid>\nSubject: [PATCH 0/3] all\n\n"
        f"base-commit: {git(linux, 'rev-parse', 'base')}"
    )
    monkeypatch.setenv("B4_MBOX", str(mbox(linux, tmp_path / "b4.mbox")))
    monkeypatch.setenv("B4_COVER", str(cover))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "word",
    ["20250801.1-a@example.invalid", "<20250801.1-a@example.invalid>", "https://lore.example/r/1@a/"],
)
def test_b4_fetches_a_message_id(b4: None, linux: Path, commits: Commits, word: str) -> None:
    assert subjects(commits(linux, word)) == ALL


def test_b4_that_fails_or_finds_nothing(b4: None, linux: Path, commits: Commits) -> None:
    with pytest.raises(InfraError, match="could not find it") as caught:
        commits(linux, "lost@example.invalid")
    assert "b4 am" in caught.value.remedy
    with pytest.raises(InfraError, match="fetched no patch"):
        commits(linux, "empty@example.invalid")


def test_b4_is_not_installed(linux: Path, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    git_only = Path(shutil.which("git") or "").parent
    if (git_only / "b4").exists():
        pytest.skip("b4 lies beside git here")
    monkeypatch.setenv("PATH", str(git_only))
    with pytest.raises(InfraError, match="b4 is not installed") as caught:
        commits(linux, "20250801.1-a@example.invalid")
    assert "save the series as an mbox" in caught.value.remedy


def test_an_option_is_no_message_id(linux: Path, commits: Commits, b4: None) -> None:
    with pytest.raises(UserError, match="not a message-id"):
        commits(linux, "-o@example.invalid")
