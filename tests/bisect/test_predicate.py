# SPDX-License-Identifier: GPL-2.0-only
"""What a boot or a build says to the question of a bisect."""

from __future__ import annotations

import pytest
from fakes.bisected import CASE, metric, result

from orchestrator.bisect.predicate import (
    AnyFails,
    BootFails,
    BuildFails,
    CaseFails,
    Kind,
    MetricWorse,
    Predicate,
    SplatSeen,
    failing,
    of_boot,
    of_build,
    parse,
    suites_of,
)
from orchestrator.core.errors import UserError
from orchestrator.results.model import Case, CellResult, SuiteResult, Verdict

CRASHED = result(Verdict.CRASH, fingerprint="abcdef012345", reason="WARNING in f()")
READS = CaseFails(pattern=CASE)
LEARNED = CaseFails(pattern=CASE, learned=True, marks=("abcdef012345",))
OTHER = CaseFails(pattern=CASE, learned=True, marks=("0123456789ab",))
SPLAT = SplatSeen(fingerprint="abcdef")
MEAN = MetricWorse(suite="map-latency", metric="p99_us")


def own(**verdicts: Verdict) -> CellResult:
    """A cell whose suites did not run."""
    return CellResult(cell="x", cases=tuple(Case(id=k, verdict=v, reason="why") for k, v in verdicts.items()))


@pytest.mark.parametrize(
    ("predicate", "found", "kind", "reason"),
    [
        (READS, result(Verdict.FAIL, reason="no"), Kind.BAD, f"{CASE}: FAIL: no"),
        (READS, result(Verdict.TIMEOUT), Kind.BAD, f"{CASE}: TIMEOUT"),
        (READS, result(Verdict.KNOWN), Kind.BAD, f"{CASE}: KNOWN"),
        (READS, CRASHED, Kind.BAD, "WARNING in f()"),
        (READS, result(Verdict.PASS), Kind.GOOD, ""),
        (READS, result(Verdict.SKIP), Kind.SKIP, f"{CASE}: SKIP"),
        (READS, result(Verdict.NA), Kind.SKIP, f"{CASE}: NA"),
        (READS, result(Verdict.INCONCLUSIVE, reason="disturbed"), Kind.WEAK, "disturbed"),
        (READS, result(Verdict.ERROR), Kind.INFRA, "ERROR"),
        (READS, result(Verdict.PASS, case="maps/other"), Kind.SKIP, f"there is no case {CASE}"),
        (READS, own(boot=Verdict.CRASH), Kind.SKIP, "boot: CRASH: why"),
        (READS, own(boot=Verdict.ERROR), Kind.INFRA, "boot: ERROR: why"),
        (READS, own(boot=Verdict.PASS, proof=Verdict.INCONCLUSIVE), Kind.WEAK, "proof: INCONCLUSIVE: why"),
        (CaseFails(pattern="maps/*"), result(Verdict.FAIL), Kind.BAD, ""),
        (LEARNED, CRASHED, Kind.BAD, "WARNING"),
        (LEARNED, result(Verdict.FAIL), Kind.BAD, ""),
        (OTHER, CRASHED, Kind.SKIP, "another report than at the bad end"),
        (OTHER, result(Verdict.FAIL), Kind.BAD, ""),
        (SPLAT, CRASHED, Kind.BAD, "WARNING in f()"),
        (SPLAT, result(Verdict.CRASH, fingerprint="123456"), Kind.SKIP, "another fault came first"),
        (SPLAT, result(Verdict.TIMEOUT), Kind.SKIP, "another fault came first"),
        (SPLAT, result(Verdict.PASS), Kind.GOOD, ""),
        (SPLAT, result(Verdict.FAIL), Kind.GOOD, ""),
        (SPLAT, result(Verdict.SKIP), Kind.SKIP, "no program ran"),
        (SPLAT, own(boot=Verdict.CRASH), Kind.SKIP, "boot: CRASH"),
        (MEAN, metric(3.5), Kind.GOOD, ""),
        (MEAN, result(Verdict.FAIL, case="map-latency/map-latency"), Kind.SKIP, "the benchmark fails"),
        (MEAN, result(Verdict.INCONCLUSIVE, case="map-latency/map-latency"), Kind.WEAK, "INCONCLUSIVE"),
        (MEAN, result(Verdict.PASS), Kind.SKIP, "map-latency gave no p99_us"),
        (BootFails(), own(boot=Verdict.FAIL), Kind.BAD, "boot: FAIL: why"),
        (BootFails(), own(boot=Verdict.CRASH), Kind.BAD, "boot: CRASH: why"),
        (BootFails(), result(Verdict.FAIL), Kind.GOOD, ""),
        (BootFails(), own(boot=Verdict.ERROR), Kind.INFRA, ""),
        (BootFails(), own(build=Verdict.FAIL), Kind.SKIP, "build: FAIL"),
        (AnyFails(), result(Verdict.FAIL), Kind.GOOD, ""),
        (AnyFails(), own(boot=Verdict.ERROR), Kind.INFRA, ""),
    ],
)
def test_what_a_boot_says(predicate: Predicate, found: CellResult, kind: Kind, reason: str) -> None:
    said = of_boot(predicate, found)
    assert said.kind is kind
    assert reason in said.reason
    assert bool(reason) or not said.reason or kind in (Kind.BAD, Kind.INFRA)


def test_a_splat_at_boot_does_not_hide_what_the_programs_say() -> None:
    boot = Case(id="boot", verdict=Verdict.CRASH, fingerprint="123456")
    suite = SuiteResult(suite="maps", cases=(Case(id=CASE, verdict=Verdict.PASS),))
    found = CellResult(cell="x", cases=(boot,), suites=(suite,))
    assert of_boot(READS, found).kind is Kind.GOOD
    assert of_boot(SPLAT, found).kind is Kind.GOOD
    assert of_boot(SplatSeen(fingerprint="123456"), found).kind is Kind.BAD


@pytest.mark.parametrize(
    ("predicate", "error", "kernels_fault", "kind"),
    [
        (BuildFails(), "mm/a.c: error", True, Kind.BAD),
        (BuildFails(), "the fix does not apply", False, Kind.SKIP),
        (BuildFails(), "", False, Kind.GOOD),
        (READS, "mm/a.c: error", True, Kind.SKIP),
        (READS, "", False, None),
        (BootFails(), "mm/a.c: error", True, Kind.SKIP),
    ],
)
def test_what_a_build_says(predicate: Predicate, error: str, kernels_fault: bool, kind: Kind | None) -> None:
    said = of_build(predicate, error, kernels_fault=kernels_fault)
    assert (said.kind if said else None) is kind


def test_what_the_options_name() -> None:
    assert parse() == AnyFails()
    assert parse(case=CASE) == READS
    assert parse(splat="ABCDEF01") == SplatSeen(fingerprint="abcdef01")
    assert parse(metric="map-latency/p99_us") == MEAN
    assert (parse(boot=True), parse(build=True)) == (BootFails(), BuildFails())
    assert [suites_of(p) for p in (READS, MEAN, SPLAT, CaseFails(pattern="m*/x"))] == [
        ("maps",),
        ("map-latency",),
        (),
        (),
    ]
    with pytest.raises(UserError, match="--case and --boot: what is bad is one thing"):
        parse(case=CASE, boot=True)


def test_what_the_ends_differ_in() -> None:
    bad = [result(Verdict.FAIL), result(Verdict.FAIL), result(Verdict.FAIL, case="maps/b")]
    good = [result(Verdict.PASS), result(Verdict.PASS, case="maps/b")]
    assert failing(bad, good) == [(CASE, 2), ("maps/b", 1)]
    assert failing(bad, [*good, result(Verdict.FAIL)]) == [("maps/b", 1)]
    assert failing(bad, []) == []
