# SPDX-License-Identifier: GPL-2.0-only
"""What a machine provides for the cells that are executed on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.store import Store
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.rootfs.overlay import RunKeys


@dataclass(frozen=True)
class Host:
    """This machine's part of a run.

    ``root`` is the run directory here. ``keys`` are this run's on this machine: no guest elsewhere has them.
    """

    store: Store
    root: Path
    keys: RunKeys
    cancelled: Callable[[], bool] = lambda: False

    @classmethod
    def here(cls, store: Store, root: Path, cancelled: Callable[[], bool] = lambda: False) -> Host:
        """The host for one run, with fresh keys.

        :param cancelled: whether the run is cancelled; what works in the store asks this as well.
        """
        return cls(
            store=Store(store.root, cancelled), root=root, keys=overlay.make_keys(), cancelled=cancelled
        )
