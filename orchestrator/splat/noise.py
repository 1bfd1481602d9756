# SPDX-License-Identifier: GPL-2.0-only
"""The allow-list of known noise: ``noise.toml`` beside this module.

An entry hides a report that a rule matches and that is not about the kernel under test. Lines that no rule
matches (a denied vsyscall, a program started without arguments) need no entry.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from orchestrator.core import codec
from orchestrator.splat.report import Splat

FILE = Path(__file__).with_name("noise.toml")

_Text = Annotated[str, Meta(min_length=1)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One report that is noise: ``title`` is a pattern of titles (``*`` and ``?``), the rest narrows it.

    ``before_s``: only in so many seconds of the guest's clock, 0 for always. It holds until the day
    ``expires``.
    """

    title: _Text
    reason: _Text
    expires: datetime.date
    before_s: Annotated[float, Meta(ge=0)] = 0

    def hides(self, splat: Splat, today: datetime.date) -> bool:
        """Whether the report is this noise."""
        in_time = not self.before_s or 0 <= splat.at_s < self.before_s
        return today <= self.expires and in_time and fnmatchcase(splat.title, self.title)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    noise: tuple[Entry, ...] = ()


def load(path: Path = FILE) -> tuple[Entry, ...]:
    """The entries of a file.

    :raises UserError: it cannot be read or has a wrong field; the message names file and field.
    """
    return codec.read_toml(path, _File, "docs/reference/consoles.md describes the format.").noise


def loud(
    splats: Iterable[Splat], entries: Sequence[Entry], today: datetime.date | None = None
) -> tuple[Splat, ...]:
    """The splats that no entry hides."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    return tuple(splat for splat in splats if not any(entry.hides(splat, day) for entry in entries))
