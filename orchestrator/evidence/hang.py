# SPDX-License-Identifier: GPL-2.0-only
"""Which task hangs, and which lock it waits for, from the stacks of a guest's tasks. Pure; `collect` asks the
guest.

The stacks come from ``orc-look --tasks`` while the guest answers, else from sysrq ``t`` and ``w`` on the
console. The lock holders come from lockdep, if it is on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.text import one_line
from orchestrator.evidence.health import SERVER, Task

#: Functions in which a writer, which holds mmap_lock, waits for the readers of one VMA.
VMA_WAITS = frozenset(
    {"__vma_start_exclude_readers", "__vma_start_write", "__vma_exclude_readers_for_detach"}
    | {"__vma_enter_locked", "vma_start_write", "vma_mark_detached"}
)
#: Functions in which a reader has locked a VMA, or may have.
VMA_READS = frozenset(
    {"lock_vma_under_rcu", "lock_next_vma", "get_next_vma", "m_start", "m_next", "show_map", "show_smap"}
    | {"proc_get_vma", "query_vma_find_by_addr", "do_procmap_query", "handle_mm_fault", "pagemap_read"}
    | {"uffd_lock_vma", "madvise_vma_behavior"}
)
_WRITE_WAITS = frozenset({"rwsem_down_write_slowpath", "down_write", "down_write_killable"})
_READ_WAITS = frozenset({"rwsem_down_read_slowpath", "down_read", "down_read_killable"})
#: The first functions on every sleeping task's stack.
_PLUMBING = frozenset(
    {"__schedule", "schedule", "schedule_timeout", "schedule_preempt_disabled", "__switch_to"}
)
#: Callers that show that a semaphore is an address space's.
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
    """The holder of a lock, by lockdep: a task as ``comm/pid``, the lock's class, the locking function."""

    who: str
    lock: str
    at: str


def parse_console(text: str) -> tuple[Task, ...]:
    """The tasks in the output of sysrq ``t`` or ``w``, clean text; of two entries of one task the later."""
    tasks: dict[int, Task] = {}
    last: int | None = None
    for raw in text.splitlines():
        line = _STAMP.sub("", raw[:500])
        if (match := _TASK.search(line)) and (int(match["pid"]) in tasks or len(tasks) < _MAX_TASKS):
            last = int(match["pid"])
            tasks[last] = Task(int(match["tgid"] or last), last, match["state"], "0", match["comm"])
        elif last is not None and (frame := _FRAME.search(line)):
            task = tasks[last]
            if not frame["doubt"] and len(task.stack) < _MAX_STACK:
                tasks[last] = msgspec.structs.replace(task, stack=(*task.stack, frame[0]))
        elif "sysrq: " in line or "Showing all locks" in line:
            last = None
    return tuple(tasks.values())


def parse_holders(text: str) -> tuple[Holder, ...]:
    """The holders of locks of address spaces and VMAs, from lockdep's output; clean text."""
    holders: list[Holder] = []
    who = ""
    for raw in text.splitlines():
        line = raw[:500]
        if match := _HELD_BY.search(line):
            who = match["who"]
        elif who and (match := _LOCK.search(line)):
            lock = next((name for name in _LOCKS if name in match["lock"]), "")
            if lock and len(holders) < _MAX_TASKS:
                holders.append(Holder(who, lock, match["at"] or ""))
    return tuple(dict.fromkeys(holders))


def functions(task: Task) -> list[str]:
    """The functions on a task's stack, innermost first, without suffixes of the compiler."""
    return [match["f"].partition(".")[0] for line in task.stack if (match := _FRAME.search(line))]


def waits_for(task: Task) -> str:
    """``vma``, ``mmap-write``, ``mmap-read``: the lock that a task waits for; else empty."""
    stack = functions(task)
    if any(name in VMA_WAITS for name in stack[:8]):
        return "vma"
    for kind, names in (("mmap-write", _WRITE_WAITS), ("mmap-read", _READ_WAITS)):
        at = next((number for number, name in enumerate(stack[:8]) if name in names), None)
        if at is not None and any(_MM.search(name) for name in stack[at + 1 : at + 6]):
            return kind
    return ""


def server_state(tasks: Sequence[Task]) -> str:
    """What happened to the guest's SSH server: ``is stopped`` or ``is gone``; empty if it is there.

    The first process of the list must be there as well: a list that was cut shows nothing.
    """
    if not any(task.pid == 1 for task in tasks):
        return ""
    servers = [task for task in tasks if task.comm == SERVER]
    if not servers:
        return "is gone"
    return "is stopped" if all(task.state in "Tt" for task in servers) else ""


def place(tasks: Sequence[Task]) -> str:
    """The function that the first task that sleeps uninterruptibly waits in; empty if none does."""
    first = next((task for task in tasks if waits_for(task)), None)
    first = first or next((task for task in tasks if task.state == "D"), None)
    return _where(first) if first else ""


def explain(
    tasks: Sequence[Task],
    holders: Sequence[Holder] = (),
    *,
    arch: Arch | None = None,
    only_blocked: bool = False,
) -> str:
    """One line on what the tasks that sleep uninterruptibly wait for; empty if unknown.

    :param only_blocked: whether tasks that run or sleep otherwise are missing, as on the console.
    """
    writers = [task for task in tasks if waits_for(task) == "vma"]
    sentences = []
    if writers:
        unseen = "only blocked tasks were seen" if only_blocked else _unseen(tasks)
        sentences.append(_writer(writers[0], tasks, holders, arch, unseen))
        if others := [_name(task) for task in writers[1 : 1 + _NAMED]]:
            sentences.append(f"likewise {', '.join(others)}")
        sentences += _queue(tasks, f"held for writing by {_name(writers[0])}")
    else:
        sentences += _queue(tasks, _lockdep_holder("mmap_lock", holders))
    if not sentences and (stuck := [task for task in tasks if task.state == "D"]):
        sentences.append(f"{_name(stuck[0])} sleeps uninterruptibly in {_where(stuck[0])}")
        if len(stuck) > 1:
            sentences.append(f"so do {len(stuck) - 1} more tasks")
    return one_line("; ".join(sentences), limit=600)


def _writer(
    task: Task, tasks: Sequence[Task], holders: Sequence[Holder], arch: Arch | None, unseen: str
) -> str:
    stack = functions(task)
    inside = next(name for name in stack if name in VMA_WAITS)
    outer = next((name for name in stack[stack.index(inside) :] if name not in VMA_WAITS), "")
    call = _call(task, arch)
    context = ", ".join(word for word in (f"called by {outer}" if outer else "", call) if word)
    what = f"{_name(task)} waits for readers of a VMA lock in {inside}{f' ({context})' if context else ''}"
    return f"{what}; the VMA lock is {_reader(holders, tasks, task, unseen)}"


def _lockdep_holder(lock: str, holders: Sequence[Holder], but: str = "") -> str:
    """The holder of a lock that lockdep names; empty if it names none.

    :param but: a task that waits for it.
    """
    others = [holder for holder in holders if holder.lock == lock and holder.who != but]
    names = [f"{holder.who}{f' since {holder.at}' if holder.at else ''}" for holder in others]
    return f"held by {', '.join(names[:_NAMED])}, says lockdep" if names else ""


def _reader(holders: Sequence[Holder], tasks: Sequence[Task], writer: Task, unseen: str) -> str:
    """The holder of a VMA lock: from lockdep, else the tasks inside a read of a VMA."""
    if named := _lockdep_holder("vm_lock", holders, f"{writer.comm}/{writer.tid}"):
        return named
    inside = [
        f"{_name(task)} in {next(name for name in functions(task) if name in VMA_READS)}"
        for task in tasks
        if task is not writer and VMA_READS.intersection(functions(task)) and not waits_for(task)
    ]
    if inside:
        return f"held, it seems, by {', '.join(inside[:_NAMED])}"
    if unseen:
        return f"held by no task whose stack was read; {unseen}"
    return "held by no task inside a read of a VMA: a reader has left without unlocking it"


def _unseen(tasks: Sequence[Task]) -> str:
    """The tasks that may hold a lock without showing it; empty if all stacks were read."""
    if len(tasks) >= _MAX_TASKS:
        return "not all tasks were seen"
    # a task on a CPU has no stack that can be read
    hidden = [task for task in tasks if task.state not in "ZX" and (task.state == "R" or not functions(task))]
    if not hidden:
        return ""
    more = f" and {len(hidden) - _NAMED} more" if len(hidden) > _NAMED else ""
    return f"not seen: the stacks of {', '.join(map(_name, hidden[:_NAMED]))}{more}, running on a CPU"


def _queue(tasks: Iterable[Task], state: str) -> list[str]:
    kinds = {"mmap-write": "write", "mmap-read": "read"}
    waiting = [(task, kinds[kind]) for task in tasks if (kind := waits_for(task)) in kinds]
    if not waiting:
        return [f"mmap_lock is {state}"] if state else []
    words = ", ".join(f"{_name(task)} ({kind}, in {_where(task)})" for task, kind in waiting[:_NAMED])
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    return [f"mmap_lock is {state or 'state'}, and waited for by {words}{more}"]


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
