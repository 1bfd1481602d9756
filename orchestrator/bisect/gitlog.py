# SPDX-License-Identifier: GPL-2.0-only
"""Read and write logs of ``git bisect``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

import msgspec

from orchestrator.core.errors import UserError

#: git's words for the outcomes, besides those of the user.
_WORDS: dict[str, bool | None] = {"good": False, "old": False, "bad": True, "new": True, "skip": None}
_NAMES = {False: "good", True: "bad", None: "skip"}
#: Options of `git bisect start` that name the user's word for an outcome.
_TERMS = {"--term-old": False, "--term-good": False, "--term-new": True, "--term-bad": True}
#: git writes the full name of each commit here, before the line with the name that the user gave.
_COMMIT = re.compile(r"# \S+: \[([0-9a-f]{40,64})\]")

Outcome = tuple[str, bool | None]


class Log(msgspec.Struct):
    """The content of a log. ``outcomes`` are revisions, or ranges ``A..B``, and whether they are bad.

    ``None`` is a skipped one. The ends are among them, and they are in the order of the log. ``options`` are
    those of `git bisect start` that limit its search.
    """

    outcomes: list[Outcome] = []
    options: list[str] = []


def write(
    good: Sequence[str],
    bad: str,
    verdicts: Mapping[str, bool | None],
    culprit: str,
    subject_of: Callable[[str], str],
) -> str:
    """The log of a bisect, for ``git bisect replay``.

    :param verdicts: commits with whether they are bad, ``None`` where they cannot be judged.
    """
    lines = ["git bisect start"]
    ends: list[Outcome] = [(bad, True), *((commit, False) for commit in good)]
    for commit, is_bad in ends + [each for each in verdicts.items() if each[0] not in (bad, *good)]:
        name = _NAMES[is_bad]
        lines += [f"# {name}: [{commit}] {subject_of(commit)}", f"git bisect {name} {commit}"]
    if culprit:
        lines.append(f"# first bad commit: [{culprit}] {subject_of(culprit)}")
    return "\n".join([*lines, ""])


def read(text: str, what: str, is_commit: Callable[[str], bool] = lambda _: True) -> Log:
    """What a log of ``git bisect`` says. A second `git bisect start` begins anew, as in git.

    :param what: names the file in messages.
    :param is_commit: whether the repository has a revision of that name; paths may follow revisions.
    :raises UserError: it is no log of ``git bisect``.
    """
    log, terms, commits = Log(), dict(_WORDS), list[str]()
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            commits += _COMMIT.findall(line)[:1]
            continue
        command, *words = _words(line, f"{what}:{number}")
        if command == "start":
            log, terms = _started(words, commits, is_commit)
        elif command in terms:
            log.outcomes += _judged(words, commits, terms[command])
        elif command != "terms":
            known = ", ".join(terms)
            raise UserError(
                f"{what}:{number}: `git bisect {command}` is not supported",
                remedy=f"The words of this log are {known}. Remove the line, if it says nothing of a commit.",
            )
        commits.clear()
    return log


def _words(line: str, where: str) -> list[str]:
    """The words of a line, from the command on."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if words[0] == "git-bisect":
        words[:1] = ["git", "bisect"]
    if words[:2] != ["git", "bisect"] or len(words) < 3:
        raise UserError(
            f"{where}: {line[:60]!r} is not a line of `git bisect log`",
            remedy="Make the file with `git bisect log >FILE`.",
        )
    return words[2:]


def _started(
    words: Sequence[str], commits: Sequence[str], is_commit: Callable[[str], bool]
) -> tuple[Log, dict[str, bool | None]]:
    """The log as `git bisect start` leaves it, and its words for the outcomes."""
    log, terms = Log(), dict(_WORDS)
    rest, paths = _split(words)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option in _TERMS:
            terms[value if equals else rest.pop(0)] = _TERMS[option]
        elif option == "--first-parent":
            log.options.append(option)
    # without "--", the first word that is no revision begins the paths
    count = next((n for n, word in enumerate(rest) if not is_commit(word)), len(rest))
    if commits:
        count = len(commits)
    # a name like HEAD may be another commit by now
    names = list(commits) or rest[:count]
    log.options += [*rest[count:], *paths]
    log.outcomes += [(name, place == 0) for place, name in enumerate(names)]
    return log, terms


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def _judged(words: Sequence[str], commits: Sequence[str], outcome: bool | None) -> list[Outcome]:
    """The outcome of one line; a line without a revision judged what was checked out."""
    return [(word, outcome) for word in words or commits[-1:]]
