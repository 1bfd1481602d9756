# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts and results: the content of `results.json`, from which everything else is made."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from orchestrator.core import text as txt

SCHEMA_VERSION = 2


class Verdict(StrEnum):
    """The verdict on one case (design §5)."""

    PASS = "PASS"
    FAIL = "FAIL"
    CRASH = "CRASH"
    TIMEOUT = "TIMEOUT"
    KNOWN = "KNOWN"
    SKIP = "SKIP"
    NA = "NA"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


class Blame(StrEnum):
    """Who is to blame for a verdict; ``NONE`` if nobody is."""

    NONE = ""
    KERNEL = "kernel"
    TEST = "test"
    INFRA = "infra"


#: Verdicts in falling order of gravity: of several about the same thing the gravest counts.
GRAVITY: tuple[Verdict, ...] = (
    Verdict.CRASH,
    Verdict.FAIL,
    Verdict.TIMEOUT,
    Verdict.ERROR,
    Verdict.INCONCLUSIVE,
    Verdict.KNOWN,
    Verdict.PASS,
    Verdict.SKIP,
    Verdict.NA,
)

#: Verdicts that put the kernel or a test at fault.
AT_FAULT = frozenset((Verdict.FAIL, Verdict.CRASH, Verdict.TIMEOUT))

#: Exit codes in the order in which they win (design §5), and those that a verdict leads to.
_PRECEDENCE = (2, 130, 1, 3, 4, 0)
_CODES = {
    **dict.fromkeys(AT_FAULT, 1),
    Verdict.ERROR: 3,
    Verdict.INCONCLUSIVE: 4,
    Verdict.PASS: 0,
}

#: The exit code that `git bisect run` reads as "cannot be judged".
CANNOT_JUDGE = 125
#: `git bisect run` stops at this exit code and above.
STOP_BISECT = 128

#: Fingerprints of what is seen of a kernel without a report on its console.
GUEST_DIED, TAINTED = "guest-died", "tainted"

#: Characters of a case's reason.
REASON_LIMIT = 16384

#: The case ids that a cell has besides those of its suites; the last one only after an unexpected fault.
CELL_CASES = ("config", "build", "boot", "proof", "shutdown", "cell")


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result line.

    ``id`` is the full path (``maps/proc-maps-race/maps.test_maps_tearing_from_split``), the same in
    every run: no number, time or pid in it. ``reason`` is one line of clean text; ``detail`` may be
    long. ``log`` names a file relative to the run directory. ``fingerprint`` is that of the kernel report
    that decides the verdict, ``further_fingerprints`` are those of the other reports on the console.
    """

    id: str
    verdict: Verdict
    blame: Blame = Blame.NONE
    reason: str = ""
    detail: str = ""
    fingerprint: str = ""
    further_fingerprints: tuple[str, ...] = ()
    duration_s: float = 0.0
    log: str = ""

    def __post_init__(self) -> None:
        """Make the text safe; ``msgspec.structs.replace`` and decoding come here too."""
        _set(
            self,
            id=txt.name(self.id),
            reason=txt.name(self.reason)[:REASON_LIMIT],
            detail=txt.clean_str(self.detail),
            fingerprint=txt.name(self.fingerprint),
            further_fingerprints=_names(self.further_fingerprints),
            log=txt.name(self.log),
        )

    def fits(self, pattern: str) -> bool:
        """Whether its id is just this, or fits it as a pattern of ``fnmatch``. An id may hold ``[``."""
        return self.id == pattern or fnmatchcase(self.id, pattern)

    def fingerprints(self) -> tuple[str, ...]:
        """Those of all its kernel reports, each once."""
        return tuple(dict.fromkeys(f for f in (self.fingerprint, *self.further_fingerprints) if f))


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one suite in one cell.

    ``metrics`` are numbers by name, the unit in the name. ``better`` has the metrics to compare, each with
    ``lower`` or ``higher``.
    """

    suite: str
    kind: str = "functional"
    cases: tuple[Case, ...] = ()
    metrics: dict[str, float] = {}
    better: dict[str, str] = {}
    unknown_programs: tuple[str, ...] = ()
    duration_s: float = 0.0

    def __post_init__(self) -> None:
        """Make the text safe."""
        _set(
            self,
            suite=txt.name(self.suite),
            metrics={txt.name(name): value for name, value in self.metrics.items()},
            better={txt.name(name): txt.name(value) for name, value in self.better.items()},
            unknown_programs=_names(self.unknown_programs),
        )


class CellResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one cell.

    ``cases`` are the cell's own (``CELL_CASES``). ``properties`` are the identity and the proofs as
    text, in the order of a report: source, release, arch, variant, accelerator …
    ``boot`` numbers the fresh boots of one kernel. ``interrupted``: the run ended before this cell did; its
    results so far are here.
    """

    cell: str
    label: str = ""
    arch: str = ""
    variant: str = ""
    release: str = ""
    boot: int = 0
    started_at: str = ""
    duration_s: float = 0.0
    interrupted: bool = False
    properties: dict[str, str] = {}
    cases: tuple[Case, ...] = ()
    suites: tuple[SuiteResult, ...] = ()

    def __post_init__(self) -> None:
        """Make the text safe."""
        _set(
            self,
            cell=txt.name(self.cell),
            label=txt.name(self.label),
            arch=txt.name(self.arch),
            variant=txt.name(self.variant),
            release=txt.name(self.release),
            started_at=txt.name(self.started_at),
            properties={txt.name(key): txt.clean_str(value) for key, value in self.properties.items()},
        )

    def all_cases(self) -> tuple[Case, ...]:
        """The cell's own cases and those of its suites, in order."""
        return self.cases + tuple(case for suite in self.suites for case in suite.cases)


def _set(struct: msgspec.Struct, **values: object) -> None:
    for name, value in values.items():
        msgspec.structs.force_setattr(struct, name, value)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(txt.name(each) for each in names)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of some verdicts; ``INCONCLUSIVE`` without any, since nothing was shown."""
    return min(verdicts, key=GRAVITY.index, default=Verdict.INCONCLUSIVE)


def gravest_exit_code(codes: Iterable[int]) -> int:
    """The exit code that several lead to (design §5); 4 of none, since nothing was shown."""
    return min(codes, key=_PRECEDENCE.index, default=4)


def exit_code(cases: Iterable[Case], *, interrupted: bool = False) -> int:
    """The exit code of a verb over all cases of its run (design §5).

    130 interrupted, else 1 kernel or test at fault, else 3 infrastructure, else 4 inconclusive or
    nothing passed, else 0. (2, wrong usage, is decided before anything runs.)

    A cell of which only its own cases passed has tested nothing. A case of a suite must pass or, in a run of
    ``build`` alone, the build. The caller chooses the cases.
    """
    verdicts = {case.verdict for case in cases}
    codes = [_CODES[verdict] for verdict in verdicts if verdict in _CODES]
    if Verdict.PASS not in verdicts:
        codes.append(4)
    return gravest_exit_code([130] if interrupted else codes)


def bisect_exit_code(cases: Iterable[Case], *, interrupted: bool = False) -> int:
    """The same in the language of ``git bisect run``: 0 good, 1 bad, 125 cannot be judged, 130 stops it.

    A kernel that cannot be configured or built shows nothing about the regression.
    """
    if interrupted:
        return 130
    cases = list(cases)
    good = (Verdict.PASS, Verdict.NA)
    if any(case.id in ("config", "build") and case.verdict not in good for case in cases):
        return CANNOT_JUDGE
    code = exit_code(cases)
    return code if code in (0, 1) else CANNOT_JUDGE
