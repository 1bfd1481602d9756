# SPDX-License-Identifier: GPL-2.0-only
"""What is bad: one question about a kernel, and what its build or one boot of it says to that.

Pure. Only good and bad are observations. Trouble of the host is none, and neither is a fault other than the
one that is sought.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.results.model import AT_FAULT, GUEST_DIED, TAINTED, Case, CellResult, Verdict
from orchestrator.splat import kinds

#: What people copy along with a fingerprint, out of JSON or a page.
_AROUND = " \t\r\n\"'`,"
#: How every fingerprint begins.
_HEADS = (*(kind.value for kind in kinds.Kind), GUEST_DIED, TAINTED)


class Kind(StrEnum):
    """What can be said of a commit."""

    GOOD = "good"
    BAD = "bad"
    #: it cannot be judged here
    SKIP = "skip"
    #: nothing was seen that counts; looking again may help
    WEAK = "weak"
    #: the host's trouble
    INFRA = "infra"


class Judgement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one build or boot says. ``value`` is a metric's; ``marks`` are fingerprints that it showed."""

    kind: Kind
    reason: str = ""
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

    ``fingerprint`` may be the beginning of one, in any case. With ``exact`` it is a whole one: that of the
    report of the bad end that is meant.
    """

    fingerprint: str
    exact: bool = False

    def __str__(self) -> str:
        return f"the splat {self.fingerprint} is seen"

    def matches(self, fingerprint: str) -> bool:
        """Whether a report with this fingerprint may be the one that is meant."""
        if self.exact:
            return fingerprint == self.fingerprint
        return fingerprint.casefold().startswith(self.fingerprint.casefold())

    def among(self, fingerprints: Iterable[str]) -> tuple[str, ...]:
        """Those that may be meant: the one that is written just so if it is there, else all that begin so."""
        found = tuple(dict.fromkeys(filter(self.matches, fingerprints)))
        whole = tuple(f for f in found if f.casefold() == self.fingerprint.casefold())
        return tuple(f for f in whole if f == self.fingerprint) or whole or found


class MetricWorse(msgspec.Struct, frozen=True, kw_only=True, tag="metric"):
    """A number of a benchmark is worse: nearer to that of the bad end than to that of the good one."""

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
    """No question yet: the ends will tell which case fails at one and passes at the other."""

    def __str__(self) -> str:
        return "a case fails that passes at the good end"


Predicate = CaseFails | SplatSeen | MetricWorse | BootFails | BuildFails | AnyFails


def parse(
    *, case: str = "", splat: str = "", metric: str = "", boot: bool = False, build: bool = False
) -> Predicate:
    """The predicate that the options name.

    :raises UserError: more than one of them, or one that cannot be read.
    """
    given = {"--case": case, "--splat": splat, "--metric": metric, "--boot": boot, "--build": build}
    names = [name for name, value in given.items() if value]
    if len(names) > 1:
        raise UserError(
            f"{' and '.join(names)}: what is bad is one thing",
            remedy="Give one of them; bisect again for the other.",
        )
    if case:
        if "/" not in case:
            raise UserError(
                f"--case {case}: a case is SUITE/PATH", remedy="junit.xml and the table name them."
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
    """A fingerprint, or how it begins, without what was copied along with it."""
    beginning = word.strip(_AROUND)
    written = beginning.casefold()
    if written and any(written.startswith(head) or head.startswith(written) for head in _HEADS):
        return beginning
    raise UserError(
        f"--splat {word}: no fingerprint begins like that",
        remedy="`orchestrate console LOG` prints those of a console, such as bug-BUG-Bad-rss-counter.",
    )


def suites_of(predicate: Predicate) -> tuple[str, ...]:
    """The suites that a predicate is about; none where it names none."""
    if isinstance(predicate, CaseFails):
        name = predicate.pattern.partition("/")[0]
        return () if any(c in name for c in "*?[") else (name,)
    return (predicate.suite,) if isinstance(predicate, MetricWorse) else ()


def of_build(predicate: Predicate, error: str = "", *, kernels_fault: bool = True) -> Judgement | None:
    """What a build says.

    :param error: why there is no kernel; empty where there is one.
    :param kernels_fault: whether it is the tree that does not compile.
    :returns: ``None`` where a boot has to tell.
    """
    if error and isinstance(predicate, BuildFails) and kernels_fault:
        return Judgement(kind=Kind.BAD, reason=error)
    if error:
        return Judgement(kind=Kind.SKIP, reason=error)
    return Judgement(kind=Kind.GOOD) if isinstance(predicate, BuildFails) else None


def of_boot(predicate: Predicate, result: CellResult) -> Judgement:
    """What one boot says."""
    marks = tuple(dict.fromkeys(f for c in result.all_cases() for f in c.fingerprints()))
    found = _of_boot(predicate, result)
    return msgspec.structs.replace(found, marks=found.marks or marks)


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
            return _without(result) or Judgement(kind=Kind.GOOD)
        case BuildFails():
            return Judgement(kind=Kind.GOOD)


def _case(wanted: CaseFails, result: CellResult) -> Judgement:
    cases = [c for s in result.suites for c in s.cases if c.fits(wanted.pattern)]
    failed = [c for c in cases if c.verdict in AT_FAULT or c.verdict is Verdict.KNOWN]
    sought = [c for c in failed if not wanted.learned or _is_sought(wanted, c)]
    if sought:
        marks = tuple(dict.fromkeys(c.fingerprint for c in sought if c.fingerprint))
        return Judgement(kind=Kind.BAD, reason=_said(sought[0]), marks=marks)
    if failed:
        return Judgement(kind=Kind.SKIP, reason=f"another report than at the bad end: {_said(failed[0])}")
    if poor := _poorest(cases):
        return poor
    if any(c.verdict is Verdict.PASS for c in cases):
        return Judgement(kind=Kind.GOOD)
    if cases:
        return Judgement(kind=Kind.SKIP, reason=_said(cases[0]))
    return _without(result) or Judgement(kind=Kind.SKIP, reason=f"there is no case {wanted.pattern}")


def _is_sought(wanted: CaseFails, case: Case) -> bool:
    """Whether a case fails as it does at the bad end: with a report of there, or by its own assertion."""
    return case.verdict is not Verdict.CRASH or case.fingerprint in wanted.marks or not case.fingerprint


def _splat(wanted: SplatSeen, result: CellResult) -> Judgement:
    cases = result.all_cases()
    if found := [c for c in cases if any(map(wanted.matches, c.fingerprints()))]:
        return Judgement(kind=Kind.BAD, reason=_said(found[0]))
    own = [c for s in result.suites for c in s.cases]
    if ended := [c for c in own if c.verdict in (Verdict.CRASH, Verdict.TIMEOUT)]:
        # what came after it was not seen
        return Judgement(kind=Kind.SKIP, reason=f"another fault came first: {_said(ended[0])}")
    if poor := _poorest(own):
        return poor
    if any(c.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.KNOWN) for c in own):
        return Judgement(kind=Kind.GOOD)
    return _without(result) or Judgement(kind=Kind.SKIP, reason="no program ran")


def _metric(wanted: MetricWorse, result: CellResult) -> Judgement:
    for suite in result.suites:
        if suite.suite == wanted.suite and wanted.metric in suite.metrics:
            value = suite.metrics[wanted.metric]
            better = suite.better.get(wanted.metric, "lower")
            return Judgement(kind=Kind.GOOD, value=value, better=better)
    cases = [c for s in result.suites if s.suite == wanted.suite for c in s.cases]
    if failed := [c for c in cases if c.verdict in AT_FAULT]:
        return Judgement(kind=Kind.SKIP, reason=f"the benchmark fails: {_said(failed[0])}")
    known = sorted({name for s in result.suites if s.suite == wanted.suite for name in s.metrics})
    none = f"{wanted.suite} gave no {wanted.metric}" + (f", but {', '.join(known)}" if known else "")
    return _poorest(cases) or _without(result) or Judgement(kind=Kind.SKIP, reason=none)


def _boot(result: CellResult) -> Judgement:
    boot = next((c for c in result.cases if c.id == "boot"), None)
    if boot is not None and boot.verdict in AT_FAULT:
        return Judgement(kind=Kind.BAD, reason=_said(boot))
    if boot is not None and boot.verdict is Verdict.PASS:
        return Judgement(kind=Kind.GOOD)
    return _without(result) or Judgement(kind=Kind.SKIP, reason="it was not booted")


def _poorest(cases: Iterable[Case]) -> Judgement | None:
    """What an ERROR, or else an INCONCLUSIVE, among some cases says."""
    cases = list(cases)
    for verdict, kind in ((Verdict.ERROR, Kind.INFRA), (Verdict.INCONCLUSIVE, Kind.WEAK)):
        if found := [c for c in cases if c.verdict is verdict]:
            return Judgement(kind=kind, reason=_said(found[0]))
    return None


def _without(result: CellResult) -> Judgement | None:
    """What a cell's own cases say of a question to which its suites say nothing."""
    if poor := _poorest(result.cases):
        return poor
    wrong = [c for c in result.cases if c.verdict in AT_FAULT or c.verdict is Verdict.NA]
    if wrong and not result.suites:
        return Judgement(kind=Kind.SKIP, reason=_said(wrong[0]))
    return None


def _said(case: Case) -> str:
    return f"{case.id}: {case.verdict.value}" + (f": {case.reason}" if case.reason else "")


def failing(bad: Sequence[CellResult], good: Sequence[CellResult]) -> list[tuple[str, int]]:
    """Cases that fail at the bad end and pass whenever the good end runs, and how often; the surest first."""
    passed: dict[str, bool] = {}
    for case in (c for result in good for s in result.suites for c in s.cases):
        passed[case.id] = passed.get(case.id, True) and case.verdict is Verdict.PASS
    counts: dict[str, int] = {}
    for case in (c for result in bad for s in result.suites for c in s.cases):
        if case.verdict in AT_FAULT and passed.get(case.id):
            counts[case.id] = counts.get(case.id, 0) + 1
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))
