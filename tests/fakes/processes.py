# SPDX-License-Identifier: GPL-2.0-only
"""Looking for processes, and waiting for something to become true."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def alive(word: str) -> list[int]:
    """Processes with ``word`` in their command line, zombies aside."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def until(condition: Callable[[], object], limit_s: float = 20.0) -> bool:
    """Wait until the condition holds; ``False`` if it does not become true in time."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def kill_run(running: subprocess.Popen[str], out: Path) -> None:
    """kill -9; nothing that it had started outlives it by more than 10 s (design rule 5)."""
    children = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait(10)
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left
    # nor what it started after we had looked: supervisors have the run's folder among their words
    assert until(lambda: not alive(str(out)), 10)
