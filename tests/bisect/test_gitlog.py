# SPDX-License-Identifier: GPL-2.0-only
"""git bisect's log, as git writes and as it reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.linux import commit_file
from fakes.trees import git, make_git_tree

from orchestrator.bisect import gitlog
from orchestrator.core.errors import UserError


def test_git_takes_what_we_write_and_we_what_git_writes(tmp_path: Path) -> None:
    repository = make_git_tree(tmp_path / "linux")
    names = [commit_file(repository, "mm/a.c", f"int a{n};\n", f"odd 'subject' {n}") for n in range(8)]
    verdicts = {names[6]: True, names[1]: False, names[2]: None, names[5]: True}
    log = tmp_path / "log"
    log.write_text(gitlog.write([names[0]], names[7], verdicts, "", lambda c: f"subject of {c}"))
    git(repository, "bisect", "replay", str(log))
    theirs = git(repository, "bisect", "log")
    ends = [(names[7], True), (names[0], False)]
    assert sorted(gitlog.read(theirs, "x"), key=str) == sorted([*ends, *verdicts.items()], key=str)
    assert gitlog.read(log.read_text(), "x") == [*ends, *verdicts.items()]


def test_ends_on_the_first_line() -> None:
    text = "# bad: [x] y\ngit bisect start 'v2' 'v1' 'v0' '--' 'mm/'\ngit bisect skip a b\n\n"
    assert gitlog.read(text, "x") == [("v2", True), ("v1", False), ("v0", False), ("a", None), ("b", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "x:1: 'hello' is not a line of `git bisect log`"),
        ("git bisect start\ngit bisect run make\n", "x:2: `git bisect run` is not supported"),
        ("git bisect start '--term-new=fast'\n", "x:1: custom terms"),
        ("git bisect start 'v2\n", "x:1: No closing quotation"),
    ],
)
def test_what_is_no_log(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        gitlog.read(text, "x")
    assert caught.value.message == message
