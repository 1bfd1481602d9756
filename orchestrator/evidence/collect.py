# SPDX-License-Identifier: GPL-2.0-only
"""Asks a guest in which something hangs, before anything is killed: stacks, CPUs, locks, its memory.

All steps together have one time limit. A step that fails leaves a line and not more: the verdict is that of
the deadline, whatever becomes of the evidence.
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
#: What sysrq is asked for, in this order; with lockdep, all tasks come with their locks. A guest that was
#: told to be quiet shows none of it otherwise.
_KEYS = {
    "7": "messages of all levels",
    "l": "all CPUs",
    "w": "tasks that sleep uninterruptibly",
    "t": "all tasks",
}


class HangReport(msgspec.Struct, frozen=True):
    """What was learned of something that hangs.

    ``reason`` is one line, empty where nothing is known; ``detail`` names the files with the evidence.
    """

    reason: str = ""
    detail: str = ""


class HangProbe(msgspec.Struct, frozen=True):
    """Examines a guest in which a program, given by its name, hangs; it takes ``limit_s`` seconds at most.

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
    """Keep what can be known of a hang in ``folder`` and say it; trouble of guest or disk is only noted.

    ``<program>.hang.txt`` has the texts, ``<program>.vmcore`` the memory.

    :param root: what the files are named relative to.
    :param dump: whether the memory is kept as well.
    :param debug: finds an ELF file with this kernel's types, by which drgn reads the locks of what is stuck.
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

    def left(self, most_s: float = BOX_MOST_S) -> float:
        """Seconds for the next step; at least one, so that what is quick is tried."""
        return max(1.0, min(most_s * max(1.0, self.guest.factor), self.until - time.monotonic()))

    def all(self, dump: bool, debug: Callable[[], Path | None]) -> HangReport:
        answers = self._step("tasks over SSH", self._ask_tasks)
        with self.watch.ours():
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
        said = hang.explain(tasks, holders, arch=self.guest.spec.arch)
        reason = "; ".join(word for word in (said, self.locks) if word)
        self._write(reason)
        return HangReport(reason, "\n".join(self.notes))

    def _step(self, name: str, step: Callable[[], object]) -> bool:
        """Whether a step did what it should; else a note says why it did not."""
        if time.monotonic() > self.until:
            self.notes.append(f"{name}: no time left")
            return False
        try:
            step()
        # whatever goes wrong with evidence, a mistake of ours as well: it must not cost the verdict
        except Exception as error:
            why = error.message if isinstance(error, InfraError) else f"{type(error).__name__}: {error}"
            self.notes.append(f"{name}: {one_line(why)}")
            return False
        return True

    def _ask_tasks(self) -> None:
        said = self.guest.ssh.raw(f"{LOOKER} --tasks", limit_s=self.left(_ASK_S), gone=self.guest.death)
        text = clean(said)
        if "@ tasks" not in text:
            raise InfraError("the guest shows none")
        self.tasks = health.parse_tasks(text)
        self.parts.append(f"--- processes, each thread with its kernel stack ---\n{text}")

    def _sysrq(self, answers: bool) -> None:
        start = self.guest.console.seen
        try:
            for key, what in _KEYS.items():
                self._press(key, answers)
                self.guest.console.settle(_QUIET_S, self.left(_KEY_S))
                if self.guest.console.seen == start:
                    raise InfraError(f"the kernel does not answer on its console when asked for {what}")
        finally:
            # what came before it went wrong is kept
            self.console = clean(self.guest.console.since(start, _CONSOLE_MOST))
            if self.console.strip():
                self.parts.append(f"--- the console: sysrq {', '.join(_KEYS)} ---\n{self.console}")

    def _press(self, key: str, answers: bool) -> None:
        if answers:
            command = f"echo {key} > /proc/sysrq-trigger"
            self.guest.ssh.raw(command, limit_s=self.left(_KEY_S), gone=self.guest.death)
            return
        # a BREAK on the serial line is heard as long as one CPU takes interrupts
        with self.guest.within(self.left(_ASK_S)):
            self.guest.qmp("chardev-send-break", id="console")
        time.sleep(0.1)
        self.guest.console.send(key.encode())

    def _registers(self) -> None:
        with self.guest.within(self.left(_ASK_S)):
            said = self.guest.qmp("human-monitor-command", **{"command-line": "info registers -a"})
        self.parts.append(f"--- registers of all CPUs ---\n{clean(str(said).encode())}")

    def _locks(self, pids: Sequence[int], debug: Path | None) -> None:
        """What only the memory tells of VMA locks: which one, and how many have it."""
        if debug is None:
            raise InfraError("they need debug information of this kernel")
        guest = self.guest
        said = guest.ssh.raw("grep ' init_task$' /proc/kallsyms", limit_s=self.left(_ASK_S), gone=guest.death)
        address = int(said.split()[0], 16) if said.split() else 0
        if not address:
            raise InfraError("the guest does not tell where its tasks are")
        piece = guest.folder / "piece"

        def read(at: int, size: int) -> bytes:
            if time.monotonic() > self.until:
                raise InfraError("no time left")
            # QMP's integers have a sign
            guest.qmp("memsave", **{"val": at - (at >> 63 << 64), "size": size, "filename": str(piece)})
            return piece.read_bytes()

        with guest.within(self.left(_ASK_S)):
            guest.qmp("stop")
            try:
                found = vma_locks.spaces(read, address, debug, pids, arch=guest.spec.arch)
            finally:
                guest.qmp("cont")
        self.locks = vma_locks.explain(found, hang.explain(self.tasks))
        self.parts.append(f"--- locks in memory, by drgn ---\n{vma_locks.table(found)}")

    def _dump(self) -> None:
        need = self.guest.spec.mem_mib
        if need > CORE_MOST_MIB:
            raise InfraError(f"{need} MiB of memory, and {CORE_MOST_MIB} are the most that is kept")
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
        with self.core.open("w+b") as stream, guest.within(self.left()):
            formats = guest.qmp("query-dump-guest-memory-capability")["formats"]
            guest.send_fd("core", stream.fileno())
            arguments = {"paging": False, "protocol": "fd:core", "detach": True}
            chosen = {"format": "kdump-zlib"} if "kdump-zlib" in formats else {}
            guest.qmp("dump-guest-memory", **arguments, **chosen)
            while True:
                said = guest.qmp("query-dump")
                if said["status"] == "completed":
                    os.fsync(stream.fileno())
                    return
                if said["status"] == "failed":
                    raise InfraError("QEMU could not write it: is the disk full?")
                if time.monotonic() > self.until + self.left():
                    raise InfraError("it did not end in time")
                time.sleep(0.05)

    def _write(self, reason: str) -> None:
        head = [reason or "nothing is known of what it waits for", *self.notes]
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
