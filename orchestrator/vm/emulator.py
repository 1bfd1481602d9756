# SPDX-License-Identifier: GPL-2.0-only
"""A running QEMU: its commands, its events, its end and the reason for that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from orchestrator.core.errors import InfraError
from orchestrator.core.process import Outcome, Supervised
from orchestrator.core.text import clean
from orchestrator.vm.qemu import GuestSpec

# qemu.qmp logs that a QEMU was killed; we report that ourselves
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_QMP_TROUBLE = (QMPError, OSError, EOFError, TimeoutError)
#: Seconds between the loss of a guest's connections and QEMU's end.
_DYING_S = 3.0
#: Seconds for a guest that panics to print the rest and to end, on a machine of reference speed.
_PANIC_S = 10.0
#: Seconds between two checks for a panic, and for one check.
_ASK_S, _ASKING_S = 0.25, 0.001
#: Seconds for a QMP command: a stopped or hanging QEMU must not stop us.
_QMP_S = 60.0
_PANICKED = "GUEST_PANICKED"
#: Seconds for the last events of a QEMU that has ended.
_EVENTS_S = 0.1


class Emulator:
    """The QEMU of one guest; its files are in ``folder``, which goes with it.

    ``factor``: by how much the guest is slower than one of reference speed. ``close`` must be called, also
    after its death.
    """

    def __init__(self, spec: GuestSpec, accel: str, output: Path) -> None:
        """Prepare; nothing is started.

        :param output: the file for QEMU's own messages.
        """
        self.spec = spec
        self.accel = accel
        self.folder = Path(tempfile.mkdtemp(prefix="orc-"))
        self.phases_s: dict[str, float] = {}
        self.factor = 1.0
        self.argv: tuple[str, ...] = ()
        self._started = time.monotonic()
        self._polled_at = self._started
        self._panic_s = _PANIC_S
        self._panicked_at: float | None = None
        self._events: list[str] = []
        self._ending = ""
        self._process: Supervised | None = None
        # the protocol takes the thread's event loop, which may end before the guest does: give it one of its
        # own
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._qmp = QEMUMonitorProtocol(str(self.folder / "qmp"), server=True)
        asyncio.set_event_loop(None)
        self._output = output
        self._output.unlink(missing_ok=True)

    def start(
        self, argv: Sequence[str], *, limit_s: float, timeout_s: float, pass_fds: Sequence[int] = ()
    ) -> None:
        """Start QEMU, which must answer within ``timeout_s`` seconds.

        :raises InfraError: it does not.
        """
        self.argv = tuple(argv)
        self._started = time.monotonic()
        self._process = Supervised(
            self.argv,
            limit_s=limit_s,
            output=self._output,
            cleanup=self.folder,
            cwd=self.folder,
            pass_fds=pass_fds,
        )
        try:
            self._qmp.accept(timeout=timeout_s)
            self._qmp.settimeout(_QMP_S)
        except _QMP_TROUBLE:
            outcome = self._process.wait(1.0)
            complaint = (self._complaint() or str(outcome or "no answer")).rstrip(".")
            raise InfraError(
                f"{self.spec.arch.qemu} did not start under {self.accel}: {complaint}",
                remedy=f"QEMU's messages are in {self._output}.",
            ) from None
        self.finish_phase("qemu")

    def finish_phase(self, phase: str) -> None:
        """Record the end of a phase."""
        self.phases_s[phase] = self.elapsed_s()

    def elapsed_s(self) -> float:
        """Seconds since QEMU was started."""
        return round(time.monotonic() - self._started, 3)

    def unhurried(self) -> None:
        """Do not end a guest that stays in its panic: a user may be debugging it."""
        self._panic_s = math.inf

    def send_fd(self, name: str, descriptor: int) -> None:
        """Give QEMU a descriptor under a name that QMP commands can use.

        :raises InfraError: QEMU refuses it or is gone.
        """
        try:
            self._qmp.send_fd_scm(descriptor)
        except (*_QMP_TROUBLE, AssertionError) as error:
            raise InfraError(f"QEMU does not take a descriptor: {error or type(error).__name__}") from None
        self.qmp("getfd", fdname=name)

    def port(self) -> int:
        """The loopback port that leads to the guest's SSH server; from QEMU."""
        table = self.usernet()
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", table)
        if match is None:
            raise InfraError(f"QEMU shows no forwarded port: {clean(table.encode())[:200]}")
        return int(match[1])

    def usernet(self) -> str:
        """QEMU's table of the user network's connections."""
        return str(self.qmp("human-monitor-command", **{"command-line": "info usernet"}))

    def qmp(self, command: str, **arguments: object) -> Any:
        """Execute a QMP command.

        :raises InfraError: QEMU refuses it or is gone.
        """
        try:
            return self._qmp.cmd(command, **arguments)
        except _QMP_TROUBLE as error:
            raise InfraError(f"QEMU did not execute {command}: {error or type(error).__name__}") from None

    @contextlib.contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """QMP commands that do not end within ``timeout_s`` seconds fail."""
        self._qmp.settimeout(min(timeout_s, _QMP_S))
        try:
            yield
        finally:
            self._qmp.settimeout(_QMP_S)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        assert self._process is not None
        return self._process.pid

    def poll(self) -> Outcome | None:
        """How QEMU ended, or ``None`` while it runs. A guest that hangs in its panic is ended here."""
        if self._process is None:
            return None
        outcome = self._process.poll()
        if outcome is None and self._panicked_for_s() > self._panic_s * self.factor:
            self._process.kill()
            outcome = self._process.poll()
        return outcome

    def _panicked_for_s(self) -> float:
        """Seconds since the panic of a guest that still runs; 0 without one."""
        now = time.monotonic()
        if self._panicked_at is None and now - self._polled_at > _ASK_S:
            self._polled_at = now
            self._collect_events(_ASKING_S)
            self._panicked_at = now if _PANICKED in self._events else None
        return now - self._panicked_at if self._panicked_at is not None else 0.0

    def death(self) -> str:
        """Why the guest is gone; empty while it is alive."""
        outcome = self.poll()
        if outcome is None:
            return ""
        if not self._ending:
            self._collect_events(_EVENTS_S)
            if _PANICKED in self._events:
                self._ending = "the guest panicked"
            elif any(event.startswith("SHUTDOWN guest") for event in self._events):
                self._ending = "the guest rebooted or powered off"
            elif outcome.reason == "limit":
                self._ending = "the guest's wall-clock limit passed"
            elif outcome.signal is not None:
                self._ending = f"QEMU was killed by signal {outcome.signal}"
            else:
                self._ending = f"QEMU ended with {outcome}: {self._complaint() or 'no message'}"
        return self._ending

    def ending(self) -> str:
        """Why the guest is gone, after a connection broke, which happens a moment before QEMU ends.

        A guest that panics gets time to end.
        """
        if self._process is not None:
            self._process.wait(_DYING_S)
            while self.poll() is None and self._panicked_at is not None:
                self._process.wait(_ASK_S)
        return self.death()

    @property
    def panicked(self) -> bool:
        """Whether the guest's death was its kernel's own doing: a panic, a reboot, a power-off."""
        return self.death().startswith("the guest ")

    def _collect_events(self, wait_s: float) -> None:
        if self._loop.is_closed():
            return
        with contextlib.suppress(*_QMP_TROUBLE):
            # each call returns queued events, or waits; silence raises TimeoutError
            while True:
                self._take_events(self._qmp.get_events(wait=wait_s))

    def _take_events(self, events: list[Any]) -> None:
        for event in events:
            name = str(event.get("event"))
            data = event.get("data") or {}
            reason = data.get("reason", "") if isinstance(data, dict) else ""
            self._events.append(f"{name} {reason}".strip())

    def _complaint(self) -> str:
        try:
            lines = clean(self._output.read_bytes()[-4096:]).strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End QEMU and everything that belongs to it."""
        if self._process is not None:
            self._process.kill()
        if not self._loop.is_closed():
            with contextlib.suppress(*_QMP_TROUBLE):
                self._qmp.close()
            # death() may still be called after this
            self._collect_events(_ASKING_S)
            self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not self._output.stat().st_size:
                self._output.unlink()
