# SPDX-License-Identifier: GPL-2.0-only
"""The engine of this machine: it executes cells in threads."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.core import process
from orchestrator.core.store import Store
from orchestrator.engine import worker
from orchestrator.engine.protocol import Finished, Progress, Report

#: Seconds after which the caller's thread wakes up, so that signal handlers can run.
_TICK_S = 0.2


class LocalEngine:
    """Executes at most ``parallel`` cells at a time, in the order of the plan.

    The default is one: two guests or builds at once disturb each other's timing.
    """

    def __init__(self, store: Store, parallel: int = 1) -> None:
        self._store = store
        self._parallel = parallel
        self._cancelled = threading.Event()

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called; cells check it between their steps."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """See ``Engine.cancel``; every build and guest of this process ends."""
        self._cancelled.set()
        process.end_all()

    def run(self, jobs: Iterable[CellJob], root: Path) -> Iterator[Report]:
        """See ``Engine.run``."""
        pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="cell")
        run = _Run(pool, Host.here(self._store, root, self.cancelled))
        try:
            for job in jobs:
                # there is room for the job, but it may have to run alone
                while run.excludes(job):
                    yield from run.reports()
                if self.cancelled():
                    break
                run.submit(job)
                while len(run.running) >= self._parallel:
                    yield from run.reports()
                if self.cancelled():
                    break
            while run.running:
                yield from run.reports()
        except BaseException:
            self.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Run:
    """The running jobs and their reports."""

    def __init__(self, pool: ThreadPoolExecutor, host: Host) -> None:
        self.running: dict[Future[Finished], CellJob] = {}
        self._pool = pool
        self._host = host
        self._reports: queue.SimpleQueue[Progress | Future[Finished]] = queue.SimpleQueue()

    def excludes(self, job: CellJob) -> bool:
        """Whether the job cannot run beside the running ones."""
        return bool(self.running) and (job.plan.alone or any(j.plan.alone for j in self.running.values()))

    def submit(self, job: CellJob) -> None:
        future = self._pool.submit(worker.attempt, job, self._host, self._reports.put)
        self.running[future] = job
        future.add_done_callback(self._reports.put)

    def reports(self) -> Iterator[Report]:
        """The next report, if there is one within a moment. Errors of jobs are raised here."""
        with contextlib.suppress(queue.Empty):
            report = self._reports.get(timeout=_TICK_S)
            if isinstance(report, Future):
                del self.running[report]
                yield report.result()
            else:
                yield report
