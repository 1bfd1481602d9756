# SPDX-License-Identifier: GPL-2.0-only
"""Read and write logs of ``git bisect``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.errors import UserError

#: git's words for the outcomes.
_WORDS: dict[str, bool | None] = {"good": False, "old": False, "bad": True, "new": True, "skip": None}
_NAMES = {False: "good", True: "bad", None: "skip"}


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
    ends: list[tuple[str, bool | None]] = [(bad, True), *((commit, False) for commit in good)]
    for commit, is_bad in ends + [each for each in verdicts.items() if each[0] not in (bad, *good)]:
        name = _NAMES[is_bad]
        lines += [f"# {name}: [{commit}] {subject_of(commit)}", f"git bisect {name} {commit}"]
    if culprit:
        lines.append(f"# first bad commit: [{culprit}] {subject_of(culprit)}")
    return "\n".join([*lines, ""])


def read(text: str, what: str) -> list[tuple[str, bool | None]]:
    """Revisions and their outcomes, in order; the ends among them.

    :param what: names the file in messages.
    :raises UserError: it is not a log of ``git bisect``, or uses custom terms.
    """
    outcomes: list[tuple[str, bool | None]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UserError(f"{what}:{number}: {error}") from error
        if words[:2] != ["git", "bisect"] or len(words) < 3:
            raise UserError(
                f"{what}:{number}: {line[:60]!r} is not a line of `git bisect log`",
                remedy="Make the file with `git bisect log >FILE`.",
            )
        if words[2] == "start":
            revisions = [w for w in _before(words[3:], "--") if not w.startswith("--")]
            if any(w.startswith("--term") for w in words):
                raise UserError(f"{what}:{number}: custom terms", remedy="Use good and bad.")
            outcomes += [(revision, place == 0) for place, revision in enumerate(revisions)]
        elif words[2] in _WORDS:
            outcomes += [(revision, _WORDS[words[2]]) for revision in words[3:]]
        elif words[2] != "terms":
            raise UserError(f"{what}:{number}: `git bisect {words[2]}` is not supported")
    return outcomes


def _before(words: Sequence[str], mark: str) -> Sequence[str]:
    return words[: words.index(mark)] if mark in words else words
