# SPDX-License-Identifier: GPL-2.0-only
"""A bisect from its ends to its culprit: what to look at next, and when to stop.

What it decides depends on its journal alone, so a bisect that goes on takes the way it took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from orchestrator.bisect import ends
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import Booted, Built, Subject, Taken
from orchestrator.bisect.metric import Numbers
from orchestrator.bisect.predicate import BuildFails, Judgement, Kind, MetricWorse, of_build
from orchestrator.bisect.recorder import Bench
from orchestrator.bisect.search import Rates, Search
from orchestrator.bisect.setup import Conclusion, Recheck, ReplayedCommit, Setup, Suspect

#: Minutes that are assumed for a build upon another one, and for a boot, until some were seen.
_BUILD_MIN, _BOOT_MIN = 3.0, 1.0
#: Boots of one commit that tell nothing, after which it is one that cannot be judged.
_WEAK = 3
#: Boots after which a search ends with what it has; a rate of 1 % needs some hundreds.
_MOST_BOOTS = 1000
#: Boots of the bad end that must all show it before "it shows in each boot" is more than luck: of what shows
#: in three boots of four, four in ten pass three boots, one in a hundred sixteen. With fewer, the re-check
#: makes up for it with so many boots.
_PLAIN, _BOOTS_AGAIN = 16, 4
#: How often a culprit that fails its re-check is replaced by another.
_ROUNDS = 5
#: Kernels that are built ahead.
_AHEAD = 2
_NONE_COUNTED = Rates(shown_bad=0, boots_bad=0, shown_good=0, boots_good=0)

Prior = Callable[[], Mapping[str, float]]
_S = TypeVar("_S")


class Session:
    """One bisect. ``prior`` gives weights of commits, once the ends were built.

    ``parents_of`` gives all parents of a commit, those outside of the history too.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        bench: Bench,
        *,
        parents_of: Callable[[str], Sequence[str]],
        prior: Prior = dict,
        subject_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._setup = setup
        self._history = history
        self._bench = bench
        self._prior = prior
        self._parents_of = parents_of
        self._subject_of = subject_of
        self._numbers: Numbers | None = None
        self._rates = _NONE_COUNTED
        self._search: Search
        self._weak: Counter[str] = Counter()
        self._skipped: dict[str, str] = {}
        self._seen: dict[str, bool] = {}
        self._notes: list[str] = []

    def run(self) -> Conclusion:
        """Carry it out.

        :raises UserError: an end that cannot be used.
        :raises Inconclusive: an end does not show what was claimed.
        :raises InfraError: the host failed; the bisect can go on.
        :raises Interrupted: likewise.
        """
        self._ends()
        self._search = Search(
            self._history, self._rates, confidence=self._setup.confidence, prior=self._prior()
        )
        for said in self._setup.replay:
            self._replay(said)
        rechecks: tuple[Recheck, ...] = ()
        for _ in range(_ROUNDS):
            self._narrow()
            culprit = self._search.culprit()
            if culprit is None:
                break
            rechecks = self._recheck(culprit)
            if self._search.culprit() == culprit:
                return self._conclude(culprit, rechecks)
            self._bench.say(f"{culprit[:12]} fails its re-check; going on")
        return self._conclude("", rechecks)

    def _ends(self) -> None:
        ends.built(self._bench, self._setup)
        if isinstance(self._bench.predicate, MetricWorse):
            self._numbers = Numbers(self._bench, self._setup, self._bench.predicate)
            self._rates = self._numbers.rates()
        else:
            self._rates = ends.rates(self._bench, self._setup)
            if self._rates.boots_bad > self._rates.shown_bad:
                self._bench.say(
                    f"the bad end shows it in {self._rates.shown_bad} of {self._rates.boots_bad} boots"
                )

    def _replay(self, said: ReplayedCommit) -> None:
        if said.commit not in self._history.commits or said.commit == self._history.bad:
            return
        if said.bad is None:
            self._skip(said.commit, "skipped in the log that was replayed")
        else:
            self._observe(said.commit, said.bad)

    # --- the search

    def _narrow(self) -> None:
        while self._search.finished is None:
            if len(self._steps(Booted)) > _MOST_BOOTS:
                self._notes.append(f"given up after {_MOST_BOOTS} boots")
                return
            boot = self._bench.boot_minutes(_BOOT_MIN)
            wanted = self._search.candidates(self._cost, 1 + _AHEAD, again=boot)
            if not wanted:
                return
            self._look(wanted[0], [Subject(commit=commit) for commit in wanted[1:]])

    def _cost(self, commit: str) -> float:
        boot = self._bench.boot_minutes(_BOOT_MIN)
        if isinstance(self._bench.predicate, MetricWorse):
            # the ends are booted too, and it takes some rounds
            boot *= 9
        if self._bench.is_built(Subject(commit=commit)):
            return boot
        return boot + self._bench.build_minutes(_BUILD_MIN)

    def _look(self, commit: str, next_: Sequence[Subject]) -> None:
        """Judge one commit once."""
        subject = Subject(commit=commit)
        if not self._bench.is_built(subject):
            left = self._left()
            self._bench.say(f"{left}; next is {subject.name} {self._subject_of(commit)}".rstrip())
            built = self._bench.build(subject)
            told = of_build(self._bench.predicate, built.error, kernels_fault=built.kernels_fault)
            if told is not None:
                self._take(commit, told)
                return
            twin = self._bench.twin(built)
            if twin is not None and self._take_over(subject, twin):
                return
        self._bench.oracle.prefetch([each for each in next_ if not self._bench.is_built(each)])
        self._take(commit, self._judge(subject, "search"))

    def _judge(self, subject: Subject, why: str) -> Judgement:
        if self._numbers is not None:
            return self._bench.decided(subject, self._numbers.judge(subject, why))
        return self._bench.boot(subject, why).judgement

    def _take(self, commit: str, judgement: Judgement) -> None:
        if judgement.kind in (Kind.GOOD, Kind.BAD):
            self._observe(commit, judgement.kind is Kind.BAD)
            if isinstance(self._bench.predicate, BuildFails) or self._numbers is not None:
                # it would be the same again
                self._search.exclude(commit)
            return
        self._weak[commit] += 1
        if judgement.kind is Kind.SKIP or self._weak[commit] >= _WEAK:
            self._skip(commit, judgement.reason)

    def _skip(self, commit: str, reason: str) -> None:
        self._skipped[commit] = reason
        self._search.skip(commit)

    def _observe(self, commit: str, shown: bool) -> None:
        self._seen[commit] = shown or self._seen.get(commit, False)
        self._search.observe(commit, shown)

    def _take_over(self, subject: Subject, twin: Subject) -> bool:
        """Use what is known of an equal kernel; whether that settles this commit for now."""
        self._bench.take_over(subject, twin)
        if twin.commit in self._skipped:
            self._skip(subject.commit, f"as {twin.name}: {self._skipped[twin.commit]}")
            return True
        if twin.without or twin.commit not in (*self._history.commits, *self._history.goods):
            return False
        self._search.same(subject.commit, twin.commit)
        if twin.commit in self._seen:
            self._seen[subject.commit] = self._seen[twin.commit]
        if self._numbers is not None:
            self._search.exclude(subject.commit)
        return True

    def _left(self) -> str:
        likely = self._search.suspects(self._setup.confidence)
        first = f", likeliest {likely[0][0][:12]} ({likely[0][1]:.0%})" if likely[0][1] > 0.2 else ""
        return f"{len(likely)} commits left{first}"

    # --- the end

    def _recheck(self, culprit: str) -> tuple[Recheck, ...]:
        """Look again at the culprit, its parents, and the bad end without it; what counts is taken in."""
        parents = self._parents_of(culprit)
        wanted = [(Subject(commit=culprit), "the culprit", True)]
        wanted += [(Subject(commit=parent), "its parent", False) for parent in parents]
        found = [self._again(*each) for each in wanted]
        if len(parents) == 1:
            reverted = Subject(commit=self._setup.bad, without=culprit)
            found.append(self._again(reverted, "the bad end without it", False))
        return tuple(found)

    def _again(self, subject: Subject, what: str, wanted: bool) -> Recheck:
        built = self._bench.build(subject)
        told = of_build(self._bench.predicate, built.error, kernels_fault=built.kernels_fault)
        result = Recheck(subject=subject, what=what, wanted=wanted)
        if told is not None:
            if told.kind is Kind.SKIP:
                return msgspec.structs.replace(result, trouble=told.reason)
            return msgspec.structs.replace(result, shown=int(told.kind is Kind.BAD), boots=1)
        times = 1 if self._numbers else self._boots_again()
        shown = boots = 0
        trouble = effect = ""
        for _ in range(times):
            judgement = self._judge(subject, "re-check")
            if judgement.kind not in (Kind.GOOD, Kind.BAD):
                trouble = judgement.reason
                continue
            boots += 1
            shown += judgement.kind is Kind.BAD
            effect = judgement.reason if self._numbers is not None else ""
            if not subject.without and subject.commit in (*self._history.commits, *self._history.goods):
                self._observe(subject.commit, judgement.kind is Kind.BAD)
            if wanted and shown:
                break
        trouble = "" if boots else trouble
        return msgspec.structs.replace(result, shown=shown, boots=boots, effect=effect, trouble=trouble)

    def _boots_again(self) -> int:
        rates = self._rates
        times = ends.boots_to_tell(rates.shown_bad, rates.boots_bad)
        few = rates.shown_bad == rates.boots_bad < _PLAIN
        return max(times, _BOOTS_AGAIN) if few else times

    def _conclude(self, culprit: str, rechecks: tuple[Recheck, ...]) -> Conclusion:
        must = [each for each in rechecks if not each.subject.without]
        sure = bool(culprit) and all(each.holds for each in must)
        for each in rechecks:
            if not each.holds:
                self._notes.append(_why_not(each))
        if not sure and self._skipped:
            self._notes.append(f"{len(self._skipped)} commits could not be judged")
        judged = {s.subject.commit for s in self._steps(Booted) if s.why == "search"}
        own = [s for s in self._steps(Built) if s.subject.commit not in (self._setup.bad, *self._setup.good)]
        if isinstance(self._bench.predicate, BuildFails):
            judged = {s.subject.commit for s in own}
        spent = [s.seconds for s in self._steps(Booted)] + [s.seconds for s in self._steps(Built)]
        at_the_ends, counted = self._at_the_ends()
        return Conclusion(
            culprit=culprit if sure else "",
            confidence=self._search.posterior().get(culprit, 0.0),
            suspects=tuple(
                Suspect(commit=commit, subject=self._subject_of(commit), probability=p)
                for commit, p in self._search.suspects(self._setup.confidence)[:50]
            ),
            rechecks=rechecks,
            predicate=str(self._bench.predicate),
            ends=at_the_ends,
            shown_bad=counted.shown_bad,
            boots_bad=counted.boots_bad,
            shown_good=counted.shown_good,
            boots_good=counted.boots_good,
            commits=len(self._history),
            judged=len(judged - {self._setup.bad, *self._setup.good}),
            skipped=len(self._skipped),
            same=len(self._steps(Taken)),
            boots=len(self._steps(Booted)),
            builds=sum(not s.cached for s in self._steps(Built)),
            minutes=round(sum(spent) / 60, 1),
            notes=tuple(self._notes),
        )

    def _at_the_ends(self) -> tuple[str, Rates]:
        """What the ends showed, in words, and the boots in which that was counted."""
        if self._numbers is not None:
            return self._numbers.figures(), _NONE_COUNTED
        if isinstance(self._bench.predicate, BuildFails):
            return "the bad one does not build, the good one does", _NONE_COUNTED
        rates = self._rates
        words = (
            f"shown in {rates.shown_bad} of {rates.boots_bad} boots of the bad end, in"
            f" {rates.shown_good} of {rates.boots_good} of the good one"
        )
        return words, rates

    def _steps(self, kind: type[_S]) -> list[_S]:
        return [step for step in self._bench.journal.steps if isinstance(step, kind)]

    def verdicts(self) -> dict[str, bool | None]:
        """Commits as ``git bisect`` would have it: bad, good, or skipped (``None``).

        Where a fault does not show each time, only what all observations together say of a commit counts.
        """
        found: dict[str, bool | None] = dict.fromkeys(self._skipped)
        for commit in self._seen:
            is_bad = float(self._search.probabilities() @ self._history.row(commit))
            if is_bad > self._setup.confidence or is_bad < 1 - self._setup.confidence:
                found[commit] = is_bad > 0.5
        return found

    @property
    def skipped(self) -> Mapping[str, str]:
        """Commits that could not be judged, with the reason."""
        return self._skipped


def _why_not(each: Recheck) -> str:
    name = f"{each.what} {each.subject.name}"
    if each.trouble:
        return f"{name} could not be looked at again: {each.trouble}"
    verb = "does not show it" if each.wanted else "shows it"
    return f"{name} {verb}: {each.shown} of {each.boots} boots"
