# SPDX-License-Identifier: GPL-2.0-only
"""Which patch is to blame for what: pure functions over the results of all patches.

A case that fails at patch k and was good at k-1 names patch k. One that fails at the base already is not the
series's fault. One that goes on failing is told once, and "since k" afterwards.
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


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A case that began to fail at ``patch``.

    ``after`` is the last patch before it at which the case was good (or its check ran without it), ``None``
    if there is none; where it is not ``patch - 1``, those between could not be judged. ``ended`` is the
    patch at which it was good again.
    """

    row: Row
    case: Case
    patch: int
    after: int | None
    ended: int | None = None

    @property
    def at_base(self) -> bool:
        """Whether it fails without the series."""
        return self.patch == 0

    @property
    def exact(self) -> bool:
        """Whether it is this patch and no other."""
        return self.after is not None and self.after == self.patch - 1

    @property
    def of_series(self) -> bool:
        """Whether the series is shown to be at fault."""
        return self.after is not None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A place of the matrix. ``text`` has at most seven characters.

    ``began`` are the cases that began to fail here, ``failing`` since when the other failing ones do.
    ``reason`` is a line of why it is not simply good.
    """

    text: str
    verdict: Verdict | None = None
    began: tuple[str, ...] = ()
    failing: dict[str, int] = {}
    same: bool = False
    reason: str = ""

    @property
    def since(self) -> int | None:
        """Since which patch it fails, where nothing is new."""
        return None if self.began else min(self.failing.values(), default=None)


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Entries by row name, in the order of the patches; the faults in the order in which they came."""

    patches: tuple[Patch, ...]
    rows: tuple[Row, ...]
    entries: dict[str, tuple[Entry, ...]]
    faults: tuple[Fault, ...]

    @property
    def of_series(self) -> tuple[Fault, ...]:
        """What the series broke."""
        return tuple(fault for fault in self.faults if fault.of_series)

    @property
    def at_base(self) -> tuple[Fault, ...]:
        """What is broken without the series."""
        return tuple(fault for fault in self.faults if fault.at_base)

    @property
    def untold(self) -> tuple[Fault, ...]:
        """What fails, and where nothing before it was judged."""
        return tuple(fault for fault in self.faults if not fault.of_series and not fault.at_base)

    def culprits(self) -> tuple[Patch, ...]:
        """The patches that are named, each once."""
        named = sorted({fault.patch for fault in self.of_series})
        return tuple(self.patches[number] for number in named)


def judge(series: Series) -> Matrix:
    """The matrix of a series, as far as it has come."""
    steps = [step.rows for step in series.steps]
    told: dict[tuple[str, str, str], int] = {}
    entries: dict[str, tuple[Entry, ...]] = {}
    faults: list[Fault] = []
    for row in series.rows:
        found, began = _judge_row(row, [rows.get(row.name) for rows in steps], told)
        entries[row.name] = tuple(found)
        faults += began
    faults = sorted(_narrowed(faults), key=lambda fault: fault.patch)
    return Matrix(patches=series.patches, rows=series.rows, entries=entries, faults=tuple(faults))


def _narrowed(faults: Sequence[Fault]) -> list[Fault]:
    """The faults, of those that one of several patches brought in the ones known better by another kernel.

    The same kernel report that began elsewhere with the very patch where this one first shows began with it.
    """
    exact = {(fault.case.fingerprint, fault.patch) for fault in faults if fault.exact}
    return [
        msgspec.structs.replace(fault, after=fault.patch - 1)
        if fault.case.fingerprint and fault.of_series and (fault.case.fingerprint, fault.patch) in exact
        else fault
        for fault in faults
    ]


class _Tracked:
    """What is known of the cases of one row while its patches are gone through."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.failing: dict[str, int] = {}
        self.faults: dict[tuple[str, int], Fault] = {}
        #: when the check last ran at all; a benchmark is measured against the base
        self.ran: int | None = 0 if row.check == BENCH else None
        #: when a case was last good
        self.good: dict[str, int] = {}

    def end(self, case_id: str, patch: int) -> None:
        """A case is good here."""
        self.good[case_id] = patch
        if (since := self.failing.pop(case_id, None)) is not None:
            fault = self.faults[case_id, since]
            self.faults[case_id, since] = msgspec.structs.replace(fault, ended=patch)

    def begin(self, case: Case, patch: int, before: Iterable[Case]) -> None:
        """A case fails here and did not, or not with this report, as far as is known."""
        after = self.good.get(case.id)
        known = any(case.id == other.id for other in before)
        if self.ran is not None and (case.fingerprint or not known or self.row.check == WARNINGS):
            # a program that crashes, or a test of the series's own: where the check ran it had not failed
            after = self.ran
        self.failing[case.id] = patch
        fault = Fault(row=self.row, case=case, patch=patch, after=after if patch else None)
        self.faults[case.id, patch] = fault


def _judge_row(
    row: Row, results: Sequence[RowResult | None], told: dict[tuple[str, str, str], int]
) -> tuple[list[Entry], list[Fault]]:
    """The entries of one row.

    :param told: where a kernel report was first seen, by arch, variant and fingerprint; of all rows.
    """
    tracked = _Tracked(row)
    entries = []
    before: tuple[Case, ...] = ()
    for patch, result in enumerate(results):
        if result is None:
            entries.append(Entry(text=NOT_REACHED))
            continue
        new, since = _compare(tracked, result, patch, before, told)
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
    told: dict[tuple[str, str, str], int],
) -> tuple[list[Case], dict[str, int]]:
    """The cases of a patch that began to fail there, and since when the others that fail do."""
    row = tracked.row
    new: list[Case] = []
    since: dict[str, int] = {}
    failing = [case for case in result.cases if case.verdict in AT_FAULT]
    for case_id in {*tracked.failing, *(case.id for case in result.cases)} - {case.id for case in failing}:
        if _is_good(case_id, result.cases):
            tracked.end(case_id, patch)
    for case in failing:
        report = (row.arch, row.variant, case.fingerprint)
        first = told.setdefault(report, patch) if case.fingerprint else patch
        if first < patch:
            # the same report, in another program perhaps
            since[case.id] = first
        elif case.id in tracked.failing and not case.fingerprint:
            since[case.id] = tracked.failing[case.id]
        else:
            tracked.begin(case, patch, before)
            new.append(case)
    if row.check == WARNINGS:
        # each is new or is not; that the next patch adds none mends nothing
        tracked.failing.clear()
    return new, since


def _is_good(case_id: str, cases: Iterable[Case]) -> bool:
    """Whether a case that failed before is good; of a program without a case of its own, its cases say it."""
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
        began=tuple(case.id for case in new),
        failing=dict(since),
        same=result.same,
        reason=reason,
    )


def series_exit_code(series: Series, matrix: Matrix) -> int:
    """The exit code: what the series broke is 1, what was broken before it is not its fault.

    A case of a suite that fails at the base counts as a known failure: neither red nor green. A check that
    all others rest on (build, boot) and that fails at the base leaves the series unjudged there: 4. So
    does what fails at a patch before which nothing was judged.
    """
    telling = [fault.case for fault in matrix.of_series]
    blind = [fault for fault in matrix.faults if not fault.of_series and (fault.row.own or not fault.at_base)]
    telling += [Case(id=fault.case.id, verdict=Verdict.INCONCLUSIVE) for fault in blind]
    for row in series.rows:
        for step in series.steps:
            for case in step.rows[row.name].cases if row.name in step.rows else ():
                if case.verdict in AT_FAULT:
                    telling.append(Case(id=case.id, verdict=Verdict.KNOWN))
                elif not (row.own and case.verdict is Verdict.PASS):
                    telling.append(case)
    return exit_code(telling, interrupted=series.interrupted)


def together(faults: Iterable[Fault]) -> list[list[Fault]]:
    """Faults that say the same of several kernels, in the order of their first ones."""
    groups: dict[object, list[Fault]] = {}
    for fault in faults:
        row, case = fault.row, fault.case
        words = [word for word in case.reason.split() if word.strip(":,") not in (row.arch, row.variant)]
        key = (row.check, fault.patch, fault.after, fault.ended, case.id, case.verdict, " ".join(words))
        groups.setdefault(key, []).append(fault)
    return list(groups.values())


def sentence(faults: Sequence[Fault], patches: Sequence[Patch]) -> str:
    """What faults that belong together say, in a line: which patch, which check where, which case, why."""
    fault = faults[0]
    places = [" ".join(filter(None, (each.row.arch, each.row.variant))) for each in faults]
    what = " ".join(filter(None, (fault.row.check, ", ".join(places)))) + ": "
    if fault.case.id not in (fault.row.check, ""):
        what += f"{fault.case.id}: "
    what += fault.case.verdict.value + (f": {fault.case.reason}" if fault.case.reason else "")
    ended = f"; good again at patch {fault.ended}" if fault.ended is not None else ""
    if fault.at_base:
        return f"fails without the series already: {what}{ended}"
    if fault.exact:
        return f"{patches[fault.patch]}: {what}{ended}"
    if fault.after is not None:
        return f"one of the patches {fault.after + 1} to {fault.patch}: {what}{ended}"
    return f"fails at {patches[fault.patch]}, and nothing before could be judged: {what}{ended}"


def told_cases(row: Row, matrix: Matrix, result: RowResult, patch: int) -> tuple[Case, ...]:
    """The cases of a patch as JUnit is to tell them: red only where the series made them so."""
    entry = matrix.entries[row.name][patch]
    blind = {(fault.row.name, fault.case.id) for fault in matrix.untold if fault.patch == patch}
    cases = []
    for case in result.cases:
        verdict, reason = case.verdict, case.reason
        if verdict in AT_FAULT and (row.name, case.id) in blind:
            verdict = Verdict.INCONCLUSIVE
            reason = f"nothing before could be judged: {reason}"
        elif verdict in AT_FAULT and (patch == 0 or case.id not in entry.began):
            since = entry.failing.get(case.id, 0)
            verdict = Verdict.KNOWN
            reason = f"fails {f'since patch {since}' if since else 'without the series already'}: {reason}"
        name = row.name.replace(" ", "/")
        name += "" if case.id == row.check else f"/{case.id.removeprefix(f'{row.check}/')}"
        cases.append(msgspec.structs.replace(case, id=name, verdict=verdict, reason=reason))
    return tuple(cases)
