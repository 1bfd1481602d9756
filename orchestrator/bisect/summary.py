# SPDX-License-Identifier: GPL-2.0-only
"""The account of a bisect, from its setup, steps and conclusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.bisect.journal import (
    BootStep,
    BuildStep,
    ChoiceStep,
    DecisionStep,
    Step,
    TroubleStep,
    TwinStep,
)
from orchestrator.bisect.report import Account, StepRow, SuspectRow
from orchestrator.bisect.setup import Conclusion, Recheck, Setup
from orchestrator.core.text import clean, one_line
from orchestrator.source.git import GitError, run_git


def subject_of(repository: Path, commit: str) -> str:
    """The first line of a commit's message, sanitised; empty if there is none."""
    try:
        return one_line(run_git(repository, "show", "-s", "--format=%s", commit).decode("utf-8", "replace"))
    except GitError:
        return ""


def summary_of(repository: Path, commit: str) -> str:
    """Author, date, message and touched files of a commit."""
    argv = [
        "show",
        "--stat=80",
        "--no-color",
        "--no-ext-diff",
        "--no-show-signature",
        "--format=fuller",
        commit,
    ]
    try:
        return clean(run_git(repository, *argv), limit=8000).rstrip()
    except GitError:
        return ""


def account(
    id_: str, setup: Setup, steps: Iterable[Step], conclusion: Conclusion, subject: Callable[[str], str]
) -> Account:
    """The account of a bisect."""
    culprit = conclusion.culprit
    repository = Path(setup.repository)
    *goods, bad = map(_short, setup.names)
    good = ", ".join(goods)
    names = [
        name if commit.startswith(name) else f"{name} ({commit[:12]})"
        for name, commit in zip((*goods, bad), (*setup.good, setup.bad), strict=True)
    ]
    ends = f"good {', '.join(names[:-1])}; bad {names[-1]}"
    if culprit:
        headline = f"culprit: {culprit[:12]} {subject(culprit)} ({conclusion.confidence:.1%} sure)"
    else:
        headline = f"no certain culprit: {len(conclusion.suspects)} suspects"
    return Account(
        id=id_,
        title=f"Bisect of {repository.name}, {good} to {bad}",
        question=conclusion.predicate,
        headline=headline,
        culprit=culprit,
        fixes=f'Fixes: {culprit[:12]} ("{subject(culprit)}")' if culprit else "",
        commit=summary_of(repository, culprit) if culprit else "",
        facts=(
            ("ends", ends),
            ("at the ends", conclusion.ends),
            ("commits", _counts(conclusion)),
            (
                "cost",
                f"{conclusion.builds} builds, {conclusion.boots} boots, {conclusion.minutes:.0f} minutes",
            ),
        ),
        rechecks=tuple(map(_recheck, conclusion.rechecks)),
        notes=conclusion.notes,
        suspects=tuple(
            SuspectRow(commit=s.commit, subject=s.subject, percent=100 * s.probability)
            for s in conclusion.suspects
        ),
        steps=tuple(_step(step, subject) for step in steps),
    )


def _counts(conclusion: Conclusion) -> str:
    ways = (
        (conclusion.same, "by a kernel that was known already"),
        (conclusion.replayed, "by the replayed log"),
    )
    known = ", ".join(f"{count} {way}" for count, way in ways if count)
    judged = f"{conclusion.judged} were judged" + (f" ({known})" if known else "")
    skipped = f"; {conclusion.skipped} could not be judged" if conclusion.skipped else ""
    return f"{conclusion.commits}, of which {judged}{skipped}"


def _short(name: str) -> str:
    """The user's name for a commit; a full hash is cut."""
    return name[:12] if re.fullmatch("[0-9a-f]{40}", name) else name


def _recheck(each: Recheck) -> str:
    if each.trouble:
        return f"{each.what} {each.subject.name} could not be judged again: {each.trouble}"
    word = "bad" if each.shown else "good"
    unexpected = "" if each.holds else ", which it should not be"
    figures = each.effect or f"shown in {each.shown} of {each.boots}"
    return f"{each.what} {each.subject.name} is {word}: {figures}{unexpected}"


def _step(step: Step, subject: Callable[[str], str]) -> StepRow:
    if isinstance(step, ChoiceStep):
        return StepRow(commit="", what="choice", outcome=step.pattern)
    commit, title = step.subject.name, subject(step.subject.commit)
    match step:
        case BuildStep():
            how = "not built" if step.error else "from the cache" if step.cached else f"{step.seconds:.0f} s"
            return StepRow(
                commit=commit, subject=title, what="build", outcome=how, reason=step.error, run=step.log
            )
        case BootStep():
            value = f"{step.judgement.value:g}" if step.judgement.value is not None else ""
            return StepRow(
                commit=commit,
                subject=title,
                what=f"boot {step.number} ({step.why})",
                outcome=value or step.judgement.kind.value,
                reason=step.judgement.reason,
                run=step.run,
            )
        case TwinStep():
            return StepRow(commit=commit, subject=title, what="same kernel", outcome=f"as {step.twin.name}")
        case DecisionStep():
            return StepRow(
                commit=commit,
                subject=title,
                what="all boots",
                outcome=step.judgement.kind.value,
                reason=step.judgement.reason,
            )
        case TroubleStep():
            return StepRow(commit=commit, subject=title, what="trouble", outcome="host", reason=step.reason)
