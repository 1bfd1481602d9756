# SPDX-License-Identifier: GPL-2.0-only
"""The engine of one machine: cells in threads, those that must be alone by themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from orchestrator.core import process
from orchestrator.engine import Work
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import CellResult


class LocalEngine:
    """At most ``parallel`` cells at a time, in the order of the plan.

    One by default: two guests or builds at once disturb each other's timing.
    """

    def __init__(self, parallel: int = 1) -> None:
        self._parallel = parallel
        self._cancelled = threading.Event()

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called; cells ask this between their steps."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Start no further cell, and end every build and guest; what they found so far still comes out."""
        self._cancelled.set()
        process.end_all()

    def carry_out(self, cells: Iterable[CellPlan], work: Work) -> Iterator[tuple[CellPlan, CellResult]]:
        """See ``Engine.carry_out``."""
        pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="cell")
        running: dict[Future[CellResult], CellPlan] = {}
        try:
            waiting = iter(cells)
            while not self.cancelled():
                # the next cell is asked for when there is room for it: it may depend on what has ended
                while len(running) >= self._parallel:
                    yield from self._ended(running)
                cell = next(waiting, None)
                if cell is None:
                    break
                while running and (cell.alone or self._one_alone(running)):
                    yield from self._ended(running)
                if not self.cancelled():
                    running[pool.submit(work, cell)] = cell
            while running:
                yield from self._ended(running)
        except BaseException:
            self.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _one_alone(running: dict[Future[CellResult], CellPlan]) -> bool:
        return any(cell.alone for cell in running.values())

    @staticmethod
    def _ended(running: dict[Future[CellResult], CellPlan]) -> Iterator[tuple[CellPlan, CellResult]]:
        # a time-out, so that a signal's handler gets its turn
        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            cell = running.pop(future)
            yield cell, future.result()
