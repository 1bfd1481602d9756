# SPDX-License-Identifier: GPL-2.0-only
"""One archive with a run's keys and its files, as a guest of a test boots it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.vm.rootfs import overlay
from orchestrator.vm.rootfs.overlay import RunKeys


def keys_and_files(dest: Path, keys: RunKeys, files: Mapping[str, Path]) -> Path:
    """The keys' archive, then that of the files: the kernel unpacks one after the other."""
    overlay.build_overlay(dest, host_key=keys.host_key, authorized_key=keys.authorized_key)
    with dest.open("ab") as archive:
        archive.write(overlay.payload(files, {}))
    return dest
