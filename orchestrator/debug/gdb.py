# SPDX-License-Identifier: GPL-2.0-only
"""gdb on a cell's guest, which is booted again and halted before its first instruction."""

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
from orchestrator.debug.reopen import Found, demand_match, machine
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Say
from orchestrator.vm import accel
from orchestrator.vm.machine import Guest

#: A session with a debugger may take a working day.
_LIMIT_S = 24 * 3600.0


def program(arch: Arch) -> str:
    """The gdb that knows an architecture.

    :raises InfraError: it is not installed.
    """
    multiarch = "gdb-multiarch"
    if arch.native:
        try:
            return require("gdb", remedy="")
        except InfraError:
            return require(multiarch, remedy="Install it: apt-get install gdb")
    return require(multiarch, remedy=f"Install it: apt-get install {multiarch}")


def symbols(found: Found, given: Path | None) -> Path | None:
    """The file that gdb takes symbols from: the user's, else one with lines, else the cell's own vmlinux.

    :raises UserError: the user's is of another kernel; the cell's cannot be read.
    """
    record = found.record()
    if given is not None:
        demand_match(found, record, given)
        return given
    own = found.root / record.vmlinux
    if not record.vmlinux or not own.is_file():
        return None
    return debug_build.vmlinux_with_lines(own, lambda: None) or own


def command(gdb: str, vmlinux: Path | None, socket: Path, words: Sequence[str]) -> list[str]:
    """What starts gdb: it loads the symbols, connects, and then does what the user's ``words`` say."""
    argv = [gdb, "-q"]
    if vmlinux is not None:
        scripts = vmlinux.with_name("vmlinux-gdb.py")
        trusted = ["-iex", f"add-auto-load-safe-path {vmlinux.parent}"] if scripts.is_file() else []
        argv += [*trusted, str(vmlinux)]
    # what a vmlinux says of the machine, the stub does not know before the kernel is in 64-bit mode
    return [*argv, "-ex", f"target remote {socket}", *words]


def attach(
    found: Found,
    store: Store,
    say: Say,
    *,
    asked: str = "",
    vmlinux: Path | None = None,
    words: Sequence[str] = (),
    only_print: bool = False,
) -> int:
    """Boot a cell's guest halted, and have gdb run on it until it ends; nothing of both stays.

    :param asked: ``kvm`` or ``tcg``; anything else means the accelerator that the cell had.
    :param words: further words for gdb.
    :param only_print: print gdb's command, and keep the guest until Ctrl-C or its own end.
    :return: gdb's exit status, else 0.
    :raises UserError: ``vmlinux`` is of another kernel. InfraError: no gdb, or QEMU does not start.
    """
    record = found.record()
    file = symbols(found, vmlinux)
    with machine(found, cmdline=["nokaslr"]) as (spec, keys, folder):
        gdb = program(spec.arch)
        if asked not in ("kvm", "tcg"):
            # this host may be another one
            asked = "auto" if found.accelerator() == "kvm" else "tcg"
        chosen = accel.choose(spec.arch, asked, store.root)
        log = folder / "console.log"
        guest = Guest.halted(spec, accel=chosen.name, keys=keys, log=log, limit_s=_LIMIT_S)
        try:
            argv = command(gdb, file, guest.folder / "gdb", words)
            say(f"the guest of {found.cell} ({record.release}, {chosen.name}) waits at its first instruction")
            say("KASLR is off (nokaslr), so that addresses are those of vmlinux. Until the kernel has")
            say("unpacked itself only hardware breakpoints hold: hbreak start_kernel, then continue")
            say(f"console: tail -f {shlex.quote(str(log))}")
            if file is None:
                say("no symbols: this kernel came as an image alone; --vmlinux FILE brings them")
            elif not debug_build.has_lines(file):
                decode = stack_traces.command(found.root, found.cell)
                say(f"no line numbers in {file.name}: `{decode}` makes a debug build and keeps it")
            return _keep(guest, argv) if only_print else _run(argv)
        finally:
            guest.close()


def _keep(guest: Guest, argv: Sequence[str]) -> int:
    print(shlex.join(argv), flush=True)
    try:
        while guest.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    return 0


def _run(argv: Sequence[str]) -> int:
    with subprocess.Popen(argv) as child:
        # Ctrl-C is gdb's: it halts the guest. What asks us to end, ends gdb
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
