# SPDX-License-Identifier: GPL-2.0-only
"""The guests of a cell, one after the other: booted, or restored from a snapshot of the first one.

Each functional program gets a guest of its own, so that a crash costs only the program that caused it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from orchestrator.cell.boot import boot, console_log
from orchestrator.cell.state import CellState
from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError
from orchestrator.kernel.spec import Kernel
from orchestrator.verdict.crash import new_console_case
from orchestrator.vm import snapshot
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import Lost

#: Property: seconds that a program waits for its restored guest, the one before being gone; the median.
WAIT = "wait for a restored guest (s)"
_HOW = "further guests"


class _Coming:
    """A guest that a thread restores. It is taken or discarded."""

    def __init__(self, cell: CellState, kernel: Kernel, saved: snapshot.Saved) -> None:
        self.watch = cell.watch_for(kernel)
        self._log = console_log(cell)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restore")
        self._future = self._pool.submit(snapshot.restore, saved, log=self._log, sink=self.watch.feed)

    def take(self) -> Guest:
        """Wait for the guest; errors as in ``snapshot.restore``."""
        try:
            return self._future.result()
        finally:
            self._pool.shutdown()

    def discard(self) -> None:
        """End it, unused."""
        with contextlib.suppress(OrchestrateError):
            self.take().close()
        self._log.unlink(missing_ok=True)


class Guests:
    """Guests of one kernel. ``one_each``: each program wants its own; else one is used until it is lost."""

    def __init__(self, cell: CellState, kernel: Kernel, spec: GuestSpec, *, one_each: bool) -> None:
        self.one_each = one_each
        self._cell, self._kernel, self._spec = cell, kernel, spec
        self._saved: snapshot.Saved | None = None
        self._coming: _Coming | None = None
        self._waited_s: list[float] = []
        self._restore = one_each

    def next(self, left: int) -> Guest | None:
        """The next guest, with a verified identity; ``None``: a case has the reason.

        :param left: how many programs are still to be run.
        :raises Interrupted: the run is cancelled.
        """
        if self._saved is not None and (guest := self._restored(self._saved)):
            return guest
        guest = boot(self._cell, self._kernel, self._spec)
        if guest is not None and left > 1 and self._restore and self._saved is None:
            try:
                return self._keep(guest)
            except BaseException:
                guest.close()
                raise
        return guest

    def ahead(self, left: int) -> None:
        """Begin to restore the guest of the next program: the one before is over, its guest may go down.

        :param left: as of ``next``.
        """
        if left and self._saved is not None and not self._cell.host.cancelled():
            self._begin(self._saved)

    def close(self) -> None:
        """Forget the saved guest, and the one that was to come."""
        if self._coming is not None:
            self._coming.discard()
            self._coming = None
        if self._saved is not None:
            self._saved.close()
            self._saved = None

    def _begin(self, saved: snapshot.Saved) -> _Coming:
        if self._coming is None:
            self._cell.say("restore", "restoring the booted guest")
            self._coming = _Coming(self._cell, self._kernel, saved)
        return self._coming

    def _restored(self, saved: snapshot.Saved) -> Guest | None:
        if self._cell.host.cancelled():
            raise Interrupted("interrupted")
        since = time.monotonic()
        coming = self._begin(saved)
        self._coming = None
        self._cell.watch = coming.watch
        try:
            guest = coming.take()
        except (InfraError, KernelError) as error:
            if isinstance(error, KernelError):
                # it had come up before: a kernel report is the kernel's fault
                crash = new_console_case("boot", self._cell.watch)
                self._cell.put(crash) if crash else self._cell.case("boot", error, since=since)
            self._give_up(error)
            return None
        self._waited_s.append(time.monotonic() - since)
        self._cell.health = self._cell.proven_health
        self._cell.properties |= {
            "restored guests": str(len(self._waited_s)),
            "last restore (s)": f"{guest.phases_s['fresh']:.2f}",
            WAIT: f"{statistics.median(self._waited_s):.2f}",
        }
        return guest

    def _keep(self, guest: Guest) -> Guest | None:
        """Save a guest for those after it, once a restored one was shown to behave."""
        cell = self._cell
        key = snapshot.key(
            self._spec, guest.accel, kernel=self._kernel.key, image=cell.properties["guest image"]
        )
        trust = snapshot.recall(cell.host.store, key)
        try:
            cell.say("save", "saving the booted guest")
            self._saved = snapshot.save(guest)
        except InfraError as error:
            self._boot_each(error.message)
            if isinstance(error, Lost) or guest.poll() is not None:
                guest.close()
                return boot(cell, self._kernel, self._spec)
            return guest
        if trust is None:
            trust = self._try(self._saved, key)
            if trust is None or not trust.good:
                self._boot_each(trust.reason if trust else "a restored guest went away")
                self.close()
                return guest
        cell.properties[_HOW] = f"restored: {trust.reason}"
        return guest

    def _try(self, saved: snapshot.Saved, key: str) -> snapshot.Trust | None:
        """Whether a restored guest works; ``None`` if the trial itself failed."""
        cell, watch = self._cell, self._cell.watch
        cell.say("save", "trying a restored guest")
        try:
            guest = snapshot.restore(saved, log=console_log(cell))
            try:
                return snapshot.remember(cell.host.store, key, snapshot.behaves(guest, saved))
            finally:
                guest.close()
        except (InfraError, KernelError) as error:
            self._give_up(error)
            return None
        finally:
            cell.watch = watch

    def _give_up(self, error: OrchestrateError) -> None:
        if self._cell.host.cancelled():
            raise Interrupted("interrupted") from None
        self._boot_each(error.message)
        self.close()

    def _boot_each(self, reason: str) -> None:
        self._restore = False
        self._cell.properties[_HOW] = f"booted: {reason}"
        self._cell.say("save", f"not restored but booted: {reason}")
