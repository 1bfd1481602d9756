# SPDX-License-Identifier: GPL-2.0-only
"""Read-only and full disks: real mounts, in a namespace that only the program tried on them sees."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

#: For ``mounted``: the place becomes read-only; or a disk of that size, empty.
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"'
SMALL = 'mount -t tmpfs -o size={} none "$1"'


@functools.cache
def possible() -> bool:
    """Whether this host lets us mount: not for everybody, nor where the root is no mount (a chroot)."""
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    return os.geteuid() == 0 and subprocess.run(trial, capture_output=True, check=False).returncode == 0


def mounted(
    script: str, place: Path, argv: Sequence[str | Path], **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program once a shell script has mounted something at ``place``, its ``$1``.

    Where that cannot be, the test is skipped.
    """
    if not possible():
        pytest.skip("needs root and mount namespaces")
    words = ["unshare", "--mount", "sh", "-ec", f'{script}\nshift\nexec "$@"', "sh", place, *argv]
    return subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=600, **more
    )
