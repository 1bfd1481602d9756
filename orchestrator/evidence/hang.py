# SPDX-License-Identifier: GPL-2.0-only
"""What hangs, and for whose lock: read out of the stacks of a guest's tasks. Pure; `gather` asks the guest.

The stacks come from ``orc-look --tasks`` while the guest still answers, else from what sysrq ``t`` and ``w``
print on the console; who holds which lock is what lockdep prints there (``d``), where it is on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.text import one_line
from orchestrator.evidence.health import Task

#: In which a writer of an address space waits until the readers of one VMA have gone. It holds mmap_lock.
VMA_WAITS = frozenset(
    {"__vma_start_exclude_readers", "__vma_start_write", "__vma_exclude_readers_for_detach"}
    | {"__vma_enter_locked", "vma_start_write", "vma_mark_detached"}
)
#: In which a reader has locked a VMA, or may have.
VMA_READS = frozenset(
    {"lock_vma_under_rcu", "lock_next_vma", "get_next_vma", "m_start", "m_next", "show_map", "show_smap"}
    | {"proc_get_vma", "query_vma_find_by_addr", "do_procmap_query", "handle_mm_fault", "pagemap_read"}
    | {"uffd_lock_vma", "madvise_vma_behavior"}
)
_WRITE_WAITS = frozenset({"rwsem_down_write_slowpath", "down_write", "down_write_killable"})
_READ_WAITS = frozenset({"rwsem_down_read_slowpath", "down_read", "down_read_killable"})
#: What a sleeping task's stack begins with whatever it waits for.
_PLUMBING = frozenset(
    {"__schedule", "schedule", "schedule_timeout", "schedule_preempt_disabled", "__switch_to"}
)
#: Callers by which a semaphore is known to be an address space's.
_MM = re.compile(
    r"mmap|munmap|mremap|mprotect|madvise|mlock|brk|vma|maps|fault|exec_mm|dup_mm|exit_m|mm_|m_start"
)
_FRAME = re.compile(r"(?:\[<[0-9a-f]+>\] )?(?P<doubt>\? )?(?P<f>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_TASK = re.compile(
    r"task:(?P<comm>\S{1,64})\s+state:(?P<state>\w)\b.*?"
    r"\bpid:(?P<pid>\d{1,9})\b(?:.*?\btgid:(?P<tgid>\d{1,9}))?"
)
_HELD_BY = re.compile(r"\d+ locks? held by (?P<who>\S{1,64}/\d{1,9})[.:]")
_LOCK = re.compile(r"#\d+: \S+ \((?P<lock>[^)]{1,80})\)[^\s,]*(?:, at: (?P<at>[\w.$]+))?")
_LOCKS = {"vm_lock": "a VMA lock", "mmap_lock": "mmap_lock"}
_STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
_MAX_TASKS = 4096
_MAX_STACK = 64
_NAMED = 3


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock, by lockdep: a task as ``comm/pid``, the lock's class, the function that took it."""

    who: str
    lock: str
    at: str


def parse_console(text: str) -> tuple[Task, ...]:
    """The tasks that sysrq ``t`` or ``w`` has shown, clean text; of two pictures of one the later."""
    found: dict[int, Task] = {}
    last: int | None = None
    for raw in text.splitlines():
        line = _STAMP.sub("", raw[:500])
        if (match := _TASK.search(line)) and (int(match["pid"]) in found or len(found) < _MAX_TASKS):
            last = int(match["pid"])
            found[last] = Task(int(match["tgid"] or last), last, match["state"], "0", match["comm"])
        elif last is not None and (frame := _FRAME.search(line)):
            task = found[last]
            if not frame["doubt"] and len(task.stack) < _MAX_STACK:
                found[last] = msgspec.structs.replace(task, stack=(*task.stack, frame[0]))
        elif "sysrq: " in line or "Showing all locks" in line:
            last = None
    return tuple(found.values())


def parse_holders(text: str) -> tuple[Holder, ...]:
    """Who holds a lock of an address space, or of a VMA, as lockdep shows it; clean text."""
    found: list[Holder] = []
    who = ""
    for raw in text.splitlines():
        line = raw[:500]
        if match := _HELD_BY.search(line):
            who = match["who"]
        elif who and (match := _LOCK.search(line)):
            lock = next((name for name in _LOCKS if name in match["lock"]), "")
            if lock and len(found) < _MAX_TASKS:
                found.append(Holder(who, lock, match["at"] or ""))
    return tuple(dict.fromkeys(found))


def functions(task: Task) -> list[str]:
    """The functions on a task's stack, innermost first, without suffixes of the compiler."""
    return [match["f"].partition(".")[0] for line in task.stack if (match := _FRAME.search(line))]


def waits_for(task: Task) -> str:
    """``vma``, ``mmap-write``, ``mmap-read``: what of an address space a task waits for; else empty."""
    stack = functions(task)
    if any(name in VMA_WAITS for name in stack[:8]):
        return "vma"
    for kind, names in (("mmap-write", _WRITE_WAITS), ("mmap-read", _READ_WAITS)):
        at = next((number for number, name in enumerate(stack[:8]) if name in names), None)
        if at is not None and any(_MM.search(name) for name in stack[at + 1 : at + 6]):
            return kind
    return ""


def explain(tasks: Sequence[Task], holders: Sequence[Holder] = (), *, arch: Arch | None = None) -> str:
    """One line on what the tasks that sleep uninterruptibly wait for; empty where nothing is known."""
    writers = [task for task in tasks if waits_for(task) == "vma"]
    said = []
    if writers:
        said.append(_writer(writers[0], tasks, holders, arch))
        if others := [_name(task) for task in writers[1 : 1 + _NAMED]]:
            said.append(f"likewise {', '.join(others)}")
        said += _queue(tasks, f"held for writing by {_name(writers[0])}")
    else:
        said += _queue(tasks, _held("mmap_lock", holders, ()))
    if not said and (stuck := [task for task in tasks if task.state == "D"]):
        said.append(f"{_name(stuck[0])} sleeps uninterruptibly in {_where(stuck[0])}")
        if len(stuck) > 1:
            said.append(f"so do {len(stuck) - 1} more tasks")
    return one_line("; ".join(said), limit=600)


def _writer(task: Task, tasks: Sequence[Task], holders: Sequence[Holder], arch: Arch | None) -> str:
    stack = functions(task)
    inside = next(name for name in stack if name in VMA_WAITS)
    outer = next((name for name in stack[stack.index(inside) :] if name not in VMA_WAITS), "")
    call = _call(task, arch)
    asked = ", ".join(word for word in (f"called by {outer}" if outer else "", call) if word)
    what = f"{_name(task)} waits for readers of a VMA lock in {inside}{f' ({asked})' if asked else ''}"
    return f"{what}; the VMA lock is {_held('vm_lock', holders, tasks, but=task)}"


def _held(lock: str, holders: Sequence[Holder], tasks: Sequence[Task], but: Task | None = None) -> str:
    """Who holds a lock: as lockdep says, else whoever is inside a read of a VMA."""
    mine = f"{but.comm}/{but.tid}" if but else ""
    others = [holder for holder in holders if holder.lock == lock and holder.who != mine]
    known = [f"{holder.who}{f' since {holder.at}' if holder.at else ''}" for holder in others]
    if known:
        return f"held by {', '.join(known[:_NAMED])}, says lockdep"
    if lock != "vm_lock":
        return ""
    inside = [
        f"{_name(task)} in {next(name for name in functions(task) if name in VMA_READS)}"
        for task in tasks
        if task is not but and VMA_READS.intersection(functions(task)) and not waits_for(task)
    ]
    if inside:
        return f"held, it seems, by {', '.join(inside[:_NAMED])}"
    return "held by nobody that is inside a read of one: whoever locked it has left without unlocking it"


def _queue(tasks: Iterable[Task], held: str) -> list[str]:
    kinds = {"mmap-write": "write", "mmap-read": "read"}
    waiting = [(task, kinds[kind]) for task in tasks if (kind := waits_for(task)) in kinds]
    if not waiting:
        return [f"mmap_lock is {held}"] if held else []
    words = ", ".join(f"{_name(task)} ({kind}, in {_where(task)})" for task, kind in waiting[:_NAMED])
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    return [f"mmap_lock is {held or 'held'}, and waited for by {words}{more}"]


def _name(task: Task) -> str:
    return f"{task.comm}/{task.tid}"


def _where(task: Task) -> str:
    """The function that a task sleeps for."""
    stack = [name for name in functions(task) if name not in _PLUMBING]
    return next(iter(stack), task.wchan if task.wchan != "0" else "an unknown place")


def _call(task: Task, arch: Arch | None) -> str:
    """The system call that a task is in, with the range it is about: ``munmap(0x7f…, 0x1000)``."""
    line = next((word for word in task.stack if word.startswith("syscall: ")), "")
    words = line.split()[1:4]
    if arch is None or len(words) < 3 or not words[0].isdecimal():
        return ""
    name = next((name for name, number in arch.system_calls.items() if number == int(words[0])), "")
    return f"{name}({', '.join(words[1:])})" if name else ""
