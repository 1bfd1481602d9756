# SPDX-License-Identifier: GPL-2.0-only
"""The account of a bisect: for a terminal, in Markdown and in HTML."""

from __future__ import annotations

import msgspec

from orchestrator.report import page
from orchestrator.report.markdown import escape


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the bisect and its outcome."""

    commit: str
    subject: str = ""
    what: str
    outcome: str
    reason: str = ""
    run: str = ""


class SuspectRow(msgspec.Struct, frozen=True, kw_only=True):
    """A suspect."""

    commit: str
    subject: str
    percent: float


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a report. ``fixes`` is a Fixes: tag, ``commit`` git's summary of the culprit."""

    id: str
    title: str
    question: str
    headline: str
    culprit: str = ""
    fixes: str = ""
    commit: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    rechecks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suspects: tuple[SuspectRow, ...] = ()
    steps: tuple[StepRow, ...] = ()


def terminal(account: Account) -> list[str]:
    """The closing lines."""
    lines = [account.headline]
    lines += [f"  {line}" for line in account.rechecks]
    if account.fixes:
        lines.append(account.fixes)
    if not account.culprit:
        lines += [
            f"  {s.percent:5.1f} %  {s.commit[:12]} {s.subject}".rstrip() for s in account.suspects[:10]
        ]
        if len(account.suspects) > 10:
            lines.append(f"  ... and {len(account.suspects) - 10} more")
    lines += list(account.notes)
    return lines + [f"{name}: {value}" for name, value in account.facts]


def markdown(account: Account) -> str:
    """``report.md``."""
    lines = [
        f"# {escape(account.title)}",
        "",
        f"{escape(account.headline)}.",
        "",
        f"Bad is: {escape(account.question)}.",
        "",
    ]
    if account.fixes:
        lines += [_code(account.fixes), ""]
    if account.commit:
        lines += [_code(account.commit), ""]
    for heading, items in (("Re-check", account.rechecks), ("Notes", account.notes)):
        if items:
            lines += [f"## {heading}", "", *(f"- {escape(each)}" for each in items), ""]
    lines += ["## Suspects", "", "| commit | probability | subject |", "|---|---|---|"]
    lines += [f"| `{s.commit[:12]}` | {s.percent:.1f} % | {escape(s.subject)} |" for s in account.suspects]
    lines += ["", "## Steps", "", "| commit | what | outcome | reason | run |", "|---|---|---|---|---|"]
    lines += [
        f"| `{s.commit}` | {escape(s.what)} | {escape(s.outcome)} | {escape(s.reason)} | {escape(s.run)} |"
        for s in account.steps
    ]
    lines += [
        "",
        "## Figures",
        "",
        *(f"- {escape(name)}: {escape(value)}" for name, value in account.facts),
        "",
    ]
    return "\n".join(lines)


def html(account: Account) -> str:
    """``report.html``."""
    return page.render("bisect/bisect.html.j2", account=account)


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
