# SPDX-License-Identifier: GPL-2.0-only
"""What hangs and for whose lock, out of stacks as `orc-look`, sysrq and lockdep show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import DATA

from orchestrator.core import arch
from orchestrator.evidence import hang
from orchestrator.evidence.hang import explain, parse_console, parse_holders, waits_for
from orchestrator.evidence.health import Task, parse_tasks

X86 = arch.load("x86_64")

HANGS = DATA / "hang"
WRITER = """\
210 212 D __vma_start_exclude_readers holders
  [<0>] __vma_start_exclude_readers+0xb5/0x160
  [<0>] __vma_start_write+0x3f/0xb0
  [<0>] vms_gather_munmap_vmas+0x116/0x2f0
  [<0>] do_vmi_align_munmap+0x14f/0x1a0
  [<0>] __vm_munmap+0xa3/0x140
  [<0>] __x64_sys_munmap+0x1b/0x20
  [<0>] do_syscall_64+0xa3/0x1e0
  syscall: 11 0x7f0000001000 0x1000 0x0 0x0 0x0 0x0 0x7ffe 0x41
"""
READER = """\
210 213 S hrtimer_nanosleep reader
  [<0>] hrtimer_nanosleep+0x99/0x110
  [<0>] m_next+0x12/0x40
  [<0>] seq_read_iter+0x1/0x2
"""
QUEUED = """\
220 220 D rwsem_down_write_slowpath other
  [<0>] rwsem_down_write_slowpath+0x2b1/0x6a0
  [<0>] down_write_killable+0x67/0x70
  [<0>] __x64_sys_mprotect+0x1b/0x20
221 221 D rwsem_down_read_slowpath ps
  [<0>] rwsem_down_read_slowpath+0x2b1/0x6a0
  [<0>] down_read_killable+0x1/0x70
  [<0>] m_start+0x1/0x2
"""
IDLE = """\
90 90 S do_wait sh
  [<0>] do_wait+0x5b/0xf0
"""
#: sysrq t of a lockdep kernel, and w of one without.
CONSOLE = """\
[   35.1] sysrq: Show State
[   35.2] task:holders         state:D stack:13520 pid:212   tgid:210   ppid:90     flags:0x00080000
[   35.2] Call Trace:
[   35.2]  <TASK>
[   35.2]  __schedule+0x2f1/0x8a0
[   35.2]  ? asm_sysvec+0x1a/0x20
[   35.2]  schedule+0x27/0x80
[   35.2]  __vma_start_exclude_readers+0xb5/0x160
[   35.2]  __vma_start_write+0x3f/0xb0
[   35.2]  mprotect_fixup+0xd6/0x2c0
[   35.2]  </TASK>
[   35.3] task:sh              state:S stack:13520 pid:90    tgid:90    ppid:1      flags:0x00000000
[   35.3] Call Trace:
[   35.3]  do_wait+0x5b/0xf0
[   35.4]
[   35.4] Showing all locks held in the system:
[   35.4] 1 lock held by reader/213:
[   35.4]  #0: ffff88800a5f1a10 (vm_lock){++++}-{0:0}, at: lock_next_vma+0x3c/0x1d0
[   35.4] 2 locks held by holders/212:
[   35.4]  #0: ffff88800a3b2f18 (&mm->mmap_lock){++++}-{4:4}, at: do_mprotect_pkey+0xe1/0x440
[   35.4]  #1: ffff88800a5f1a10 (vm_lock){++++}-{0:0}, at: __vma_start_exclude_readers+0x2/0x160
[   35.4]
"""


def tasks(*texts: str) -> tuple[Task, ...]:
    return parse_tasks("".join(texts))


def test_a_writer_that_waits_for_a_lock_that_nobody_holds() -> None:
    said = explain(tasks(IDLE, WRITER), arch=X86)
    assert said == (
        "holders/212 waits for readers of a VMA lock in __vma_start_exclude_readers (called by "
        "vms_gather_munmap_vmas, munmap(0x7f0000001000, 0x1000)); the VMA lock is held by no task "
        "inside a read of a VMA: a reader has left without unlocking it; "
        "mmap_lock is held for writing by holders/212"
    )


@pytest.mark.parametrize(
    "running",
    [
        "210 213 R 0 reader\n",
        # the stack of a task that runs is what it was when it slept
        "210 213 R 0 reader\n  [<0>] do_wait+0x5b/0xf0\n",
        "210 213 S 0 reader\n",
    ],
)
def test_nothing_is_concluded_of_a_task_that_was_not_seen(running: str) -> None:
    said = explain(tasks(IDLE, WRITER, running), arch=X86)
    assert "without unlocking" not in said
    assert (
        "held by no task whose stack was read; not seen: the stacks of reader/213, running on a CPU" in said
    )


def test_a_dead_task_holds_nothing() -> None:
    assert "without unlocking" in explain(tasks(IDLE, WRITER, "230 230 Z 0 gone\n"), arch=X86)


def test_many_running_tasks_are_counted() -> None:
    said = explain(tasks(IDLE, WRITER, *(f"300 30{n} R 0 spin\n" for n in range(5))), arch=X86)
    assert "spin/300, spin/301, spin/302 and 2 more, running on a CPU" in said


def test_a_reader_that_is_still_inside() -> None:
    said = explain(tasks(WRITER, READER), arch=X86)
    assert "the VMA lock is held, it seems, by reader/213 in m_next" in said


def test_those_who_wait_for_the_writer() -> None:
    said = explain(tasks(QUEUED, WRITER))
    assert said.endswith(
        "mmap_lock is held for writing by holders/212, and waited for by other/220 (write, in "
        "rwsem_down_write_slowpath), ps/221 (read, in rwsem_down_read_slowpath)"
    )
    assert "munmap(" not in said  # the numbers of system calls are an architecture's


def test_lockdep_knows_the_holder() -> None:
    found = parse_console(CONSOLE)
    assert [(t.comm, t.pid, t.tid, t.state) for t in found] == [
        ("holders", 210, 212, "D"),
        ("sh", 90, 90, "S"),
    ]
    said = explain(found, parse_holders(CONSOLE))
    assert "called by mprotect_fixup" in said
    assert "the VMA lock is held by reader/213 since lock_next_vma, says lockdep" in said


def test_frames_in_doubt_are_left_out() -> None:
    (writer, _) = parse_console(CONSOLE)
    assert hang.functions(writer)[:3] == ["__schedule", "schedule", "__vma_start_exclude_readers"]


def test_nobody_hangs() -> None:
    assert explain(tasks(IDLE)) == ""
    assert explain(()) == ""


def test_whatever_else_sleeps_is_named() -> None:
    text = "30 30 D vfork_wait hostile\n  [<0>] wait_for_vfork_done+0x1/0x2\n"
    assert explain(tasks(IDLE, text)) == "hostile/30 sleeps uninterruptibly in wait_for_vfork_done"


@pytest.mark.parametrize(
    ("text", "kind"),
    [(WRITER, "vma"), (QUEUED, "mmap-write"), (READER, ""), (IDLE, "")],
)
def test_what_a_task_waits_for(text: str, kind: str) -> None:
    assert waits_for(tasks(text)[0]) == kind


def test_another_semaphore_is_not_mmap_lock() -> None:
    text = "1 2 D x y\n  [<0>] rwsem_down_write_slowpath+0x1/0x2\n  [<0>] do_unlinkat+0x1/0x2\n"
    assert waits_for(tasks(text)[0]) == ""


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    for found in (parse_tasks(text), parse_console(text), parse_console(CONSOLE + text)):
        explain(found, parse_holders(text), arch=X86)


def test_a_flood_of_tasks_is_bounded() -> None:
    text = "".join(f"task:a state:D stack:0 pid:{n} tgid:{n}\n f+0x1/0x2\n" for n in range(10_000))
    assert len(parse_console(text)) == 4096
    assert len(explain(parse_console(text))) <= 600


@pytest.mark.parametrize("name", ["tasks", "blocked"])
def test_a_real_hang(name: str) -> None:
    """Of Linux 7.2 with tests/broken/07: over SSH, and as sysrq ``w`` shows it."""
    text = (HANGS / f"x86-leaked-{name}.txt").read_text()
    found = parse_tasks(text) if name == "tasks" else parse_console(text)
    assert {task.comm for task in found if task.state == "D"} == {"progress"}
    said = explain(found, arch=X86, only_blocked=name == "blocked")
    assert said.startswith(
        "progress/95 waits for readers of a VMA lock in __vma_start_exclude_readers (called by vma_"
    )
    # sysrq w shows only those that are blocked: a reader that sleeps or runs is not among them
    assert ("a reader has left without unlocking it" in said) == (name == "tasks")
    assert ("only blocked tasks were seen" in said) == (name == "blocked")
    assert "mmap_lock is held for writing by progress/95" in said
    assert "likewise progress/100" in said
    # the arguments of the system call are not on the console
    assert ("mprotect(0x7f0403593000, 0x1000)" in said) == (name == "tasks")
