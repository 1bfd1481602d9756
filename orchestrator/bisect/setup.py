# SPDX-License-Identifier: GPL-2.0-only
"""The setup of a bisect and its conclusion: the two files beside its journal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from orchestrator.bisect.journal import Subject
from orchestrator.bisect.predicate import AnyFails, Predicate
from orchestrator.plan.choices import Choices
from orchestrator.run.directory import read_versioned

VERSION = 1
#: As ``RunDirectory`` calls it.
KIND = "bisect"
SETUP = f"{KIND}.json"
CONCLUSION = "conclusion.json"


class FixRange(msgspec.Struct, frozen=True, kw_only=True):
    """``--fix COMMIT:RANGE``, both as full names of commits."""

    commit: str
    revisions: str


class ReplayedCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit of a `git bisect log`: bad, good, or skipped (``None``)."""

    commit: str
    bad: bool | None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a bisect is about. ``good`` and ``bad`` are full names of commits.

    ``names`` are those of the user for the same commits, good ones first. Each end is booted at least
    ``ends`` times. A commit with the probability ``confidence`` is the culprit. ``inputs`` are digests of all
    inputs besides the kernels.
    """

    version: int = VERSION
    repository: str
    good: tuple[str, ...]
    bad: str
    names: tuple[str, ...] = msgspec.field(name="called")
    choices: Choices
    predicate: Predicate = AnyFails()
    confidence: float = 0.985
    ends: int = 3
    fixes: tuple[FixRange, ...] = ()
    replay: tuple[ReplayedCommit, ...] = ()
    inputs: dict[str, str] = {}


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A commit and the probability that it is the culprit."""

    commit: str
    subject: str = ""
    probability: float


class Recheck(msgspec.Struct, frozen=True, kw_only=True):
    """The re-check of a kernel, or the ``trouble`` that prevented it.

    ``shown`` of ``boots`` boots had the fault. ``expect_bad``: whether they should. ``effect`` compares a
    metric with its values at both ends.
    """

    subject: Subject
    what: str
    expect_bad: bool = msgspec.field(name="wanted")
    shown: int = 0
    boots: int = 0
    effect: str = ""
    trouble: str = ""

    @property
    def holds(self) -> bool:
        """Whether the kernel is as expected."""
        return not self.trouble and self.boots > 0 and (self.shown > 0) == self.expect_bad


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """How a bisect ended. ``culprit`` is empty unless a commit passed its re-check.

    ``suspects`` are the likeliest commits. ``judged`` counts commits known to be good or bad, without
    the ends and those of the re-check. Of these, ``same`` have a kernel that was known already, and
    ``replayed`` are known from the replayed log only. ``skipped`` are not among them. ``boots``, ``builds``
    and ``minutes`` are of the whole bisect. ``ends`` is what the ends showed, in words; the counts are 0 of 0
    where it cannot be counted.
    """

    culprit: str = ""
    confidence: float = 0.0
    suspects: tuple[Suspect, ...] = ()
    rechecks: tuple[Recheck, ...] = ()
    predicate: str = ""
    ends: str = ""
    shown_bad: int = 0
    boots_bad: int = 0
    shown_good: int = 0
    boots_good: int = 0
    commits: int = 0
    judged: int = 0
    skipped: int = 0
    same: int = 0
    replayed: int = 0
    boots: int = 0
    builds: int = 0
    minutes: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: a culprit that passed its re-check. 4: suspects only."""
        return 0 if self.culprit else 4


def load(folder: Path) -> Setup:
    """The setup of an earlier bisect.

    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    return read_versioned(folder / SETUP, Setup, VERSION, KIND)
