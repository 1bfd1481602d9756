# SPDX-License-Identifier: GPL-2.0-only
"""Ties the splat scanner to a guest's console: the console's thread feeds it, the runner asks it."""

from __future__ import annotations

import threading
from collections import Counter

from orchestrator.evidence import host, noise
from orchestrator.evidence.splat import Kind, Scanner, Splat, blame
from orchestrator.results.model import Blame

#: What a guest also says when its host does not let it run.
_STALLS = frozenset({Kind.RCU_STALL, Kind.HUNG_TASK, Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP})


class ConsoleWatch:
    """Feed it the console's bytes; ``take`` gives the splats since the last time."""

    def __init__(self) -> None:
        self._scanner = Scanner()
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._host = host.host_sample()
        self._noise = noise.load()

    def feed(self, data: bytes) -> None:
        """The console's sink."""
        with self._lock:
            self._scanner.feed(data)

    def take(self) -> list[tuple[Splat, Blame]]:
        """Splats that began since the last call, each with whose fault it is.

        A stall while the host itself was robbed of its CPUs is the infrastructure's.
        """
        with self._lock:
            splats = noise.loud(self._scanner.splats(), self._noise)
        before, self._host = self._host, host.host_sample()
        robbed = host.steal_fraction(before, self._host) > host.MAX_STEAL
        # by count, not by position: of a flood the scanner keeps the first few and counts the rest, and
        # the next program's share of it must still be seen
        total: Counter[str] = Counter()
        latest: dict[str, Splat] = {}
        for splat in splats:
            total[splat.fingerprint] += splat.count
            latest[splat.fingerprint] = splat
        fresh = [latest[name] for name, count in total.items() if count > self._taken[name]]
        self._taken = total
        return [(s, Blame.INFRA if robbed and s.kind in _STALLS else blame(s)) for s in fresh]
