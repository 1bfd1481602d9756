# SPDX-License-Identifier: GPL-2.0-only
"""Collect evidence of a hang before anything is killed: stacks, CPUs, locks, memory.

All steps together have one time limit. A failed step only adds a line: evidence never changes the verdict.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError
from orchestrator.core.text import clean, one_line
from orchestrator.evidence import hang, health, vma_locks
from orchestrator.evidence.health import Task
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.vm.machine import Guest
from orchestrator.vm.rootfs.overlay import LOOKER

#: Seconds for all the evidence of one hang, on a machine of reference speed, and on any.
BOX_S = 30.0
BOX_MOST_S = 120.0
#: Guests with more memory than this are not dumped, and none on a disk with less room besides the dump.
CORE_MOST_MIB = 4096
SPARE_MIB = 512
_ASK_S = 5.0
_QUIET_S = 0.5
_KEY_S = 8.0
#: Bytes of the console that one request may bring.
_CONSOLE_MOST = 4 << 20
#: The sysrq keys, in this order. With lockdep, tasks are shown with their locks. The first key raises the
#: console's log level.
_KEYS = {
    "7": "messages of all levels",
    "l": "all CPUs",
    "w": "tasks that sleep uninterruptibly",
    "t": "all tasks",
}


class HangReport(msgspec.Struct, frozen=True):
    """The evidence of a hang.

    ``reason`` is one line, empty if unknown; ``detail`` names the files with the evidence. ``server`` says
    what happened to the guest's SSH server, if something did and the kernel still tells. ``place`` is the
    kernel function in which the first task that hangs waits.
    """

    reason: str = ""
    detail: str = ""
    server: str = ""
    place: str = ""


class HangProbe(msgspec.Struct, frozen=True):
    """Examines a guest in which a program, by its name, hangs; it takes ``limit_s`` seconds at most.

    It must not raise, and changes no verdict.
    """

    examine: Callable[[Guest, str], HangReport]
    limit_s: float


def limit_s(guest_factor: float) -> float:
    """Seconds that the evidence of one hang may take in a guest that is this much slower."""
    return min(BOX_S * max(1.0, guest_factor), BOX_MOST_S)


def examine(
    guest: Guest,
    program: str,
    *,
    folder: Path,
    root: Path,
    watch: ConsoleWatch,
    dump: bool,
    debug: Callable[[], Path | None] = lambda: None,
) -> HangReport:
    """Write the evidence of a hang to ``folder``, and explain it; trouble of guest or disk is only noted.

    ``<program>.hang.txt`` has the texts, ``<program>.vmcore`` the memory.

    :param root: the folder to which the names of files are relative.
    :param dump: whether to dump the memory as well.
    :param debug: finds an ELF file with this kernel's types, with which drgn reads the locks of stuck tasks.
    """
    return _Gatherer(guest, program, folder, root, watch).all(dump, debug)


class _Gatherer:
    def __init__(self, guest: Guest, program: str, folder: Path, root: Path, watch: ConsoleWatch) -> None:
        self.guest, self.watch, self.root = guest, watch, root
        self.text, self.core = folder / f"{program}.hang.txt", folder / f"{program}.vmcore"
        self.until = time.monotonic() + limit_s(guest.factor)
        self.notes: list[str] = []
        self.parts: list[str] = []
        self.tasks: tuple[Task, ...] = ()
        self.console = ""
        self.locks = ""

    def remaining_s(self, most_s: float = BOX_MOST_S) -> float:
        """Seconds for the next step; at least one, so that quick steps are tried."""
        return max(1.0, min(most_s * max(1.0, self.guest.factor), self.until - time.monotonic()))

    def all(self, dump: bool, debug: Callable[[], Path | None]) -> HangReport:
        answers = self._step("tasks over SSH", self._ask_tasks)
        with self.watch.ignoring():
            self._step("sysrq", lambda: self._sysrq(answers))
        if not self.console.strip():
            self._step("registers", self._registers)
        tasks = self.tasks or hang.parse_console(self.console)
        stuck = sorted({task.pid for task in tasks if hang.waits_for(task)})
        if stuck:
            self._step("locks in memory", lambda: self._locks(stuck, debug()))
        if dump:
            self._step("memory dump", self._dump)
        holders = hang.parse_holders(self.console)
        explanation = hang.explain(tasks, holders, arch=self.guest.spec.arch, only_blocked=not self.tasks)
        reason = "; ".join(word for word in (explanation, self.locks) if word)
        self._write(reason)
        return HangReport(
            reason, "\n".join(self.notes), server=hang.server_state(tasks), place=hang.place(tasks)
        )

    def _step(self, name: str, step: Callable[[], object]) -> bool:
        """Run a step; whether it succeeded. A failure becomes a note."""
        if time.monotonic() > self.until:
            self.notes.append(f"{name}: no time left")
            return False
        try:
            step()
        # no failure here, not even a bug, may change the verdict
        except Exception as error:
            why = error.message if isinstance(error, InfraError) else f"{type(error).__name__}: {error}"
            self.notes.append(f"{name}: {one_line(why)}")
            return False
        return True

    def _ask_tasks(self) -> None:
        output = self.guest.ssh.raw(
            f"{LOOKER} --tasks", limit_s=self.remaining_s(_ASK_S), death=self.guest.death
        )
        text = clean(output)
        if "@ tasks" not in text:
            raise InfraError("the guest shows none")
        self.tasks = health.parse_tasks(text)
        self.parts.append(f"--- processes, each thread with its kernel stack ---\n{text}")

    def _sysrq(self, answers: bool) -> None:
        start = self.guest.console.position
        try:
            for key, what in _KEYS.items():
                self._press(key, answers)
                self.guest.console.settle(_QUIET_S, self.remaining_s(_KEY_S))
                if self.guest.console.position == start:
                    raise InfraError(f"the kernel does not show {what} on its console")
        finally:
            # also after a failure
            self.console = clean(self.guest.console.since(start, _CONSOLE_MOST))
            if self.console.strip():
                self.parts.append(f"--- the console: sysrq {', '.join(_KEYS)} ---\n{self.console}")

    def _press(self, key: str, answers: bool) -> None:
        if answers:
            command = f"echo {key} > /proc/sysrq-trigger"
            self.guest.ssh.raw(command, limit_s=self.remaining_s(_KEY_S), death=self.guest.death)
            return
        # a BREAK on the serial line works as long as one CPU takes interrupts
        with self.guest.within(self.remaining_s(_ASK_S)):
            self.guest.qmp("chardev-send-break", id="console")
        time.sleep(0.1)
        self.guest.console.send(key.encode())

    def _registers(self) -> None:
        with self.guest.within(self.remaining_s(_ASK_S)):
            registers = self.guest.qmp("human-monitor-command", **{"command-line": "info registers -a"})
        self.parts.append(f"--- registers of all CPUs ---\n{clean(str(registers).encode())}")

    def _locks(self, pids: Sequence[int], debug: Path | None) -> None:
        """Facts about VMA locks that only the memory has: which VMA, and how many readers."""
        if debug is None:
            raise InfraError("they need debug information of this kernel")
        guest = self.guest
        output = guest.ssh.raw(
            "grep ' init_task$' /proc/kallsyms", limit_s=self.remaining_s(_ASK_S), death=guest.death
        )
        address = int(output.split()[0], 16) if output.split() else 0
        if not address:
            raise InfraError("the guest does not show the address of init_task")
        piece = guest.folder / "piece"

        def read(at: int, size: int) -> bytes:
            if time.monotonic() > self.until:
                raise InfraError("no time left")
            # QMP's integers have a sign
            guest.qmp("memsave", **{"val": at - (at >> 63 << 64), "size": size, "filename": str(piece)})
            return piece.read_bytes()

        with guest.within(self.remaining_s(_ASK_S)):
            guest.qmp("stop")
            try:
                address_spaces = vma_locks.spaces(read, address, debug, pids, arch=guest.spec.arch)
            finally:
                guest.qmp("cont")
        self.locks = vma_locks.explain(address_spaces, hang.explain(self.tasks))
        self.parts.append(f"--- locks in memory, by drgn ---\n{vma_locks.table(address_spaces)}")

    def _dump(self) -> None:
        need = self.guest.spec.mem_mib
        if need > CORE_MOST_MIB:
            raise InfraError(f"{need} MiB of memory, and the limit of a dump is {CORE_MOST_MIB}")
        free = shutil.disk_usage(self.core.parent).free >> 20
        if free < need + SPARE_MIB:
            raise InfraError(f"not kept: {free} MiB free where it may need {need} and leave {SPARE_MIB}")
        try:
            self._write_core()
        except BaseException:
            self.core.unlink(missing_ok=True)
            raise
        size = self.core.stat().st_size
        self.notes.append(f"memory: {self._relative(self.core)} ({size >> 20} MiB, kdump or ELF)")

    def _write_core(self) -> None:
        guest = self.guest
        # the guest's memory has the keys of the run
        core = os.open(self.core, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(core, "w+b") as stream, guest.within(self.remaining_s()):
            os.fchmod(stream.fileno(), 0o600)
            formats = guest.qmp("query-dump-guest-memory-capability")["formats"]
            guest.send_fd("core", stream.fileno())
            arguments = {"paging": False, "protocol": "fd:core", "detach": True}
            format_ = {"format": "kdump-zlib"} if "kdump-zlib" in formats else {}
            guest.qmp("dump-guest-memory", **arguments, **format_)
            while True:
                status = guest.qmp("query-dump")
                if status["status"] == "completed":
                    os.fsync(stream.fileno())
                    return
                if status["status"] == "failed":
                    raise InfraError("QEMU could not write it: is the disk full?")
                if time.monotonic() > self.until + self.remaining_s():
                    raise InfraError("it did not end in time")
                time.sleep(0.05)

    def _write(self, reason: str) -> None:
        head = [reason or "it is unknown what it waits for", *self.notes]
        body = "\n".join(head) + "\n\n" + "\n\n".join(self.parts) + "\n"
        try:
            self.text.write_text(body, encoding="utf-8", errors="replace")
        except OSError as error:
            with contextlib.suppress(OSError):
                self.text.write_text("\n".join(head) + "\n", encoding="utf-8", errors="replace")
            self.notes.append(f"{self.text.name}: not written whole: {error.strerror}")
        self.notes.insert(0, f"evidence: {self._relative(self.text)}")

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))
