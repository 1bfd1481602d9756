# SPDX-License-Identifier: GPL-2.0-only
"""Looking for processes, and waiting for something to become true."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

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
