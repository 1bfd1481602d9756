# SPDX-License-Identifier: GPL-2.0-only
"""The health of a guest's kernel before and after a program: see guest/orc-look.c.

The taint mask is the catch-all: it shows trouble that the console scanner does not know. All of this comes
from a hostile guest, so unexpected lines are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from orchestrator.core.text import clean
from orchestrator.results.model import TAINTED, Blame, Verdict
from orchestrator.splat.scanner import Scanner

#: The meaning of each bit of `/proc/sys/kernel/tainted`; the letter is the one in a splat's ``Tainted:``
#: line. Source: Documentation/admin-guide/tainted-kernels.rst.
TAINT_BITS: tuple[str, ...] = (
    "P: proprietary module",
    "F: module loaded by force",
    "S: processor or system out of specification",
    "R: module unloaded by force",
    "M: machine check",
    "B: bad page or page flags",
    "U: set by user space",
    "D: oops or BUG",
    "A: ACPI table overridden",
    "W: warning",
    "C: staging driver",
    "I: workaround for broken firmware",
    "O: out-of-tree module",
    "E: unsigned module",
    "L: soft lockup",
    "K: live patch",
    "X: auxiliary, set by the distribution",
    "T: built with randomised structures",
    "N: in-kernel test",
    "J: mutating debug operation by user space",
)


def _bits(letters: str) -> int:
    return sum(1 << bit for bit, name in enumerate(TAINT_BITS) if name[0] in letters)


#: The bits that a module of orchestrate sets: out of the tree, and unsigned.
OUT_OF_TREE = _bits("OE")
#: The bits that root sets by what it loads, forces or writes: no fault of the kernel's.
BY_USERLAND = _bits("PFRUCOEKXNJ")
#: The bits that the machine sets.
BY_MACHINE = _bits("SMAI")

_VMSTAT = re.compile(r"^([A-Za-z_]\w{0,99}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_DEBUG_LOCKS = re.compile(r"^\s*debug_locks:\s+(\d{1,9})\s*$", re.ASCII | re.MULTILINE)
_MAX_CHARS = 256 * 1024
_SECTION = re.compile(r"^@ (\w+)$", re.M)
_TASK = re.compile(r"(\d{1,9}) (\d{1,9}) ([A-Za-z]) (\S{1,100}) (\S{1,64})")
_HUGE = re.compile(r"^(\S{1,60}) (\d{1,15}) (\d{1,15}) (\d{1,15})$", re.M)
_MAX_TASKS = 4096
_LEAK_CHARS = 16384
_NAMED = 5

#: Counters of `/proc/vmstat` that return to their values after the processes of a program have ended, each
#: with the tolerance of a clean kernel (pages; ``nr_kernel_stack``: KiB).
RETURNING: Mapping[str, int] = {
    "nr_anon_pages": 512,
    "nr_page_table_pages": 128,
    "nr_kernel_stack": 256,
    "nr_mlock": 0,
    "nr_anon_transparent_hugepages": 0,
}
#: The SSH server: its processes belong to our connections.
SERVER = "dropbear"


class Task(msgspec.Struct, frozen=True):
    """A thread of a process; ``wchan`` is the function of the kernel that it sleeps in, ``0`` if in none."""

    pid: int
    tid: int
    state: str
    wchan: str
    comm: str
    stack: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's state at one moment, from ``orc-look``; ``None`` or empty if unknown.

    ``huge`` is the number of huge pages in use or reserved by size, ``holders`` what may rightly hold some.
    ``lockdep``: whether it still checks; ``None`` in a kernel without it.
    """

    tainted: int | None = None
    lockdep: bool | None = None
    vmstat: dict[str, int] = {}
    huge: dict[str, int] = {}
    holders: tuple[int, int] = (0, 0)
    tasks: tuple[Task, ...] = ()


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Something that got worse. ``passing``: it may still go away by itself.

    ``stuck``: it is about processes that cannot be killed. ``fingerprint`` as of a splat, if it is the same
    in every run.
    """

    verdict: Verdict
    blame: Blame
    reason: str
    detail: str = ""
    fingerprint: str = ""
    passing: bool = False
    stuck: bool = False


def taint_reasons(mask: int) -> tuple[str, ...]:
    """The reasons in a taint mask, lowest bit first; a bit without a name is ``bit N``.

    :raises ValueError: for a negative mask, which no kernel gives.
    """
    if mask < 0:
        raise ValueError(f"a taint mask is not negative: {mask}")
    return tuple(
        TAINT_BITS[bit] if bit < len(TAINT_BITS) else f"bit {bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )


def new_taint(before: int, after: int) -> tuple[str, ...]:
    """The reasons that are in ``after`` but were not in ``before``."""
    return taint_reasons(after & ~before)


def parse_vmstat(text: str) -> dict[str, int]:
    """Counters of `/proc/vmstat` by name, as printed (pages or events); other lines are ignored."""
    return {name: int(value) for name, value in _VMSTAT.findall(text[:_MAX_CHARS])}


def lockdep_on(text: str) -> bool | None:
    """Whether lockdep still checks, from `/proc/lockdep_stats`; ``None`` if the text does not show it.

    Lockdep turns itself off after its first report: what runs later in that boot is not lock-tested.
    """
    match = _DEBUG_LOCKS.search(text[:_MAX_CHARS])
    return None if match is None else match[1] != "0"


def parse_state(text: str) -> State:
    """The state in the output of ``orc-look``, clean text."""
    parts = _SECTION.split(text[: 4 * _MAX_CHARS])
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    tainted = sections.get("tainted", "").strip()
    holders = re.fullmatch(r"(\d{1,9}) (\d{1,9})", sections.get("holders", "").strip())
    return State(
        tainted=int(tainted) if tainted.isdecimal() and len(tainted) < 20 else None,
        lockdep=lockdep_on(sections["lockdep"]) if "lockdep" in sections else None,
        vmstat=parse_vmstat(sections.get("vmstat", "")),
        huge={
            name: int(total) - int(free) + int(reserved)
            for name, total, free, reserved in _HUGE.findall(sections.get("hugepages", ""))
        },
        holders=(int(holders[1]), int(holders[2])) if holders else (0, 0),
        tasks=parse_tasks(sections.get("tasks", "")),
    )


def parse_tasks(text: str) -> tuple[Task, ...]:
    """The threads in the section ``tasks`` of ``orc-look``, with their stacks if it has them."""
    tasks: list[Task] = []
    for line in text.splitlines():
        if line.startswith("  ") and tasks:
            tasks[-1] = msgspec.structs.replace(tasks[-1], stack=(*tasks[-1].stack, line.strip()))
        elif (match := _TASK.fullmatch(line)) and len(tasks) < _MAX_TASKS:
            tasks.append(Task(int(match[1]), int(match[2]), match[3], match[4], match[5]))
    return tuple(tasks)


def troubles(before: State, after: State, *, own_taint: int = 0) -> tuple[Trouble, ...]:
    """The troubles in ``after`` that are not in ``before``.

    :param own_taint: bits of the taint mask that orchestrate itself sets.
    """
    return (
        *_taint(before, after, own_taint),
        *_leftover_processes(before, after),
        *_huge_pages(before, after),
        *_drift(before, after),
    )


def _taint(before: State, after: State, own_taint: int) -> Iterator[Trouble]:
    if after.tainted is None or before.tainted is None:
        return
    known = before.tainted | own_taint | BY_USERLAND
    if new := new_taint(known | BY_MACHINE, after.tainted):
        yield Trouble(
            verdict=Verdict.CRASH,
            blame=Blame.KERNEL,
            reason=f"the kernel became tainted: {', '.join(new)}",
            fingerprint=TAINTED,
        )
    elif new := new_taint(known, after.tainted):
        yield Trouble(
            verdict=Verdict.INCONCLUSIVE,
            blame=Blame.INFRA,
            reason=f"the machine tainted the kernel: {', '.join(new)}",
        )


def tainted_by_userland(before: State, after: State, own_taint: int) -> str:
    """What a program tainted the kernel with, for people; empty if with nothing."""
    if after.tainted is None or before.tainted is None:
        return ""
    return ", ".join(new_taint(before.tainted | own_taint, after.tainted & BY_USERLAND))


def _leftover_processes(before: State, after: State) -> Iterator[Trouble]:
    there = {(task.tid, task.comm) for task in before.tasks}
    new = [
        task
        for task in after.tasks
        if (task.tid, task.comm) not in there and task.state not in "ZX" and task.comm != SERVER
    ]
    stuck = [task for task in new if task.state == "D"]
    if stuck:
        yield Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.KERNEL,
            reason=f"it left processes that sleep uninterruptibly: {_task_names(stuck)}",
            detail=stacks(stuck),
            passing=True,
            stuck=True,
        )
    elif new:
        yield Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.TEST,
            reason=f"it left running processes: {_task_names(new)}",
            passing=True,
        )


def _task_names(tasks: list[Task]) -> str:
    words = [f"{task.comm} in {task.wchan}" if task.wchan != "0" else task.comm for task in tasks[:_NAMED]]
    more = f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""
    return ", ".join(words) + more


def stacks(tasks: Iterator[Task] | list[Task] | tuple[Task, ...]) -> str:
    """Threads with their kernel stacks, for people."""
    return "\n".join(
        "\n".join(
            [f"{task.comm}, pid {task.pid}, thread {task.tid}, state {task.state}, in {task.wchan}"]
            + [f"    {line}" for line in task.stack]
        )
        for task in tasks
    )


def _huge_pages(before: State, after: State) -> Iterator[Trouble]:
    if after.holders > before.holders:
        return
    for size, used in after.huge.items():
        leaked = used - before.huge.get(size, 0)
        if leaked > 0:
            yield Trouble(
                verdict=Verdict.FAIL,
                blame=Blame.KERNEL,
                reason=f"huge pages leaked: {leaked} of {size.removeprefix('hugepages-')} have no owner",
                passing=True,
            )


def _drift(before: State, after: State) -> Iterator[Trouble]:
    moved = []
    for name, room in RETURNING.items():
        was, now = before.vmstat.get(name), after.vmstat.get(name)
        if was is not None and now is not None and now - was > room:
            moved.append(f"{name} {was} -> {now}")
    if moved:
        yield Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.KERNEL,
            reason=f"counters did not return after its processes had ended: {', '.join(moved)}",
            passing=True,
        )


def leaks(report: bytes) -> tuple[Trouble, ...]:
    """The leaks in `/sys/kernel/debug/kmemleak`, as one trouble."""
    scanner = Scanner()
    scanner.feed(report[:_MAX_CHARS] + b"\n")
    splats = scanner.finish()
    if not splats:
        return ()
    counts = Counter(splat.function or "an unknown place" for splat in splats for _ in range(splat.count))
    where = ", ".join(f"{function} ({number})" for function, number in counts.most_common(_NAMED))
    return (
        Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.KERNEL,
            reason=f"memory leaked, allocated in {where}",
            detail=clean(report, limit=_LEAK_CHARS),
            fingerprint=splats[0].fingerprint,
        ),
    )


def negative(counters: Mapping[str, int]) -> tuple[Trouble, ...]:
    """The trouble of counters below zero, by name."""
    if not counters:
        return ()
    words = ", ".join(f"{name} {value}" for name, value in sorted(counters.items()))
    reason = f"counters of /proc/vmstat below zero: {words}"
    return (Trouble(verdict=Verdict.FAIL, blame=Blame.KERNEL, reason=reason),)
