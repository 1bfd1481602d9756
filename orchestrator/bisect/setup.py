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
    """``--fix COMMIT:RANGE``, both by names that hold for good."""

    commit: str
    revisions: str


class ReplayedCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit of a `git bisect log`: bad, good, or (``None``) skipped."""

    commit: str
    bad: bool | None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """``good`` and ``bad`` are full names of commits, ``called`` what the user called them, good ones first.

    ``ends`` is the number of boots of each end at least; ``confidence`` from which a commit is the culprit.
    ``inputs`` are digests of what is read besides the kernels.
    """

    version: int = VERSION
    repository: str
    good: tuple[str, ...]
    bad: str
    called: tuple[str, ...]
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
    """A kernel looked at again when the culprit was known, or why it could not be: ``trouble``.

    ``shown`` of ``boots`` had the fault; ``wanted``: whether it should. Of a number ``effect`` says how it
    compares with both ends'.
    """

    subject: Subject
    what: str
    wanted: bool
    shown: int = 0
    boots: int = 0
    effect: str = ""
    trouble: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is as it should be."""
        return not self.trouble and self.boots > 0 and (self.shown > 0) == self.wanted


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """How a bisect ended. ``culprit`` is set if one was found and re-checked; ``suspects`` are the likeliest.

    ``judged`` commits were built and booted (or built, where that was the question) in ``boots`` boots and
    ``builds`` builds, without the ends and the re-checks; ``minutes`` are of all. What the ends showed is
    counted where it can be (0 of 0 boots if not), and ``ends`` says it in words.
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
    boots: int = 0
    builds: int = 0
    minutes: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 a culprit that was re-checked, 4 suspects only."""
        return 0 if self.culprit else 4


def load(folder: Path) -> Setup:
    """The setup of a bisect that was begun.

    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    return read_versioned(folder / SETUP, Setup, VERSION, KIND)
