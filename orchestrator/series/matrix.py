# SPDX-License-Identifier: GPL-2.0-only
"""Attribute failures to patches: pure functions over the results of all patches.

A case that fails at patch k and was good at k-1 is attributed to patch k. A case that fails at the base is
not a failure of the series. A case that keeps failing is reported once, and as "since k" afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from orchestrator.results.model import AT_FAULT, Case, Verdict, exit_code, worst
from orchestrator.series.model import BENCH, WARNINGS, Patch, Row, RowResult, Series

_GOOD = (Verdict.PASS, Verdict.KNOWN)
_SHORT = {
    Verdict.PASS: "ok",
    Verdict.TIMEOUT: "TIME",
    Verdict.INCONCLUSIVE: "?",
    Verdict.ERROR: "err",
    Verdict.KNOWN: "known",
    Verdict.SKIP: "skip",
    Verdict.NA: "n/a",
}
NOT_REACHED = "-"

#: Arch, variant and fingerprint of a kernel report.
ReportId = tuple[str, str, str]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A case that fails from ``patch`` on.

    ``after`` is the last patch before at which the case was good, or its check ran without it; ``None`` if
    there is none. The patches between could not be judged. The case is good again at ``fixed_at``.
    """

    row: Row
    case: Case
    patch: int
    after: int | None
    fixed_at: int | None = None

    @property
    def at_base(self) -> bool:
        """Whether it fails without the series."""
        return self.patch == 0

    @property
    def exact(self) -> bool:
        """Whether exactly this patch is to blame."""
        return self.after is not None and self.after == self.patch - 1

    @property
    def of_series(self) -> bool:
        """Whether the series is to blame."""
        return self.after is not None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the matrix. ``text`` has at most seven characters.

    ``new`` are the cases that fail here first; ``failing`` has the patch since which the other ones fail.
    ``reason`` explains in a line why the entry is not good.
    """

    text: str
    verdict: Verdict | None = None
    new: tuple[str, ...] = ()
    failing: dict[str, int] = {}
    same: bool = False
    reason: str = ""

    @property
    def since(self) -> int | None:
        """The patch since which it fails, if no failure is new."""
        return None if self.new else min(self.failing.values(), default=None)


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Entries by row name, in the order of the patches; ``faults`` in the same order."""

    patches: tuple[Patch, ...]
    rows: tuple[Row, ...]
    entries: dict[str, tuple[Entry, ...]]
    faults: tuple[Fault, ...]

    @property
    def of_series(self) -> tuple[Fault, ...]:
        """Failures that the series introduced."""
        return tuple(fault for fault in self.faults if fault.of_series)

    @property
    def at_base(self) -> tuple[Fault, ...]:
        """Failures without the series."""
        return tuple(fault for fault in self.faults if fault.at_base)

    @property
    def unattributed(self) -> tuple[Fault, ...]:
        """Failures before which nothing could be judged."""
        return tuple(fault for fault in self.faults if not fault.of_series and not fault.at_base)

    def culprits(self) -> tuple[Patch, ...]:
        """The patches to blame, each once."""
        numbers = sorted({fault.patch for fault in self.of_series})
        return tuple(self.patches[number] for number in numbers)


def judge(series: Series) -> Matrix:
    """The matrix of a series, up to the last patch that was tested."""
    steps = [step.rows for step in series.steps]
    first_seen: dict[ReportId, int] = {}
    entries: dict[str, tuple[Entry, ...]] = {}
    faults: list[Fault] = []
    for row in series.rows:
        row_entries, row_faults = _judge_row(row, [rows.get(row.name) for rows in steps], first_seen)
        entries[row.name] = tuple(row_entries)
        faults += row_faults
    faults = sorted(_narrowed(faults), key=lambda fault: fault.patch)
    return Matrix(patches=series.patches, rows=series.rows, entries=entries, faults=tuple(faults))


def _narrowed(faults: Sequence[Fault]) -> list[Fault]:
    """Narrow faults of one of several patches to one patch, where another kernel shows which.

    That is so if the same kernel report was introduced there by the patch at which it first shows here.
    """
    exact = {(fault.case.fingerprint, fault.patch) for fault in faults if fault.exact}
    return [
        msgspec.structs.replace(fault, after=fault.patch - 1)
        if fault.case.fingerprint and fault.of_series and (fault.case.fingerprint, fault.patch) in exact
        else fault
        for fault in faults
    ]


class _Tracked:
    """The state of the cases of one row, patch after patch."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.failing: dict[str, int] = {}
        self.faults: dict[tuple[str, int], Fault] = {}
        #: the last patch at which the check ran; a benchmark is compared with the base
        self.ran: int | None = 0 if row.check == BENCH else None
        #: the last patch at which a case was good
        self.good: dict[str, int] = {}

    def end(self, case_id: str, patch: int) -> None:
        """A case is good here."""
        self.good[case_id] = patch
        if (since := self.failing.pop(case_id, None)) is not None:
            fault = self.faults[case_id, since]
            self.faults[case_id, since] = msgspec.structs.replace(fault, fixed_at=patch)

    def begin(self, case: Case, patch: int, before: Iterable[Case]) -> None:
        """A case fails here, and did not fail before, or not with this report."""
        after = self.good.get(case.id)
        existed = any(case.id == other.id for other in before)
        if self.ran is not None and (case.fingerprint or not existed or self.row.check == WARNINGS):
            # a crash, a new test or a warning: at the last patch where the check ran, it was not there
            after = self.ran
        self.failing[case.id] = patch
        fault = Fault(row=self.row, case=case, patch=patch, after=after if patch else None)
        self.faults[case.id, patch] = fault


def _judge_row(
    row: Row, results: Sequence[RowResult | None], first_seen: dict[ReportId, int]
) -> tuple[list[Entry], list[Fault]]:
    """The entries and faults of one row.

    :param first_seen: the patch at which each kernel report was first seen, in any row; it is updated.
    """
    tracked = _Tracked(row)
    entries = []
    before: tuple[Case, ...] = ()
    for patch, result in enumerate(results):
        if result is None:
            entries.append(Entry(text=NOT_REACHED))
            continue
        new, since = _compare(tracked, result, patch, before, first_seen)
        entries.append(_entry(result, new, since))
        if any(case.verdict in AT_FAULT or case.verdict in _GOOD for case in result.cases):
            tracked.ran = patch
            before = result.cases
    return entries, list(tracked.faults.values())


def _compare(
    tracked: _Tracked,
    result: RowResult,
    patch: int,
    before: Iterable[Case],
    first_seen: dict[ReportId, int],
) -> tuple[list[Case], dict[str, int]]:
    """The cases that fail at a patch first; the other failing cases, with the patch since which they fail."""
    row = tracked.row
    new: list[Case] = []
    since: dict[str, int] = {}
    failing = [case for case in result.cases if case.verdict in AT_FAULT]
    for case_id in {*tracked.failing, *(case.id for case in result.cases)} - {case.id for case in failing}:
        if _is_good(case_id, result.cases):
            tracked.end(case_id, patch)
    for case in failing:
        report = (row.arch, row.variant, case.fingerprint)
        first = first_seen.setdefault(report, patch) if case.fingerprint else patch
        if first < patch:
            # the same report, perhaps in another program
            since[case.id] = first
        elif case.id in tracked.failing and not case.fingerprint:
            since[case.id] = tracked.failing[case.id]
        else:
            tracked.begin(case, patch, before)
            new.append(case)
    if row.check == WARNINGS:
        # warnings are always new ones: if the next patch adds none, these are still there
        tracked.failing.clear()
    return new, since


def _is_good(case_id: str, cases: Iterable[Case]) -> bool:
    """Whether a case that failed before is good. A program without a case is good if its cases are."""
    cases = list(cases)
    if any(case.id == case_id for case in cases):
        return any(case.id == case_id and case.verdict in _GOOD for case in cases)
    below = [case.verdict for case in cases if case.id.startswith(f"{case_id}/")]
    return Verdict.PASS in below and not AT_FAULT & set(below)


def _entry(result: RowResult, new: Sequence[Case], since: Mapping[str, int]) -> Entry:
    verdict = worst(case.verdict for case in new or result.cases)
    first = next((case for case in (*new, *result.cases) if case.verdict is verdict), None)
    reason = f"{first.id}: {first.reason}" if first and first.reason else ""
    text = _SHORT.get(verdict, verdict.value)
    if since and not new:
        text = f"^{min(since.values())}"
    elif result.same and verdict in _GOOD:
        text = "="
    return Entry(
        text=text,
        verdict=verdict,
        new=tuple(case.id for case in new),
        failing=dict(since),
        same=result.same,
        reason=reason,
    )


def series_exit_code(series: Series, matrix: Matrix) -> int:
    """The exit code: 1 if the series introduced a failure.

    A case of a suite that fails at the base counts as a known failure: neither red nor green. If a check that
    others depend on (build, boot) fails at the base, the series is not judged there: 4. A failure before
    which nothing was judged is 4, too.
    """
    deciding = [fault.case for fault in matrix.of_series]
    blind = [fault for fault in matrix.faults if not fault.of_series and (fault.row.own or not fault.at_base)]
    deciding += [Case(id=fault.case.id, verdict=Verdict.INCONCLUSIVE) for fault in blind]
    for row in series.rows:
        for step in series.steps:
            for case in step.rows[row.name].cases if row.name in step.rows else ():
                if case.verdict in AT_FAULT:
                    deciding.append(Case(id=case.id, verdict=Verdict.KNOWN))
                elif not (row.own and case.verdict is Verdict.PASS):
                    deciding.append(case)
    return exit_code(deciding, interrupted=series.interrupted)


def grouped(faults: Iterable[Fault]) -> list[list[Fault]]:
    """Group equal faults of several kernels, in the order of the first ones."""
    groups: dict[object, list[Fault]] = {}
    for fault in faults:
        row, case = fault.row, fault.case
        words = [word for word in case.reason.split() if word.strip(":,") not in (row.arch, row.variant)]
        key = (row.check, fault.patch, fault.after, fault.fixed_at, case.id, case.verdict, " ".join(words))
        groups.setdefault(key, []).append(fault)
    return list(groups.values())


def sentence(faults: Sequence[Fault], patches: Sequence[Patch]) -> str:
    """A group of faults in a line: the patch, the check, the kernels, the case and its reason."""
    fault = faults[0]
    places = [" ".join(filter(None, (each.row.arch, each.row.variant))) for each in faults]
    what = " ".join(filter(None, (fault.row.check, ", ".join(places)))) + ": "
    if fault.case.id not in (fault.row.check, ""):
        what += f"{fault.case.id}: "
    what += fault.case.verdict.value + (f": {fault.case.reason}" if fault.case.reason else "")
    fixed = f"; good again at patch {fault.fixed_at}" if fault.fixed_at is not None else ""
    if fault.at_base:
        return f"fails without the series: {what}{fixed}"
    if fault.exact:
        return f"{patches[fault.patch]}: {what}{fixed}"
    if fault.after is not None:
        return f"one of the patches {fault.after + 1} to {fault.patch}: {what}{fixed}"
    return f"fails at {patches[fault.patch]}, and no patch before could be judged: {what}{fixed}"


def junit_cases(row: Row, matrix: Matrix, result: RowResult, patch: int) -> tuple[Case, ...]:
    """The cases of a patch for JUnit: red only if the series introduced the failure."""
    entry = matrix.entries[row.name][patch]
    blind = {(fault.row.name, fault.case.id) for fault in matrix.unattributed if fault.patch == patch}
    cases = []
    for case in result.cases:
        verdict, reason = case.verdict, case.reason
        if verdict in AT_FAULT and (row.name, case.id) in blind:
            verdict = Verdict.INCONCLUSIVE
            reason = f"no patch before could be judged: {reason}"
        elif verdict in AT_FAULT and (patch == 0 or case.id not in entry.new):
            since = entry.failing.get(case.id, 0)
            verdict = Verdict.KNOWN
            reason = f"fails {f'since patch {since}' if since else 'without the series'}: {reason}"
        name = row.name.replace(" ", "/")
        name += "" if case.id == row.check else f"/{case.id.removeprefix(f'{row.check}/')}"
        cases.append(msgspec.structs.replace(case, id=name, verdict=verdict, reason=reason))
    return tuple(cases)
