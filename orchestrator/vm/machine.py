# SPDX-License-Identifier: GPL-2.0-only
"""One booted guest: its phases with their deadlines, its death and the reason of it."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from orchestrator.errors import InfraError, KernelError
from orchestrator.process import Outcome, Supervised
from orchestrator.text import clean
from orchestrator.vm import qemu
from orchestrator.vm.console import Console
from orchestrator.vm.overlay import RunKeys
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import Late, Lost, Mark, Ran, Ssh

# qemu.qmp reports a killed QEMU on its logger; it is our business to say that, once
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

BANNER = rb"Linux version (\S+) "
_QMP_TROUBLE = (QMPError, OSError, EOFError, TimeoutError)
#: Seconds from the kernel's banner to readiness on the machine that the suites' time-outs were written for.
_REFERENCE_S = 1.0
#: So far a host's slowness is believed in.
_SLOWEST = 20.0
#: Between the loss of a guest's connections and QEMU's end.
_DYING_S = 3.0
#: For a guest that has said that it panics to print the rest and to end, on a machine of reference speed.
_PANIC_S = 10.0
#: How often it is asked whether it has said so, and how long that may take.
_ASK_S, _ASKING_S = 0.25, 0.001
#: No QMP command of ours takes QEMU long; one that is stopped or wedged must not stop us as well.
_QMP_S = 60.0
_PANICKED = "GUEST_PANICKED"
#: For the last events of a QEMU that has ended.
_EVENTS_S = 0.1


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds allowed for each phase of a boot, counted from the end of the one before.

    A guest out of a saved state goes through ``qemu``, ``restore`` and ``ssh``.
    """

    qemu: float = 20.0
    banner: float = 60.0
    init: float = 120.0
    ssh: float = 60.0
    restore: float = 30.0


DEADLINES = Deadlines()


class BootFailure(KernelError):
    """A boot phase did not end in time, or the guest died in it.

    ``phase`` is ``qemu``, ``banner``, ``init`` or ``ssh``, or ``restore``, ``ssh`` or ``fresh`` of a saved
    guest; ``how`` is ``silent`` or ``died``.
    """

    def __init__(self, phase: str, how: str, message: str, tail: Sequence[str]) -> None:
        console = "\n".join(f"    {line}" for line in tail)
        super().__init__(
            message, remedy=f"The last console lines:\n{console}" if tail else "The console was silent."
        )
        self.phase = phase
        self.how = how


def slowness(booted_s: float, flavors: float = 1.0) -> float:
    """By how much the time limits in a guest grow.

    A kernel that was made for diagnosis boots slowly too, so what was measured has its flavors in it already:
    of the two the greater counts, not the product.

    :param booted_s: from the kernel's banner to readiness.
    :param flavors: by how much they slow the kernel down, whatever the host (``kernel.flavor.slower``).
    """
    host = booted_s / (_REFERENCE_S * flavors)
    return flavors * min(max(1.0, host), _SLOWEST)


class Guest:
    """A running guest, made by ``boot`` or ``snapshot.restore``.

    ``close`` must be called, also after its death.
    """

    def __init__(self, spec: GuestSpec, accel: str, keys: RunKeys, log: Path, sink: Callable[[bytes], None]):
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="orc-"))
        self.spec = spec
        self.accel = accel
        self.keys = keys
        self.phases_s: dict[str, float] = {}
        self.release = ""
        self.factor = 1.0
        self.argv: tuple[str, ...] = ()
        self.folder = folder
        self._started = time.monotonic()
        self._asked = self._started
        self._panic_s = _PANIC_S
        self._panicked_at: float | None = None
        self._events: list[str] = []
        self._ending = ""
        self._ssh: Ssh | None = None
        self._process: Supervised | None = None
        self._qmp = QEMUMonitorProtocol(str(folder / "qmp"), server=True)
        self.console = Console(folder / "console", log, sink)
        self._output = log.with_suffix(".qemu")
        self._output.unlink(missing_ok=True)

    @classmethod
    def boot(
        cls,
        spec: GuestSpec,
        *,
        accel: str,
        keys: RunKeys,
        log: Path,
        sink: Callable[[bytes], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
        deadlines: Deadlines = DEADLINES,
        limit_s: float = 4 * 3600.0,
    ) -> Guest:
        """Boot a guest and wait until it answers over SSH.

        :param log: the console's log file; QEMU's own complaints go beside it, ``.qemu``.
        :param limit_s: after this many seconds the supervisor ends the guest whatever it does.
        :raises BootFailure: the kernel (or init) did not come up.
        :raises InfraError: QEMU did not start.
        """
        guest = cls(spec, accel, keys, log, sink)
        try:
            guest.start(guest._boot_argv(), limit_s=limit_s, timeout_s=deadlines.qemu)
            say("waiting for the kernel's banner")
            banner = guest._phase("banner", BANNER, deadlines.banner, "kernel banner")
            guest.release = clean(banner[1])
            say(f"Linux {guest.release} is starting")
            guest._phase("init", rb"orchestrate: ready", deadlines.init, "init")
            booted = guest.phases_s["init"] - guest.phases_s["banner"]
            guest.factor = slowness(booted, spec.slower)
            guest._first_connection(deadlines.ssh * guest.factor)
        except BaseException:
            guest.close()
            raise
        return guest

    @classmethod
    def halted(
        cls,
        spec: GuestSpec,
        *,
        accel: str,
        keys: RunKeys,
        log: Path,
        limit_s: float,
        timeout_s: float = DEADLINES.qemu,
    ) -> Guest:
        """A guest before its first instruction; a debugger may connect to the socket ``gdb`` of its folder.

        :raises InfraError: QEMU did not start.
        """
        guest = cls(spec, accel, keys, log, lambda _: None)
        guest.unhurried()
        try:
            stub = f"unix:{guest.folder / 'gdb'},server=on,wait=off"
            guest.start([*guest._boot_argv(), "-S", "-gdb", stub], limit_s=limit_s, timeout_s=timeout_s)
        except BaseException:
            guest.close()
            raise
        return guest

    def _boot_argv(self) -> list[str]:
        initrd = self.folder / "initrd"
        with initrd.open("wb") as whole:
            for part in self.spec.initrds:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole)
        cmdline = qemu.kernel_cmdline(self.spec, nonce=secrets.token_hex(8), epoch=int(time.time()))
        return qemu.argv(self.spec, accel=self.accel, folder=self.folder, initrd=initrd, cmdline=cmdline)

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
            said = (self._complaint() or str(outcome or "no answer")).rstrip(".")
            raise InfraError(
                f"{self.spec.arch.qemu} did not start under {self.accel}: {said}",
                remedy=f"What QEMU said is in {self._output}.",
            ) from None
        self.passed("qemu")

    def passed(self, phase: str) -> None:
        """Note when a phase ended."""
        self.phases_s[phase] = self.elapsed_s()

    def elapsed_s(self) -> float:
        """Seconds since QEMU was started."""
        return round(time.monotonic() - self._started, 3)

    def _phase(self, name: str, pattern: bytes, timeout_s: float, what: str) -> re.Match[bytes]:
        match = self.console.wait_for(pattern, timeout_s, gone=lambda: self.poll() is not None)
        if match is None:
            self._give_up(name, what, timeout_s)
        assert match is not None
        self.passed(name)
        return match

    def _give_up(self, name: str, what: str, timeout_s: float) -> None:
        died = self.death()
        self.console.settle()
        how = f"died before: {died}" if died else f"did not show within {timeout_s:.0f} s"
        raise BootFailure(
            name,
            "died" if died else "silent",
            f"boot phase {name!r}: the {what} of this {self.spec.arch.name} guest ({self.accel}) {how}",
            self.console.tail(),
        )

    def connect(self, timeout_s: float) -> None:
        """Connect over SSH; closes an earlier connection.

        :raises Lost: it does not answer in time, or is dead.
        """
        self.disconnect()
        self._ssh = Ssh.connect(
            self.port(),
            host_key=self.keys.host_public,
            user_key=self.keys.user,
            timeout_s=timeout_s,
            gone=lambda: self.poll() is not None,
        )

    def disconnect(self) -> None:
        """Close the SSH connection, if there is one."""
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None

    def unhurried(self) -> None:
        """Let it stay in a panic as long as it likes: somebody may be looking at it."""
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

    def _first_connection(self, timeout_s: float) -> None:
        try:
            self.connect(timeout_s)
        except Lost as error:
            died = self.death()
            raise BootFailure(
                "ssh",
                "died" if died else "silent",
                f"boot phase 'ssh': {error.message}{f' ({died})' if died else ''}",
                self.console.tail(),
            ) from None
        self.passed("ssh")

    def port(self) -> int:
        """The loopback port that leads to the guest's SSH server; QEMU is asked."""
        said = self.usernet()
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", said)
        if match is None:
            raise InfraError(f"QEMU names no forwarded port: {clean(said.encode())[:200]}")
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
            raise InfraError(f"QEMU did not carry out {command}: {error or type(error).__name__}") from None

    @contextlib.contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """QMP commands that do not end within ``timeout_s`` seconds fail."""
        self._qmp.settimeout(min(timeout_s, _QMP_S))
        try:
            yield
        finally:
            self._qmp.settimeout(_QMP_S)

    def run(
        self,
        argv: Sequence[str],
        *,
        limit_s: float,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        options: Sequence[str] = (),
        mark: Mark | None = None,
        late: Late | None = None,
    ) -> Ran:
        """Run a command in the guest; see ``Ssh.run``. The limit is the caller's, already scaled.

        :raises Lost: the guest died, or does not answer; the message says which.
        """
        try:
            return self.ssh.run(
                argv,
                limit_s=limit_s,
                env=env,
                cwd=cwd,
                options=options,
                mark=mark,
                late=late,
                gone=self.death,
                patience=self.factor,
            )
        except Lost as error:
            if reason := self.ending():
                lost = Lost(reason)
                lost.stdout, lost.stderr = error.stdout, error.stderr
                raise lost from None
            raise error

    def read(self, path: str, *, limit_s: float = 30.0) -> bytes:
        """The content of a guest file; empty where it cannot be read.

        :raises Lost: as ``run``.
        """
        return self.ssh.raw(f"cat {path} 2>/dev/null", limit_s=limit_s * self.factor, gone=self.death)

    @property
    def ssh(self) -> Ssh:
        """The connection.

        :raises Lost: there is none.
        """
        if self._ssh is None:
            raise Lost("the guest is not connected")
        return self._ssh

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
        """Seconds since a living guest said that it panics; 0 if it has not."""
        now = time.monotonic()
        if self._panicked_at is None and now - self._asked > _ASK_S:
            self._asked = now
            self._collect_events(_ASKING_S)
            self._panicked_at = now if _PANICKED in self._events else None
        return now - self._panicked_at if self._panicked_at is not None else 0.0

    def death(self) -> str:
        """Why the guest is gone, in words; empty while it is alive."""
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
                self._ending = f"QEMU ended with {outcome}: {self._complaint() or 'no word why'}"
        return self._ending

    def ending(self) -> str:
        """Why the guest is gone, once a connection to it broke: that happens a moment before QEMU ends.

        One that panics is given the time to.
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
        with contextlib.suppress(*_QMP_TROUBLE):
            # each call gives what is queued, or waits; silence ends it as a TimeoutError
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
        """End the guest and everything that belongs to it."""
        self.disconnect()
        if self._process is not None:
            self._process.kill()
        with contextlib.suppress(*_QMP_TROUBLE):
            self._qmp.close()
        self.console.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not self._output.stat().st_size:
                self._output.unlink()
