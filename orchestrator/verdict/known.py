# SPDX-License-Identifier: GPL-2.0-only
"""Known failures: a suite's ``known.toml``, or the user's ``--known FILE``.

A case that fails as an entry says is KNOWN: not red, and never green. An entry that always applies but did
not match is reported too: an entry that outlives its reason hides the next failure.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.core import codec
from orchestrator.results.model import Case, Verdict
from orchestrator.source.model import version_numbers

#: The file's name beside a ``suite.toml``.
FILE = "known.toml"

_Version = Annotated[str, Meta(pattern=r"\A(\d+(\.\d+)*)?\Z")]
_Text = Annotated[str, Meta(min_length=1)]
_VERDICTS = {"FAIL": Verdict.FAIL, "CRASH": Verdict.CRASH, "TIMEOUT": Verdict.TIMEOUT}


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known failure.

    ``case`` is a pattern of case ids (``*`` and ``?``). It holds for kernels from ``since`` up to but without
    ``until``, for ``variant`` and ``arch`` (default: all), for ``verdict`` and, if set, for this one
    ``fingerprint``, until the day ``expires``. ``always``: where it holds, the case fails every time.
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

    def holds(self, *, release: str, variant: str, arch: str) -> bool:
        """Whether the entry applies to such a kernel."""
        at = version_numbers(release)
        return (
            (not self.since or version_numbers(self.since) <= at)
            and (not self.until or at < version_numbers(self.until))
            and self.variant in ("", variant)
            and (not self.arch or arch in self.arch)
        )

    def matches(self, case: Case) -> bool:
        """Whether a case is the failure that the entry describes."""
        return (
            case.fits(self.case)
            and case.verdict is _VERDICTS[self.verdict]
            and self.fingerprint in ("", case.fingerprint)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: tuple[Entry, ...] = msgspec.field(name="known", default=())


def load(path: Path) -> tuple[Entry, ...]:
    """The entries of a file; none if there is no such file.

    :raises UserError: it cannot be read or has a wrong field; the message names file and field.
    """
    if not path.exists():
        return ()
    return codec.read_toml(path, _File, "docs/reference/known-failures.md describes the format.").entries


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

    A failure that an entry describes becomes KNOWN, with the entry's reason and link before its own. An
    expired entry changes nothing but is named in the reason. A PASS that an entry with ``always`` contradicts
    has that in its reason.
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
            return replace(case, verdict=Verdict.KNOWN, reason=f"{word}: {case.reason}")
        if entry.always and case.verdict is Verdict.PASS and case.fits(entry.case):
            return replace(case, reason=f"{UNEXPECTED_PASS}: {entry.reason} ({entry.link})")
    return case


#: The beginning of the reason of a case that passed although an entry says that it always fails.
UNEXPECTED_PASS = "known to fail, but passed"
