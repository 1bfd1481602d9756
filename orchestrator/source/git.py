# SPDX-License-Identifier: GPL-2.0-only
"""The one place that calls git, with a configuration of its own.

git reads the configuration of the repository it works in, but not the user's nor the host's, and of the
repository's nothing runs: no hook, filter, file system monitor, pager, signature check, or driver of a diff.
Replaced objects and grafts do not count. No variable of an outer git (hooks export ``GIT_DIR``) gets through.

git's rule about ownership is kept: it refuses a repository of another user, unless ``safe.directory`` in the
user's or the host's configuration names it. That is the only setting taken from there.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.core.errors import InfraError, UserError
from orchestrator.source.programs import ProgramError, failure, run_long

_NO_GIT = "install git"
INCOMPLETE = (
    "`git fsck` there tells whether the repository is whole; one cloned with --filter lacks files until its"
    " own git checks that revision out"
)
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    # git has defaults for these in the home directory
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    # "log" and "show" would run the repository's gpg.program
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
#: Commands whose output drivers of the repository may make.
_DIFFS = ("diff", "format-patch", "log", "show")
_DUBIOUS = re.compile(r"detected dubious ownership|unsafe repository")
#: Up to this many pairs of commits are compared one by one, which is faster than to read a whole history.
_FEW = 8

GitError = ProgramError


def run_git(
    where: Path,
    *argv: str,
    env: Mapping[str, str] | None = None,
    data: bytes | None = None,
    config: Path | None = None,
) -> bytes:
    """Run git in a repository; returns its standard output. It fetches nothing.

    Repositories above ``where`` are ignored.

    :param config: a file in place of the user's configuration. Unlike options, git's child processes read it
        too.
    :raises GitError: it failed.
    :raises UserError: the repository belongs to another user.
    :raises InfraError: there is no git, or the disk is to blame.
    """
    more = dict(env or {})
    process = _run(_command(where, *argv), _environment(where, config) | more, data)
    if process.returncode and _DUBIOUS.search(process.stderr.decode(errors="replace")):
        process = _run(_command(where, *argv, safe=_safe()), _environment(where, config) | more, data)
        if process.returncode and _DUBIOUS.search(process.stderr.decode(errors="replace")):
            raise _not_owned(where)
    if process.returncode:
        raise failure(f"git {argv[0]}", process.stderr, f"status {process.returncode}", where)
    return process.stdout


def check_out(clone: Path, commit: str) -> None:
    """Check a commit out in a private clone, all of it and exactly its bytes; ends when this process does.

    :raises GitError: objects are missing.
    :raises InfraError: no space.
    """
    # the strongest source of attributes: no conversion of the tree's own .gitattributes takes place
    attributes = clone / ".git/info/attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("* -text -ident -filter -working-tree-encoding\n")
    argv = _command(clone, "-c", "checkout.workers=0", "checkout", "-q", "--force", "--detach", commit)
    run_long(clone.parent, argv, _environment(clone.parent, None))


def _run(
    command: Sequence[str], env: Mapping[str, str], data: bytes | None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, env=env, input=data or b"", capture_output=True, check=False)
    except FileNotFoundError as error:
        raise InfraError("git is not installed", remedy=_NO_GIT) from error


def _command(where: Path, *argv: str, safe: Sequence[str] = ()) -> list[str]:
    command = ["git", "--no-optional-locks", "--no-pager", "-C", str(where)]
    for setting in (*_SETTINGS, *(f"safe.directory={value}" for value in safe)):
        command += ["-c", setting]
    if argv[0] in _DIFFS:
        return [*command, argv[0], "--no-ext-diff", "--no-textconv", *argv[1:]]
    return [*command, *argv]


def _environment(where: Path, config: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return environment | {
        "GIT_CONFIG_GLOBAL": str(config or os.devnull),
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        # a path that cannot exist
        "GIT_GRAFT_FILE": f"{os.devnull}/none",
        "GIT_CEILING_DIRECTORIES": str(where.resolve().parent),
        "GIT_OPTIONAL_LOCKS": "0",
        # a partial clone would fetch missing objects into the user's repository; older git knows only the
        # last
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "TZ": "UTC",
    }


# --- whose repository it is


def _safe() -> tuple[str, ...]:
    """The directories that the user's and the host's configuration declare safe."""
    names = ("HOME", "XDG_CONFIG_HOME", *(name for name in os.environ if name.startswith("GIT_CONFIG")))
    return _safe_in(tuple((name, os.environ[name]) for name in names if name in os.environ))


@functools.lru_cache
def _safe_in(settings: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """As ``_safe``, with these variables; none if the configuration cannot be read."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | dict(settings)
    # outside any repository, so that none declares itself safe
    command = ["git", "-C", "/", "config", "--null", "--get-all", "safe.directory"]
    output = _run(command, env | {"GIT_DIR": os.devnull}, None).stdout
    return tuple(os.fsdecode(value) for value in output.split(b"\0")[:-1])


def _not_owned(where: Path) -> UserError:
    return UserError(
        f"{where}: the git repository belongs to another user, whose settings git does not trust",
        remedy=f"if you trust it: git config --global --add safe.directory {where.resolve()}",
    )


# --- ancestry: by topology. `git rev-list A --not B` judges by dates, which go back in some histories


def is_ancestor(folder: Path, old: str, new: str) -> bool:
    """Whether a commit is another's ancestor, or is it.

    :raises UserError: the history between them cannot be read.
    """
    try:
        run_git(folder, "merge-base", "--is-ancestor", old, new)
    except GitError as error:
        if not error.output.startswith(("fatal", "error")):
            return False
        raise UserError(f"{folder}: git cannot read its history: {error.first}", remedy=INCOMPLETE) from error
    return True


def merge_base(folder: Path, one: str, other: str) -> str:
    """A merge base of two commits; empty if they have no common history."""
    try:
        return run_git(folder, "merge-base", one, other).decode().split()[0]
    except (GitError, IndexError):
        return ""


def commits_between(folder: Path, old: Sequence[str], new: str) -> dict[str, tuple[str, ...]]:
    """A commit and its ancestors, without some others and theirs: each with all its parents, oldest first.

    Parents come before their children.

    :param old: full names; likewise ``new``.
    :raises GitError: the history cannot be read.
    """
    argv = ["rev-list", "--topo-order", "--reverse", "--parents", new, "--not", *old]
    lines = [line.split() for line in run_git(folder, *argv).decode().splitlines()]
    commits = {commit: tuple(parents) for commit, *parents in lines}
    # git may have stopped early: these are then ancestors of `old` after all, or have such a one below
    first = [commit for commit, parents in commits.items() if commits.keys().isdisjoint(parents)]
    if len(first) * len(old) <= _FEW and not any(
        is_ancestor(folder, commit, other) for commit in first for other in old
    ):
        return commits
    for commit in _ancestors(folder, old):
        commits.pop(commit, None)
    return commits


def first_parents_between(folder: Path, old: str, new: str) -> dict[str, tuple[str, ...]]:
    """Those of ``commits_between`` that a walk along first parents reaches, oldest first."""
    commits = commits_between(folder, [old], new)
    chain: dict[str, tuple[str, ...]] = {}
    while new in commits:
        chain[new] = commits[new]
        new = next(iter(commits[new]), "")
    return dict(reversed(chain.items()))


def _ancestors(folder: Path, commits: Sequence[str]) -> Iterator[str]:
    # without --not, git reads the whole history, whatever its dates
    yield from run_git(folder, "rev-list", *commits).decode().split()
