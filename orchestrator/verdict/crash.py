# SPDX-License-Identifier: GPL-2.0-only
"""Kernel reports on the console as cases: they override what a program printed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from orchestrator.evidence.watch import ConsoleWatch, Sighting
from orchestrator.results.model import Blame, Case, Verdict

_DETAIL_LIMIT = 16384
#: Whose report decides, of several; and what it makes of a case.
_VERDICTS = {
    Blame.KERNEL: Verdict.CRASH,
    Blame.TEST: Verdict.FAIL,
    Blame.INFRA: Verdict.INCONCLUSIVE,
    Blame.NONE: Verdict.INCONCLUSIVE,
}
_ORDER = tuple(_VERDICTS)
#: Before what a program said itself of a case that the console overrides.
OWN_WORD = "The program said: "
_BY_PROGRAM = "written or requested by a program: "
_MARK = re.compile(r"orchestrate: (?:begin|end) \S")


def new_console_case(case_id: str, watch: ConsoleWatch) -> Case | None:
    """The reports since the console was last read, as a case; ``None`` where there are none."""
    return console_case(case_id, watch.take())


def console_case(case_id: str, reports: Sequence[Sighting]) -> Case | None:
    """Some reports as one case; ``None`` of none."""
    if not reports:
        return None
    first = min(reports, key=lambda report: _ORDER.index(report.blame))
    splat = first.finding
    more = f" (and {len(reports) - 1} more)" if len(reports) > 1 else ""
    fingerprints = dict.fromkeys(report.finding.fingerprint for report in reports)
    return Case(
        id=case_id,
        verdict=_VERDICTS[first.blame],
        blame=first.blame,
        reason=f"{_BY_PROGRAM if first.blame is Blame.TEST else ''}{splat.title}{more}",
        detail="\n".join(line for line in splat.excerpt if not _MARK.search(line))[:_DETAIL_LIMIT],
        fingerprint=splat.fingerprint,
        further_fingerprints=tuple(f for f in fingerprints if f != splat.fingerprint),
    )


def split_reports(case_id: str, watch: ConsoleWatch) -> tuple[list[Sighting], list[Sighting]]:
    """The new reports: those from while the program ran, and those from before it."""
    reports = watch.take(case_id)
    return [r for r in reports if r.program == case_id], [r for r in reports if r.program != case_id]


def case_before(reports: Sequence[Sighting]) -> Case | None:
    """Reports from before a program as a case of the program that ran before it, or of the boot."""
    owners = [report.program or report.after or "boot" for report in reports]
    if not owners:
        return None
    first = [report for report, owner in zip(reports, owners, strict=True) if owner == owners[0]]
    return console_case(owners[0], first)


def override(
    cases: Sequence[Case], case_id: str, reports: Sequence[Sighting], *, keep: Case | None
) -> tuple[list[Case], bool]:
    """The cases of a program, with the console's word in place of its own; whether there was any.

    :param keep: a case that stays, whatever the console shows.
    """
    result = list(cases)
    owners = dict.fromkeys(report.case or case_id for report in reports)
    for owner in owners:
        crash = console_case(owner, [r for r in reports if (r.case or case_id) == owner])
        own = next((case for case in result if case.id == owner), None)
        if crash is None or (own is not None and own is keep):
            continue
        if own is not None:
            crash = msgspec.structs.replace(_with_own_word(crash, own), duration_s=own.duration_s)
        result = [case for case in result if case is not own] + [crash]
    return result, bool(owners)


def _with_own_word(crash: Case, own: Case) -> Case:
    if not own.reason:
        return crash
    text = f"{crash.detail}\n\n{OWN_WORD}{own.verdict}: {own.reason}\n{own.detail}"
    return msgspec.structs.replace(crash, detail=text[:_DETAIL_LIMIT])
