# SPDX-License-Identifier: GPL-2.0-only
"""What a guest says about its kernel's health, and what is worse than it was: see guest/orc-look.c.

The taint mask is the catch-all: it tells that something went wrong even where the console scanner does
not know the words. All of it comes from a hostile guest, so lines that are not as expected are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from orchestrator.core.text import clean
from orchestrator.results.model import TAINTED, Blame, Verdict
from orchestrator.splat.scanner import Scanner

#: What each bit of `/proc/sys/kernel/tainted` says; the letter is the one in a splat's ``Tainted:`` line.
#: Source: Documentation/admin-guide/tainted-kernels.rst.
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

#: What loading a module of ours leaves in the mask: out of the tree, and not signed.
OUT_OF_TREE = 1 << 12 | 1 << 13

_VMSTAT = re.compile(r"^([A-Za-z_]\w{0,99}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_DEBUG_LOCKS = re.compile(r"^\s*debug_locks:\s+(\d{1,9})\s*$", re.ASCII | re.MULTILINE)
_MAX_CHARS = 256 * 1024
_SECTION = re.compile(r"^@ (\w+)$", re.M)
_TASK = re.compile(r"(\d{1,9}) (\d{1,9}) ([A-Za-z]) (\S{1,100}) (\S{1,64})")
_HUGE = re.compile(r"^(\S{1,60}) (\d{1,15}) (\d{1,15}) (\d{1,15})$", re.M)
_MAX_TASKS = 4096
_LEAK_CHARS = 16384
_NAMED = 5

#: Counters of `/proc/vmstat` that come back once the processes of a program are gone, each with what a clean
#: kernel may be off by (pages; ``nr_kernel_stack``: KiB).
RETURNING: Mapping[str, int] = {
    "nr_anon_pages": 512,
    "nr_page_table_pages": 128,
    "nr_kernel_stack": 256,
    "nr_mlock": 0,
    "nr_anon_transparent_hugepages": 0,
}
#: Comes and goes with us.
_SERVER = "dropbear"


class Task(msgspec.Struct, frozen=True):
    """A thread of a process; ``wchan`` is the function of the kernel that it sleeps in, ``0`` if in none."""

    pid: int
    tid: int
    state: str
    wchan: str
    comm: str
    stack: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's state at one moment, as ``orc-look`` tells it; ``None`` or empty where it does not.

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
    """Something that is worse than it was. ``passing``: it may still go away by itself.

    ``stuck``: it is about processes that nobody can kill.
    ``fingerprint`` as of a splat, where it is the same in every run.
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
    """Counters of `/proc/vmstat` by name, as they stand there (pages or events); odd lines are left out."""
    return {name: int(value) for name, value in _VMSTAT.findall(text[:_MAX_CHARS])}


def lockdep_on(text: str) -> bool | None:
    """Whether lockdep still checks, from `/proc/lockdep_stats`; ``None`` if the text does not tell.

    Lockdep turns itself off after its first report: what runs later in that boot is not lock-tested.
    """
    match = _DEBUG_LOCKS.search(text[:_MAX_CHARS])
    return None if match is None else match[1] != "0"


def parse_state(text: str) -> State:
    """What ``orc-look`` wrote, clean text."""
    parts = _SECTION.split(text[: 4 * _MAX_CHARS])
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    tainted = sections.get("tainted", "").strip()
    held = re.fullmatch(r"(\d{1,9}) (\d{1,9})", sections.get("holders", "").strip())
    return State(
        tainted=int(tainted) if tainted.isdecimal() and len(tainted) < 20 else None,
        lockdep=lockdep_on(sections["lockdep"]) if "lockdep" in sections else None,
        vmstat=parse_vmstat(sections.get("vmstat", "")),
        huge={
            name: int(total) - int(free) + int(reserved)
            for name, total, free, reserved in _HUGE.findall(sections.get("hugepages", ""))
        },
        holders=(int(held[1]), int(held[2])) if held else (0, 0),
        tasks=parse_tasks(sections.get("tasks", "")),
    )


def parse_tasks(text: str) -> tuple[Task, ...]:
    """The threads in the section ``tasks`` of ``orc-look``, with their stacks where it gives them."""
    found: list[Task] = []
    for line in text.splitlines():
        if line.startswith("  ") and found:
            found[-1] = msgspec.structs.replace(found[-1], stack=(*found[-1].stack, line.strip()))
        elif (match := _TASK.fullmatch(line)) and len(found) < _MAX_TASKS:
            found.append(Task(int(match[1]), int(match[2]), match[3], match[4], match[5]))
    return tuple(found)


def troubles(before: State, after: State, *, ours: int = 0) -> tuple[Trouble, ...]:
    """What is worse in ``after`` than in ``before``, and not because of a program that is still at work.

    :param ours: bits of the taint mask that we set ourselves.
    """
    return (
        *_taint(before, after, ours),
        *_left_behind(before, after),
        *_huge_pages(before, after),
        *_drift(before, after),
    )


def _taint(before: State, after: State, ours: int) -> Iterator[Trouble]:
    if after.tainted is None or before.tainted is None:
        return
    if new := new_taint(before.tainted | ours, after.tainted):
        yield Trouble(
            verdict=Verdict.CRASH,
            blame=Blame.KERNEL,
            reason=f"the kernel became tainted: {', '.join(new)}",
            fingerprint=TAINTED,
        )


def _left_behind(before: State, after: State) -> Iterator[Trouble]:
    there = {(task.tid, task.comm) for task in before.tasks}
    new = [
        task
        for task in after.tasks
        if (task.tid, task.comm) not in there and task.state not in "ZX" and task.comm != _SERVER
    ]
    stuck = [task for task in new if task.state == "D"]
    if stuck:
        yield Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.KERNEL,
            reason=f"it left processes that sleep uninterruptibly: {_named(stuck)}",
            detail=stacks(stuck),
            passing=True,
            stuck=True,
        )
    elif new:
        yield Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.TEST,
            reason=f"it left processes that go on: {_named(new)}",
            passing=True,
        )


def _named(tasks: list[Task]) -> str:
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
        lost = used - before.huge.get(size, 0)
        if lost > 0:
            yield Trouble(
                verdict=Verdict.FAIL,
                blame=Blame.KERNEL,
                reason=f"huge pages leaked: {lost} of {size.removeprefix('hugepages-')} are nobody's",
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
            reason=f"counters did not come back after its processes had gone: {', '.join(moved)}",
            passing=True,
        )


def leaks(report: bytes) -> tuple[Trouble, ...]:
    """What `/sys/kernel/debug/kmemleak` says is lost, one trouble for all of it."""
    scanner = Scanner()
    scanner.feed(report[:_MAX_CHARS] + b"\n")
    found = scanner.finish()
    if not found:
        return ()
    counts = Counter(splat.function or "an unknown place" for splat in found for _ in range(splat.count))
    where = ", ".join(f"{function} ({number})" for function, number in counts.most_common(_NAMED))
    return (
        Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.KERNEL,
            reason=f"memory leaked, allocated in {where}",
            detail=clean(report, limit=_LEAK_CHARS),
            fingerprint=found[0].fingerprint,
        ),
    )


def negative(counters: Mapping[str, int]) -> tuple[Trouble, ...]:
    """What counters below zero, by name, mean."""
    if not counters:
        return ()
    words = ", ".join(f"{name} {value}" for name, value in sorted(counters.items()))
    reason = f"counters of /proc/vmstat below zero: {words}"
    return (Trouble(verdict=Verdict.FAIL, blame=Blame.KERNEL, reason=reason),)
