# SPDX-License-Identifier: GPL-2.0-only
"""Run gdb on a cell's guest, booted again and halted at its first instruction."""

from __future__ import annotations

import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.cell import stack_traces
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.core.process import require
from orchestrator.core.store import Store
from orchestrator.debug.reopen import CellReference, demand_match, machine
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Say
from orchestrator.vm import accel as accelerators
from orchestrator.vm.machine import Guest

#: A session with a debugger may take a working day.
_LIMIT_S = 24 * 3600.0


def program(arch: Arch) -> str:
    """The gdb for an architecture.

    :raises InfraError: it is not installed.
    """
    multiarch = "gdb-multiarch"
    if arch.native:
        try:
            return require("gdb", remedy="")
        except InfraError:
            return require(multiarch, remedy="Install it: apt-get install gdb")
    return require(multiarch, remedy=f"Install it: apt-get install {multiarch}")


def symbols(cell: CellReference, vmlinux: Path | None) -> Path | None:
    """The symbol file for gdb: the user's ``vmlinux``, else one with lines, else the cell's own.

    :raises UserError: ``vmlinux`` is of another kernel; the cell's record cannot be read.
    """
    record = cell.record()
    if vmlinux is not None:
        demand_match(cell, record, vmlinux)
        return vmlinux
    own = cell.root / record.vmlinux
    if not record.vmlinux or not own.is_file():
        return None
    return debug_build.vmlinux_with_lines(own, lambda: None) or own


def command(
    gdb: str, vmlinux: Path | None, socket: Path, words: Sequence[str], *, trusted: bool = False
) -> list[str]:
    """gdb's argv: it loads the symbols, connects, and executes the user's ``words``.

    :param trusted: the user named ``vmlinux``, so the kernel's scripts beside it may run. Those in a run
        directory may not, whatever the user's own gdbinit allows: it may come from somebody else.
    """
    argv = [gdb, "-q"]
    if vmlinux is None or not trusted:
        argv += ["-iex", "set auto-load off"]
    elif vmlinux.with_name("vmlinux-gdb.py").is_file():
        argv += ["-iex", f"add-auto-load-safe-path {vmlinux.parent}"]
    if vmlinux is not None:
        argv.append(str(vmlinux))
    # before the kernel is in 64-bit mode, the stub does not know the machine: vmlinux has to come first
    return [*argv, "-ex", f"target remote {socket}", *words]


def attach(
    cell: CellReference,
    store: Store,
    say: Say,
    *,
    accel: str = "",
    vmlinux: Path | None = None,
    words: Sequence[str] = (),
    only_print: bool = False,
) -> int:
    """Boot a cell's guest halted, and run gdb on it. The guest stops when gdb exits; nothing is kept.

    :param accel: ``kvm`` or ``tcg``; anything else means the accelerator of the cell.
    :param words: further arguments for gdb.
    :param only_print: print gdb's command, and keep the guest until Ctrl-C or its own end.
    :return: gdb's exit status, else 0.
    :raises UserError: ``vmlinux`` is of another kernel. InfraError: no gdb, or QEMU does not start.
    """
    record = cell.record()
    file = symbols(cell, vmlinux)
    with machine(cell, cmdline=["nokaslr"]) as (spec, keys, folder):
        gdb = program(spec.arch)
        if accel not in ("kvm", "tcg"):
            # this host may have no KVM
            accel = "auto" if cell.accelerator() == "kvm" else "tcg"
        accelerator = accelerators.choose(spec.arch, accel, store.root)
        log = folder / "console.log"
        guest = Guest.halted(spec, accel=accelerator.name, keys=keys, log=log, limit_s=_LIMIT_S)
        try:
            argv = command(gdb, file, guest.folder / "gdb", words, trusted=vmlinux is not None)
            say(
                f"the guest of {cell.name} ({record.release}, {accelerator.name}) is halted at its first"
                " instruction"
            )
            say("KASLR is off (nokaslr), so addresses are those of vmlinux. Before the kernel has")
            say("decompressed itself, use hardware breakpoints: hbreak start_kernel, then continue")
            say(f"console: tail -f {shlex.quote(str(log))}")
            if file is None:
                say("no symbols: there is only an image of this kernel; give its vmlinux with --vmlinux FILE")
            elif not debug_build.has_lines(file):
                decode = stack_traces.command(cell.root, cell.name)
                say(f"no line numbers in {file.name}: `{decode}` makes a debug build with them")
            return _wait(guest, argv) if only_print else _run(argv)
        finally:
            guest.close()


def _wait(guest: Guest, argv: Sequence[str]) -> int:
    print(shlex.join(argv), flush=True)
    try:
        while guest.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    return 0


def _run(argv: Sequence[str]) -> int:
    with subprocess.Popen(argv) as child:
        # Ctrl-C is for gdb: it halts the guest. SIGTERM and SIGHUP end gdb
        handlers = {
            signal.SIGINT: lambda *_: None,
            signal.SIGTERM: lambda *_: child.terminate(),
            signal.SIGHUP: lambda *_: child.terminate(),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            return child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
