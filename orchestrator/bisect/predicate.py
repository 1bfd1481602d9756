# SPDX-License-Identifier: GPL-2.0-only
"""What counts as bad: a predicate, and the judgement of a build or boot by it.

Pure functions. Only good and bad are observations. Host trouble is not, nor is a fault other than the one
in question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.results.model import AT_FAULT, GUEST_DIED, TAINTED, Case, CellResult, Verdict
from orchestrator.splat import kinds

#: Characters that people copy along with a fingerprint from JSON or a page.
_AROUND = " \t\r\n\"'`,"
#: How every fingerprint begins.
_HEADS = (*(kind.value for kind in kinds.Kind), GUEST_DIED, TAINTED)


class Kind(StrEnum):
    """The kinds of judgement."""

    GOOD = "good"
    BAD = "bad"
    #: the commit cannot be judged
    SKIP = "skip"
    #: the boot showed nothing that counts; another one may
    WEAK = "weak"
    #: host trouble
    INFRA = "infra"


class Cause(StrEnum):
    """Why a boot is neither good nor bad, where that decides what comes next."""

    OTHER = ""
    #: no such case or metric, or no program ran
    ABSENT = "absent"
    #: another fault may have hidden the one in question
    OTHER_FAULT = "other fault"


class Judgement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The judgement of one build or boot. ``value`` is a metric's, ``marks`` are fingerprints."""

    kind: Kind
    reason: str = ""
    cause: Cause = Cause.OTHER
    value: float | None = None
    better: str = ""
    marks: tuple[str, ...] = ()


class CaseFails(msgspec.Struct, frozen=True, kw_only=True, tag="case"):
    """A case of a suite fails; ``pattern`` may hold ``*``, ``?`` and ``[…]``.

    With ``learned`` a crash counts only if its fingerprint is one of ``marks``: those of the bad end.
    """

    pattern: str
    learned: bool = False
    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.pattern} fails"


class SplatSeen(msgspec.Struct, frozen=True, kw_only=True, tag="splat"):
    """A report with that fingerprint is on the console.

    ``fingerprint`` may be a prefix, in upper or lower case. With ``exact`` it is the whole fingerprint of a
    report at the bad end.
    """

    fingerprint: str
    exact: bool = False

    def __str__(self) -> str:
        return f"the splat {self.fingerprint} is seen"

    def matches(self, fingerprint: str) -> bool:
        """Whether a report with this fingerprint fits."""
        if self.exact:
            return fingerprint == self.fingerprint
        return fingerprint.casefold().startswith(self.fingerprint.casefold())

    def among(self, fingerprints: Iterable[str]) -> tuple[str, ...]:
        """Those that fit: the one that is equal if there is one, else all with this prefix."""
        matches = tuple(dict.fromkeys(filter(self.matches, fingerprints)))
        whole = tuple(f for f in matches if f.casefold() == self.fingerprint.casefold())
        return tuple(f for f in whole if f == self.fingerprint) or whole or matches


class MetricWorse(msgspec.Struct, frozen=True, kw_only=True, tag="metric"):
    """A metric of a benchmark is closer to its value at the bad end than at the good end."""

    suite: str
    metric: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.metric} is worse"


class BootFails(msgspec.Struct, frozen=True, kw_only=True, tag="boot"):
    """The kernel does not boot."""

    def __str__(self) -> str:
        return "the kernel does not boot"


class BuildFails(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    """The kernel does not compile."""

    def __str__(self) -> str:
        return "the kernel does not build"


class AnyFails(msgspec.Struct, frozen=True, kw_only=True, tag="any"):
    """No predicate yet: it will be a case that fails at the bad end and passes at the good end."""

    def __str__(self) -> str:
        return "a case fails that passes at the good end"


Predicate = CaseFails | SplatSeen | MetricWorse | BootFails | BuildFails | AnyFails


def parse(
    *, case: str = "", splat: str = "", metric: str = "", boot: bool = False, build: bool = False
) -> Predicate:
    """The predicate that the options name.

    :raises UserError: more than one of them, or one that cannot be read.
    """
    options = {"--case": case, "--splat": splat, "--metric": metric, "--boot": boot, "--build": build}
    names = [name for name, value in options.items() if value]
    if len(names) > 1:
        raise UserError(
            f"{' and '.join(names)}: only one of these can say what is bad",
            remedy="Give one of them. Bisect the other one separately.",
        )
    if case:
        if "/" not in case:
            raise UserError(
                f"--case {case}: a case is SUITE/PATH", remedy="junit.xml lists the cases of a run."
            )
        return CaseFails(pattern=case)
    if splat:
        return SplatSeen(fingerprint=_fingerprint(splat))
    if metric:
        suite, slash, name = metric.partition("/")
        if not (suite and slash and name):
            raise UserError(
                f"--metric {metric}: a metric is SUITE/METRIC, such as map-latency/p99_us_scanned"
            )
        return MetricWorse(suite=suite, metric=name)
    return BootFails() if boot else BuildFails() if build else AnyFails()


def _fingerprint(word: str) -> str:
    """A fingerprint or a prefix of one, without quotes and spaces around it."""
    prefix = word.strip(_AROUND)
    folded = prefix.casefold()
    if folded and any(folded.startswith(head) or head.startswith(folded) for head in _HEADS):
        return prefix
    raise UserError(
        f"--splat {word}: no fingerprint starts like that",
        remedy="`orchestrate console LOG` prints those of a console, such as bug-BUG-Bad-rss-counter.",
    )


def suites_of(predicate: Predicate) -> tuple[str, ...]:
    """The suites that a predicate is about; none where it names none."""
    if isinstance(predicate, CaseFails):
        name = predicate.pattern.partition("/")[0]
        return () if any(c in name for c in "*?[") else (name,)
    return (predicate.suite,) if isinstance(predicate, MetricWorse) else ()


def of_build(predicate: Predicate, error: str = "", *, kernels_fault: bool = True) -> Judgement | None:
    """The judgement of a build.

    :param error: why there is no kernel; empty where there is one.
    :param kernels_fault: whether the tree is to blame.
    :returns: ``None`` if a boot has to decide.
    """
    if error and isinstance(predicate, BuildFails) and kernels_fault:
        return Judgement(kind=Kind.BAD, reason=error)
    if error:
        return Judgement(kind=Kind.SKIP, reason=error)
    return Judgement(kind=Kind.GOOD) if isinstance(predicate, BuildFails) else None


def of_boot(predicate: Predicate, result: CellResult) -> Judgement:
    """The judgement of one boot."""
    marks = tuple(dict.fromkeys(f for c in result.all_cases() for f in c.fingerprints()))
    judgement = _of_boot(predicate, result)
    return msgspec.structs.replace(judgement, marks=judgement.marks or marks)


def _of_boot(predicate: Predicate, result: CellResult) -> Judgement:
    match predicate:
        case CaseFails():
            return _case(predicate, result)
        case SplatSeen():
            return _splat(predicate, result)
        case MetricWorse():
            return _metric(predicate, result)
        case BootFails():
            return _boot(result)
        case AnyFails():
            return _by_own_cases(result) or Judgement(kind=Kind.GOOD)
        case BuildFails():
            return Judgement(kind=Kind.GOOD)


def _case(predicate: CaseFails, result: CellResult) -> Judgement:
    cases = [c for s in result.suites for c in s.cases if c.fits(predicate.pattern)]
    failed = [c for c in cases if c.verdict in AT_FAULT or c.verdict is Verdict.KNOWN]
    alike = [c for c in failed if not predicate.learned or _as_at_the_bad_end(predicate, c)]
    if alike:
        marks = tuple(dict.fromkeys(c.fingerprint for c in alike if c.fingerprint))
        return Judgement(kind=Kind.BAD, reason=_case_line(alike[0]), marks=marks)
    if failed:
        return _other_fault("not the report of the bad end", failed[0])
    if unjudged := _unjudged(cases):
        return unjudged
    if any(c.verdict is Verdict.PASS for c in cases):
        return Judgement(kind=Kind.GOOD)
    if cases:
        return Judgement(kind=Kind.SKIP, reason=_case_line(cases[0]))
    return _by_own_cases(result) or _absent(f"there is no case {predicate.pattern}")


def _as_at_the_bad_end(predicate: CaseFails, case: Case) -> bool:
    """Whether a case fails with a report of the bad end, or by its own assertion."""
    return case.verdict is not Verdict.CRASH or case.fingerprint in predicate.marks or not case.fingerprint


def _splat(predicate: SplatSeen, result: CellResult) -> Judgement:
    cases = result.all_cases()
    if matches := [c for c in cases if any(map(predicate.matches, c.fingerprints()))]:
        return Judgement(kind=Kind.BAD, reason=_case_line(matches[0]))
    own = [c for s in result.suites for c in s.cases]
    if ended := [c for c in own or result.cases if c.verdict in (Verdict.CRASH, Verdict.TIMEOUT)]:
        return _other_fault("another fault came first", ended[0])
    if unjudged := _unjudged(own):
        return unjudged
    if any(c.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.KNOWN) for c in own):
        return Judgement(kind=Kind.GOOD)
    return _by_own_cases(result) or _absent("no program ran")


def _other_fault(what: str, case: Case) -> Judgement:
    """A mistake may end in different reports: the next boot may show the one in question."""
    return Judgement(kind=Kind.WEAK, reason=f"{what}: {_case_line(case)}", cause=Cause.OTHER_FAULT)


def _absent(what: str) -> Judgement:
    return Judgement(kind=Kind.SKIP, reason=what, cause=Cause.ABSENT)


def _metric(predicate: MetricWorse, result: CellResult) -> Judgement:
    for suite in result.suites:
        if suite.suite == predicate.suite and predicate.metric in suite.metrics:
            value = suite.metrics[predicate.metric]
            better = suite.better.get(predicate.metric, "lower")
            return Judgement(kind=Kind.GOOD, value=value, better=better)
    cases = [c for s in result.suites if s.suite == predicate.suite for c in s.cases]
    if failed := [c for c in cases if c.verdict in AT_FAULT]:
        return Judgement(kind=Kind.SKIP, reason=f"the benchmark fails: {_case_line(failed[0])}")
    none = f"{predicate.suite} has no metric {predicate.metric}"
    return _unjudged(cases) or _by_own_cases(result) or _absent(none)


def _boot(result: CellResult) -> Judgement:
    boot = next((c for c in result.cases if c.id == "boot"), None)
    if boot is not None and boot.verdict in AT_FAULT:
        return Judgement(kind=Kind.BAD, reason=_case_line(boot))
    if boot is not None and boot.verdict is Verdict.PASS:
        return Judgement(kind=Kind.GOOD)
    return _by_own_cases(result) or Judgement(kind=Kind.SKIP, reason="not booted")


def _unjudged(cases: Iterable[Case]) -> Judgement | None:
    """The judgement that an ERROR, or else an INCONCLUSIVE, among some cases leads to."""
    cases = list(cases)
    for verdict, kind in ((Verdict.ERROR, Kind.INFRA), (Verdict.INCONCLUSIVE, Kind.WEAK)):
        if matches := [c for c in cases if c.verdict is verdict]:
            return Judgement(kind=kind, reason=_case_line(matches[0]))
    return None


def _by_own_cases(result: CellResult) -> Judgement | None:
    """The judgement by a cell's own cases, where its suites do not decide."""
    if unjudged := _unjudged(result.cases):
        return unjudged
    wrong = [c for c in result.cases if c.verdict in AT_FAULT or c.verdict is Verdict.NA]
    if wrong and not result.suites:
        return Judgement(kind=Kind.SKIP, reason=_case_line(wrong[0]))
    return None


def _case_line(case: Case) -> str:
    return f"{case.id}: {case.verdict.value}" + (f": {case.reason}" if case.reason else "")


def failing(bad: Sequence[CellResult], good: Sequence[CellResult]) -> list[tuple[str, int]]:
    """Cases that fail at the bad end and always pass at the good end, each with its failures; most first."""
    passed: dict[str, bool] = {}
    for case in (c for result in good for s in result.suites for c in s.cases):
        passed[case.id] = passed.get(case.id, True) and case.verdict is Verdict.PASS
    counts: dict[str, int] = {}
    for case in (c for result in bad for s in result.suites for c in s.cases):
        if case.verdict in AT_FAULT and passed.get(case.id):
            counts[case.id] = counts.get(case.id, 0) + 1
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))
