# SPDX-License-Identifier: GPL-2.0-only
"""A bisect's decisions, on made-up histories with an oracle that knows the culprit."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import time
from pathlib import Path

import msgspec
import pytest
from fakes.bisected import (
    BAD_LIST,
    BAD_RSS,
    CASE,
    MARK_DETACHED,
    REFCOUNT,
    START_READ,
    FakeOracle,
    history,
    metric,
    reports,
    result,
    shows,
    teller,
)

from orchestrator.bisect import summary
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import BootStep, DecisionStep, Journal, Subject, TroubleStep
from orchestrator.bisect.predicate import (
    AnyFails,
    BuildFails,
    CaseFails,
    MetricWorse,
    Predicate,
    SplatSeen,
)
from orchestrator.bisect.recorder import Recorder
from orchestrator.bisect.session import Session
from orchestrator.bisect.setup import Conclusion, ReplayedCommit, Setup
from orchestrator.core.errors import Inconclusive, InfraError, UserError
from orchestrator.plan.choices import Choices
from orchestrator.results.model import Case as ModelCase
from orchestrator.results.model import CellResult, Verdict

pytestmark = pytest.mark.slow

GOOD = "good"
READS = CaseFails(pattern=CASE)
CHOICES = Choices(arches=("x86_64",), variants=("per-vma-lock",), suites=("maps",))


class Case:
    """A bisect of a made-up history."""

    def __init__(
        self,
        folder: Path,
        parents: dict[str, tuple[str, ...]],
        oracle: FakeOracle,
        predicate: Predicate = READS,
        **more: object,
    ) -> None:
        self.parents = parents
        self.history = History.of(parents, goods=[GOOD])
        self.setup = Setup(
            repository="/linux",
            good=(GOOD,),
            bad=self.history.bad,
            names=("v1", "v2"),
            choices=CHOICES,
            predicate=predicate,
            **more,  # type: ignore[arg-type]
        )
        self.said: list[str] = []
        self.journal = Journal(folder / "journal.ndjson")
        self.oracle = oracle
        self.recorder = Recorder(self.journal, oracle, predicate, self.said.append)
        self.session = Session(
            self.setup, self.history, self.recorder, parents_of=lambda commit: parents.get(commit, ())
        )

    def run(self) -> Conclusion:
        return self.session.run()


def of(folder: Path, count: int, culprit: int, rate: float = 1.0, **more: object) -> Case:
    parents = history(count)
    name = list(parents)[culprit]
    return Case(folder, parents, FakeOracle(folder, teller(parents, name, rate)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("culprit", [0, 1, 17, 40, 62, 63])
def test_a_plain_fault_is_found_in_about_the_steps_of_git_bisect(tmp_path: Path, culprit: int) -> None:
    case = of(tmp_path, 64, culprit)
    found = case.run()
    assert found.culprit == list(case.parents)[culprit]
    assert found.exit_code == 0
    assert found.judged <= math.ceil(math.log2(64)) + 3
    assert all(each.holds for each in found.rechecks)
    merge = len(case.parents[found.culprit]) > 1
    assert [each.what for each in found.rechecks][-1] == ("its parent" if merge else "the bad end without it")


@pytest.mark.parametrize("seed", range(4))
def test_a_fault_that_shows_in_a_quarter_of_the_boots(tmp_path: Path, seed: int) -> None:
    parents = history(60, seed=seed)
    culprit = list(parents)[37]
    oracle = FakeOracle(tmp_path, teller(parents, culprit, 0.25, seed=seed))
    case = Case(tmp_path, parents, oracle, ends=8)
    found = case.run()
    assert found.culprit == culprit
    bad = shows(parents, culprit)
    assert all(is_bad is (commit in bad) for commit, is_bad in case.session.verdicts().items())
    assert 0 < found.shown_bad < found.boots_bad


def test_a_stretch_that_does_not_build_is_skipped_around(tmp_path: Path) -> None:
    parents = history(64, merges=False)
    names = list(parents)
    broken = dict.fromkeys(names[28:36], "mm/a.c:1:1: error: no")
    found = Case(tmp_path, parents, FakeOracle(tmp_path, teller(parents, names[45]), broken=broken)).run()
    assert found.culprit == names[45]
    assert 1 <= found.skipped <= 2


def test_a_culprit_among_what_does_not_build_is_a_set_of_suspects(tmp_path: Path) -> None:
    parents = history(32, merges=False)
    names = list(parents)
    broken = dict.fromkeys(names[14:18], "mm/a.c:1:1: error: no")
    found = Case(tmp_path, parents, FakeOracle(tmp_path, teller(parents, names[16]), broken=broken)).run()
    assert not found.culprit
    assert found.exit_code == 4
    assert {each.commit for each in found.suspects} == set(names[14:19])
    assert "could not be judged" in found.notes[-1]


@pytest.mark.parametrize(("culprit", "most"), [(50, 3), (19, 3), (41, 5)], ids=["apart", "before", "after"])
def test_another_splat_is_never_bad(tmp_path: Path, culprit: int, most: int) -> None:
    """A stretch in which the case crashes for another reason than at the bad end."""
    parents = history(64, merges=False)
    names = list(parents)
    plain = teller(parents, names[culprit])

    def tell(subject: Subject, number: int) -> CellResult:
        if subject.commit in names[20:40]:
            return result(Verdict.CRASH, fingerprint=BAD_LIST, reason="corrupted list")
        return plain(subject, number)

    case = Case(tmp_path, parents, FakeOracle(tmp_path, tell))
    found = case.run()
    assert found.culprit == names[culprit]
    # what lies between two of them is left alone
    assert 1 <= found.skipped <= most
    assert found.judged <= math.ceil(math.log2(64)) + 3
    assert any("not the report of the bad end" in why for why in case.session.skipped.values())


def test_a_splat_by_its_fingerprint(tmp_path: Path) -> None:
    parents = history(40)
    names = list(parents)
    bad = shows(parents, names[11])

    def tell(subject: Subject, number: int) -> CellResult:
        if subject.commit in bad and not subject.without:
            return result(Verdict.CRASH, fingerprint=BAD_RSS)
        return result(Verdict.PASS)

    found = Case(tmp_path, parents, FakeOracle(tmp_path, tell), SplatSeen(fingerprint=BAD_RSS[:9])).run()
    assert found.culprit == names[11]
    assert found.predicate == f"the splat {BAD_RSS} is seen"


def splats(tmp_path: Path, word: str, *shown: str, then: tuple[str, ...] = (), **more: object) -> Case:
    """A history with these reports from the eleventh commit on; ``then``: in the second boot of each."""
    parents = history(40)
    bad = shows(parents, list(parents)[11])

    def tell(subject: Subject, number: int) -> CellResult:
        reports = then if number == 2 and then else shown
        if subject.commit in bad and not subject.without and reports:
            return result(Verdict.CRASH, fingerprint=reports[0], further=reports[1:])
        return result(Verdict.PASS)

    return Case(tmp_path, parents, FakeOracle(tmp_path, tell), SplatSeen(fingerprint=word), **more)


def test_a_splat_behind_another_one_in_the_same_case(tmp_path: Path) -> None:
    case = splats(tmp_path, BAD_RSS.upper(), REFCOUNT, BAD_RSS)
    assert case.run().culprit == list(case.parents)[11]


@pytest.mark.parametrize("then", [(), (MARK_DETACHED,)], ids=["in one boot", "in two"])
def test_a_beginning_of_two_splats_of_the_bad_end(tmp_path: Path, then: tuple[str, ...]) -> None:
    first = (START_READ,) if then else (START_READ, MARK_DETACHED)
    with pytest.raises(UserError) as error:
        splats(tmp_path, "warning-W", *first, then=then).run()
    assert f"reports that start like that: {START_READ}, {MARK_DETACHED}" in error.value.message
    assert error.value.exit_code == 2


def test_a_beginning_of_two_splats_that_the_bad_end_shows_one_after_the_other(tmp_path: Path) -> None:
    """The second one comes while the bad end is booted until it has shown the first one twice."""
    with pytest.raises(UserError, match="reports that start like that"):
        splats(tmp_path, "warning-W", START_READ, then=(MARK_DETACHED,), ends=1).run()


def test_a_whole_fingerprint_that_is_the_beginning_of_another(tmp_path: Path) -> None:
    """Both are at the bad end; what shows the longer one alone is not bad."""
    short, long = (f for f in reports("lockdep-kinds.log") if f.startswith("lockdep-WARNING-held-lock-freed"))
    parents = history(40, merges=False)
    names = list(parents)
    both, longer = shows(parents, names[25]), shows(parents, names[8])

    def tell(subject: Subject, number: int) -> CellResult:
        shown = [long] * (subject.commit in longer)
        shown += [short] * (subject.commit in both and not subject.without)
        # a report without an end to its program, such as a warning
        cases = [result(Verdict.CRASH, case=f"maps/{f}", fingerprint=f) for f in shown]
        suites = tuple(suite for each in cases for suite in each.suites)
        return (
            msgspec.structs.replace(result(Verdict.PASS), suites=suites) if suites else result(Verdict.PASS)
        )

    case = Case(tmp_path, parents, FakeOracle(tmp_path, tell), SplatSeen(fingerprint=short))
    found = case.run()
    # in between, the other report ends a program before its time
    assert names[25] in {suspect.commit for suspect in found.suspects}
    assert not {suspect.commit for suspect in found.suspects} & set(names[26:])


#: What another boot of the same mistake may end in, before the report in question.
OTHERS = {
    "another report": result(Verdict.CRASH, fingerprint=REFCOUNT),
    "a timeout": result(Verdict.TIMEOUT),
    "no boot": CellResult(cell="x", cases=(ModelCase(id="boot", verdict=Verdict.CRASH),)),
}


def varying(tmp_path: Path, predicate: Predicate, other: CellResult, seed: int, share: float = 0.5) -> Case:
    """A mistake that ends in ``BAD_RSS``, or in that share of the boots in something else."""
    parents = history(40, merges=False)
    culprit = list(parents)[11]
    bad = shows(parents, culprit)

    def tell(subject: Subject, number: int) -> CellResult:
        dice = random.Random(f"{seed} {subject} {number}")
        if subject.commit not in bad or subject.without == culprit:
            return result(Verdict.PASS)
        return other if dice.random() < share else result(Verdict.CRASH, fingerprint=BAD_RSS)

    return Case(tmp_path, parents, FakeOracle(tmp_path, tell), predicate)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("other", OTHERS)
def test_a_splat_that_varies_from_boot_to_boot(tmp_path: Path, other: str, seed: int) -> None:
    """A boot that ends in another report says nothing; the next one may."""
    case = varying(tmp_path, SplatSeen(fingerprint=BAD_RSS), OTHERS[other], seed)
    found = case.run()
    assert found.culprit == list(case.parents)[11]
    assert all(each.holds for each in found.rechecks)
    assert found.shown_bad == found.boots_bad


def test_a_bad_end_that_shows_another_report_first(tmp_path: Path) -> None:
    parents = history(40, merges=False)
    bad = shows(parents, list(parents)[11])

    def tell(subject: Subject, number: int) -> CellResult:
        if subject.commit not in bad or subject.without:
            return result(Verdict.PASS)
        return result(Verdict.CRASH, fingerprint=REFCOUNT if number <= 3 else BAD_RSS)

    case = Case(tmp_path, parents, FakeOracle(tmp_path, tell), SplatSeen(fingerprint=BAD_RSS))
    found = case.run()
    assert found.culprit == list(parents)[11]
    assert found.ends.endswith("; 3 more boots of the bad end could not be judged")


def test_a_case_that_crashes_in_a_way_that_the_bad_end_did_not_show(tmp_path: Path) -> None:
    parents = history(40, merges=False)
    bad = shows(parents, list(parents)[11])

    def tell(subject: Subject, number: int) -> CellResult:
        if subject.commit not in bad or subject.without:
            return result(Verdict.PASS)
        first = number == 1 and subject.commit != list(parents)[-1]
        return result(Verdict.CRASH, fingerprint=REFCOUNT if first else BAD_RSS)

    assert Case(tmp_path, parents, FakeOracle(tmp_path, tell)).run().culprit == list(parents)[11]


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ((), "It showed no kernel report."),
        ((REFCOUNT, BAD_LIST), f"It showed {REFCOUNT}, {BAD_LIST}."),
    ],
    ids=["none", "others"],
)
def test_a_splat_that_the_bad_end_does_not_show(tmp_path: Path, shown: tuple[str, ...], message: str) -> None:
    with pytest.raises(Inconclusive, match="the bad end does not show the fault: bad ") as error:
        splats(tmp_path, BAD_RSS, *shown).run()
    assert error.value.remedy.startswith(message)


def test_a_bisect_by_a_splat_that_is_resumed(tmp_path: Path) -> None:
    """All that it knows it has from its journal: the report that was meant too."""
    first = splats(tmp_path, "bug", BAD_RSS)
    found = first.run()
    steps, work = len(first.journal.steps), first.oracle.work()
    again = splats(tmp_path, "bug", BAD_RSS)
    assert again.run() == found
    assert len(again.journal.steps) == steps
    assert again.oracle.work() == work


def test_equal_kernels_are_booted_once(tmp_path: Path) -> None:
    """Of 64 commits only every eighth changes what is compiled."""
    parents = history(64, merges=False)
    names = list(parents)
    images = {name: names[n - n % 8] for n, name in enumerate(names)} | dict.fromkeys(names[:8], GOOD)
    case = Case(tmp_path, parents, FakeOracle(tmp_path, teller(parents, names[24]), images=images))
    found = case.run()
    assert found.culprit == names[24]
    assert found.judged - found.same <= 4
    assert found.same >= 1


@pytest.mark.parametrize("culprit", [3, 10, 19])
def test_kernels_that_are_those_of_the_ends_are_judged_without_a_boot(tmp_path: Path, culprit: int) -> None:
    parents = history(20, merges=False)
    names = list(parents)
    images = dict.fromkeys(names[:culprit], GOOD) | dict.fromkeys(names[culprit:], names[-1])
    case = Case(tmp_path, parents, FakeOracle(tmp_path, teller(parents, names[culprit]), images=images))
    found = case.run()
    assert found.culprit == names[culprit]
    assert found.judged == found.same > 0
    told = dict(summary.account("b", case.setup, case.journal.steps, found, lambda _: "").facts)["commits"]
    assert told == f"20, of which {found.same} were judged ({found.same} by a kernel that was known already)"


def test_the_closing_line_counts_each_commit_once(tmp_path: Path) -> None:
    """Some were replayed, some are equal, some do not build, and some are booted: 64 in all at most."""
    parents = history(64, merges=False)
    names = list(parents)
    images = {name: names[n - n % 2] for n, name in enumerate(names)}
    replay = (ReplayedCommit(commit=names[50], bad=True), ReplayedCommit(commit=names[60], bad=None))
    oracle = FakeOracle(
        tmp_path, teller(parents, names[24]), images=images, broken={names[31]: "no", names[47]: "no"}
    )
    case = Case(tmp_path, parents, oracle, replay=replay)
    found = case.run()
    boots = [s.subject.commit for s in case.journal.steps if isinstance(s, BootStep) and s.why == "search"]
    assert found.culprit == names[24]
    assert (found.replayed, found.skipped >= 1) == (1, True)
    assert found.judged == len(set(boots)) + found.same + found.replayed
    told = dict(summary.account("b", case.setup, case.journal.steps, found, lambda _: "").facts)["commits"]
    assert told.startswith(f"64, of which {found.judged} were judged (")
    assert told.endswith(f"1 by the replayed log); {found.skipped} could not be judged")


def test_commits_that_do_not_build_are_bad_where_that_is_the_question(tmp_path: Path) -> None:
    parents = history(50)
    names = list(parents)
    broken = dict.fromkeys(shows(parents, names[33]), "fs/x.c:1:1: error: no")
    oracle = FakeOracle(tmp_path, teller(parents, names[0]), broken=broken)
    found = Case(tmp_path, parents, oracle, BuildFails()).run()
    assert found.culprit == names[33]
    assert found.boots == 0
    # no boot was counted, and none is told of
    assert (found.boots_bad, found.boots_good) == (0, 0)
    assert found.ends == "the bad end does not build, the good end does"
    builds = [line for line in oracle.work() if line.startswith("begin build")]
    assert len(set(builds)) == len(builds) <= 6 + 3 + 2 + 4


def test_a_metric(tmp_path: Path) -> None:
    parents = history(64)
    culprit = list(parents)[21]
    bad = shows(parents, culprit)

    def tell(subject: Subject, number: int) -> CellResult:
        noise = random.Random(f"{subject} {number}").gauss(1, 0.08)
        return metric((140 if subject.commit in bad and not subject.without else 100) * noise)

    case = Case(
        tmp_path,
        parents,
        FakeOracle(tmp_path, tell),
        MetricWorse(suite="map-latency", metric="p99_us_scanned"),
    )
    found = case.run()
    assert found.culprit == culprit
    assert found.judged <= 9
    # each decision has its effect with an interval, and so have the re-checks
    effect = r"\d+ boots, median [\d.]+, [\d.]+ x good \[[\d.]+ \.\. [\d.]+\], [\d.]+ x bad \["
    decided = [step.judgement.reason for step in case.journal.steps if isinstance(step, DecisionStep)]
    assert decided
    assert all(re.match(effect, reason) for reason in decided)
    assert all(re.match(effect, again.effect) for again in found.rechecks)
    assert (found.boots_bad, found.boots_good) == (0, 0)
    assert re.match(r"good [\d.]+, bad [\d.]+, 1\.\d+ x \[.*\], \d+ and \d+ boots$", found.ends)
    assert case.session.verdicts()[culprit] is True
    order = [s.subject.commit for s in case.journal.steps if isinstance(s, BootStep) and s.why != "re-check"]
    assert all(len(set(order[n : n + 4])) > 1 for n in range(len(order) - 4)), "boots are not interleaved"


def test_nothing_is_asked_and_the_ends_tell(tmp_path: Path) -> None:
    case = of(tmp_path, 30, 12, predicate=AnyFails())
    assert case.run().culprit == list(case.parents)[12]
    assert f"bad is: {CASE} fails" in case.said
    # the ends ran all programs, the rest those that matter
    assert set(case.oracle.cases[:6]) == {""}
    assert set(case.oracle.cases[-6:]) == {CASE}


def test_what_git_bisect_knows_is_taken_in(tmp_path: Path) -> None:
    parents = history(64, merges=False)
    names = list(parents)
    replay = (
        ReplayedCommit(commit=names[30], bad=True),
        ReplayedCommit(commit=names[22], bad=False),
        ReplayedCommit(commit=names[26], bad=None),
    )
    found = Case(tmp_path, parents, FakeOracle(tmp_path, teller(parents, names[25])), replay=replay).run()
    assert found.culprit == names[25]
    assert (found.judged <= 7, found.replayed) == (True, 2)


def test_what_comes_next_is_built_ahead(tmp_path: Path) -> None:
    case = of(tmp_path, 64, 40)
    case.run()
    assert case.oracle.prefetched


# --- ends


def test_a_bad_end_that_does_not_show_it(tmp_path: Path) -> None:
    parents = history(10)
    tell = teller(parents, "nobody")
    with pytest.raises(
        Inconclusive, match=r"the bad end does not show the fault: bad \S+ shows the fault in 0 of 24 boots"
    ):
        Case(tmp_path, parents, FakeOracle(tmp_path, tell)).run()


def test_a_good_end_that_shows_it_too(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda *_: result(Verdict.FAIL))
    with pytest.raises(
        Inconclusive, match=r"the good end shows the fault too: good good shows the fault in 24 of 24 boots"
    ):
        Case(tmp_path, history(10), oracle).run()


def test_a_case_that_is_nowhere_is_a_wrong_word(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda *_: result(Verdict.PASS))
    with pytest.raises(UserError, match="there is no case maps/nothing at either end") as caught:
        Case(tmp_path, history(10), oracle, CaseFails(pattern="maps/nothing")).run()
    assert "`orchestrate list` the suites" in caught.value.remedy


def test_a_case_that_is_called_otherwise_is_named(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda *_: result(Verdict.PASS))
    wrong = CASE.replace("/", ".", 2)
    with pytest.raises(UserError, match="there is no case") as caught:
        Case(tmp_path, history(10), oracle, CaseFails(pattern=wrong)).run()
    assert caught.value.remedy == f"Similar cases: {CASE}."


def test_an_end_that_does_not_build(tmp_path: Path) -> None:
    parents = history(10)
    oracle = FakeOracle(
        tmp_path, teller(parents, "nobody"), broken={list(parents)[-1]: "mm/a.c:1: error: no"}
    )
    with pytest.raises(UserError, match=r"the bad end cannot be built: .* mm/a.c:1: error: no") as caught:
        Case(tmp_path, parents, oracle).run()
    assert "--build" in caught.value.remedy


def test_ends_with_one_kernel(tmp_path: Path) -> None:
    parents = history(10)
    oracle = FakeOracle(tmp_path, teller(parents, "nobody"), images={list(parents)[-1]: GOOD})
    with pytest.raises(Inconclusive, match="both ends make the same kernel"):
        Case(tmp_path, parents, oracle).run()


def test_a_metric_in_which_the_ends_are_alike(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda s, n: metric(100 + n % 3))
    with pytest.raises(Inconclusive, match="the ends do not differ in p99_us_scanned: good 10"):
        Case(tmp_path, history(9), oracle, MetricWorse(suite="map-latency", metric="p99_us_scanned")).run()


def test_a_metric_that_is_nowhere(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda s, n: metric(100))
    with pytest.raises(UserError, match=r"unknown metric .*, did you mean 'map-latency/p99_us_scanned'"):
        Case(tmp_path, history(9), oracle, MetricWorse(suite="map-latency", metric="p99_us_scannd")).run()
    # the first boot has the names
    assert len(oracle.cases) == 1 + 1


def test_a_benchmark_without_metrics(tmp_path: Path) -> None:
    oracle = FakeOracle(tmp_path, lambda *_: result(Verdict.PASS, case="map-latency/map-latency"))
    with pytest.raises(UserError, match="neither end has a value to compare: map-latency has no metric x"):
        Case(tmp_path, history(9), oracle, MetricWorse(suite="map-latency", metric="x")).run()


def test_a_case_that_is_only_in_a_part_of_the_history(tmp_path: Path) -> None:
    parents = history(40, merges=False)
    names = list(parents)
    plain = teller(parents, names[30])

    def tell(subject: Subject, number: int) -> CellResult:
        absent = subject.commit in names[15:22]
        return result(Verdict.PASS, case="maps/other") if absent else plain(subject, number)

    case = Case(tmp_path, parents, FakeOracle(tmp_path, tell))
    assert case.run().culprit == names[30]
    assert set(case.session.skipped.values()) <= {f"there is no case {CASE}"}


# --- trouble


def test_the_hosts_trouble_is_no_observation_and_ends_in_a_stop(tmp_path: Path) -> None:
    parents = history(30)
    culprit = list(parents)[9]
    plain = teller(parents, culprit)
    calls = {"n": 0, "broken": True}

    def tell(subject: Subject, number: int) -> CellResult:
        calls["n"] += 1
        if calls["n"] == 4:
            return result(Verdict.ERROR, reason="no space")
        if calls["n"] > 8 and calls["broken"]:
            return result(Verdict.ERROR, reason="no space left")
        return plain(subject, number)

    case = Case(tmp_path, parents, FakeOracle(tmp_path, tell))
    with pytest.raises(InfraError, match="failed 3 times: maps/reads: ERROR: no space left") as caught:
        case.run()
    assert "--resume" in caught.value.remedy
    assert sum(isinstance(step, TroubleStep) for step in case.journal.steps) == 4
    calls["broken"] = False
    again = Case(tmp_path, parents, FakeOracle(tmp_path, tell))
    assert again.run().culprit == culprit


def test_a_fault_at_the_good_end_that_comes_with_a_crash_of_the_host(tmp_path: Path) -> None:
    """What cannot be judged at an end is no observation either."""
    parents = history(12)

    def tell(subject: Subject, number: int) -> CellResult:
        return result(Verdict.INCONCLUSIVE if subject.commit == GOOD else Verdict.FAIL, reason="disturbed")

    with pytest.raises(Inconclusive, match="the good end cannot be judged"):
        Case(tmp_path, parents, FakeOracle(tmp_path, tell)).run()


# --- killed


def child(folder: Path, rate: float, work_s: float) -> None:
    """One process of a bisect."""
    parents = history(48)
    culprit = list(parents)[29]
    oracle = FakeOracle(folder, teller(parents, culprit, rate), work_s=work_s)
    found = Case(folder, parents, oracle, ends=6).run()
    (folder / "answer").write_text(f"{found.culprit} {found.boots} {found.builds} {found.judged}")


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_killed_ten_times_it_gives_the_same_answer_and_repeats_nothing(tmp_path: Path, rate: float) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    plain.mkdir()
    killed.mkdir()
    child(plain, rate, 0.0)
    dice = random.Random(rate)
    for number in range(60):
        # not a new interpreter: it would be killed while it imports
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                child(killed, rate, 0.02)
            os._exit(0)
        if number < 10:
            time.sleep(dice.random() * 0.2)
            os.kill(pid, 9)
        os.waitpid(pid, 0)
        if (killed / "answer").exists():
            break
    assert number >= 3, "it was over before it was killed"
    assert (killed / "answer").read_text() == (plain / "answer").read_text()
    ended = [line for line in (killed / "work").read_text().splitlines() if line.startswith("end")]
    assert len(ended) == len(set(ended)), "a step that had ended was done again"
    steps = [(killed / "journal.ndjson").read_text(), (plain / "journal.ndjson").read_text()]
    assert steps[0] == steps[1]
    # nothing is done again where all is there
    child(killed, rate, 0.0)
    assert [line for line in (killed / "work").read_text().splitlines() if line.startswith("end")] == ended


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    first = of(tmp_path, 30, 12).run()
    path = tmp_path / "journal.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + lines[-3][:17])
    assert of(tmp_path, 30, 12).run() == first
    assert path.read_bytes() == b"".join(lines)


def test_a_journal_that_went_another_way(tmp_path: Path) -> None:
    of(tmp_path, 30, 12).run()
    with pytest.raises(UserError, match="this orchestrate would take another step 1"):
        of(tmp_path, 31, 12).run()


# --- its account


def test_commits_are_called_as_the_user_does_and_by_short_names(tmp_path: Path) -> None:
    case = of(tmp_path, 8, 3)
    good, bad = "0123456789abcdef0123456789abcdef01234567", "fedcba98" * 5
    for names, title, ends in (
        ((good, bad), "0123456789ab to fedcba98fedc", "good 0123456789ab; bad fedcba98fedc"),
        (("v1", "v2"), "v1 to v2", "good v1 (0123456789ab); bad v2 (fedcba98fedc)"),
    ):
        setup = msgspec.structs.replace(case.setup, good=(good,), bad=bad, names=names)
        told = summary.account("bisect-1", setup, (), Conclusion(), lambda _: "")
        assert told.title == f"Bisect of linux, {title}"
        assert dict(told.facts)["ends"] == ends
