# SPDX-License-Identifier: GPL-2.0-only
"""Save a booted guest, and restore it for each program that needs a fresh one.

The state is in an unnamed, sealed file in memory, since it contains the run's keys: it disappears with its
descriptor, however this process dies. Restored guests have the saved one's addresses, slab order and hash
seeds: they are fresh, but not independent samples. Rates and benchmarks boot.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
from msgspec import Meta

from orchestrator.core import codec
from orchestrator.core.errors import InfraError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store, digest_of
from orchestrator.vm import qemu
from orchestrator.vm.machine import DEADLINES, BootFailure, Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs.overlay import RunKeys
from orchestrator.vm.ssh import RUNNER, Lost

#: Seconds for QEMU to write the state of a guest; tens of MiB of it.
SAVE_S = 60.0
#: A restored guest may be this far off the host's clock, on a machine of reference speed.
CLOCK_S = 2.0
_HANG_UP_S = 10.0
_PAUSE_S = 0.003
_ENTROPY_BYTES = 64
#: Bytes of the report of ``orc-exec --freshen``.
_REPORT_LIMIT = 4096
#: Connections that the guest has not closed yet, in HMP ``info usernet``.
_OPEN = re.compile(r"TCP\[(?!HOST_FORWARD|TIME_WAIT|CLOSED|LISTEN)")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
#: A new number when guests are restored in another way, which invalidates remembered results.
_WAY = 1
#: Sleeps that may fail before the guest's timers count as broken.
_SLEEPS = 3
_SPIN = "i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done"


@dataclass
class Saved:
    """The state of a guest at one moment; ``close`` frees its memory.

    ``state`` is a descriptor to it, ``size`` its bytes, ``took_s`` the time that saving took. ``draw`` are
    random bytes that the saved guest produced afterwards.
    """

    spec: GuestSpec
    accel: str
    qemu: str
    release: str
    factor: float
    state: int
    size: int
    took_s: float
    keys: RunKeys = field(repr=False)
    draw: bytes = field(default=b"", repr=False)

    def close(self) -> None:
        """Free the state; restored guests continue to run."""
        if self.state >= 0:
            os.close(self.state)
            self.state = -1


_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Errno = Annotated[int, Meta(ge=0, le=4095)]


class Freshened(msgspec.Struct, frozen=True):
    """The report of ``orc-exec --freshen``: ``clock_ns`` is the time read back; 0 is no error."""

    clock_ns: _Number
    was_ns: _Number
    clock_errno: _Errno
    entropy_bytes: _Number
    entropy_errno: _Errno
    reseed_errno: _Errno


class Trust(msgspec.Struct, frozen=True):
    """Whether restored guests of a kind behave; ``reason`` is the proof, or the failure."""

    good: bool
    reason: str


def save(guest: Guest, *, limit_s: float = SAVE_S) -> Saved:
    """Save a guest that answers over SSH; it continues and is connected again.

    :raises Lost: the guest died, or does not continue.
    :raises InfraError: it cannot be saved, but continues and is connected.
    """
    since = time.monotonic()
    state = _new_state()
    try:
        try:
            hang_up(guest)
            _write(guest, state, limit_s)
            fcntl.fcntl(state, fcntl.F_ADD_SEALS, _SEALS)
        except InfraError as error:
            if reason := guest.ending():
                raise Lost(reason) from None
            _resume(guest, error.message)
            raise error
        took = time.monotonic() - since
        _resume(guest)
        return Saved(
            spec=guest.spec,
            accel=guest.accel,
            qemu=_version(guest),
            release=guest.release,
            factor=guest.factor,
            state=state,
            size=os.fstat(state).st_size,
            took_s=round(took, 3),
            keys=guest.keys,
            draw=_draw(guest),
        )
    except BaseException:
        os.close(state)
        raise


def _new_state() -> int:
    try:
        state = os.memfd_create("orchestrate-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(state, 0o600)
    except OSError as error:
        raise InfraError(f"no memory for a saved guest: {error.strerror}") from None
    return state


def _write(guest: Guest, state: int, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    guest.send_fd("state", state)
    # by default QEMU limits itself to 128 MiB a second, for a network that is not there
    guest.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    guest.qmp("migrate", uri="fd:state")
    while True:
        status = guest.qmp("query-migrate")
        match status.get("status"):
            case "completed":
                return
            case "failed" | "cancelled":
                raise InfraError(f"QEMU did not save the guest: {status.get('error-desc', 'no message')}")
        if time.monotonic() > until:
            with contextlib.suppress(InfraError):
                guest.qmp("migrate_cancel")
            raise InfraError(f"QEMU did not save the guest within {limit_s:.0f} s")
        time.sleep(_PAUSE_S)


def _resume(guest: Guest, trouble: str = "") -> None:
    try:
        guest.qmp("cont")
        guest.connect(DEADLINES.ssh * guest.factor)
    except InfraError as error:
        message = f"{trouble}; {error.message}" if trouble else error.message
        raise Lost(f"the guest does not continue after saving: {message}") from None


def hang_up(guest: Guest) -> None:
    """Close the SSH connection and wait until the guest's end of it is closed as well.

    A saved guest must have none: the restored one's server would keep a child for it for ever.

    :raises InfraError: the guest does not let go of it.
    """
    guest.disconnect()
    until = time.monotonic() + _HANG_UP_S * guest.factor
    while _OPEN.search(guest.usernet()):
        if time.monotonic() > until:
            raise InfraError("the guest does not let go of a closed connection")
        time.sleep(_PAUSE_S)


def restore(
    saved: Saved,
    *,
    log: Path,
    sink: Callable[[bytes], None] = lambda _: None,
    deadlines: Deadlines = DEADLINES,
    limit_s: float = 4 * 3600.0,
) -> Guest:
    """A guest that continues where the saved one was: connected, with the right clock and its own randomness.

    ``phases_s`` has ``qemu``, ``restore``, ``ssh`` and ``fresh``, the last with the first answered command.

    :param log: the console's log file, which begins after the boot; see ``Guest.boot``.
    :raises BootFailure: it panicked.
    :raises InfraError: it failed in another way: its kernel had booted before.
    """
    state = _reader(saved)
    try:
        guest = Guest(saved.spec, saved.accel, saved.keys, log, sink)
    except BaseException:
        os.close(state)
        raise
    guest.release, guest.factor = saved.release, saved.factor
    phase = "qemu"
    try:
        try:
            words = qemu.argv(saved.spec, accel=saved.accel, folder=guest.folder, incoming=state)
            guest.start(words, limit_s=limit_s, timeout_s=deadlines.qemu, pass_fds=(state,))
            phase = "restore"
            if (version := _version(guest)) != saved.qemu:
                raise InfraError(f"QEMU {version} cannot be trusted with a guest that {saved.qemu} has saved")
            _await_running(guest, deadlines.restore * saved.factor)
            guest.finish_phase(phase)
            phase = "ssh"
            guest.connect(deadlines.ssh * saved.factor)
            guest.finish_phase(phase)
            phase = "fresh"
            freshen(guest)
            guest.finish_phase(phase)
        except InfraError as error:
            _blame(guest, phase, error)
    except BaseException:
        guest.close()
        raise
    finally:
        os.close(state)
    return guest


def _reader(saved: Saved) -> int:
    """A new descriptor of the state: each restore reads from its beginning."""
    try:
        return os.open(f"/proc/self/fd/{saved.state}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InfraError(f"the saved guest cannot be read: {error.strerror}") from None


def _await_running(guest: Guest, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not guest.qmp("query-status")["running"]:
        if time.monotonic() > until:
            raise InfraError(f"QEMU did not load the saved guest within {timeout_s:.0f} s")
        time.sleep(_PAUSE_S)


def _blame(guest: Guest, phase: str, error: InfraError) -> NoReturn:
    """Raise the error of a restored guest: its own panic, or the infrastructure's."""
    what = f"restoring a saved {guest.spec.arch.name} guest ({guest.accel}), phase {phase!r}"
    died = guest.ending() if phase != "qemu" else ""
    if guest.panicked:
        guest.console.settle()
        raise BootFailure(phase, "died", f"{what}: {died}", guest.console.tail()) from None
    raise InfraError(f"{what}: {died or error.message}", remedy=error.remedy) from None


def _version(guest: Guest) -> str:
    """The version of the running QEMU, with its packager's."""
    answer = guest.qmp("query-version")
    number = answer["qemu"]
    return f"{number['major']}.{number['minor']}.{number['micro']} {answer.get('package', '')}".strip()


def _draw(guest: Guest) -> bytes:
    return guest.read("/proc/sys/kernel/random/uuid").strip()


def freshen(guest: Guest) -> Freshened:
    """Set the guest's clock to the host's and give it its own randomness.

    :raises Lost: as ``Guest.run``.
    :raises InfraError: the guest could not do it.
    """
    output = guest.ssh.raw(
        f"{RUNNER} --freshen {time.time_ns()}",
        stdin=os.urandom(_ENTROPY_BYTES),
        limit_s=30.0 * guest.factor,
        death=guest.death,
    )
    try:
        report = codec.decode_untrusted(output, Freshened, limit=_REPORT_LIMIT)
    except ValueError as error:
        raise InfraError(f"the guest sent no valid freshness report: {error}") from None
    for what, number in (
        ("clock", report.clock_errno),
        ("entropy", report.entropy_errno),
        ("reseeding", report.reseed_errno),
    ):
        if number:
            raise InfraError(f"the restored guest cannot be made fresh: {what}: {os.strerror(number)}")
    return report


def behaves(guest: Guest, saved: Saved) -> str:
    """Why a restored guest does not behave; empty if it does.

    Its clock must be the host's, each CPU must run programs, time must pass, its randomness must differ from
    the saved guest's, and it must accept another connection.

    :raises Lost: it went away meanwhile.
    """
    return _clock(guest) or _cpus(guest) or _timers(guest) or _randomness(guest, saved) or _connects(guest)


def _clock(guest: Guest) -> str:
    date = guest.run(["/bin/date", "-u", "+%s"], limit_s=30 * guest.factor).stdout.strip()
    if not date.isdigit():
        return f"its date is {date[:40]!r}"
    # whole seconds only
    off = time.time() - int(date) - 0.5
    return f"its clock is {off:+.1f} s off" if abs(off) > 0.5 + CLOCK_S * guest.factor else ""


def _cpus(guest: Guest) -> str:
    online = guest.read("/sys/devices/system/cpu/online").strip().decode("ascii", "replace")
    expected = f"0-{guest.spec.smp - 1}" if guest.spec.smp > 1 else "0"
    if online != expected:
        return f"CPUs {expected} were saved, {online[:40]} are online"
    for number in range(guest.spec.smp):
        ran = guest.run(["/bin/sh", "-c", _SPIN], limit_s=30 * guest.factor, options=("--cpus", str(number)))
        if not ran.ok or ran.facts.cpus != str(number):
            return f"CPU {number} does not run programs"
    return ""


def _timers(guest: Guest) -> str:
    # on a busy host a single sleep may be too long
    for _ in range(_SLEEPS):
        if not (trouble := _sleeps(guest)):
            break
    return trouble


def _sleeps(guest: Guest) -> str:
    before = time.monotonic()
    ran = guest.run(["/bin/sleep", "0.3"], limit_s=30 * guest.factor)
    took = (time.monotonic() - before) * 1000
    if not ran.ok:
        return "it does not sleep"
    # the guest's time cannot exceed the host's, which includes the connection
    if not 300 <= ran.facts.wall_ms <= 1.1 * took:
        return f"0.3 s of sleep are {ran.facts.wall_ms} ms on its clock, {took:.0f} ms on the host's"
    return ""


def _randomness(guest: Guest, saved: Saved) -> str:
    draw = _draw(guest)
    if len(draw) != len(saved.draw) or not draw:
        return f"it draws {draw[:40]!r} as random"
    return "its randomness is the saved guest's" if draw == saved.draw else ""


def _connects(guest: Guest) -> str:
    hang_up(guest)
    guest.connect(DEADLINES.ssh * guest.factor)
    return "" if guest.run(["/bin/true"], limit_s=30 * guest.factor).ok else "it runs nothing any more"


def key(spec: GuestSpec, accel: str, *, kernel: str, image: str) -> str:
    """The key for which a proof that restored guests behave is valid.

    :param kernel: the kernel's key in the store, or its image's digest.
    :param image: digest of the guest image.
    """
    host = os.uname().release if accel == "kvm" else ""
    machine = (spec.arch, spec.smp, spec.mem_mib, spec.cmdline)
    return digest_of("restore", _WAY, kernel, image, qemu.version(spec.arch), accel, host, machine)


def recall(store: Store, key: str) -> Trust | None:
    """The remembered proof about restored guests of this kind; ``None`` if there is none."""
    try:
        trust = msgspec.json.decode(_memory(store, key).read_bytes(), type=Trust)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    return trust if trust.good else None


def remember(store: Store, key: str, trouble: str) -> Trust:
    """Remember that restored guests of this kind behave; trouble is not remembered, it may be the host's."""
    trust = Trust(good=not trouble, reason=trouble or "a restored guest behaved as it should")
    if trouble:
        return trust
    # without it the next run tries again
    with contextlib.suppress(InfraError):
        write_atomically(_memory(store, key), msgspec.json.encode(trust))
    return trust


def _memory(store: Store, key: str) -> Path:
    return store.root / "restore" / f"{key}.json"
