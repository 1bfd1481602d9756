# SPDX-License-Identifier: GPL-2.0-only
"""Open a shell in a guest: build, boot and prove the kernel as for a cell, then connect the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import sys
import tempfile
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import paramiko

from orchestrator.cell import reproduce
from orchestrator.cell.boot import boot
from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.cell.kernel import make_kernel
from orchestrator.cell.machine import build_suites, guest_spec
from orchestrator.cell.state import CellState, NotApplicable
from orchestrator.core.errors import InfraError, KernelError, UserError
from orchestrator.core.store import Store
from orchestrator.debug import reopen
from orchestrator.debug.reopen import CellReference
from orchestrator.kernel.kconfig import WITH
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices
from orchestrator.results.model import Blame, Verdict
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite
from orchestrator.vm.machine import Guest

Say = Callable[[str], None]

#: Console lines to show of a guest that died.
_TAIL = 60


def open_shell(choices: Choices, store: Store, say: Say, *, fixed_variant: bool) -> int:
    """Boot one kernel, verify its identity, and connect the terminal to a shell in the guest.

    The shell reads standard input, also if that is not a terminal.

    :param fixed_variant: whether the user named the variant; else a prebuilt kernel may have any.
    :return: the shell's exit status.
    :raises UserError: more than one kernel is selected, or one that does not exist.
    :raises KernelError: it does not build or come up; InfraError: the host's fault.
    """
    if len(choices.variants) > 1 and fixed_variant:
        raise UserError("a shell needs exactly one kernel", remedy="Name one --variant.")
    if not fixed_variant:
        choices = msgspec.structs.replace(choices, variants=(WITH,))
    targets = prepare.targets(choices, store, say)
    suites = (catalog.command(["true"], [Path(p) for p in choices.put]),) if choices.put else ()
    plan = prepare.plan(choices, targets, suites)
    if len(plan.cells) != 1:
        raise UserError("a shell needs exactly one kernel", remedy="Name one --source and one --arch.")
    with tempfile.TemporaryDirectory(prefix="orc-shell-") as root:
        inputs = prepare.inputs(choices, targets, suites, store, say)
        job = CellJob.of(plan.cells[0], inputs, {}, lambda _arch, _variant: None)
        cell = CellState(job, Host.here(store, Path(root)), lambda _, text: say(text))
        with _guest(suites, cell, fixed_variant=fixed_variant) as guest:
            return interact(guest, suite_build.guest_folder(suites[0]) if suites else "")


def open_again(cell: CellReference, store: Store, say: Say, *, accel: str) -> int:
    """Boot the guest of an earlier cell, and connect the terminal to a shell in the folder of its programs.

    :param accel: ``auto``, ``kvm`` or ``tcg``.
    :return: the shell's exit status.
    :raises UserError: the cell had no guest; KernelError: it does not come up; InfraError: the host's fault.
    """
    programs = cell.record().programs
    with reopen.booted(cell, store, say, accel=accel) as guest:
        say(f"programs: {' '.join(program.id for program in programs)}")
        say(f"their command lines: sh {shlex.quote(str(cell.folder / reproduce.NAME))} --list")
        return interact(guest, programs[0].folder if programs else "")


@contextlib.contextmanager
def _guest(suites: Sequence[Suite], cell: CellState, *, fixed_variant: bool) -> Iterator[Guest]:
    cell.folder.mkdir(parents=True)
    guest = None
    try:
        kernel = make_kernel(cell)
        if kernel is not None:
            spec = guest_spec(cell, kernel, suites, build_suites(cell, suites))
            try:
                guest = boot(cell, kernel, spec)
            except NotApplicable:
                if fixed_variant:
                    raise
                # the variant of a prebuilt kernel is known only now
                cell.plan = msgspec.structs.replace(cell.plan, variant=cell.prebuilt_variant)
                guest = boot(cell, kernel, spec)
    except NotApplicable as error:
        raise UserError(error.message) from None
    if guest is None:
        bad = next(case for case in cell.cases if case.verdict is not Verdict.PASS)
        kind = KernelError if bad.blame is Blame.KERNEL else InfraError
        raise kind(f"{bad.id}: {bad.reason}", remedy=bad.detail)
    try:
        yield guest
    finally:
        guest.close()


def interact(guest: Guest, folder: str = "") -> int:
    """Connect standard input and output to a shell in the guest until it exits.

    :param folder: the shell's working directory in the guest, which is first in its PATH.
    :return: its exit status; 1 with a message if the guest died.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    channel = guest.ssh.shell(_size() if terminal else None, folder)
    with _raw() if terminal else contextlib.nullcontext():
        if terminal:
            signal.signal(signal.SIGWINCH, lambda *_: channel.resize_pty(*_size()))
        try:
            _pump(channel, guest)
        finally:
            if terminal:
                signal.signal(signal.SIGWINCH, signal.SIG_DFL)
    # a channel that was closed without a status returns -1
    status = channel.recv_exit_status() if channel.exit_status_ready() else -1
    if status >= 0:
        return status
    print(f"orchestrate: {guest.ending() or 'the connection was lost'}", file=sys.stderr)
    for line in guest.console.tail(_TAIL) if guest.panicked else ():
        print(f"    {line}", file=sys.stderr)
    return 1


def _pump(channel: paramiko.Channel, guest: Guest) -> None:
    reading = [channel.fileno(), sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select(reading, [], [], 0.2)
        if sys.stdin.fileno() in ready:
            keys = os.read(sys.stdin.fileno(), 4096)
            if keys:
                channel.sendall(keys)
            else:
                reading.remove(sys.stdin.fileno())
                channel.shutdown_write()
        moved = False
        for available, receive, out in (
            (channel.recv_ready, channel.recv, sys.stdout.buffer),
            (channel.recv_stderr_ready, channel.recv_stderr, sys.stderr.buffer),
        ):
            while available():
                moved = True
                out.write(receive(65536))
                out.flush()
        if moved:
            continue
        if channel.exit_status_ready() or channel.closed or guest.death():
            return


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.columns, size.lines


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
