# SPDX-License-Identifier: GPL-2.0-only
"""Known failures: what a suite's ``known.toml`` (or the user's ``--known FILE``) says of cases that fail.

A case that fails as foretold is KNOWN: no red, and never green. What was foretold and did not happen is
told too, for an entry that outlives its reason hides the next failure.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.core.errors import UserError
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
    ``until``, for ``variant`` and ``arch`` (all if left out), for ``verdict`` and, if given, for this one
    ``fingerprint``, until the day ``expires``. ``always``: where it holds, the case fails each time.
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
        """Whether the entry is about such a kernel."""
        at = version_numbers(release)
        return (
            (not self.since or version_numbers(self.since) <= at)
            and (not self.until or at < version_numbers(self.until))
            and self.variant in ("", variant)
            and (not self.arch or arch in self.arch)
        )

    def foretells(self, case: Case) -> bool:
        """Whether this is the failure that the entry is about."""
        return (
            fnmatchcase(case.id, self.case)
            and case.verdict is _VERDICTS[self.verdict]
            and self.fingerprint in ("", case.fingerprint)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    known: tuple[Entry, ...] = ()


def load(path: Path) -> tuple[Entry, ...]:
    """The entries of a file; none where there is no such file.

    :raises UserError: it cannot be read, or is not as it should be; the message names file and field.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File).known
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}", remedy="What may stand there is in docs/suites.md.") from None


def judge(
    cases: Sequence[Case],
    entries: Sequence[Entry],
    *,
    release: str,
    variant: str,
    arch: str,
    today: datetime.date,
) -> tuple[Case, ...]:
    """The cases with what is known of them.

    What fails as foretold becomes KNOWN, with the entry's reason and link before its own. An entry that has
    expired changes nothing but is named in the reason. A PASS that an entry with ``always`` contradicts says
    so in its reason.
    """
    here = [entry for entry in entries if entry.holds(release=release, variant=variant, arch=arch)]
    return tuple(_judged(case, here, today) for case in cases)


def _judged(case: Case, entries: Sequence[Entry], today: datetime.date) -> Case:
    replace = msgspec.structs.replace
    for entry in entries:
        if entry.foretells(case):
            word = f"{entry.reason} ({entry.link})"
            if entry.expires < today:
                return replace(case, reason=f"{case.reason} [was known until {entry.expires}: {word}]")
            return replace(case, verdict=Verdict.KNOWN, reason=f"{word}: {case.reason}")
        if entry.always and case.verdict is Verdict.PASS and fnmatchcase(case.id, entry.case):
            return replace(case, reason=f"{UNSEEN}: {entry.reason} ({entry.link})")
    return case


#: How the reason of a case begins that passed although an entry says that it always fails.
UNSEEN = "known to fail, and did not"
