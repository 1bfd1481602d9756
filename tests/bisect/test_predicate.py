# SPDX-License-Identifier: GPL-2.0-only
"""What a boot or a build says to the question of a bisect."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from fakes.bisected import (
    BAD_LIST,
    BAD_RSS,
    CASE,
    LOGS,
    MARK_DETACHED,
    REFCOUNT,
    START_READ,
    metric,
    reports,
    result,
)
from fakes.command import Command

from orchestrator.bisect.predicate import (
    AnyFails,
    BootFails,
    BuildFails,
    CaseFails,
    Cause,
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
from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results import junit
from orchestrator.results.model import GUEST_DIED, Case, CellResult, SuiteResult, Verdict
from orchestrator.splat import kinds
from orchestrator.verdict import crash

CRASHED = result(Verdict.CRASH, fingerprint=START_READ, reason="WARNING in vma_start_read")
READS = CaseFails(pattern=CASE)
LEARNED = CaseFails(pattern=CASE, learned=True, marks=(START_READ,))
OTHER = CaseFails(pattern=CASE, learned=True, marks=(MARK_DETACHED,))
SPLAT = SplatSeen(fingerprint=START_READ[:-5])
EXACT = SplatSeen(fingerprint=START_READ, exact=True)
MEAN = MetricWorse(suite="map-latency", metric="p99_us_scanned")


def own(**verdicts: Verdict) -> CellResult:
    """A cell whose suites did not run."""
    return CellResult(cell="x", cases=tuple(Case(id=k, verdict=v, reason="why") for k, v in verdicts.items()))


@pytest.mark.parametrize(
    ("predicate", "found", "kind", "reason"),
    [
        (READS, result(Verdict.FAIL, reason="no"), Kind.BAD, f"{CASE}: FAIL: no"),
        (READS, result(Verdict.TIMEOUT), Kind.BAD, f"{CASE}: TIMEOUT"),
        (READS, result(Verdict.KNOWN), Kind.BAD, f"{CASE}: KNOWN"),
        (READS, CRASHED, Kind.BAD, "WARNING in vma_start_read"),
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
        (CaseFails(pattern="maps/p/a[1]"), result(Verdict.FAIL, case="maps/p/a[1]"), Kind.BAD, ""),
        (LEARNED, CRASHED, Kind.BAD, "WARNING"),
        (LEARNED, result(Verdict.FAIL), Kind.BAD, ""),
        (OTHER, CRASHED, Kind.WEAK, "not the report of the bad end"),
        (OTHER, result(Verdict.FAIL), Kind.BAD, ""),
        (SPLAT, CRASHED, Kind.BAD, "WARNING in vma_start_read"),
        (EXACT, CRASHED, Kind.BAD, "WARNING in vma_start_read"),
        (EXACT, result(Verdict.CRASH, fingerprint=f"{START_READ}_locked"), Kind.WEAK, "another fault"),
        (SPLAT, result(Verdict.CRASH, fingerprint=BAD_LIST, further=(START_READ,)), Kind.BAD, "CRASH"),
        (SPLAT, result(Verdict.CRASH, fingerprint=MARK_DETACHED), Kind.WEAK, "another fault came first"),
        (SPLAT, result(Verdict.TIMEOUT), Kind.WEAK, "another fault came first"),
        (SPLAT, result(Verdict.PASS), Kind.GOOD, ""),
        (SPLAT, result(Verdict.FAIL), Kind.GOOD, ""),
        (SPLAT, result(Verdict.SKIP), Kind.SKIP, "no program ran"),
        (SPLAT, own(boot=Verdict.CRASH), Kind.WEAK, "another fault came first: boot: CRASH"),
        (SPLAT, own(boot=Verdict.TIMEOUT), Kind.WEAK, "another fault came first: boot: TIMEOUT"),
        (SPLAT, own(build=Verdict.FAIL), Kind.SKIP, "build: FAIL"),
        (MEAN, metric(3.5), Kind.GOOD, ""),
        (MEAN, result(Verdict.FAIL, case="map-latency/map-latency"), Kind.SKIP, "the benchmark fails"),
        (MEAN, result(Verdict.INCONCLUSIVE, case="map-latency/map-latency"), Kind.WEAK, "INCONCLUSIVE"),
        (MEAN, result(Verdict.PASS), Kind.SKIP, "map-latency has no metric p99_us"),
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


@pytest.mark.parametrize(
    ("predicate", "found", "cause"),
    [
        (READS, result(Verdict.PASS, case="maps/other"), Cause.ABSENT),
        (READS, result(Verdict.SKIP), Cause.OTHER),
        (READS, own(boot=Verdict.CRASH), Cause.OTHER),
        (SPLAT, result(Verdict.SKIP), Cause.ABSENT),
        (SPLAT, CellResult(cell="x"), Cause.ABSENT),
        (SPLAT, result(Verdict.TIMEOUT), Cause.OTHER_FAULT),
        (SPLAT, result(Verdict.INCONCLUSIVE), Cause.OTHER),
        (OTHER, CRASHED, Cause.OTHER_FAULT),
        (MEAN, result(Verdict.PASS), Cause.ABSENT),
        (MEAN, result(Verdict.FAIL, case="map-latency/map-latency"), Cause.OTHER),
    ],
)
def test_why_a_boot_is_neither_good_nor_bad(predicate: Predicate, found: CellResult, cause: Cause) -> None:
    assert of_boot(predicate, found).cause is cause


def test_a_splat_at_boot_does_not_hide_what_the_programs_say() -> None:
    boot = Case(id="boot", verdict=Verdict.CRASH, fingerprint=BAD_RSS)
    suite = SuiteResult(suite="maps", cases=(Case(id=CASE, verdict=Verdict.PASS),))
    found = CellResult(cell="x", cases=(boot,), suites=(suite,))
    assert of_boot(READS, found).kind is Kind.GOOD
    assert of_boot(SPLAT, found).kind is Kind.GOOD
    assert of_boot(SplatSeen(fingerprint=BAD_RSS), found).kind is Kind.BAD


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
    assert parse(splat=START_READ) == SplatSeen(fingerprint=START_READ)
    assert parse(metric="map-latency/p99_us_scanned") == MEAN
    assert (parse(boot=True), parse(build=True)) == (BootFails(), BuildFails())
    assert [suites_of(p) for p in (READS, MEAN, SPLAT, CaseFails(pattern="m*/x"))] == [
        ("maps",),
        ("map-latency",),
        (),
        (),
    ]
    with pytest.raises(UserError, match="--case and --boot: only one of these can say what is bad"):
        parse(case=CASE, boot=True)


# --- a fingerprint, from the console on which it stands to the judgement


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_what_console_prints_is_what_splat_takes(path: Path, tmp_path: Path, call: Command) -> None:
    """From a console through ``orchestrate console --json`` into the predicate, and back to that console."""
    splats = json.loads(call("console", "--json", path).out)
    watch = ConsoleWatch()
    watch.feed(path.read_bytes())
    case = crash.new_console_case(CASE, watch)
    assert bool(splats) is (case is not None)
    boot = CellResult(cell="x", suites=(SuiteResult(suite="maps", cases=(case,) if case else ()),))
    text = call("console", path).out
    junit.write(tmp_path / "junit.xml", [boot], run_id="x")
    types = {failure.get("type") for failure in ET.parse(tmp_path / "junit.xml").iter("failure")}
    assert types == ({case.fingerprint} if case and case.verdict is Verdict.CRASH else set())
    for fingerprint in (splat["fingerprint"] for splat in splats):
        assert of_boot(parse(splat=fingerprint), boot).kind is Kind.BAD
        assert of_boot(SplatSeen(fingerprint=fingerprint, exact=True), boot).kind is Kind.BAD
        # whole in the text form too, however long it is
        assert f"    {fingerprint}" in text.splitlines()
        assert shlex.split(f"--splat {fingerprint}") == ["--splat", fingerprint]


@pytest.mark.parametrize(
    "word",
    [
        BAD_RSS,
        "bug-BUG-Bad-rss",
        "bug",
        "BUG-bug-BAD-RSS-counter",
        f"  {BAD_RSS}\n",
        f'"{BAD_RSS}",',
        f"'{BAD_RSS}'",
        f"`{BAD_RSS}`",
    ],
)
def test_a_fingerprint_is_taken_as_people_write_it(word: str) -> None:
    wanted = parse(splat=word)
    assert isinstance(wanted, SplatSeen)
    assert wanted.among((REFCOUNT, BAD_RSS, BAD_LIST, BAD_RSS)) == (BAD_RSS,)


@pytest.mark.parametrize("word", ["3f9c2a1b", "Bad rss-counter", "xyz", " ", '""'])
def test_what_begins_like_no_fingerprint_is_refused_before_anything_is_built(word: str) -> None:
    with pytest.raises(UserError, match="no fingerprint starts like that") as error:
        parse(splat=word)
    assert "orchestrate console LOG" in error.value.remedy


def test_the_remedy_names_a_fingerprint_that_there_is() -> None:
    with pytest.raises(UserError) as error:
        parse(splat="xyz")
    assert f"such as {BAD_RSS}." in error.value.remedy


def test_a_whole_fingerprint_is_not_the_beginning_of_another() -> None:
    short, long = (f for f in reports("lockdep-kinds.log") if f.startswith("lockdep-WARNING-held-lock-freed"))
    shown = (long, short, BAD_RSS)
    assert SplatSeen(fingerprint=short).among(shown) == (short,)
    assert SplatSeen(fingerprint=short.upper()).among(shown) == (short,)
    assert SplatSeen(fingerprint=short[:-1]).among(shown) == (long, short)
    assert SplatSeen(fingerprint=short, exact=True).among(shown) == (short,)
    assert SplatSeen(fingerprint=REFCOUNT).among(shown) == ()


def test_each_kind_of_report_can_be_named() -> None:
    for kind in kinds.Kind:
        assert parse(splat=kind.value) == SplatSeen(fingerprint=kind.value)
    assert parse(splat=GUEST_DIED) == SplatSeen(fingerprint=GUEST_DIED)


def test_the_metric_that_a_message_names_is_one() -> None:
    with pytest.raises(UserError, match="such as") as error:
        parse(metric="map-latency")
    metric = error.value.message.rpartition("such as map-latency/")[2]
    assert metric in (data.selftests() / "map-latency/README.md").read_text()


def test_what_the_ends_differ_in() -> None:
    bad = [result(Verdict.FAIL), result(Verdict.FAIL), result(Verdict.FAIL, case="maps/b")]
    good = [result(Verdict.PASS), result(Verdict.PASS, case="maps/b")]
    assert failing(bad, good) == [(CASE, 2), ("maps/b", 1)]
    assert failing(bad, [*good, result(Verdict.FAIL)]) == [("maps/b", 1)]
    assert failing(bad, []) == []
