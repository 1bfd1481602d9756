# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect has to tell, out of its setup, steps and conclusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.bisect.journal import Booted, Built, Chosen, Decided, Taken, Trouble
from orchestrator.bisect.journal import Step as Done
from orchestrator.bisect.report import Account, Likely, Step
from orchestrator.bisect.setup import Conclusion, Recheck, Setup
from orchestrator.core.text import clean, one_line
from orchestrator.source.clone import GitError, run_git


def subject_of(repository: Path, commit: str) -> str:
    """The first line of a commit's message, fit to be shown; empty if there is none."""
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
    id_: str, setup: Setup, steps: Iterable[Done], found: Conclusion, subject: Callable[[str], str]
) -> Account:
    """All that is told of a bisect."""
    culprit = found.culprit
    repository = Path(setup.repository)
    *goods, bad = map(_short, setup.called)
    good = ", ".join(goods)
    named = [
        name if commit.startswith(name) else f"{name} ({commit[:12]})"
        for name, commit in zip((*goods, bad), (*setup.good, setup.bad), strict=True)
    ]
    ends = f"good {', '.join(named[:-1])}; bad {named[-1]}"
    if culprit:
        headline = f"culprit: {culprit[:12]} {subject(culprit)} ({found.confidence:.1%} sure)"
    else:
        headline = f"no culprit for sure: {len(found.suspects)} suspects"
    return Account(
        id=id_,
        title=f"Bisect of {repository.name}, {good} to {bad}",
        question=found.predicate,
        headline=headline,
        culprit=culprit,
        fixes=f'Fixes: {culprit[:12]} ("{subject(culprit)}")' if culprit else "",
        commit=summary_of(repository, culprit) if culprit else "",
        facts=(
            ("ends", ends),
            ("at the ends", found.ends),
            (
                "commits",
                f"{found.commits}, of which {found.judged} were looked at; {found.skipped} could not be"
                f" judged, {found.same} made a kernel that was known",
            ),
            ("cost", f"{found.builds} builds, {found.boots} boots, {found.minutes:.0f} minutes"),
        ),
        rechecks=tuple(map(_told, found.rechecks)),
        notes=found.notes,
        suspects=tuple(
            Likely(commit=s.commit, subject=s.subject, percent=100 * s.probability) for s in found.suspects
        ),
        steps=tuple(_step(step, subject) for step in steps),
    )


def _short(called: str) -> str:
    """What the user called a commit; its full name is no word for people."""
    return called[:12] if re.fullmatch("[0-9a-f]{40}", called) else called


def _told(each: Recheck) -> str:
    if each.trouble:
        return f"{each.what} {each.subject.name} could not be looked at again: {each.trouble}"
    word = "bad" if each.shown else "good"
    again = "" if each.holds else ", which it should not be"
    figures = each.effect or f"shown in {each.shown} of {each.boots}"
    return f"{each.what} {each.subject.name} is {word}: {figures}{again}"


def _step(step: Done, subject: Callable[[str], str]) -> Step:
    if isinstance(step, Chosen):
        return Step(commit="", what="choice", outcome=step.pattern)
    commit, title = step.subject.name, subject(step.subject.commit)
    match step:
        case Built():
            how = "not built" if step.error else "from the cache" if step.cached else f"{step.seconds:.0f} s"
            return Step(
                commit=commit, subject=title, what="build", outcome=how, reason=step.error, run=step.log
            )
        case Booted():
            value = f"{step.judgement.value:g}" if step.judgement.value is not None else ""
            return Step(
                commit=commit,
                subject=title,
                what=f"boot {step.number} ({step.why})",
                outcome=value or step.judgement.kind.value,
                reason=step.judgement.reason,
                run=step.run,
            )
        case Taken():
            return Step(commit=commit, subject=title, what="same kernel", outcome=f"as {step.same.name}")
        case Decided():
            return Step(
                commit=commit,
                subject=title,
                what="together",
                outcome=step.judgement.kind.value,
                reason=step.judgement.reason,
            )
        case Trouble():
            return Step(commit=commit, subject=title, what="trouble", outcome="host", reason=step.reason)
