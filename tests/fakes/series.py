# SPDX-License-Identifier: GPL-2.0-only
"""A series and the results of its patches, made up."""

from __future__ import annotations

from orchestrator.plan.choices import Choices
from orchestrator.results.model import Case, Verdict
from orchestrator.series.model import Patch, Row, RowResult, Scope, Series, Step

CODES = {
    ".": Verdict.PASS, "F": Verdict.FAIL, "C": Verdict.CRASH, "T": Verdict.TIMEOUT, "s": Verdict.SKIP,
    "n": Verdict.NA, "?": Verdict.INCONCLUSIVE, "e": Verdict.ERROR, "k": Verdict.KNOWN,
}  # fmt: skip


def series_of(rows: dict[Row, list[RowResult | None]], **changes: object) -> Series:
    count = max(map(len, rows.values()))
    given = {
        "id": "s",
        "scope": Scope(choices=Choices(arches=("arm64",), variants=("mmap-lock",)), folder="/l", name="a..b"),
        "patches": tuple(
            Patch(number=n, commit=f"{n:040x}", subject=f"mm: change {n}") for n in range(count)
        ),
        "rows": tuple(rows),
        "steps": tuple(
            Step(
                number=n,
                rows={row.name: found for row, all_ in rows.items() if n < len(all_) and (found := all_[n])},
                finished=True,
            )
            for n in range(count)
        ),
    }
    return Series(**{**given, **changes})  # type: ignore[arg-type]


def result(row: Row, letter: str, *, name: str = "", fingerprint: str = "") -> RowResult | None:
    """One case; ``-`` is a check that was not reached, ``=`` a good one that was taken over."""
    if letter == "-":
        return None
    same = letter == "="
    verdict = CODES["." if same else letter]
    case = Case(id=name or row.check, verdict=verdict, reason="why", fingerprint=fingerprint)
    return RowResult(cases=(case,), same=same)
