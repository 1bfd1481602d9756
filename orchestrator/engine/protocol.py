# SPDX-License-Identifier: GPL-2.0-only
"""The protocol of engines: an engine takes jobs and yields reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from orchestrator.cell.job import CellJob
from orchestrator.core.events import Event
from orchestrator.results.model import CellResult


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """An event of an attempt at a cell."""

    attempt: str
    event: Event


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """An attempt at a cell ended, with this result."""

    attempt: str
    result: CellResult


#: Both go to JSON and back.
Report = Progress | Finished


class Engine(Protocol):
    """Executes cells. Every engine passes the conformance test (tests/engine/test_conformance.py)."""

    def run(self, jobs: Iterable[CellJob], root: Path) -> Iterator[Report]:
        """Execute jobs; yields reports as they arrive, those of one attempt in order.

        The engine takes the next job when there is room for it, and after it has yielded all reports so far:
        the job may depend on them. A job that must be alone runs while no other does.

        :param root: the run directory, which gets the evidence of each cell.
        :raises UserError: a cell cannot be what the user requested; no further job is started.
        """
        ...

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        ...

    def cancel(self) -> None:
        """Start no further job, and end the running ones; their incomplete results are yielded."""
        ...
