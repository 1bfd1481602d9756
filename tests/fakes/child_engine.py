# SPDX-License-Identifier: GPL-2.0-only
"""An engine whose cells run in child processes that get nothing but JSON and the names of folders.

It keeps the order of the jobs and runs one at a time. As a program it is the child itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.core import process
from orchestrator.core.errors import InfraError
from orchestrator.core.store import Store
from orchestrator.engine import worker
from orchestrator.engine.protocol import Finished, Report


class ChildEngine:
    """See ``Engine``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cancelled = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def run(self, jobs: Iterable[CellJob], root: Path) -> Iterator[Report]:
        for job in jobs:
            if self.cancelled():
                return
            yield from self._run(job, root)
            if self.cancelled():
                return

    def _run(self, job: CellJob, root: Path) -> Iterator[Report]:
        # as a module: a script has its own folder, and with it qemu.py, before everything else
        argv = [sys.executable, "-m", "fakes.child_engine", str(self._store.root), str(root)]
        paths = os.pathsep.join(path for path in sys.path if path)
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            cwd="/",
        ) as child:
            self._child = child
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(job.to_json())
                child.stdin.close()
                report = None
                for line in child.stdout:
                    report = worker.report_of(line)
                    yield report
                if not isinstance(report, Finished) and not self.cancelled():
                    raise InfraError(f"the worker of {job.attempt} ended without a result")
            except BaseException:
                self.cancel()
                raise


def main() -> None:
    """Execute the job on standard input; report on standard output."""
    store, root = sys.argv[1:]
    cancelled = threading.Event()

    def cancel(*_: object) -> None:
        cancelled.set()
        process.end_all()

    signal.signal(signal.SIGTERM, cancel)
    host = Host.here(Store(Path(store)), Path(root), cancelled.is_set)

    def tell(line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    worker.attempt_json(sys.stdin.buffer.read(), host, tell)


if __name__ == "__main__":
    main()
