# SPDX-License-Identifier: GPL-2.0-only
"""What an engine is: it takes jobs and yields what happens to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from orchestrator.cell.job import CellJob
from orchestrator.core.events import Event
from orchestrator.results.model import CellResult


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Something happened in an attempt at a cell."""

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
        """Execute jobs; the reports as they come, those of one attempt in their order.

        The next job is asked for when there is room for it, and after all reports so far were yielded: it
        may depend on them. A job that must be alone runs while no other does.

        :param root: the run directory, in which the evidence of each cell ends up.
        :raises UserError: a cell cannot be what the user asked for; no further job is started.
        """
        ...

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        ...

    def cancel(self) -> None:
        """Start no further job and end those at work; their results, as far as they got, are yielded."""
        ...
