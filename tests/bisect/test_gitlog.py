# SPDX-License-Identifier: GPL-2.0-only
"""git bisect's log, as git writes and as it reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.linux import commit_file
from fakes.trees import git, make_git_tree

from orchestrator.bisect import gitlog
from orchestrator.bisect.request import BisectRequest, prepare_bisect
from orchestrator.bisect.setup import Setup
from orchestrator.core.errors import UserError
from orchestrator.plan.options import Options


def test_git_takes_what_we_write_and_we_what_git_writes(tmp_path: Path) -> None:
    repository = make_git_tree(tmp_path / "linux")
    names = [commit_file(repository, "mm/a.c", f"int a{n};\n", f"odd 'subject' {n}") for n in range(8)]
    verdicts = {names[6]: True, names[1]: False, names[2]: None, names[5]: True}
    log = tmp_path / "log"
    log.write_text(gitlog.write([names[0]], names[7], verdicts, "", lambda c: f"subject of {c}"))
    git(repository, "bisect", "replay", str(log))
    theirs = git(repository, "bisect", "log")
    ends = [(names[7], True), (names[0], False)]
    assert sorted(gitlog.read(theirs, "x").outcomes, key=str) == sorted([*ends, *verdicts.items()], key=str)
    assert gitlog.read(log.read_text(), "x").outcomes == [*ends, *verdicts.items()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten commits, and one beside them; tags v0 to v9, and v3.1 beside v4."""
    path = make_git_tree(tmp_path_factory.mktemp("log") / "linux")
    for n in range(10):
        commit_file(path, "mm/a.c", f"int a{n};\n", f"odd 'subject' {n}")
        git(path, "tag", f"v{n}")
    git(path, "checkout", "-q", "v3")
    commit_file(path, "mm/b.c", "int b;\n", "stable")
    git(path, "tag", "v3.1")
    git(path, "checkout", "-q", "-B", "main", "v9")
    return path


def _tags(repository: Path, log: gitlog.Log) -> list[tuple[str, bool | None]]:
    """The outcomes of a log, by tag."""
    return [(git(repository, "describe", "--tags", name).strip(), bad) for name, bad in log.outcomes]


@pytest.mark.parametrize(
    ("commands", "outcomes", "options"),
    [
        (["start", "bad", "good v0", "good v4"], [("v9", True), ("v0", False), ("v4", False)], []),
        (
            ["start v8 v1", "skip v3..v5"],
            [("v8", True), ("v1", False), *((f"v{n}", None) for n in (5, 4))],
            [],
        ),
        (["start v8 v1 -- mm fs/"], [("v8", True), ("v1", False)], ["mm", "fs/"]),
        (["start v8 v1 mm"], [("v8", True), ("v1", False)], ["mm"]),
        (["start main main~6"], [("v9", True), ("v3", False)], []),
        (
            ["start --term-old=fast --term-new slow", "slow v8", "fast v2", "skip v5"],
            [("v8", True), ("v2", False), ("v5", None)],
            [],
        ),
        (
            ["start --term-good ok --term-bad=broken v8 v2", "ok v3"],
            [("v8", True), ("v2", False), ("v3", False)],
            [],
        ),
        (["start", "new v8", "old v2", "old v3"], [("v8", True), ("v2", False), ("v3", False)], []),
        (["start --first-parent --no-checkout v8 v1"], [("v8", True), ("v1", False)], ["--first-parent"]),
        (
            ["start v8 v1", "bad v4", "good v3"],
            [("v8", True), ("v1", False), ("v4", True), ("v3", False)],
            [],
        ),
        (["start v8"], [("v8", True)], []),
        (["start v8 v3.1"], [("v8", True), ("v3.1", False)], []),
    ],
)
def test_logs_that_git_writes(
    repository: Path, commands: list[str], outcomes: list[tuple[str, bool | None]], options: list[str]
) -> None:
    for command in commands:
        git(repository, "bisect", *command.split())
    text = git(repository, "bisect", "log")
    git(repository, "bisect", "reset", "main")
    spellings = [
        text,
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        text.replace("git bisect", "  git-bisect"),
    ]
    for each in spellings:
        log = gitlog.read(each, "x")
        assert sorted(_tags(repository, log), key=str) == sorted(outcomes, key=str)
        assert log.options == options


def test_a_log_without_its_comments(repository: Path) -> None:
    """The words alone tell, and the repository where paths begin."""

    def is_commit(name: str) -> bool:
        return bool(git(repository, "tag", "--list", name))

    text = "git bisect start 'v2' 'v1' 'v0' 'mm/' 'v9'\ngit bisect skip v1 v0\n\n"
    log = gitlog.read(text, "x", is_commit)
    assert log.outcomes == [("v2", True), ("v1", False), ("v0", False), ("v1", None), ("v0", None)]
    assert log.options == ["mm/", "v9"]


def test_what_newer_and_older_git_add(repository: Path) -> None:
    names = {n: git(repository, "rev-parse", f"v{n}").strip() for n in range(10)}
    text = f"""git bisect start
# status: waiting for both good and bad commits
# bad: [{names[8]}] it's "odd": [x]
git bisect bad {names[8]}
# status: waiting for good commit(s), bad commit known
# good: [{names[1]}] y
git bisect good {names[1]}
# good: [{names[2]}] judged what was checked out
git bisect good
# only skipped commits left to test
# possible first bad commit: [{names[4]}] z
# first bad commit: [{names[4]}] z
"""
    again = f"# bad: [{names[7]}] a\ngit bisect start 'HEAD'\ngit bisect terms\ngit bisect good {names[3]}\n"
    assert _tags(repository, gitlog.read(text, "x")) == [("v8", True), ("v1", False), ("v2", False)]
    assert _tags(repository, gitlog.read(text + again, "x")) == [("v7", True), ("v3", False)], "begun anew"


def _prepared(repository: Path, tmp_path: Path, text: str) -> tuple[Setup, list[str]]:
    said: list[str] = []
    (tmp_path / "log").write_text(text)
    request = BisectRequest(
        options=Options(), source=str(repository), build=True, replay=str(tmp_path / "log")
    )
    return prepare_bisect(request, said.append)[0], said


def test_the_ends_that_a_log_leaves(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many good commits the last one bounds the search; one beside the bad commit needs its merge base."""
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    names = {tag: git(repository, "rev-parse", tag).strip() for tag in ("v0", "v2", "v3", "v7", "v8")}
    text = "git bisect start v8 v3.1 v0 -- mm\ngit bisect good v3\ngit bisect good v2\ngit bisect bad v7\n"
    setup, said = _prepared(repository, tmp_path, text + "git bisect skip v4..v6\n")
    assert (setup.good, setup.bad) == ((names["v3"],), names["v7"])
    assert [each.bad for each in setup.replay].count(None) == 2
    # as root there is a line about that, too
    note = f"{tmp_path}/log limits the search to mm; all commits between good and bad are searched"
    assert note in said
    with pytest.raises(UserError, match="is not an ancestor of bad"):
        _prepared(repository, tmp_path, "git bisect start v8 v3.1\n")
    with pytest.raises(UserError, match="has no commit 'v77'"):
        _prepared(repository, tmp_path, "git bisect start\ngit bisect bad v8\ngit bisect good v77\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "x:1: 'hello' is not a line of `git bisect log`"),
        ("git bisect start\ngit bisect run make\n", "x:2: `git bisect run` is not supported"),
        (
            "git bisect start '--term-new=slow'\ngit bisect fast v1\n",
            "x:2: `git bisect fast` is not supported",
        ),
        ("git bisect start 'v2\n", "x:1: No closing quotation"),
    ],
)
def test_what_is_no_log(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        gitlog.read(text, "x")
    assert caught.value.message == message
