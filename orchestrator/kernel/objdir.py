# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel is built: a fresh folder each time, or one in which its like were built before.

    <place>/o                the kernel's objects
            warnings.json    what has been warned of by what is there
            unfinished       there while make works; what it has left then cannot be trusted
            out tools module Kconfig.wrapper

make takes an object for finished if it is newer than its source, and notes beside it, afterwards, the command
that made it. A compiler that is killed leaves half an object that looks like a whole one. So what a build has
left that did not end by itself is thrown away; ccache makes that cheap.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.process import Outcome
from orchestrator.kernel import build_log, build_warnings


class Workplace:
    """A folder to build in; ``warm``: it has the objects of an earlier kernel."""

    def __init__(self, folder: Path, *, kept: bool) -> None:
        self.folder = folder
        self.objects = folder / "o"
        self._kept = kept
        self._mark = folder / "unfinished"
        if not kept or self._mark.exists():
            self.clear()
        for name in ("out", "tools", "module"):
            shutil.rmtree(folder / name, ignore_errors=True)
        self.warm = self.objects.is_dir()
        self.objects.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    def configure(self, config: Path) -> None:
        """Put a ``.config`` there; one that is the same keeps its time, or make would look at everything."""
        text, there = config.read_bytes(), self.objects / ".config"
        if not there.is_file() or there.read_bytes() != text:
            there.write_bytes(text)

    def clear(self) -> None:
        """Throw away what was built."""
        # the mark goes last
        shutil.rmtree(self.objects, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """Begin again with nothing."""
        self.clear()
        self.objects.mkdir(parents=True)
        self._mark.touch()
        self.warm = False

    def trust(self) -> None:
        """Say that make has ended by itself: what it has left is whole."""
        self._mark.unlink(missing_ok=True)

    def trust_after(self, outcome: Outcome, log: Path) -> None:
        """Trust what a make that failed has left, if it did of what the compiler said and nothing else."""
        if build_log.is_compile_error(outcome, log):
            self.trust()

    def warned(self, log: Path, tree: Path) -> build_warnings.Ledger:
        """All that what is there was warned of, after a make with this log.

        Kept beside the objects: those that are not made again do not warn again.
        """
        ledger = self.folder / build_warnings.NAME
        known = build_warnings.merged(build_warnings.load(ledger) or {}, log.read_bytes(), tree)
        ledger.write_bytes(build_warnings.dump(known))
        return known

    def leave(self) -> None:
        """End the work here."""
        if not self._kept:
            self.clear()


@contextlib.contextmanager
def opened(kept: Path | None, otherwise: Path) -> Iterator[Workplace]:
    """A place to build in: the one that is kept, else one that is gone afterwards."""
    place = Workplace(kept or otherwise, kept=kept is not None)
    try:
        yield place
    finally:
        place.leave()
