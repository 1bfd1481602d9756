# SPDX-License-Identifier: GPL-2.0-only
"""Which prerequisites of a mailed series a base has, as `git format-patch --base` and b4 write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.source.git import GitError, run_git
from orchestrator.source.mbox import MailSeries, Prerequisite

#: Commits of a base in which they are looked for; a stack of patches is no longer.
_COMMITS = 1000


def missing(series: MailSeries, repository: Path, commit: str) -> tuple[Prerequisite, ...]:
    """The prerequisites that neither the series nor the history of its base has.

    A change-id stands in no commit: it counts as missing.

    :param commit: the base; empty if it is no commit, then nothing can be found in it.
    """
    wanted = {each.id for each in series.prerequisites}
    if not wanted:
        return ()
    there = _patch_ids(repository, b"".join(patch.diff.read_bytes() for patch in series.patches))
    if commit:
        history = _history(repository, series.bases, commit)
        log = run_git(repository, "log", f"-n{_COMMITS}", "--no-merges", "--format=%n%B", *history)
        there |= {each for each in wanted if each.strip("<>").encode() in log}
        diffs = run_git(repository, "log", f"-n{_COMMITS}", "--no-merges", "-p", *history)
        there |= _patch_ids(repository, diffs)
    return tuple(each for each in series.prerequisites if each.id not in there)


def sentence(prerequisites: Sequence[Prerequisite]) -> str:
    """Name prerequisites that a base does not seem to have."""
    names = ", ".join(map(str, prerequisites[:4]))
    more = f" and {len(prerequisites) - 4} more" if len(prerequisites) > 4 else ""
    return f"the series needs other patches first, which its base does not seem to have: {names}{more}"


def _history(repository: Path, bases: Sequence[str], commit: str) -> list[str]:
    """The commits in which to look: those since the series's own base, if the repository has that."""
    for base in bases:
        try:
            run_git(repository, "merge-base", "--is-ancestor", base, commit)
        except GitError:
            continue
        return [f"{base}..{commit}"]
    return [commit]


def _patch_ids(repository: Path, diffs: bytes) -> set[str]:
    return {
        line.split()[0]
        for line in run_git(repository, "patch-id", "--stable", data=diffs).decode().splitlines()
    }
