# SPDX-License-Identifier: GPL-2.0-only
"""What carries cells out: on this machine (``local``), later in a lab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import CellResult

#: Carries one cell out.
Work = Callable[[CellPlan], CellResult]


class Engine(Protocol):
    """Submits cells and gives their results as they come."""

    def carry_out(self, cells: Iterable[CellPlan], work: Work) -> Iterator[tuple[CellPlan, CellResult]]:
        """Results in the order in which cells end; an exception of ``work`` comes out of the iterator."""
        ...

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        ...

    def cancel(self) -> None:
        """Start no further cell and end those at work."""
        ...
