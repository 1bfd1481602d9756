# SPDX-License-Identifier: GPL-2.0-only
"""One guest: the phases of its boot with their deadlines, its console, its SSH connection."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, KernelError
from orchestrator.core.text import clean
from orchestrator.vm import qemu
from orchestrator.vm.console import Console
from orchestrator.vm.emulator import Emulator
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs.overlay import RunKeys
from orchestrator.vm.ssh import Futile, Futility, Late, Lost, Mark, Ran, Refused, Ssh

BANNER = rb"Linux version (\S+) "
#: Seconds from the kernel's banner to readiness on the machine that the suites' time-outs were written for.
_REFERENCE_S = 1.0
#: So far a host's slowness is believed in.
_SLOWEST = 20.0


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


class BootLost(InfraError):
    """A boot phase did not end for a reason that is not the kernel's: QEMU ended, or the key was refused."""

    def __init__(self, phase: str, message: str, tail: Sequence[str]) -> None:
        super().__init__(message, remedy=BootFailure(phase, "", "", tail).remedy)
        self.phase = phase


def slowness(booted_s: float, flavors: float = 1.0) -> float:
    """By how much the time limits in a guest grow.

    A kernel that was made for diagnosis boots slowly too, so what was measured has its flavors in it already:
    of the two the greater counts, not the product.

    :param booted_s: from the kernel's banner to readiness.
    :param flavors: by how much they slow the kernel down, whatever the host (``kernel.flavor.slower``).
    """
    host = booted_s / (_REFERENCE_S * flavors)
    return flavors * min(max(1.0, host), _SLOWEST)


class Guest(Emulator):
    """A running guest, made by ``boot`` or ``snapshot.restore``.

    ``close`` must be called, also after its death.
    """

    def __init__(self, spec: GuestSpec, accel: str, keys: RunKeys, log: Path, sink: Callable[[bytes], None]):
        log.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(spec, accel, log.with_suffix(".qemu"))
        self.keys = keys
        self.release = ""
        self._ssh: Ssh | None = None
        self.console = Console(self.folder / "console", log, sink)

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
        :raises BootLost: QEMU ended meanwhile, or the guest does not accept the key.
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

    def _phase(self, name: str, pattern: bytes, timeout_s: float, what: str) -> re.Match[bytes]:
        match = self.console.wait_for(pattern, timeout_s, is_dead=lambda: self.poll() is not None)
        if match is None:
            self._give_up(name, what, timeout_s)
        assert match is not None
        self.finish_phase(name)
        return match

    def _give_up(self, name: str, what: str, timeout_s: float) -> None:
        died = self.death()
        self.console.settle()
        how = f"died before: {died}" if died else f"did not show within {timeout_s:.0f} s"
        message = f"boot phase {name!r}: the {what} of this {self.spec.arch.name} guest ({self.accel}) {how}"
        if died and not self.panicked:
            raise BootLost(name, message, self.console.tail())
        raise BootFailure(name, "died" if died else "silent", message, self.console.tail())

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
            is_dead=lambda: self.poll() is not None,
        )

    def disconnect(self) -> None:
        """Close the SSH connection, if there is one."""
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None

    def _first_connection(self, timeout_s: float) -> None:
        try:
            self.connect(timeout_s)
        except Lost as error:
            died = self.death()
            message = f"boot phase 'ssh': {error.message}{f' ({died})' if died else ''}"
            if isinstance(error, Refused) or (died and not self.panicked):
                raise BootLost("ssh", message, self.console.tail()) from None
            raise BootFailure("ssh", "died" if died else "silent", message, self.console.tail()) from None
        self.finish_phase("ssh")

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
        futile: Callable[[], Futility | None] = lambda: None,
    ) -> Ran:
        """Run a command in the guest; see ``Ssh.run``. The limit is the caller's, already scaled.

        :raises Futile: it is not waited for, see ``Ssh.run``.
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
                death=self.death,
                futile=futile,
                patience=self.factor,
            )
        except Futile:
            raise
        except Lost as error:
            if reason := self.ending():
                fatal = Lost(reason)
                fatal.stdout, fatal.stderr = error.stdout, error.stderr
                raise fatal from None
            raise error

    def read(self, path: str, *, limit_s: float = 30.0) -> bytes:
        """The content of a guest file; empty where it cannot be read.

        :raises Lost: as ``run``.
        """
        return self.ssh.raw(f"cat {path} 2>/dev/null", limit_s=limit_s * self.factor, death=self.death)

    @property
    def ssh(self) -> Ssh:
        """The connection.

        :raises Lost: there is none.
        """
        if self._ssh is None:
            raise Lost("the guest is not connected")
        return self._ssh

    def close(self) -> None:
        """End the guest and everything that belongs to it."""
        self.disconnect()
        super().close()
        self.console.close()
