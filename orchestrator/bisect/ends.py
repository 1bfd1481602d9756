# SPDX-License-Identifier: GPL-2.0-only
"""Verify that the bad end shows the fault and the good ends do not, and count how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from scipy.stats import fisher_exact

from orchestrator.bisect.journal import BuildStep, Subject
from orchestrator.bisect.predicate import (
    AnyFails,
    BuildFails,
    CaseFails,
    Cause,
    Judgement,
    Kind,
    Predicate,
    SplatSeen,
    failing,
    of_boot,
)
from orchestrator.bisect.recorder import Recorder
from orchestrator.bisect.search import Rates
from orchestrator.bisect.setup import Setup
from orchestrator.core.errors import Inconclusive, UserError, near

#: The bad end gets up to this many times the requested boots to show the fault.
_PATIENCE = 8
#: A good end may show the fault too, if the probability that both ends are alike is below this.
_ALIKE = 0.01
#: Fingerprints that a message lists at most.
_MOST_LISTED = 12
#: A build is deterministic: one counts as this many boots.
_CERTAIN = 50


class End:
    """The boots of one end so far. ``side`` is good or bad."""

    def __init__(self, recorder: Recorder, subject: Subject, side: str) -> None:
        self.recorder = recorder
        self.subject = subject
        self.side = side
        self.judgements: list[Judgement] = []

    def boot(self) -> None:
        """Boot it once more."""
        self.judgements.append(self.recorder.boot(self.subject, "end").judgement)

    def judge_again(self) -> None:
        """Judge its boots so far by the predicate as it is now."""
        results = self.recorder.results(self.subject)
        self.judgements = [of_boot(self.recorder.predicate, result) for result in results]

    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the kernel reports in its boots, each once."""
        return tuple(dict.fromkeys(mark for judgement in self.judgements for mark in judgement.marks))

    def count(self, kind: Kind) -> int:
        """The number of boots with this judgement."""
        return sum(each.kind is kind for each in self.judgements)

    @property
    def shown(self) -> int:
        """Boots that showed the fault."""
        return self.count(Kind.BAD)

    @property
    def boots(self) -> int:
        """Boots that are observations."""
        return self.shown + self.count(Kind.GOOD)

    @property
    def booted(self) -> int:
        """All its boots."""
        return len(self.judgements)

    @property
    def promising(self) -> bool:
        """Whether a further boot may be an observation."""
        return bool(self.boots) or any(each.cause is Cause.OTHER_FAULT for each in self.judgements)

    def figures(self) -> str:
        """Its boots in words."""
        words = f"{self.side} {self.subject.name} shows the fault in {self.shown} of {self.boots} boots"
        others = Counter(j.reason for j in self.judgements if j.kind in (Kind.SKIP, Kind.WEAK))
        return words + "".join(f"; {n} could not be judged ({reason})" for reason, n in others.most_common(2))


def build(recorder: Recorder, setup: Setup) -> None:
    """Build both ends.

    :raises UserError: an end does not build, and the predicate is not about builds.
    :raises Inconclusive: an end does not show what was claimed, or both are the same kernel.
    """
    ends = [(Subject(commit=setup.bad), "bad"), *((Subject(commit=good), "good") for good in setup.good)]
    about_builds = isinstance(recorder.predicate, BuildFails)
    for subject, side in ends:
        step = recorder.build(subject)
        if about_builds and (side == "bad") != bool(step.error and step.kernels_fault):
            outcome = f"does not build: {step.error}" if step.error else "builds"
            raise Inconclusive(
                f"the {side} end {subject.name} {outcome}",
                remedy="With --build, --bad must not compile, and --good must.",
            )
        if step.error and not about_builds:
            raise UserError(
                f"the {side} end cannot be built: {subject.name}: {step.error}",
                remedy="Name another commit, fix it with --fix COMMIT:A..B, or bisect it with --build.",
            )
    _check_different(recorder.build(ends[0][0]), [recorder.build(subject) for subject, _ in ends[1:]])


def _check_different(bad: BuildStep, goods: list[BuildStep]) -> None:
    for good in goods:
        if bad.image and bad.image == good.image:
            raise Inconclusive(
                f"both ends make the same kernel, byte for byte: {bad.subject.name} and {good.subject.name}",
                remedy="The cause is not in these commits, or it needs another --kconfig.",
            )


def rates(recorder: Recorder, setup: Setup) -> Rates:
    """Boot both ends until it is known how often they show the fault.

    The predicate is narrowed to what the bad end shows.

    :raises UserError: no boot has such a case; or several reports of the bad end fit ``--splat``.
    :raises Inconclusive: an end does not show what was claimed; the message has the figures.
    """
    if isinstance(recorder.predicate, BuildFails):
        return Rates(shown_bad=_CERTAIN, boots_bad=_CERTAIN, shown_good=0, boots_good=_CERTAIN)
    bad = End(recorder, Subject(commit=setup.bad), "bad")
    goods = [End(recorder, Subject(commit=commit), "good") for commit in setup.good]
    for _ in range(setup.ends):
        for end in (bad, *goods):
            end.boot()
    if isinstance(recorder.predicate, AnyFails):
        _choose_case(recorder, bad, goods)
    most = setup.ends * _PATIENCE
    request = recorder.predicate
    _pin_splat(request, recorder, bad, goods)
    while bad.shown < 2 and bad.booted < most and bad.promising:
        bad.boot()
        _pin_splat(request, recorder, bad, goods)
    _check_bad(bad, goods)
    if isinstance(recorder.predicate, CaseFails):
        marks = {mark for j in bad.judgements if j.kind is Kind.BAD for mark in j.marks}
        recorder.predicate = msgspec.structs.replace(
            recorder.predicate, learned=True, marks=tuple(sorted(marks))
        )
    for good in goods:
        # enough to see the fault, if it were as frequent as at the bad end
        enough = boots_to_see(bad.shown, bad.boots)
        while (good.shown or good.boots < enough) and good.promising and good.booted < most:
            good.boot()
        _check_good(good, bad)
    return Rates(
        shown_bad=bad.shown,
        boots_bad=bad.boots,
        shown_good=sum(good.shown for good in goods),
        boots_good=sum(good.boots for good in goods),
        other_bad=bad.booted - bad.boots,
    )


def boots_to_see(shown: int, boots: int, *, miss: float = 0.05, most: int = 24) -> int:
    """The boots that a kernel needs to show a fault of this rate, with a probability of 1 - ``miss``.

    :param shown: of ``boots``, those that showed the fault.
    """
    if shown >= boots:
        return 2
    clear, needed = 1 - shown / boots, 1
    while clear**needed > miss and needed < most:
        needed += 1
    return needed


def _choose_case(recorder: Recorder, bad: End, goods: list[End]) -> None:
    """Find a case that fails at the bad end only, and judge the boots again by it."""
    ends = (bad, *goods)
    results = [recorder.results(end.subject) for end in ends]

    def decide() -> str:
        failures = failing(results[0], [result for of_good in results[1:] for result in of_good])
        if not failures:
            raise Inconclusive(
                f"no case fails at the bad end and passes at the good end, in {bad.booted} boots each",
                remedy="Say what is bad (--case, --splat, --metric, --boot), or boot more with --ends.",
            )
        for case, times in failures[:5]:
            recorder.say(
                f"{case} fails at the bad end ({times} of {bad.booted} boots) and not at the good end"
            )
        return failures[0][0]

    pattern = recorder.choose(decide)
    recorder.say(f"bad is: {pattern} fails")
    recorder.predicate = CaseFails(pattern=pattern)
    for end in ends:
        end.judge_again()


def _pin_splat(request: Predicate, recorder: Recorder, bad: End, goods: list[End]) -> None:
    """Once the bad end shows a report that fits ``--splat``, only that report counts.

    :raises UserError: several reports fit.
    """
    if not isinstance(request, SplatSeen):
        return
    matches = request.among(bad.fingerprints())
    if len(matches) > 1:
        raise UserError(
            f"--splat {request.fingerprint}: the bad end shows {len(matches)} reports that start like that:"
            f" {_some(matches)}",
            remedy="Name one of them in full.",
        )
    exact = SplatSeen(fingerprint=matches[0], exact=True) if matches else request
    if recorder.predicate == exact:
        return
    recorder.predicate = exact
    recorder.say(f"bad is: {exact}")
    for end in (bad, *goods):
        if any(request.matches(fingerprint) for fingerprint in {*end.fingerprints()} - {exact.fingerprint}):
            end.judge_again()


def _check_bad(bad: End, goods: list[End]) -> None:
    every = [j for end in (bad, *goods) for j in end.judgements]
    missing = [j.reason for j in every if j.cause is Cause.ABSENT]
    if len(missing) == len(every):
        cases = _similar_cases(bad)
        raise UserError(
            f"{missing[0]} at either end",
            remedy=f"Similar cases: {', '.join(cases)}."
            if cases
            else "junit.xml lists the cases of a run, `orchestrate list` the suites.",
        )
    if not bad.shown:
        remedy = "Check --case, --variant and --arch, boot more with --ends, or swap the ends."
        if isinstance(bad.recorder.predicate, SplatSeen):
            remedy = _reports_of(bad.fingerprints()) + remedy.replace("--case", "--splat, --suite")
        raise Inconclusive(
            f"the bad end does not show the fault: {bad.figures()}; {goods[0].figures()}", remedy=remedy
        )


def _reports_of(fingerprints: Sequence[str]) -> str:
    return f"It showed {_some(fingerprints)}. " if fingerprints else "It showed no kernel report. "


def _some(fingerprints: Sequence[str]) -> str:
    more = f" and {len(fingerprints) - _MOST_LISTED} more" if len(fingerprints) > _MOST_LISTED else ""
    return f"{', '.join(fingerprints[:_MOST_LISTED])}{more}"


def _similar_cases(end: End) -> list[str]:
    """Cases in an end's boots with names similar to that of the predicate."""
    if not isinstance(end.recorder.predicate, CaseFails):
        return []
    names = {case.id for result in end.recorder.results(end.subject) for case in result.all_cases()}
    return near(end.recorder.predicate.pattern.replace("*", ""), sorted(names), most=3)


def _check_good(good: End, bad: End) -> None:
    figures = f"{good.figures()}; {bad.figures()}"
    if not good.boots:
        raise Inconclusive(f"the good end cannot be judged: {figures}", remedy="Name another good commit.")
    if not good.shown:
        return
    table = [[bad.shown, bad.boots - bad.shown], [good.shown, good.boots - good.shown]]
    if float(fisher_exact(table, alternative="greater")[1]) >= _ALIKE:
        raise Inconclusive(
            f"the good end shows the fault too: {figures}",
            remedy="Name an older good commit, or check that what is bad can be good at all.",
        )
