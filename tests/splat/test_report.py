# SPDX-License-Identifier: GPL-2.0-only
"""Where a report begins and ends: one fault is one report, in whatever order the kernel prints it."""

from __future__ import annotations

import pytest

from orchestrator.splat.kinds import Class, Kind
from orchestrator.splat.scanner import RULES, Scanner, Splat


def scan(*lines: str) -> tuple[Splat, ...]:
    scanner = Scanner()
    for number, line in enumerate(lines):
        text = line if line.startswith("[ ") else f"[   30.{number:06}] {line}"
        scanner.feed(text.encode() + b"\n")
    return scanner.finish()


TRACE = ["CPU: 1 PID: 300 Comm: gadgetd Not tainted 4.14.300 #1", "Call Trace:", " dump_stack+0x4d/0x65"]
FRAMES = [" gadget_put+0x20/0x40", " gadget_release+0x33/0x60"]
END = "---[ end trace 0000000000000001 ]---"

# --- closing lines


@pytest.mark.parametrize(
    ("cause", "end"),
    [
        ("VFS: Unable to mount root fs on unknown-block(0,0)", " ]---"),
        ("No working init found.  Try passing init= option to kernel.", " ]---"),
        ("Attempted to kill init! exitcode=0x0000000b", " ]---"),
        ("hung_task: blocked tasks", " ]---"),
        # up to 4.14
        ("gadget: no way out", ""),
    ],
)
def test_the_end_of_a_panic_is_no_panic(cause: str, end: str) -> None:
    panic = f"Kernel panic - not syncing: {cause}"
    (found,) = scan(
        "List of all partitions:", panic, *TRACE, *FRAMES, "Kernel Offset: disabled", f"---[ end {panic}{end}"
    )
    assert (found.category, found.first_line, found.last_line) == (Class.PANIC, 2, 9)
    assert not found.title.endswith("---")


def test_the_end_of_a_panic_alone_is_none() -> None:
    assert scan("---[ end Kernel panic - not syncing: Fatal exception ]---") == ()


# --- a WARN() and its message

BODY = [*TRACE, *FRAMES, END]
AT = "WARNING: CPU: 1 PID: 300 at "


@pytest.mark.parametrize(
    ("warning", "message", "title"),
    [
        (
            AT + "lib/refcount.c:187 refcount_sub_and_test+0x94/0xa0",
            "refcount_t: underflow; use-after-free.",
            "refcount bug: underflow in gadget_put",
        ),
        (
            AT + "lib/refcount.c:153 refcount_inc+0x28/0x30",
            "refcount_t: increment on 0; use-after-free.",
            "refcount bug: increment on 0 in gadget_put",
        ),
        (
            AT + "lib/list_debug.c:53 __list_del_entry+0xa1/0xd0()",
            "list_del corruption, ffff8800 is LIST_POISON1 (dead)",
            "corrupted list in gadget_put",
        ),
        (
            AT + "lib/debugobjects.c:263 debug_print_object+0x85/0xa0()",
            "ODEBUG: free active (active state 0) object type: timer_list hint: gadget_tick+0x0/0x50",
            "WARNING: ODEBUG bug in gadget_put",
        ),
        (
            AT + "kernel/watchdog.c:352 watchdog_overflow_callback+0x98/0xc0()",
            "Watchdog detected hard LOCKUP on cpu 1",
            "hard LOCKUP in gadget_put",
        ),
        (
            AT + "kernel/rcu/tree_plugin.h:330 rcu_note_context_switch+0x42c/0x480",
            "Voluntary context switch within RCU read-side critical section!",
            "voluntary context switch within RCU read-side critical section in gadget_put",
        ),
    ],
)
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_warning_and_its_message_are_one_report_in_either_order(
    warning: str, message: str, title: str, cut: bool, turned: bool
) -> None:
    head = [message, warning] if turned else [warning, message]
    (found,) = scan(
        *(["------------[ cut here ]------------"] if cut else []), *head, "Modules linked in:", *BODY
    )
    assert (found.title.replace("increment on N", "increment on 0"), found.corrupted) == (title, False)
    assert (found.first_line, found.last_line) == (1, 9 + cut)


def test_a_message_further_down_is_another_fault() -> None:
    found = scan(AT + "fs/x.c:1 gadget_x+0x1/0x2", "a", "b", "refcount_t: underflow; use-after-free.", *BODY)
    assert [one.kind for one in found] == [Kind.WARNING, Kind.REFCOUNT]


@pytest.mark.parametrize("between", [["------------[ cut here ]------------", "DEBUG_LOCKS_WARN_ON(1)"], []])
def test_a_lock_without_a_key_is_one_report(between: list[str]) -> None:
    key = "BUG: key ffff8a9203c92dc0 has not been registered!"
    (found,) = scan(
        key, *between, AT + "kernel/locking/lockdep.c:4970 lockdep_init_map_type+0x1c3/0x240", *BODY
    )
    assert (found.category, found.function, found.corrupted) == (Class.LOCKDEP, "gadget_put", False)
    assert (found.first_line, found.last_line) == (1, 8 + len(between))


@pytest.mark.parametrize("number", [8, 9, 12])
def test_a_subclass_that_does_not_exist_is_a_report_of_lockdep(number: int) -> None:
    frames = [
        " look_up_lock_class+0x76/0x100",
        " register_lock_class+0x7/0x10",
        " __lock_acquire+0x7/0x10",
        *FRAMES,
    ]
    head = [f"BUG: looking up invalid subclass: {number}", "turning off the locking correctness validator."]
    (found,) = scan(*head, *TRACE, *frames)
    assert (found.category, found.function, found.corrupted) == (Class.LOCKDEP, "gadget_put", False)


# --- its last line


@pytest.mark.parametrize(
    "after",
    [
        "x86: Booting SMP configuration:",
        "RPC: Registered named UNIX socket transport module.",
        "RAS: Correctable Errors collector",
        "EDD: information",
        "RTC: 2025-05-07",
        "R8: ready",
        "sp: attached",
        "t1: dead",
        "INFO: NMI handler (perf) took too long",
        "rcu: Hierarchical SRCU implementation.",
        "Showing off",
        "RIPv2 is up",
        "ra: router advertisement from fe80::1",
    ],
)
def test_an_ordinary_line_is_no_register(after: str) -> None:
    lines = ["BUG: sleeping function called from invalid context at fs/x.c:5", *TRACE, *FRAMES, " </TASK>"]
    (found,) = scan(*lines, "smpboot: CPU 1 is now offline", after, "usb 1-1: new device")
    assert found.last_line == len(lines)


@pytest.mark.parametrize(
    "register",
    [
        "RAX: 0000000000000000 RBX: ffff94a1c0a1e000",
        "CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033",
        "R10: 0000000000000001",
        "FS:  0000000000000000(0000) GS:ffff888007c00000(0000)",
        "EAX: 00000000 EBX: c0a1e000",
        "x29: ffffffc07233b7b0 x28: 0",
        "pc : gadget_x+0x14/0x60",
        "pc : [<ffffff8008132d58>] lr : [<ffffff80081215e0>] pstate: 804001c5",
        "lr : gadget_x (fs/x.c:12)",
        "sp : ff20000000123d10",
        "status: 0000000200000120 badaddr: 0000000000000000",
        " ra : caller+0x1c/0x3a",
        "psr: 60000013",
        "RIP: 0010:gadget_x+0x1/0x2",
        "RSP: 0018:ffffb11f80637a60 EFLAGS: 00010286",
    ],
)
def test_a_register_is_part_of_the_report(register: str) -> None:
    lines = ["BUG: sleeping function called from invalid context at fs/x.c:5", *TRACE, *FRAMES, "x", register]
    assert scan(*lines)[0].last_line == len(lines)


@pytest.mark.parametrize(
    "word",
    [
        "{0:x}0: ffffffc07233b000 ffffff80081215e0",
        "{0:x}0: c07233b0 ffffff80 081215e0",
        " ffff88007c000{0:x} 0000000000000000 ffff88007c000001",
        "c0{0:06x} 00000000 c0123456 00000000",
    ],
)
def test_the_words_of_a_stack_do_not_end_a_report(word: str) -> None:
    head = ["Unable to handle kernel NULL pointer dereference at virtual address 00000010"]
    registers = [
        "Internal error: Oops: 96000005 [#1] PREEMPT SMP",
        "PC is at strcmp+0x14/0x60",
        "LR is at gadget_find+0x50/0xa0",
    ]
    words = [word.format(number) for number in range(0x100, 0x190)]
    trace = [
        "Call trace:",
        "[<ffffff8008132d58>] strcmp+0x14/0x60",
        "[<ffffff80081215e0>] gadget_find+0x50/0xa0",
        END,
    ]
    (found,) = scan(*head, *registers, "Stack: (0xffffffc07233b7b0 to 0xffffffc07233c000)", *words, *trace)
    assert (found.function, found.corrupted, found.last_line) == (
        "gadget_find",
        False,
        5 + len(words) + len(trace),
    )


# --- restarts

BOOT = [
    "[    0.000000] Linux version 6.12.9 (builder@host) (gcc 13) #1 SMP",
    "[    0.000001] Command line: console=ttyS0",
]
RUNS = ["eth0: up"] * 3


@pytest.mark.parametrize(
    "asked",
    [
        ["reboot: Restarting system", "reboot: machine restart"],
        ["reboot: Restarting system with command 'bootloader'"],
        ["Restarting system."],
        ["kexec_core: Starting new kernel"],
        ["sysrq: Resetting"],
        ["reboot: Power down"],
        ["Kernel panic - not syncing: gadget", *BODY, "Rebooting in 5 seconds.."],
        ["Kernel panic - not syncing: gadget", *BODY],
    ],
)
def test_a_restart_that_the_kernel_announced_is_not_unexpected(asked: list[str]) -> None:
    assert Kind.REBOOT not in [one.kind for one in scan(*BOOT, *RUNS, *asked, *BOOT, *RUNS)]
    # once
    assert [one.kind for one in scan(*BOOT, *RUNS, *asked, *BOOT, *RUNS, *BOOT)][-1] is Kind.REBOOT


@pytest.mark.parametrize(
    "other",
    [
        "gadget: Restarting system clock",
        "[    5.000000] logger[7]: reboot: Restarting system",
        "Starting kernel threads",
    ],
)
def test_other_words_announce_no_restart(other: str) -> None:
    assert [one.kind for one in scan(*BOOT, *RUNS, other, *BOOT)] == [Kind.REBOOT]


def test_several_boots_in_a_journal_are_none_of_its_concern() -> None:
    boot = ["May 07 06:29:24 host kernel: Linux version 6.12.9", "May 07 06:29:25 host kernel: eth0: up"]
    scanner = Scanner()
    scanner.feed("".join(f"{line}\n" for line in boot * 3).encode())
    assert scanner.finish() == ()


# --- what the kernel prints


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("BUG: key ffff8a9203c92dc0 has not been registered!", "BUG: key has not been registered"),
        ("BUG: looking up invalid subclass: 8", "BUG: looking up invalid subclass"),
        ("BUG: assuming non migratable context at fs/x.c:5", "BUG: assuming non migratable context"),
        ("BUG: assuming atomic context at fs/x.c:5", "BUG: assuming atomic context"),
        (
            "BUG: Kernel NULL pointer dereference on read at 0x00000000",
            "BUG: unable to handle kernel NULL pointer dereference",
        ),
        ("WARNING: RECLAIM_FS-safe -> RECLAIM_FS-unsafe lock order detected", "possible deadlock"),
        (
            "usercopy: kernel memory exposure attempt detected from ffff (kmalloc-64) (65 bytes)",
            "BUG: bad usercopy",
        ),
    ],
)
def test_a_rule_knows_what_the_kernel_prints(line: str, title: str) -> None:
    rule, match = next((rule, match) for rule in RULES if (match := rule.pattern.search(line)))
    assert rule.title.format_map(match.groupdict()) == title
