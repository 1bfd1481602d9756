# SPDX-License-Identifier: GPL-2.0-only
"""The object directory of a kernel: a fresh one each time, or one with the objects of similar kernels.

    <place>/o                the kernel's objects
            warnings.json    the warnings of these objects
            unfinished       exists while make runs; the objects cannot be trusted then
            out tools module Kconfig.wrapper

make takes an object for finished if it is newer than its source. A killed compiler leaves half an object that
looks like a whole one. So the objects of a build that did not end by itself are deleted; ccache makes that
cheap. A folder has one build at a time: what an earlier one has left running there is killed first.

The objects of sandboxed builds lie apart: make includes files that earlier builds have written beside them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.core.errors import InfraError
from orchestrator.core.process import Outcome
from orchestrator.kernel import build_log, build_warnings, make

#: Seconds for killed processes to go.
_END_S = 20.0


class ObjectDirectory:
    """A folder to build in; ``warm``: it has the objects of an earlier kernel."""

    def __init__(self, folder: Path, *, permanent: bool) -> None:
        end_leftovers(folder)
        self.folder = folder
        self.objects = folder / "o"
        self._permanent = permanent
        self._mark = folder / "unfinished"
        if not permanent or self._mark.exists():
            self.clear()
        for name in ("out", "tools", "module"):
            shutil.rmtree(folder / name, ignore_errors=True)
        self.warm = self.objects.is_dir()
        self.objects.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    def configure(self, config: Path) -> None:
        """Write the ``.config``; an equal one keeps its time, else make would check everything."""
        text, there = config.read_bytes(), self.objects / ".config"
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        if there.is_symlink() or not there.is_file() or there.read_bytes() != text:
            there.unlink(missing_ok=True)
            there.write_bytes(text)

    def clear(self) -> None:
        """Delete all objects."""
        # the mark goes last
        shutil.rmtree(self.objects, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """Delete all objects, and begin again."""
        self.clear()
        self.objects.mkdir(parents=True)
        self._mark.touch()
        self.warm = False

    def trust(self) -> None:
        """Mark the objects as whole: make has ended by itself."""
        self._mark.unlink(missing_ok=True)

    def trust_after(self, outcome: Outcome, log: Path, tree: Path) -> None:
        """Mark the objects of a failed make as whole, if only a compile error ended it."""
        if build_log.is_compile_error(outcome, log, tree):
            self.trust()

    def update_ledger(self, log: Path, tree: Path) -> build_warnings.Ledger:
        """All warnings of the objects, after a make with this log.

        The ledger is beside the objects: those that are not made again do not warn again.
        """
        ledger = self.folder / build_warnings.NAME
        warnings = build_warnings.merge(build_warnings.load(ledger) or {}, log.read_bytes(), tree)
        ledger.write_bytes(build_warnings.dump(warnings))
        return warnings

    def close(self) -> None:
        """Delete a temporary directory."""
        if not self._permanent:
            self.clear()


def place_of(folder: Path, *, sandboxed: bool) -> Path:
    """The folder for a permanent object directory."""
    return folder.with_name(f"{folder.name}-sandboxed") if sandboxed else folder


def end_leftovers(folder: Path) -> None:
    """Kill the processes of a build in a folder whose supervisor is dead, and wait until they are gone.

    :raises InfraError: they do not die.
    """
    mark = f"{make.OWNER}={folder}".encode()
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                left.append(process)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if psutil.wait_procs(left, timeout=_END_S)[1]:
        raise InfraError(
            f"processes of an earlier build in {folder} cannot be killed",
            remedy="Restart the host, or wait for the disk that they hang on.",
        )


@contextlib.contextmanager
def opened(permanent: Path | None, temporary: Path, *, sandboxed: bool = False) -> Iterator[ObjectDirectory]:
    """The permanent object directory, else a temporary one, deleted afterwards."""
    folder = place_of(permanent, sandboxed=sandboxed) if permanent else temporary
    place = ObjectDirectory(folder, permanent=permanent is not None)
    try:
        yield place
    finally:
        place.close()
