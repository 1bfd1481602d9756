# SPDX-License-Identifier: GPL-2.0-only
"""What a machine provides for its cells."""

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

    ``root`` is the run directory on this machine. ``keys`` are for this run on this machine only.
    """

    store: Store
    root: Path
    keys: RunKeys
    cancelled: Callable[[], bool] = lambda: False

    @classmethod
    def here(cls, store: Store, root: Path, cancelled: Callable[[], bool] = lambda: False) -> Host:
        """The host for one run, with fresh keys.

        :param cancelled: whether the run is cancelled; builds in the store check it, too.
        """
        return cls(
            store=Store(store.root, cancelled), root=root, keys=overlay.make_keys(), cancelled=cancelled
        )
