# SPDX-License-Identifier: GPL-2.0-only
"""A bisect from its ends to its culprit: which commit to judge next, and when to stop.

Decisions depend on the journal alone, so a resumed bisect repeats them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from orchestrator.bisect import ends
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import BootStep, BuildStep, Subject
from orchestrator.bisect.metric import Numbers
from orchestrator.bisect.predicate import BuildFails, Judgement, Kind, MetricWorse, of_build
from orchestrator.bisect.recorder import Recorder
from orchestrator.bisect.search import Rates, Search
from orchestrator.bisect.setup import Conclusion, Recheck, ReplayedCommit, Setup, Suspect

#: Minutes assumed for an incremental build and for a boot, until some were measured.
_BUILD_MIN, _BOOT_MIN = 3.0, 1.0
#: Boots in a row without an observation after which a commit is skipped. More if the bad end has such boots
#: too: a commit like it is skipped with a probability of 1 % at most.
_MOST_WEAK, _UNLUCKY = 3, 0.01
#: Boots after which a search gives up; a rate of 1 % needs some hundreds.
_MOST_BOOTS = 1000
#: If this many boots of the bad end all show the fault, it is taken to show in each boot. A fault that shows
#: in three boots of four passes three boots with a probability of 42 %, sixteen with 1 %. With fewer boots, a
#: good kernel boots this often in the re-check.
_PLAIN, _BOOTS_OF_RECHECK = 16, 4
#: Culprits that may fail their re-check.
_ROUNDS = 5
#: Kernels that are built ahead.
_AHEAD = 2
_NONE_COUNTED = Rates(shown_bad=0, boots_bad=0, shown_good=0, boots_good=0)

Prior = Callable[[], Mapping[str, float]]
_S = TypeVar("_S")


class Session:
    """One bisect. ``prior`` returns weights of commits, once the ends are built.

    ``parents_of`` returns all parents of a commit, including those outside the history.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        recorder: Recorder,
        *,
        parents_of: Callable[[str], Sequence[str]],
        prior: Prior = dict,
        subject_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._setup = setup
        self._history = history
        self._recorder = recorder
        self._prior = prior
        self._parents_of = parents_of
        self._subject_of = subject_of
        self._numbers: Numbers | None = None
        self._rates = _NONE_COUNTED
        self._search: Search
        self._weak_boots: Counter[str] = Counter()
        self._skipped: dict[str, str] = {}
        self._observations: dict[str, bool] = {}
        self._replayed: set[str] = set()
        self._same: set[str] = set()
        self._notes: list[str] = []

    def run(self) -> Conclusion:
        """Bisect to a conclusion.

        :raises UserError: an end cannot be used.
        :raises Inconclusive: an end does not show what was claimed.
        :raises InfraError: the host failed; the bisect can be resumed.
        :raises Interrupted: likewise.
        """
        self._ends()
        self._search = Search(
            self._history, self._rates, confidence=self._setup.confidence, prior=self._prior()
        )
        for replayed in self._setup.replay:
            self._replay(replayed)
        rechecks: tuple[Recheck, ...] = ()
        for _ in range(_ROUNDS):
            self._narrow()
            culprit = self._search.culprit()
            if culprit is None:
                break
            rechecks = self._recheck(culprit)
            if self._search.culprit() == culprit:
                return self._conclude(culprit, rechecks)
            self._recorder.say(f"{culprit[:12]} fails its re-check; the search continues")
        return self._conclude("", rechecks)

    def _ends(self) -> None:
        ends.build(self._recorder, self._setup)
        if isinstance(self._recorder.predicate, MetricWorse):
            self._numbers = Numbers(self._recorder, self._setup, self._recorder.predicate)
            self._rates = self._numbers.rates()
        else:
            self._rates = ends.rates(self._recorder, self._setup)
            if self._rates.boots_bad > self._rates.shown_bad:
                self._recorder.say(
                    f"the bad end shows the fault in {self._rates.shown_bad} of {self._rates.boots_bad} boots"
                )

    def _replay(self, replayed: ReplayedCommit) -> None:
        if replayed.commit not in self._history.commits or replayed.commit == self._history.bad:
            return
        if replayed.bad is None:
            self._skip(replayed.commit, "skipped in the replayed log")
        else:
            self._replayed.add(replayed.commit)
            self._observe(replayed.commit, replayed.bad)

    # --- the search

    def _narrow(self) -> None:
        while self._search.finished is None:
            if len(self._steps(BootStep)) > _MOST_BOOTS:
                self._notes.append(f"gave up after {_MOST_BOOTS} boots")
                return
            boot = self._recorder.boot_minutes(_BOOT_MIN)
            candidates = self._search.candidates(self._cost, 1 + _AHEAD, again=boot)
            if not candidates:
                return
            self._test(candidates[0], [Subject(commit=commit) for commit in candidates[1:]])

    def _cost(self, commit: str) -> float:
        boot = self._recorder.boot_minutes(_BOOT_MIN)
        if isinstance(self._recorder.predicate, MetricWorse):
            # the ends boot too, for some rounds
            boot *= 9
        if self._recorder.is_built(Subject(commit=commit)):
            return boot
        return boot + self._recorder.build_minutes(_BUILD_MIN)

    def _test(self, commit: str, next_: Sequence[Subject]) -> None:
        """Judge one commit once."""
        subject = Subject(commit=commit)
        if not self._recorder.is_built(subject):
            progress = self._progress()
            self._recorder.say(f"{progress}; next is {subject.name} {self._subject_of(commit)}".rstrip())
            step = self._recorder.build(subject)
            judgement = of_build(self._recorder.predicate, step.error, kernels_fault=step.kernels_fault)
            if judgement is not None:
                self._take(commit, judgement)
                return
            twin = self._recorder.twin(step)
            if twin is not None and self._use_twin(subject, twin):
                return
        self._recorder.oracle.prefetch([each for each in next_ if not self._recorder.is_built(each)])
        self._take(commit, self._judge(subject, "search"))

    def _judge(self, subject: Subject, why: str) -> Judgement:
        if self._numbers is not None:
            return self._recorder.record_decision(subject, self._numbers.judge(subject, why))
        return self._recorder.boot(subject, why).judgement

    def _take(self, commit: str, judgement: Judgement) -> None:
        if judgement.kind in (Kind.GOOD, Kind.BAD):
            self._observe(commit, judgement.kind is Kind.BAD)
            self._weak_boots[commit] = 0
            if isinstance(self._recorder.predicate, BuildFails) or self._numbers is not None:
                # another look would show the same
                self._search.exclude(commit)
            return
        self._weak_boots[commit] += 1
        if judgement.kind is Kind.SKIP or self._weak_boots[commit] >= self._patience():
            self._skip(commit, judgement.reason)

    def _patience(self) -> int:
        judged = self._rates.boots_bad
        return max(_MOST_WEAK, ends.boots_to_see(judged, judged + self._rates.other_bad, miss=_UNLUCKY))

    def _skip(self, commit: str, reason: str) -> None:
        self._skipped[commit] = reason
        self._search.skip(commit)

    def _observe(self, commit: str, shown: bool) -> None:
        self._observations[commit] = shown or self._observations.get(commit, False)
        self._search.observe(commit, shown)

    def _use_twin(self, subject: Subject, twin: Subject) -> bool:
        """Use the judgement of an equal kernel; whether that is enough for this commit."""
        self._recorder.record_twin(subject, twin)
        if twin.commit in self._skipped:
            self._skip(subject.commit, f"as {twin.name}: {self._skipped[twin.commit]}")
            return True
        if twin.without or twin.commit not in (*self._history.commits, *self._history.goods):
            return False
        self._search.same(subject.commit, twin.commit)
        if twin.commit in self._observations:
            self._observations[subject.commit] = self._observations[twin.commit]
        if self._numbers is not None:
            self._search.exclude(subject.commit)
        if twin.commit in {*self._observations, self._history.bad, *self._history.goods}:
            self._same.add(subject.commit)
        return True

    def _progress(self) -> str:
        likely = self._search.suspects(self._setup.confidence)
        first = f", likeliest {likely[0][0][:12]} ({likely[0][1]:.0%})" if likely[0][1] > 0.2 else ""
        return f"{len(likely)} commits left{first}"

    # --- the end

    def _recheck(self, culprit: str) -> tuple[Recheck, ...]:
        """Judge the culprit, its parents, and the bad end without it again, as further observations."""
        parents = self._parents_of(culprit)
        expectations = [(Subject(commit=culprit), "the culprit", True)]
        expectations += [(Subject(commit=parent), "its parent", False) for parent in parents]
        if len(parents) == 1:
            reverted = Subject(commit=self._setup.bad, without=culprit)
            expectations.append((reverted, "the bad end without it", False))
        return tuple(self._recheck_one(*each) for each in expectations)

    def _recheck_one(self, subject: Subject, what: str, expect_bad: bool) -> Recheck:
        step = self._recorder.build(subject)
        judgement = of_build(self._recorder.predicate, step.error, kernels_fault=step.kernels_fault)
        result = Recheck(subject=subject, what=what, expect_bad=expect_bad)
        if judgement is None:
            return self._recheck_boots(result)
        if judgement.kind is Kind.SKIP:
            return msgspec.structs.replace(result, trouble=judgement.reason)
        return msgspec.structs.replace(result, shown=int(judgement.kind is Kind.BAD), boots=1)

    def _recheck_boots(self, recheck: Recheck) -> Recheck:
        subject = recheck.subject
        shown = boots = weak = 0
        trouble = effect = ""
        enough = 1 if self._numbers else self._boots_of_recheck()
        while boots < enough and weak < self._patience():
            judgement = self._judge(subject, "re-check")
            if judgement.kind not in (Kind.GOOD, Kind.BAD):
                trouble, weak = judgement.reason, weak + 1
                if judgement.kind is Kind.SKIP:
                    break
                continue
            boots, weak = boots + 1, 0
            shown += judgement.kind is Kind.BAD
            effect = judgement.reason if self._numbers is not None else ""
            if not subject.without and subject.commit in (*self._history.commits, *self._history.goods):
                self._observe(subject.commit, judgement.kind is Kind.BAD)
            if recheck.expect_bad and shown:
                break
        trouble = "" if boots else trouble
        return msgspec.structs.replace(recheck, shown=shown, boots=boots, effect=effect, trouble=trouble)

    def _boots_of_recheck(self) -> int:
        rates = self._rates
        times = ends.boots_to_see(rates.shown_bad, rates.boots_bad)
        few = rates.shown_bad == rates.boots_bad < _PLAIN
        return max(times, _BOOTS_OF_RECHECK) if few else times

    def _conclude(self, culprit: str, rechecks: tuple[Recheck, ...]) -> Conclusion:
        required = [each for each in rechecks if not each.subject.without]
        sure = bool(culprit) and all(each.holds for each in required)
        for each in rechecks:
            if not each.holds:
                self._notes.append(_failure_of(each))
        if not sure and self._skipped:
            self._notes.append(f"{len(self._skipped)} commits could not be judged")
        tested, judged = self._judged()
        spent = [s.seconds for s in self._steps(BootStep)] + [s.seconds for s in self._steps(BuildStep)]
        ends_in_words, rates = self._at_the_ends()
        return Conclusion(
            culprit=culprit if sure else "",
            confidence=self._search.posterior().get(culprit, 0.0),
            suspects=tuple(
                Suspect(commit=commit, subject=self._subject_of(commit), probability=p)
                for commit, p in self._search.suspects(self._setup.confidence)[:50]
            ),
            rechecks=rechecks,
            predicate=str(self._recorder.predicate),
            ends=ends_in_words,
            shown_bad=rates.shown_bad,
            boots_bad=rates.boots_bad,
            shown_good=rates.shown_good,
            boots_good=rates.boots_good,
            commits=len(self._history),
            judged=len(judged),
            skipped=len(self._skipped),
            same=len((judged & self._same) - tested),
            replayed=len(judged - self._same - tested),
            boots=len(self._steps(BootStep)),
            builds=sum(not s.cached for s in self._steps(BuildStep)),
            minutes=round(sum(spent) / 60, 1),
            notes=tuple(self._notes),
        )

    def _judged(self) -> tuple[set[str], set[str]]:
        """The commits that were built or booted for the search, and all that are known to be good or bad.

        Without the ends, and those that only the re-check judged.
        """
        tested = {s.subject.commit for s in self._steps(BootStep) if s.why == "search"}
        if isinstance(self._recorder.predicate, BuildFails):
            tested = {s.subject.commit for s in self._steps(BuildStep) if not s.subject.without}
        candidates = set(self._history.commits) - {self._setup.bad, *self._skipped}
        return tested, (tested | self._replayed | self._same) & candidates

    def _at_the_ends(self) -> tuple[str, Rates]:
        """What the ends showed, in words and in counts of boots."""
        if self._numbers is not None:
            return self._numbers.figures(), _NONE_COUNTED
        if isinstance(self._recorder.predicate, BuildFails):
            return "the bad end does not build, the good end does", _NONE_COUNTED
        rates = self._rates
        words = (
            f"shown in {rates.shown_bad} of {rates.boots_bad} boots of the bad end and in"
            f" {rates.shown_good} of {rates.boots_good} of the good end"
        )
        if rates.other_bad:
            words += f"; {rates.other_bad} more boots of the bad end could not be judged"
        return words, rates

    def _steps(self, kind: type[_S]) -> list[_S]:
        return [step for step in self._recorder.journal.steps if isinstance(step, kind)]

    def verdicts(self) -> dict[str, bool | None]:
        """Commits as in ``git bisect``: whether each is bad, or ``None`` for a skipped one.

        A commit counts only if all observations together make its state sure.
        """
        verdicts: dict[str, bool | None] = dict.fromkeys(self._skipped)
        for commit in self._observations:
            is_bad = float(self._search.probabilities() @ self._history.row(commit))
            if is_bad > self._setup.confidence or is_bad < 1 - self._setup.confidence:
                verdicts[commit] = is_bad > 0.5
        return verdicts

    @property
    def skipped(self) -> Mapping[str, str]:
        """Commits that could not be judged, with the reason."""
        return self._skipped


def _failure_of(each: Recheck) -> str:
    name = f"{each.what} {each.subject.name}"
    if each.trouble:
        return f"{name} could not be judged again: {each.trouble}"
    verb = "does not show the fault" if each.expect_bad else "shows the fault"
    return f"{name} {verb}: {each.shown} of {each.boots} boots"
