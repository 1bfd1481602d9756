# SPDX-License-Identifier: GPL-2.0-only
"""The engine of this machine: it executes cells in threads."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.core import process
from orchestrator.core.store import Store
from orchestrator.engine import worker
from orchestrator.engine.protocol import Finished, Progress, Report

#: Seconds after which the caller's thread wakes up, so that signal handlers can run.
_TICK_S = 0.2


#: MiB that a guest needs beside its own memory: QEMU, the saved state, the compiler of the next kernel.
_OVERHEAD_MIB = 768


class Room(msgspec.Struct, frozen=True):
    """The room for cells on this machine: their number, their virtual CPUs, their memory in MiB.

    A single cell always has room.
    """

    cells: int = 1
    cpus: int = 1 << 30
    mem_mib: int = 1 << 30

    @classmethod
    def of_host(cls, parallel: int | None = None) -> Room:
        """The room of this host; with ``parallel`` for so many cells, as far as its memory reaches."""
        cpus = len(os.sched_getaffinity(0))
        mem_mib = psutil.virtual_memory().available >> 20
        return cls(parallel or cpus, 1 << 30 if parallel else cpus, mem_mib)

    def admits(self, job: CellJob, running: Collection[CellJob]) -> bool:
        """Whether a job has room beside the running ones."""
        if not running:
            return True
        jobs = [job, *running]
        return (
            len(jobs) <= self.cells
            and not any(each.plan.alone for each in jobs)
            and sum(each.plan.smp for each in jobs) <= self.cpus
            and sum(each.plan.mem_mib + _OVERHEAD_MIB for each in jobs) <= self.mem_mib
        )

    def most(self, smp: int, mem_mib: int) -> int:
        """How many cells with such guests have room at once."""
        return max(1, min(self.cells, self.cpus // smp, self.mem_mib // (mem_mib + _OVERHEAD_MIB)))


#: One cell at a time.
ONE = Room()


class LocalEngine:
    """Executes cells in the order of the plan, as many at a time as have room.

    The default is one: two guests or builds at once disturb each other's timing.
    """

    def __init__(self, store: Store, room: Room = ONE) -> None:
        self._store = store
        self._room = room
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
        pool = ThreadPoolExecutor(self._room.cells, thread_name_prefix="cell")
        run = _Run(pool, Host.here(self._store, root, self.cancelled))
        try:
            for job in jobs:
                while not self._room.admits(job, run.running.values()):
                    yield from run.reports()
                if self.cancelled():
                    break
                run.submit(job)
                # the next job may depend on the results so far: it is taken when one like this has room
                while run.running and not self._room.admits(job, run.running.values()):
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
