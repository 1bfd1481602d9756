# SPDX-License-Identifier: GPL-2.0-only
"""What breaks a kernel, on which kernels, and what has to be said of it: the tables of test_crashes.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paths
from under_test import LINUX_7_2

from orchestrator.core import arch as arches
from orchestrator.results.model import Verdict
from orchestrator.splat.kinds import Class

DATA = paths.DATA / "crashes"
ARCHES = tuple(sorted(arches.usual(), reverse=True))

#: Files in the guest by whose writing a kernel is broken, and where the code behind them is.
LKDTM, PROVOKE, SYSRQ = "/sys/kernel/debug/provoke-crash/DIRECT", "/proc/provoke", "/proc/sysrq-trigger"
PLACES = {LKDTM: r"drivers/misc/lkdtm/\w+\.c:\d+", PROVOKE: r"fs/proc/provoke\.c:\d+"}
#: Detectors made quick, so that a guest need not be watched for minutes.
DOG, HUNG = "/proc/sys/kernel/watchdog_thresh", "/proc/sys/kernel/hung_task_timeout_secs"
RCU = "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
KFENCE = "/sys/module/kfence/parameters/sample_interval"
#: For a program that never comes back.
SHORT_S = 20.0


@dataclass(frozen=True)
class Crash:
    """What is done, and what has to be said of it.

    ``title`` and ``function`` are patterns; ``place`` is that of the line in the decoded trace, empty where
    the kernel prints no trace of what did it. ``source`` is compiled in place of the script.
    """

    name: str
    file: str
    word: str
    category: Class
    title: str
    function: str
    settings: tuple[str, ...] = ()
    place: str | None = None
    verdict: Verdict = Verdict.CRASH
    arches: Sequence[str] = ARCHES
    timeout_s: float = 0.0
    source: str = ""

    @property
    def where(self) -> str:
        """Pattern of the line in the source that the decoded trace has to name."""
        return PLACES.get(self.file, "") if self.place is None else self.place


def _lkdtm(word: str, category: Class, title: str, function: str = "", **more: object) -> Crash:
    name = word.lower().replace("_", "-")
    return Crash(name, LKDTM, word, category, title, function or f"lkdtm_{word}", **more)  # type: ignore[arg-type]


def _own(word: str, category: Class, title: str, function: str = "", **more: object) -> Crash:
    name = word.replace("_", "-")
    return Crash(name, PROVOKE, word, category, title, function or f"provoke_{word}", **more)  # type: ignore[arg-type]


_PAGING = "BUG: unable to handle kernel paging request"
#: What is below the system call: of a stall, and of a stack that is used up, any other function is chance.
_ENTRY = "direct_entry"
#: Where the last call of a function is a jump, it is in no trace.
_FREES_LAST = "lkdtm_(?:{}|do_action)"
X86 = ("x86_64",)

#: On the kernel with LKDTM and every detector that slows nothing down.
WATCHFUL = (
    _lkdtm("BUG", Class.BUG, "kernel BUG"),
    _lkdtm("BUG_IN_HARDIRQ", Class.BUG, "kernel BUG", "bug_in_hardirq"),
    _lkdtm("WARNING", Class.WARNING, "WARNING"),
    _lkdtm("WARNING_MESSAGE", Class.WARNING, "WARNING"),
    _lkdtm("PANIC", Class.PANIC, "kernel panic: dumptest"),
    _lkdtm("PANIC_IN_HARDIRQ", Class.PANIC, "kernel panic: from hard IRQ context", "panic_in_hardirq"),
    _lkdtm("EXCEPTION", Class.OOPS, "BUG: unable to handle kernel NULL pointer dereference"),
    _lkdtm("ACCESS_NULL", Class.OOPS, "BUG: unable to handle kernel NULL pointer dereference"),
    _lkdtm("ACCESS_USERSPACE", Class.OOPS, _PAGING),
    _lkdtm("WRITE_RO", Class.OOPS, _PAGING),
    _lkdtm("WRITE_KERN", Class.OOPS, _PAGING),
    _lkdtm("EXEC_DATA", Class.OOPS, _PAGING, "execute_location"),
    _lkdtm(
        "EXEC_NULL", Class.OOPS, "BUG: unable to handle kernel NULL pointer dereference", "execute_location"
    ),
    _lkdtm("EXEC_USERSPACE", Class.OOPS, _PAGING, "execute_user_location|lkdtm_EXEC_USERSPACE"),
    _lkdtm("EXHAUST_STACK", Class.OOPS, "BUG: stack guard page was hit", _ENTRY),
    # on arm64 it is a page like any other that is not there
    _lkdtm("STACK_GUARD_PAGE_LEADING", Class.OOPS, "BUG: stack guard page was hit", _ENTRY, arches=X86),
    _lkdtm("VMALLOC_LINEAR_OVERFLOW", Class.OOPS, _PAGING),
    _lkdtm("CORRUPT_STACK", Class.PANIC, "kernel panic: stack is corrupted"),
    _lkdtm("CORRUPT_LIST_ADD", Class.BUG, "corrupted list"),
    _lkdtm("CORRUPT_LIST_DEL", Class.BUG, "corrupted list"),
    _lkdtm("ARRAY_BOUNDS", Class.UBSAN, "UBSAN: array-index-out-of-bounds"),
    _lkdtm("FORTIFY_MEM_OBJECT", Class.WARNING, "WARNING"),
    _lkdtm("USERCOPY_KERNEL", Class.BUG, "BUG: bad usercopy"),
    _lkdtm("USERCOPY_STACK_BEYOND", Class.BUG, "BUG: bad usercopy", "do_usercopy_stack"),
    _lkdtm("WRITE_AFTER_FREE", Class.BUG, "BUG: slab: Poison overwritten"),
    _lkdtm("SLAB_LINEAR_OVERFLOW", Class.BUG, "BUG: slab: Right Redzone overwritten"),
    _lkdtm("SLAB_FREE_DOUBLE", Class.BUG, "BUG: slab: Slab has", _FREES_LAST.format("SLAB_FREE_DOUBLE")),
    _lkdtm("SLAB_FREE_CROSS", Class.WARNING, "WARNING", _FREES_LAST.format("SLAB_FREE_CROSS")),
    _lkdtm("KFENCE_READ_AFTER_FREE", Class.KFENCE, "KFENCE: use-after-free", settings=(f"{KFENCE}=10",)),
    _lkdtm("REFCOUNT_INC_ZERO", Class.WARNING, "refcount bug: addition on N"),
    _lkdtm("REFCOUNT_DEC_AND_TEST_NEGATIVE", Class.WARNING, "refcount bug: underflow"),
    _lkdtm("REFCOUNT_INC_OVERFLOW", Class.WARNING, "refcount bug: saturated"),
    _lkdtm(
        "SOFTLOCKUP", Class.LOCKUP, "BUG: soft lockup", _ENTRY, settings=(f"{DOG}=2",), timeout_s=SHORT_S
    ),
    # arm64 without pseudo-NMIs cannot ask a CPU that has its interrupts off
    _lkdtm(
        "HARDLOCKUP", Class.LOCKUP, "hard LOCKUP", _ENTRY, settings=(f"{DOG}=2",), timeout_s=SHORT_S,
        arches=X86,
    ),
    _lkdtm("HUNG_TASK", Class.HUNG, "INFO: task hung", settings=(f"{HUNG}=2",), timeout_s=SHORT_S),
    _own(
        "stalls_rcu", Class.RCU, "INFO: rcu detected stall", "provoke_write",
        settings=(f"{DOG}=0", f"{RCU}=3"),
    ),
    _own("sleeps_in_atomic", Class.BUG, "BUG: sleeping function called from invalid context"),
    _own("schedules_in_atomic", Class.BUG, "BUG: scheduling while atomic"),
    _own("spin_unlocks_twice", Class.BUG, "BUG: spinlock already unlocked"),
    _own("frees_timer", Class.WARNING, "WARNING: ODEBUG bug"),
    _own("shifts_too_far", Class.UBSAN, "UBSAN: shift-out-of-bounds"),
    _own("non_canonical", Class.OOPS, "general protection fault", arches=X86),
    _own("divides_by_zero", Class.OOPS, "divide error", arches=X86),
    # the line says which function is to blame, and nothing else
    Crash(
        "buggy-next", "", f"cat {PROVOKE}", Class.BUG, "seq_file: buggy .next function", "provoke_next",
        place="",
    ),
    # and this one not even that; an idle CPU keeps the address space until it runs another program
    Crash(
        "wrong-rss", "",
        f"( echo wrong_rss >{PROVOKE} )\nfor n in 1 2 3 4 5 6 7 8; do sleep 0.2 & done\nwait\nsleep 1",
        Class.BUG, "BUG: Bad rss-counter", "^$", place="",
    ),
    Crash(
        "sysrq-c", SYSRQ, "c", Class.PANIC, "kernel panic: sysrq triggered crash", "sysrq_handle_crash",
        place=r"drivers/tty/sysrq\.c:\d+", verdict=Verdict.FAIL,
    ),
    # what only shows that the guest was too small is not the kernel's fault
    Crash(
        "out-of-memory", "", "", Class.OTHER, "out of memory", "^$", place="", source="eats.c",
        verdict=Verdict.INCONCLUSIVE,
    ),
)  # fmt: skip

_DEADLOCK = "possible deadlock"
#: On a kernel of the flavors kasan and lockdep.
STRICT = (
    _lkdtm("READ_AFTER_FREE", Class.KASAN, "KASAN: slab-use-after-free Read"),
    _lkdtm("WRITE_AFTER_FREE", Class.KASAN, "KASAN: slab-use-after-free Write"),
    _lkdtm("SLAB_LINEAR_OVERFLOW", Class.KASAN, "KASAN: slab-out-of-bounds Write"),
    _lkdtm("SLAB_FREE_DOUBLE", Class.KASAN, "KASAN: double-free", _FREES_LAST.format("SLAB_FREE_DOUBLE")),
    _own("stale_vma", Class.KASAN, "KASAN: slab-use-after-free Read"),
    _own("two_orders", Class.LOCKDEP, _DEADLOCK),
    _own("one_class_twice", Class.LOCKDEP, _DEADLOCK),
    _own("on_both_sides", Class.LOCKDEP, "inconsistent lock state", "provoke_in_interrupt"),
    _own("unlocks_twice", Class.LOCKDEP, "WARNING: bad unlock balance"),
    _own("returns_locked", Class.LOCKDEP, "WARNING: lock held when returning to user space", place=""),
    _own(
        "leaks_vma_lock", Class.LOCKDEP, "WARNING: lock held when returning to user space",
        "lock_vma_under_rcu|provoke_lock_vma", place="", timeout_s=SHORT_S,
    ),
    _own("rcu_unprotected", Class.LOCKDEP, "WARNING: suspicious RCU usage"),
    _own("frees_held_lock", Class.LOCKDEP, "WARNING: held lock freed"),
    # that mmap_lock is not held either is said first
    _own("vma_unlocked", Class.WARNING, "WARNING"),
    _own("frees_locked_page", Class.BUG, "BUG: Bad page state"),
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """A kernel to be broken, with the suite of what breaks it."""

    name: str
    crashes: tuple[Crash, ...]
    words: tuple[str | Path, ...]
    arches: Sequence[str] = ARCHES
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further words for an architecture."""
    programs: str = ""
    """Further programs of the suite, as its descriptor has them."""

    @property
    def suite(self) -> str:
        """What the suite is called."""
        return f"crashes-{self.name}"

    def of(self, arch: str) -> list[Crash]:
        """What breaks it on an architecture."""
        return [crash for crash in self.crashes if arch in crash.arches]

    def write_suite(self, folder: Path, arch: str) -> Path:
        """The suite as a user would have it, in a folder of its own."""
        folder.mkdir(parents=True)
        for path in DATA.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
            (folder / path.name).chmod(path.stat().st_mode)
        lines = [f'name = "{self.suite}"', 'description = "what breaks a kernel"', self.programs]
        for crash in self.of(arch):
            lines += ["", "[[program]]", f'name = "{crash.name}"']
            if crash.source:
                lines += [f'sources = ["{crash.source}"]']
            elif crash.file:
                words = (crash.file, crash.word, *crash.settings)
                lines += ['script = "provoke.sh"', f"argv = {list(words)}"]
            else:
                (folder / crash.name).write_text(f"#!/bin/sh\n{crash.word}\n")
                (folder / crash.name).chmod(0o755)
                lines += [f'script = "{crash.name}"']
            lines += [f"timeout_s = {crash.timeout_s}"] if crash.timeout_s else []
        (folder / "suite.toml").write_text("\n".join(lines) + "\n")
        return folder


_PATCHED = ("--source", LINUX_7_2, "--patch", DATA / "provoke.patch", "--variant", "per-vma-lock")
_BREAKABLE = (*_PATCHED, "--kconfig", DATA / "kernel.config")
KERNELS = (
    Kernel(
        "watchful",
        WATCHFUL,
        (*_BREAKABLE, "--kconfig", DATA / "watchful.config"),
        # an emulated CPU has no counter whose overflow is an NMI: the CPUs look after one another
        more={"x86_64": ("--kconfig", "CONFIG_HARDLOCKUP_DETECTOR_PREFER_BUDDY=y")},
    ),
    Kernel(
        "strict",
        STRICT,
        (*_BREAKABLE, "--flavor", "kasan", "--flavor", "lockdep"),
        programs="""
[[program]]
name = "lockdep-off"
script = "lockdep-off.sh"
parser = "ktap"

[[program]]
name = "sits"
sources = ["sits.c"]
cflags = ["-O1", "-pthread"]
# fifteenfold for the flavors, and more where the guest takes longer than that to boot
timeout_s = 1.0
""",
    ),
    Kernel(
        "leaking",
        (),
        (*_BREAKABLE, "--flavor", "memleak"),
        arches=X86,
        programs="""
[[program]]
name = "leaks"
script = "provoke.sh"
argv = ["/proc/provoke", "leaks"]

[[program]]
name = "keeps"
script = "provoke.sh"
argv = ["/dev/null", "nothing"]
""",
    ),
)
CRASHES = [(a, kernel, crash) for a in ARCHES for kernel in KERNELS for crash in kernel.of(a)]
