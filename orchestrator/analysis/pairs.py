# SPDX-License-Identifier: GPL-2.0-only
"""Compare the two legs of a pair, and count failures over repeats: pure functions over the cells of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from orchestrator.analysis.stats import wilson_interval
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.results.model import AT_FAULT, CELL_CASES, Case, CellResult, Verdict

#: What a failure on these legs points at.
SAYS = {
    "with": "fails only with per-VMA locks: suspect the lock code",
    "without": "fails only without per-VMA locks: suspect the fallback under mmap_lock",
    "both": "fails with and without per-VMA locks: not about per-VMA locks",
    "with, unjudged": "fails with per-VMA locks; without them it could not be judged",
    "without, unjudged": "fails without per-VMA locks; with them it could not be judged",
}


#: What counts as a failure in a rate, known failures included.
_FAILED = AT_FAULT | {Verdict.KNOWN}


class PairFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A case that fails on at least one leg of a pair. ``legs`` is a key of ``SAYS``."""

    label: str
    arch: str
    case: str
    legs: str
    says: str


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How often a case failed in fresh boots of one kernel, with Wilson's 95 % interval.

    Boots in which the case was not judged (ERROR, INCONCLUSIVE, SKIP, NA) are not counted.
    """

    label: str
    arch: str
    variant: str
    case: str
    failures: int
    boots: int
    low: float
    high: float


def pairs(cells: Iterable[CellResult]) -> tuple[PairFinding, ...]:
    """What fails, and on which legs, for each kernel label and arch of which both legs took part."""
    legs_by_kernel: dict[tuple[str, str], dict[str, dict[str, set[Verdict]]]] = {}
    for cell in cells:
        if any(case.id == "config" and case.verdict is Verdict.NA for case in cell.cases):
            # there is no such leg
            continue
        if cell.properties.get("build") == "prebuilt":
            # one kernel under two names, until it has run
            continue
        legs = legs_by_kernel.setdefault((cell.label, cell.arch), {WITH: {}, WITHOUT: {}})
        for case in cell.all_cases():
            if cell.variant in legs:
                legs[cell.variant].setdefault(case.id, set()).add(case.verdict)
    findings = []
    for (label, arch), legs in legs_by_kernel.items():
        if not all(legs.values()):
            continue
        for case_id in dict.fromkeys((*legs[WITH], *legs[WITHOUT])):
            verdicts = {leg: _judged(legs[leg], case_id) for leg in legs}
            if name := _legs(verdicts):
                findings.append(PairFinding(label=label, arch=arch, case=case_id, legs=name, says=SAYS[name]))
    return tuple(findings)


def _judged(cases: dict[str, set[Verdict]], case_id: str) -> set[Verdict]:
    """The verdicts of a case on a leg; of its own cases, for a program that crashed only on the other leg."""
    if case_id in cases:
        return cases[case_id]
    below = {v for name, each in cases.items() if name.startswith(f"{case_id}/") for v in each}
    # a failure below has a finding of its own
    return below if below <= {Verdict.PASS, Verdict.SKIP, Verdict.NA} else set()


def _legs(verdicts: dict[str, set[Verdict]]) -> str:
    failing = [leg for leg in (WITH, WITHOUT) if verdicts[leg] & AT_FAULT]
    if not failing:
        return ""
    if len(failing) == 2:
        return "both"
    name, other = ("with", WITHOUT) if failing == [WITH] else ("without", WITH)
    # only a PASS shows that the other leg is sound
    return name if Verdict.PASS in verdicts[other] else f"{name}, unjudged"


def _above(case_id: str) -> Iterator[str]:
    while "/" in case_id:
        case_id = case_id.rpartition("/")[0]
        yield case_id


def rates(cells: Iterable[CellResult]) -> tuple[Rate, ...]:
    """The failure rate of each case over the fresh boots of its kernel; none if it booted once."""
    counts: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    cells = list(cells)
    # a program is a case of its own only if it crashed or hung; in good boots its cases represent it
    failed = {case.id for cell in cells for case in cell.all_cases() if case.verdict in _FAILED}
    for cell in cells:
        if not cell.boot:
            continue
        if any(suite.kind != "functional" for suite in cell.suites):
            continue
        cases = cell.all_cases()
        ids = {case.id for case in cases}
        passed = [case.id for case in cases if case.verdict is Verdict.PASS]
        above = {up for name in passed for up in _above(name) if up in failed and up not in ids}
        for case in (*cases, *(Case(id=up, verdict=Verdict.PASS) for up in sorted(above))):
            if case.verdict in _FAILED or case.verdict is Verdict.PASS:
                count = counts[cell.label, cell.arch, cell.variant, case.id]
                count[0] += case.verdict in _FAILED
                count[1] += 1
    result = []
    for (label, arch, variant, case_id), (failures, boots) in counts.items():
        if case_id in CELL_CASES and not failures:
            continue
        low, high = wilson_interval(failures, boots)
        result.append(
            Rate(
                label=label,
                arch=arch,
                variant=variant,
                case=case_id,
                failures=failures,
                boots=boots,
                low=low,
                high=high,
            )
        )
    return tuple(result)
