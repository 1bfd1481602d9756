# SPDX-License-Identifier: GPL-2.0-only
"""What a cell has found so far, on disk: a killed run, or a fault, costs one program and not the cell.

A resumed cell continues after the programs that have ended. A program during which the run was killed
``MOST_ATTEMPTS`` times is not run again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError
from orchestrator.core.files import write_atomically
from orchestrator.results.model import Case
from orchestrator.verdict.program import Numbers

FILE = "progress.json"
#: So often a program is started that has never ended: the run was killed each time.
MOST_ATTEMPTS = 3


class ProgramOutcome(msgspec.Struct, kw_only=True):
    """What a program came to. ``attempts`` counts its starts; ``cases`` is ``None`` until it has ended.

    ``fault`` as of ``ProgramResult``.
    """

    attempts: int = 0
    cases: tuple[Case, ...] | None = None
    numbers: Numbers = Numbers()
    duration_s: float = 0.0
    fault: str = ""


class Progress(msgspec.Struct, kw_only=True):
    """A cell's results until now; ``programs`` by ``suite/program``.

    ``key`` identifies kernel, image, programs and plan. ``cases`` are the cell's own, ``guests`` the number
    of its guests so far.
    """

    key: str
    guests: int = 0
    cases: tuple[Case, ...] = ()
    properties: dict[str, str] = {}
    programs: dict[str, ProgramOutcome] = {}

    def write(self, folder: Path) -> None:
        """Write it to the cell's folder; without it a killed run repeats more."""
        with contextlib.suppress(InfraError):
            write_atomically(folder / FILE, msgspec.json.encode(self))


def load(folder: Path, key: str) -> Progress:
    """The progress of an earlier attempt at the same cell, or none."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        progress = msgspec.json.decode((folder / FILE).read_bytes(), type=Progress)
        if progress.key == key:
            return progress
    return Progress(key=key)


def exists(folder: Path) -> bool:
    """Whether an earlier attempt has left its progress."""
    return (folder / FILE).is_file()


def discard(folder: Path) -> None:
    """Forget the progress of a cell that has its result."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)
