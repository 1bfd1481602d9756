# SPDX-License-Identifier: GPL-2.0-only
"""Linux 7.2 in one place, changed in one way after the other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from under_test import LINUX_7_2

from orchestrator import source
from orchestrator.core.store import default_cache

_FILE = re.compile(r"^\+\+\+ b/(\S+)$", re.M)


class BrokenTree:
    """A copy of the kernel's source at ``path``; ccache knows all that a patch does not change.

    It knows nothing of a tree in another place, so ``--patch``, which makes one for each, is of no use here.
    """

    def __init__(self) -> None:
        # the same place in every session, for ccache
        self.path: Path = default_cache() / "broken" / "linux"
        self._touched: set[str] = set()
        self._pristine = source.resolve(LINUX_7_2, cache=default_cache()).path
        self.remove()
        self.path.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", self._pristine, self.path], check=True)

    def apply(self, patches: Sequence[Path]) -> None:
        """Undo the patches before, and apply these."""
        for name in self._touched:
            shutil.copy2(self._pristine / name, self.path / name)
        self._touched = {name for patch in patches for name in _FILE.findall(patch.read_text())}
        command = ["patch", "-p1", "-s", "-N", "--no-backup-if-mismatch", "-i"]
        for patch in patches:
            subprocess.run([*command, patch], cwd=self.path, check=True)

    def remove(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.path, ignore_errors=True)
