# SPDX-License-Identifier: GPL-2.0-only
"""Known failures: a suite's ``known.toml``, or the user's ``--known FILE``.

A case that fails as an entry says is KNOWN: not red, and never green. With another symptom, or more often
than the entry says, it is worse than known, and stays a failure. An entry that always applies but did not
match is reported too: an entry that outlives its reason hides the next failure.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.analysis import stats
from orchestrator.core import codec
from orchestrator.core.errors import UserError
from orchestrator.results.model import Case, Verdict
from orchestrator.source.model import within
from orchestrator.verdict.crash import OWN_WORD

#: The file's name beside a ``suite.toml``.
FILE = "known.toml"

_Version = Annotated[str, Meta(pattern=r"\A(\d+(\.\d+)*)?\Z")]
_Text = Annotated[str, Meta(min_length=1)]
_Regex = Annotated[str, Meta(max_length=400)]
#: What `selftests/lib` prints about the work and the failures of a case.
_WORK = re.compile(r"^work:(.{1,1000})", re.M)
_FIGURE = re.compile(r"(\S{1,60})=(\d{1,20}(?:\.\d{1,20})?(?:e[+-]\d{1,3})?)(?!\S)")
_FAILURE = re.compile(r"^failure \d{1,9}: (.{1,1000})", re.M)
_OWN_FAILURE = re.compile(rf"^{OWN_WORD}(?:FAIL|TIMEOUT): (.{{1,200}})", re.M)
_TOTAL = re.compile(r"^(\d{1,15}) failures, the first: ", re.M)
#: A kernel whose rate is the largest of the entry's interval is called worse this often, for each case.
_LEVEL = 1e-4
_VERDICTS = {"FAIL": Verdict.FAIL, "CRASH": Verdict.CRASH, "TIMEOUT": Verdict.TIMEOUT}


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a known failure happens at most: ``most`` times ``count`` in one ``per``.

    Both are figures of the ``work:`` line of a case; ``most`` is the upper end of an interval of the rate.
    All failures of the case must be among those that ``count`` counts.
    """

    count: _Text
    per: _Text
    most: Annotated[float, Meta(gt=0)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known failure.

    ``case`` is a pattern of case ids (``*`` and ``?``). It holds for kernels from ``since`` up to but without
    ``until``, for ``variant`` and ``arch`` (default: all), for ``verdict`` and, if set, for this one
    ``fingerprint``, until the day ``expires``. ``always``: where it holds, the case fails every time.
    ``symptom`` is a regular expression that the case's reason, and each failure that it shows, contains.
    ``rate`` limits how often it happens.
    """

    case: _Text
    reason: _Text
    link: _Text
    expires: datetime.date
    since: _Version = ""
    until: _Version = ""
    variant: str = ""
    arch: tuple[str, ...] = ()
    verdict: Literal["FAIL", "CRASH", "TIMEOUT"] = "FAIL"
    fingerprint: str = ""
    always: bool = False
    symptom: _Regex = ""
    rate: Rate | None = None

    def holds(self, *, release: str, variant: str, arch: str) -> bool:
        """Whether the entry applies to such a kernel."""
        return (
            within(release, self.since, self.until)
            and self.variant in ("", variant)
            and (not self.arch or arch in self.arch)
        )

    def matches(self, case: Case) -> bool:
        """Whether a case is, or is no better than, the failure that the entry describes."""
        return (
            case.fits(self.case)
            and case.verdict is _VERDICTS[self.verdict]
            and self.fingerprint in ("", case.fingerprint)
        )

    def excess(self, case: Case) -> str:
        """In what a case that matches is worse than the entry says; empty if in nothing."""
        others = [each for each in case.fingerprints() if each != self.fingerprint]
        if self.fingerprint and others:
            return f"another report: {others[0]}"
        if case.verdict is Verdict.CRASH and (own := _OWN_FAILURE.search(case.detail)):
            return f"the case itself failed: {own[1]}"
        shown = [case.reason, *_FAILURE.findall(case.detail)]
        strangers = [text for text in shown if self.symptom and not re.search(self.symptom, text)]
        if strangers:
            return "another symptom"
        return _too_often(case, self.rate) if self.rate is not None else ""


def _too_often(case: Case, rate: Rate) -> str:
    figures = {
        name: float(value) for line in _WORK.findall(case.detail) for name, value in _FIGURE.findall(line)
    }
    if rate.count not in figures or rate.per not in figures:
        return f"it reports no {rate.count} and {rate.per}"
    count, units = figures[rate.count], figures[rate.per]
    total = _TOTAL.search(case.detail)
    if total and int(total[1]) > count:
        return f"{int(total[1]) - count:g} failures besides {rate.count}"
    expected = rate.most * units
    if stats.poisson_tail(count, expected) >= _LEVEL:
        return ""
    return f"{rate.count} {count:g} times in {units:g} {rate.per}, at most {expected:.2g} expected"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: tuple[Entry, ...] = msgspec.field(name="known", default=())


def load(path: Path) -> tuple[Entry, ...]:
    """The entries of a file; none if there is no such file.

    :raises UserError: it cannot be read or has a wrong field; the message names file and field.
    """
    if not path.exists():
        return ()
    remedy = "docs/reference/known-failures.md describes the format."
    entries = codec.read_toml(path, _File, remedy).entries
    try:
        for entry in entries:
            re.compile(entry.symptom)
    except re.error as error:
        raise UserError(f"{path}: {error}", remedy=remedy) from None
    return entries


def judge(
    cases: Sequence[Case],
    entries: Sequence[Entry],
    *,
    release: str,
    variant: str,
    arch: str,
    today: datetime.date,
) -> tuple[Case, ...]:
    """Apply the entries to the cases.

    A failure that an entry describes becomes KNOWN, with the entry's reason and link before its own. One that
    is worse stays, and its reason says in what. An expired entry changes nothing but is named in the reason.
    A PASS that an entry with ``always`` contradicts has that in its reason.
    """
    here = [entry for entry in entries if entry.holds(release=release, variant=variant, arch=arch)]
    return tuple(_judged(case, here, today) for case in cases)


def _judged(case: Case, entries: Sequence[Entry], today: datetime.date) -> Case:
    replace = msgspec.structs.replace
    for entry in entries:
        if entry.matches(case):
            word = f"{entry.reason} ({entry.link})"
            if entry.expires < today:
                return replace(case, reason=f"{case.reason} [was known until {entry.expires}: {word}]")
            if excess := entry.excess(case):
                return replace(case, reason=f"{WORSE} ({word}): {excess}: {case.reason}")
            return replace(case, verdict=Verdict.KNOWN, reason=f"{word}: {case.reason}")
        if entry.always and case.verdict is Verdict.PASS and case.fits(entry.case):
            return replace(case, reason=f"{UNEXPECTED_PASS}: {entry.reason} ({entry.link})")
    return case


#: The beginning of the reason of a case that fails in a worse way than an entry describes.
WORSE = "worse than known"
#: The beginning of the reason of a case that passed although an entry says that it always fails.
UNEXPECTED_PASS = "known to fail, but passed"
