# SPDX-License-Identifier: GPL-2.0-only
"""Ties the splat scanner to a guest's console: the console's thread feeds it, the runner asks it."""

from __future__ import annotations

import threading
from collections import Counter

from orchestrator.evidence.splat import Scanner, Splat, blame
from orchestrator.results.model import Blame


class ConsoleWatch:
    """Feed it the console's bytes; ``take`` gives the splats since the last time."""

    def __init__(self) -> None:
        self._scanner = Scanner()
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def feed(self, data: bytes) -> None:
        """The console's sink."""
        with self._lock:
            self._scanner.feed(data)

    def take(self) -> list[tuple[Splat, Blame]]:
        """Splats that began since the last call, each with whose fault it is."""
        with self._lock:
            splats = self._scanner.splats()
        # by count, not by position: of a flood the scanner keeps the first few and counts the rest, and
        # the next program's share of it must still be seen
        total: Counter[str] = Counter()
        latest: dict[str, Splat] = {}
        for splat in splats:
            total[splat.fingerprint] += splat.count
            latest[splat.fingerprint] = splat
        fresh = [latest[name] for name, count in total.items() if count > self._taken[name]]
        self._taken = total
        return [(splat, blame(splat)) for splat in fresh]
