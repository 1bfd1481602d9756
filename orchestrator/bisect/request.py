# SPDX-License-Identifier: GPL-2.0-only
"""From the options of ``orchestrate bisect`` to its setup: all that can be wrong beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.bisect import gitlog
from orchestrator.bisect.graph import History
from orchestrator.bisect.predicate import BootFails, BuildFails, Predicate, parse, suites_of
from orchestrator.bisect.setup import Mend, Said, Setup
from orchestrator.cli import choices_from_options
from orchestrator.core.errors import UserError
from orchestrator.core.store import absolute
from orchestrator.plan import prepare
from orchestrator.plan.plan import Choices
from orchestrator.source import identity
from orchestrator.source.clone import GitError, run_git
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite

Say = Callable[[str], None]
_DEFAULT_VARIANT = "per-vma-lock"
_NO_COMMIT = "# CONFIG_LOCALVERSION_AUTO is not set"


def plan(given: Mapping[str, Any], say: Say) -> tuple[Setup, History]:
    """What the options ask for, with every revision under its full name.

    :raises UserError: something is not as it must be; nothing was built yet.
    """
    repository = _repository(given["source"])
    replayed = _replayed(given["replay"], repository)
    goods = given["goods"] or tuple(commit for commit, bad in replayed if bad is False)
    if not goods:
        raise UserError("--good: which commit is good?", remedy="Name one, such as --good v6.16.")
    bad = given["bad"] or next((commit for commit, is_bad in reversed(replayed) if is_bad), "HEAD")
    history = History.read(repository, goods, bad)
    if _is_dirty(repository):
        say(f"{repository} has local changes: commits are bisected, and they are in none")
    predicate = parse(
        case=given["case"],
        splat=given["splat"],
        metric=given["metric"],
        boot=given["boot"],
        build=given["build"],
    )
    choices = _choices(given, predicate, repository, history.bad)
    fixes = tuple(_fix(repository, word) for word in given["fixes"])
    found = Setup(
        repository=str(repository),
        good=history.goods,
        bad=history.bad,
        called=(*map(str, goods), str(bad)),
        choices=choices,
        predicate=predicate,
        confidence=given["confidence"],
        ends=given["ends"],
        fixes=fixes,
        replay=tuple(Said(commit=commit, bad=is_bad) for commit, is_bad in replayed),
    )
    return found, history


def _repository(spec: str) -> Path:
    path = absolute(Path(spec)) if spec else Path.cwd()
    if spec and not path.is_dir():
        raise UserError(
            f"--source {spec}: a bisect needs a git repository, and this is no directory",
            remedy="Name the clone alone; its revisions go to --good and --bad.",
        )
    try:
        run_git(path, "rev-parse", "--git-dir")
    except GitError as error:
        raise UserError(
            f"{path} is not the top of a git repository: {error.first}",
            remedy="Name a clone of Linux with --source.",
        ) from error
    return path.resolve()


def _is_dirty(repository: Path) -> bool:
    state = identity.git_state(repository)
    return state is not None and bool(state.dirty)


def _replayed(file: str, repository: Path) -> list[tuple[str, bool | None]]:
    if not file:
        return []
    try:
        text = absolute(Path(file)).read_text(errors="replace")
    except OSError as error:
        raise UserError(f"--replay {file}: {error.strerror}") from error
    return [(_commit(repository, name, file), bad) for name, bad in gitlog.read(text, file)]


def _commit(repository: Path, name: str, where: str) -> str:
    try:
        argv = ["rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}"]
        return run_git(repository, *argv).decode().strip()
    except GitError as error:
        raise UserError(f"{where}: {repository} has no commit {name!r}: {error.first}") from error


def _fix(repository: Path, word: str) -> Mend:
    commit, colon, revisions = word.partition(":")
    first, dots, last = revisions.partition("..")
    if not (commit and colon and first and dots and last) or last.startswith("."):
        raise UserError(
            f"--fix {word}: it is COMMIT:A..B", remedy="The range is of the commits that need the fix."
        )
    ends = [_commit(repository, end, f"--fix {word}") for end in (first, last)]
    return Mend(commit=_commit(repository, commit, f"--fix {word}"), revisions="..".join(ends))


def _choices(given: Mapping[str, Any], predicate: Predicate, repository: Path, bad: str) -> Choices:
    """The choices for one boot: one architecture, one variant, the suites that the predicate is about."""
    variants = tuple(given["variants"]) or (_DEFAULT_VARIANT,)
    suites, commands = tuple(given["suites"]), tuple(given["commands"])
    if isinstance(predicate, BuildFails):
        if suites or commands:
            raise UserError("--build boots nothing", remedy="Leave --suite and --cmd out.")
    elif not suites and not commands:
        suites, commands = _default_tests(predicate, tuple(given["flavors"]))
    asked = {
        **given,
        "variants": variants,
        "suites": suites,
        "commands": commands,
        "sources": (f"{repository}@{bad}",),
        "patches": (),
        "digests": (),
    }
    choices = choices_from_options.choices(asked, tests=not isinstance(predicate, BuildFails))
    for name, values in (("--arch", choices.arches), ("--variant", choices.variants)):
        if len(values) > 1:
            raise UserError(
                f"{name} {' '.join(values)}: one kernel a commit is bisected", remedy="Name one of them."
            )
    suites = suites_in(choices)
    if missing := [name for name in suites_of(predicate) if name not in {suite.name for suite in suites}]:
        raise UserError(
            f"the suite {missing[0]!r} is not among those chosen", remedy=f"Add --suite {missing[0]}."
        )
    if any(suite.origin == "tree" for suite in suites) and not choices.selftests_from:
        # the same tests for every commit
        choices = msgspec.structs.replace(choices, selftests_from=f"{repository}@{bad}")
    if choices.config:
        # else each commit's name is in its image, and no two are equal
        choices = msgspec.structs.replace(choices, kconfig=(*choices.kconfig, _NO_COMMIT))
    return msgspec.structs.replace(choices, strict=True)


def suites_in(choices: Choices) -> tuple[Suite, ...]:
    """The suites of a bisect; none where nothing is booted."""
    return prepare.suites(choices) if choices.suites or choices.commands else ()


def _default_tests(predicate: Predicate, flavors: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(predicate, BootFails):
        return (), ("true",)
    if named := suites_of(predicate):
        if named == (catalog.COMMAND,):
            raise UserError("--case cmd/…: which command?", remedy="Give it with --cmd.")
        return named, ()
    found = prepare.default_suites(flavors)
    return tuple(name for name in found if catalog.load(name).kind == "functional"), ()
