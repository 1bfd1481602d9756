# SPDX-License-Identifier: GPL-2.0-only
"""Turn the options of ``orchestrate bisect`` into its setup, and check them before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from orchestrator.bisect import gitlog
from orchestrator.bisect.graph import History, resolve_commit
from orchestrator.bisect.predicate import BootFails, BuildFails, Predicate, parse, suites_of
from orchestrator.bisect.setup import FixRange, ReplayedCommit, Setup
from orchestrator.core.errors import UserError
from orchestrator.core.store import absolute, default_cache
from orchestrator.core.text import clean_str
from orchestrator.kernel.kconfig import WITH
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices
from orchestrator.plan.notices import notices
from orchestrator.plan.options import Options, choose
from orchestrator.source import identity
from orchestrator.source.git import GitError, commits_between, is_ancestor, run_git
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite

Say = Callable[[str], None]
_NO_COMMIT = "# CONFIG_LOCALVERSION_AUTO is not set"


class BisectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A bisect as the user requests it, with the user's names for revisions.

    ``options`` say how kernels are built and what is tested. ``source`` is the repository; if it is empty,
    the one of the current folder. An empty ``bad`` is HEAD. At most one of ``case``, ``splat``, ``metric``,
    ``boot`` and ``build`` is set. ``fixes`` are ``COMMIT:A..B``, ``replay`` is a file of `git bisect log`.
    """

    options: Options
    source: str = ""
    goods: tuple[str, ...] = ()
    bad: str = ""
    case: str = ""
    splat: str = ""
    metric: str = ""
    boot: bool = False
    build: bool = False
    fixes: tuple[str, ...] = ()
    confidence: float = 0.985
    ends: int = 3
    replay: str = ""


def prepare_bisect(request: BisectRequest, say: Say) -> tuple[Setup, History]:
    """The setup of a bisect, with full names of all revisions, and its history.

    :raises UserError: the request cannot be met. Nothing was built yet.
    """
    repository = _repository(request.source)
    replayed = _replayed(request.replay, repository, say)
    bad = request.bad or next((commit for commit, is_bad in reversed(replayed) if is_bad), "HEAD")
    goods = request.goods or _goods(replayed, repository, bad)
    if not goods:
        raise UserError("no good commit is given", remedy="Name one, such as --good v6.16.")
    history = History.read(repository, goods, bad)
    if _is_dirty(repository):
        say(f"{repository} has local changes; they are not part of any commit")
    predicate = parse(
        case=request.case,
        splat=request.splat,
        metric=request.metric,
        boot=request.boot,
        build=request.build,
    )
    setup = Setup(
        repository=str(repository),
        good=history.goods,
        bad=history.bad,
        names=(*map(str, goods), str(bad)),
        choices=_choices(request.options, predicate, repository, history.bad),
        predicate=predicate,
        confidence=request.confidence,
        ends=request.ends,
        fixes=tuple(_fix(repository, word) for word in request.fixes),
        replay=tuple(ReplayedCommit(commit=commit, bad=is_bad) for commit, is_bad in replayed),
    )
    for line in notices(setup.choices):
        say(line)
    return setup, history


def _repository(spec: str) -> Path:
    path = absolute(Path(spec)) if spec else Path.cwd()
    if spec and not path.is_dir():
        raise UserError(
            f"--source {spec}: not a directory, and a bisect needs a git repository",
            remedy="Name the clone only. Give revisions with --good and --bad.",
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
    state = identity.git_state(repository, stat_cache=default_cache() / "stat")
    return state is not None and bool(state.dirty)


def _replayed(file: str, repository: Path, say: Say) -> list[gitlog.Outcome]:
    """The commits of a log (full names) and their outcomes."""
    if not file:
        return []
    try:
        text = absolute(Path(file)).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--replay {file}: {error.strerror}") from error
    log = gitlog.read(text, file, lambda name: _is_commit(repository, name))
    if log.options:
        limits = clean_str(" ".join(log.options))
        say(f"{file} limits the search to {limits}; all commits between good and bad are searched")
    return [(commit, bad) for name, bad in log.outcomes for commit in _commits(repository, name, bad, file)]


def _is_commit(repository: Path, name: str) -> bool:
    try:
        resolve_commit(repository, name)
    except UserError:
        return False
    return True


def _commits(repository: Path, name: str, bad: bool | None, file: str) -> list[str]:
    """The commit of that name; of a range of skipped ones, all commits."""
    first, dots, last = name.partition("..")
    if bad is not None or not dots or not first or not last:
        return [resolve_commit(repository, name, file)]
    ends = [resolve_commit(repository, each, file) for each in (first, last)]
    return list(commits_between(repository, ends[:1], ends[1]))


def _goods(replayed: Sequence[gitlog.Outcome], repository: Path, bad: str) -> tuple[str, ...]:
    """The good commits of a log that bound the search: the last ones before the bad commit.

    git takes good ones beside it too, once it has judged the merge base, which is in the log then.
    """
    goods = list(dict.fromkeys(commit for commit, is_bad in replayed if is_bad is False))
    end = resolve_commit(repository, bad) if goods else ""
    before = [commit for commit in goods if is_ancestor(repository, commit, end)]
    return tuple(
        commit
        for commit in before or goods
        if not any(other != commit and is_ancestor(repository, commit, other) for other in before)
    )


def _fix(repository: Path, word: str) -> FixRange:
    commit, colon, revisions = word.partition(":")
    first, dots, last = revisions.partition("..")
    if not (commit and colon and first and dots and last) or last.startswith("."):
        raise UserError(f"--fix {word} is not COMMIT:A..B", remedy="A..B are the commits that need the fix.")
    ends = [resolve_commit(repository, end, f"--fix {word}") for end in (first, last)]
    return FixRange(commit=resolve_commit(repository, commit, f"--fix {word}"), revisions="..".join(ends))


def _choices(options: Options, predicate: Predicate, repository: Path, bad: str) -> Choices:
    """The choices for one boot: one architecture, one variant, the suites of the predicate."""
    names, commands = options.suites, options.commands
    if isinstance(predicate, BuildFails):
        if names or commands:
            raise UserError("--build boots nothing", remedy="Omit --suite and --cmd.")
    elif not names and not commands:
        names, commands = _default_tests(predicate, options.flavors)
    options = msgspec.structs.replace(
        options,
        variants=options.variants or (WITH,),
        suites=names,
        commands=commands,
        sources=(f"{repository}@{bad}",),
    )
    choices = choose(options, tests=not isinstance(predicate, BuildFails))
    for name, values in (("--arch", choices.arches), ("--variant", choices.variants)):
        if len(values) > 1:
            raise UserError(
                f"{name} {' '.join(values)}: a bisect tests one kernel per commit", remedy="Name one of them."
            )
    suites = suites_in(choices)
    if missing := [name for name in suites_of(predicate) if name not in {suite.name for suite in suites}]:
        raise UserError(f"the suite {missing[0]!r} is not selected", remedy=f"Add --suite {missing[0]}.")
    if any(suite.origin == "tree" for suite in suites) and not choices.selftests_from:
        # the same tests for every commit
        choices = msgspec.structs.replace(choices, selftests_from=f"{repository}@{bad}")
    if choices.config:
        # the name of the commit in the image would make all kernels differ
        choices = msgspec.structs.replace(choices, kconfig=(*choices.kconfig, _NO_COMMIT))
    return msgspec.structs.replace(choices, strict=True)


def suites_in(choices: Choices) -> tuple[Suite, ...]:
    """The suites of a bisect; none if nothing is booted."""
    return prepare.suites(choices) if choices.suites or choices.commands else ()


def _default_tests(predicate: Predicate, flavors: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(predicate, BootFails):
        return (), ("true",)
    if suites := suites_of(predicate):
        if suites == (catalog.COMMAND,):
            raise UserError("--case cmd/… needs a command", remedy="Give it with --cmd.")
        return suites, ()
    defaults = prepare.default_suites(flavors)
    return tuple(name for name in defaults if catalog.load(name).kind == "functional"), ()
