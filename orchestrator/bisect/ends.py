# SPDX-License-Identifier: GPL-2.0-only
"""Whether the ends are what they are said to be, and how often the bad one shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from scipy.stats import fisher_exact

from orchestrator.bisect.journal import Built, Subject
from orchestrator.bisect.predicate import (
    AnyFails,
    BuildFails,
    CaseFails,
    Judgement,
    Kind,
    Predicate,
    SplatSeen,
    failing,
    of_boot,
)
from orchestrator.bisect.recorder import Bench
from orchestrator.bisect.search import Rates
from orchestrator.bisect.setup import Setup
from orchestrator.core.errors import Inconclusive, UserError, near

#: An end that did not show it is booted so many times more often than was asked for, before it is given up.
_PATIENCE = 8
#: Of a good end that shows it too: chance that both ends are alike, below which they are not.
_ALIKE = 0.01
#: Fingerprints that a message names.
_NAMED = 12
#: A fault of a build is the same each time: what one build shows counts as so many boots.
_CERTAIN = 50


class End:
    """One end's boots so far."""

    def __init__(self, bench: Bench, subject: Subject, called: str) -> None:
        self.bench = bench
        self.subject = subject
        self.called = called
        self.judgements: list[Judgement] = []

    def boot(self) -> None:
        """Boot it once more."""
        self.judgements.append(self.bench.boot(self.subject, "end").judgement)

    def judge_again(self) -> None:
        """Judge its boots so far by what is bad now."""
        results = self.bench.results(self.subject)
        self.judgements = [of_boot(self.bench.predicate, result) for result in results]

    def fingerprints(self) -> tuple[str, ...]:
        """Those of the kernel reports that its boots showed, each once."""
        return tuple(dict.fromkeys(mark for judgement in self.judgements for mark in judgement.marks))

    def count(self, kind: Kind) -> int:
        """How many boots came to that."""
        return sum(each.kind is kind for each in self.judgements)

    @property
    def shown(self) -> int:
        """Boots that showed it."""
        return self.count(Kind.BAD)

    @property
    def boots(self) -> int:
        """Boots that count."""
        return self.shown + self.count(Kind.GOOD)

    @property
    def booted(self) -> int:
        """All its boots."""
        return len(self.judgements)

    def figures(self) -> str:
        """For people: what its boots came to."""
        words = f"{self.called} {self.subject.name} shows it in {self.shown} of {self.boots} boots"
        others = Counter(j.reason for j in self.judgements if j.kind in (Kind.SKIP, Kind.WEAK))
        return words + "".join(f"; {n} could not be judged ({reason})" for reason, n in others.most_common(2))


def built(bench: Bench, setup: Setup) -> None:
    """Build both ends.

    :raises UserError: one that does not build, where that is not the question; or an end is not as claimed.
    """
    ends = [(Subject(commit=setup.bad), "bad"), *((Subject(commit=good), "good") for good in setup.good)]
    wants_failure = isinstance(bench.predicate, BuildFails)
    for subject, called in ends:
        found = bench.build(subject)
        if wants_failure and (called == "bad") != bool(found.error and found.kernels_fault):
            does = f"does not build: {found.error}" if found.error else "builds"
            raise Inconclusive(
                f"the {called} end {subject.name} {does}",
                remedy="With --build the bad end is one that does not compile, the good one does.",
            )
        if found.error and not wants_failure:
            raise UserError(
                f"the {called} end cannot be built: {subject.name}: {found.error}",
                remedy="Name another end, mend it with --fix COMMIT:A..B, or bisect that with --build.",
            )
    _check_different(bench.build(ends[0][0]), [bench.build(subject) for subject, _ in ends[1:]])


def _check_different(bad: Built, goods: list[Built]) -> None:
    for good in goods:
        if bad.image and bad.image == good.image:
            raise Inconclusive(
                f"both ends make the same kernel, byte for byte: {bad.subject.name} and {good.subject.name}",
                remedy="What you saw has another cause than these commits, or needs another --kconfig.",
            )


def rates(bench: Bench, setup: Setup) -> Rates:
    """Boot both ends until it is known how often they show it; the predicate is then what the bad end shows.

    :raises UserError: there is no such case at all.
    :raises Inconclusive: an end does not show what was claimed; the message has the figures.
    """
    if isinstance(bench.predicate, BuildFails):
        return Rates(shown_bad=_CERTAIN, boots_bad=_CERTAIN, shown_good=0, boots_good=_CERTAIN)
    bad = End(bench, Subject(commit=setup.bad), "bad")
    goods = [End(bench, Subject(commit=commit), "good") for commit in setup.good]
    for _ in range(setup.ends):
        for end in (bad, *goods):
            end.boot()
    if isinstance(bench.predicate, AnyFails):
        _choose(bench, bad, goods)
    most = setup.ends * _PATIENCE
    asked = bench.predicate
    _name_splat(asked, bench, bad, goods)
    while bad.shown < 2 and bad.booted < most and bad.boots:
        bad.boot()
        _name_splat(asked, bench, bad, goods)
    _check_bad(bad, goods)
    if isinstance(bench.predicate, CaseFails):
        marks = {mark for j in bad.judgements if j.kind is Kind.BAD for mark in j.marks}
        bench.predicate = msgspec.structs.replace(bench.predicate, learned=True, marks=tuple(sorted(marks)))
    for good in goods:
        # as many as it takes to see it, were it as often there as at the bad end
        wanted = boots_to_tell(bad.shown, bad.boots)
        while (good.shown or good.boots < wanted) and good.boots and good.booted < most:
            good.boot()
        _check_good(good, bad)
    return Rates(
        shown_bad=bad.shown,
        boots_bad=bad.boots,
        shown_good=sum(good.shown for good in goods),
        boots_good=sum(good.boots for good in goods),
    )


def boots_to_tell(shown: int, boots: int, *, miss: float = 0.05, most: int = 24) -> int:
    """Boots after which a kernel that shows it so often has shown it, but for a chance of ``miss``."""
    if shown >= boots:
        return 2
    clear, needed = 1 - shown / boots, 1
    while clear**needed > miss and needed < most:
        needed += 1
    return needed


def _choose(bench: Bench, bad: End, goods: list[End]) -> None:
    """Look for what fails at the bad end only, and judge the boots anew by that."""
    ends = (bad, *goods)
    results = [bench.results(end.subject) for end in ends]

    def decide() -> str:
        found = failing(results[0], [result for of_good in results[1:] for result in of_good])
        if not found:
            raise Inconclusive(
                f"no case fails at the bad end and passes at the good one, in {bad.booted} boots each",
                remedy="Say what is bad (--case, --splat, --metric, --boot), or boot more with --ends.",
            )
        for case, times in found[:5]:
            bench.say(f"{case} fails at the bad end ({times} of {bad.booted} boots) and not at the good")
        return found[0][0]

    pattern = bench.choose(decide)
    bench.say(f"bad is: {pattern} fails")
    bench.predicate = CaseFails(pattern=pattern)
    for end in ends:
        end.judge_again()


def _name_splat(asked: Predicate, bench: Bench, bad: End, goods: list[End]) -> None:
    """Once the bad end shows the report that was asked for: from now on it is that one and no other.

    :raises UserError: it shows several that may be meant.
    """
    if not isinstance(asked, SplatSeen):
        return
    meant = asked.among(bad.fingerprints())
    if len(meant) > 1:
        raise UserError(
            f"--splat {asked.fingerprint}: the bad end shows {len(meant)} reports that begin like that:"
            f" {_listed(meant)}",
            remedy="Name one of them in full.",
        )
    exact = SplatSeen(fingerprint=meant[0], exact=True) if meant else asked
    if bench.predicate == exact:
        return
    bench.predicate = exact
    bench.say(f"bad is: {exact}")
    for end in (bad, *goods):
        if any(asked.matches(fingerprint) for fingerprint in {*end.fingerprints()} - {exact.fingerprint}):
            end.judge_again()


def _check_bad(bad: End, goods: list[End]) -> None:
    every = [j for end in (bad, *goods) for j in end.judgements]
    missing = [
        j.reason
        for j in every
        if j.kind is Kind.SKIP and j.reason.startswith(("there is no case", "no prog"))
    ]
    if len(missing) == len(every):
        cases = _near(bad)
        raise UserError(
            f"{missing[0]} at either end",
            remedy=f"There are: {', '.join(cases)}."
            if cases
            else "Case ids are in the JUnit file and the results of a run; suites in `orchestrate list`.",
        )
    if not bad.shown:
        remedy = "Check the claim (--case, --variant, --arch), boot more with --ends, or swap the ends."
        if isinstance(bad.bench.predicate, SplatSeen):
            remedy = _shown_instead(bad.fingerprints()) + remedy.replace("--case", "--splat, --suite")
        raise Inconclusive(
            f"the bad end does not show it: {bad.figures()}; {goods[0].figures()}", remedy=remedy
        )


def _shown_instead(fingerprints: Sequence[str]) -> str:
    return f"It showed {_listed(fingerprints)}. " if fingerprints else "It showed no report at all. "


def _listed(fingerprints: Sequence[str]) -> str:
    more = f" and {len(fingerprints) - _NAMED} more" if len(fingerprints) > _NAMED else ""
    return f"{', '.join(fingerprints[:_NAMED])}{more}"


def _near(end: End) -> list[str]:
    """Cases of an end's boots that are called much like the one that is sought."""
    if not isinstance(end.bench.predicate, CaseFails):
        return []
    there = {case.id for result in end.bench.results(end.subject) for case in result.all_cases()}
    return near(end.bench.predicate.pattern.replace("*", ""), sorted(there), most=3)


def _check_good(good: End, bad: End) -> None:
    figures = f"{good.figures()}; {bad.figures()}"
    if not good.boots:
        raise Inconclusive(f"the good end cannot be judged: {figures}", remedy="Name another good commit.")
    if not good.shown:
        return
    table = [[bad.shown, bad.boots - bad.shown], [good.shown, good.boots - good.shown]]
    if float(fisher_exact(table, alternative="greater")[1]) >= _ALIKE:
        raise Inconclusive(
            f"the good end shows it too: {figures}",
            remedy="Name an older good commit, or check that the predicate is not always true.",
        )
