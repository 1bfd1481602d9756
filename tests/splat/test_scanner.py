# SPDX-License-Identifier: GPL-2.0-only
"""The console scanner, on logs of our own (`data/splat`); `test_corpus.py` has a public collection.

A log's head, up to the first empty line, holds one line a splat: ``# kind | function | fatal | title``.
"""

from __future__ import annotations

import re
from pathlib import Path

import paths
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.results.model import Blame
from orchestrator.splat import scanner as splat
from orchestrator.splat.kinds import CLASSES, Class
from orchestrator.splat.scanner import RULES, Kind, Scanner, Splat, blame, function_name

DATA = paths.DATA / "splat"
GOLDEN = sorted(DATA.glob("*.log"))


def read(path: Path) -> tuple[str, bytes]:
    """Head and body of a log; the head ends at the first empty line, which may be the very first."""
    head, _, body = (b"\n" + path.read_bytes()).partition(b"\n\n")
    return head.decode().strip(), body


def printk(*lines: str) -> bytes:
    return "".join(f"[    1.000000] {line}\n" for line in lines).encode()


def scan(data: bytes) -> tuple[Splat, ...]:
    scanner = Scanner()
    scanner.feed(data)
    return scanner.finish()


# --- our own logs


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_log(path: Path) -> None:
    head, body = read(path)
    want = [tuple(part.strip() for part in line[1:].split("|")) for line in head.splitlines()]
    found = [(s.kind.value, s.function, "fatal" if s.fatal else "mortal", s.title) for s in scan(body)]
    assert found == want


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_offset_is_where_the_first_line_starts(path: Path) -> None:
    body = read(path)[1]
    for found in scan(body):
        line = body[found.offset :].split(b"\n")[0]
        assert found.offset == 0 or body[found.offset - 1 : found.offset] == b"\n"
        assert found.line in line.decode() or "cut here" in line.decode()


@pytest.mark.parametrize("log", ["x86-slub-7.2", "jumps-7.2"])
def test_what_has_no_sure_frame_or_one_late_is_whole(log: str) -> None:
    assert [found.title for found in scan(read(DATA / f"{log}.log")[1]) if found.corrupted] == []


def test_what_slub_says_is_all_in_one_report() -> None:
    found = scan(read(DATA / "x86-slub-7.2.log")[1])[0]
    assert found.line.startswith("[Poison overwritten] 0x")
    assert found.excerpt[1] == "BUG kmalloc-1k (Not tainted): Object corrupt"
    assert found.excerpt[-1] == "---[ end trace 0000000000000000 ]---"
    assert "RIP: 0010:object_err+0xde/0xf0" in found.excerpt


def test_what_slub_found_names_only_the_report_that_follows() -> None:
    named = (
        "[Poison overwritten] 0x0000000000000001-0x0000000000000002 @offset=2. First byte 0x1 instead of 0x2"
    )
    bug = "BUG kmalloc-1k (Not tainted): Object corrupt"
    frames = ["Call Trace:", " dump_stack_lvl+0x1/0x2", " f+0x1/0x2"]
    (found,) = scan(printk(named, bug, *frames))
    assert (found.title, found.first_line) == ("BUG: slab: Poison overwritten in f", 1)
    (found,) = scan(printk(named, *["x"] * splat.MAX_HEAD, bug, *frames))
    assert found.title == "BUG: slab: Object corrupt in f"
    other = b"".join(b"[    1.000000][    T2] %s\n" % line.encode() for line in (bug, *frames))
    (found,) = scan(b"[    1.000000][    T1] %s\n" % named.encode() + other)
    assert found.title == "BUG: slab: Object corrupt in f"


def test_a_stack_of_another_task_is_not_in_the_report() -> None:
    body = read(DATA / "x86-kasan-interleaved.log")[1]
    (found,) = scan(body)
    assert not [line for line in found.excerpt if "innocent" in line or "other_task" in line]
    assert any("lock_next_vma" in line for line in found.excerpt)


def test_a_call_that_does_not_return_is_of_the_function_before() -> None:
    """On arm64 such a frame is shown as the start of the next function; the kernel's symbols tell."""
    body = read(DATA / "arm64-panic-7.2.log")[1]
    ends = {"sysrq_sysctl_handler": "sysrq_handle_crash+0x34/0x34"}
    scanner = Scanner(lambda name: ends.get(name, ""))
    scanner.feed(body)
    (found,) = scanner.finish()
    assert found.function == "sysrq_handle_crash"
    assert " sysrq_handle_crash+0x34/0x34" in found.excerpt
    assert not [line for line in found.excerpt if "sysrq_sysctl_handler" in line]


def test_what_blocks_a_hung_task_is_kept_as_evidence() -> None:
    first = scan(read(DATA / "hung-task.log")[1])[0]
    assert any("likely owned by task reader" in line for line in first.excerpt)


def test_only_memory_is_the_infrastructures_fault() -> None:
    blames = {found.kind: blame(found) for path in GOLDEN for found in scan(read(path)[1])}
    assert blames.pop(Kind.OOM) is Blame.INFRA
    assert set(blames.values()) == {Blame.KERNEL}


# --- in any chunks


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same(data: st.DataObject) -> None:
    bodies = [read(path)[1] for path in data.draw(st.lists(st.sampled_from(GOLDEN), min_size=1, max_size=3))]
    body = data.draw(st.sampled_from([b"", b"\n", b"\r\n", b"x" * 9000])).join(bodies)
    whole = Scanner()
    notices = whole.feed(body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    parts = Scanner()
    begun = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        begun += parts.feed(body[start:end])
    assert begun == notices
    assert parts.finish() == whole.finish()


def test_byte_by_byte() -> None:
    body = b"".join(read(path)[1] for path in GOLDEN)
    scanner = Scanner()
    for at in range(len(body)):
        scanner.feed(body[at : at + 1])
    assert scanner.finish() == scan(body)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([b"BUG: ", b"\n", b"[    0.000000] ", b"Oops"]))
    )
)
def test_any_bytes_are_survived(parts: list[bytes]) -> None:
    for found in scan(b"".join(parts)):
        assert "\x1b" not in found.title + found.line


def test_a_splat_is_told_on_its_first_line() -> None:
    scanner = Scanner()
    assert scanner.feed(b"[    1.000000] BUG: KASAN: use-after-free in m_next+0x1/0x2") == []
    (begun,) = scanner.feed(b"\n")
    assert (begun.kind, begun.function) == (Kind.KASAN, "m_next")
    assert scanner.feed(b"[    1.000001] Read of size 8 at addr 0 by task a/1\n") == []
    assert [found.title for found in scanner.splats()] == ["KASAN: use-after-free Read in m_next"]


def test_a_last_line_without_newline_counts() -> None:
    scanner = Scanner()
    assert scanner.feed(b"[    1.000000] Kernel panic - not syncing: VFS: Unable to mount root fs") == []
    assert [found.kind for found in scanner.finish()] == [Kind.PANIC]


# --- floods and hostile guests


def warning(number: int, function: str = "m_next") -> bytes:
    head = f"WARNING: fs/proc/task_mmu.c:{number} at {function}+0x1/0x2, CPU#{number % 4}: a/{number}"
    return printk(head, "Call Trace:", f" {function}+0x1/0x2", *["x: y"] * 20)


def test_a_flood_is_counted_and_not_kept() -> None:
    flood = b"".join(warning(number) for number in range(5000))
    scanner = Scanner()
    begun = scanner.feed(flood)
    found = scanner.finish()
    assert len(found) == splat.KEEP
    assert len(begun) <= splat.MUTE_AFTER
    assert sum(one.count for one in found) == 5000
    assert {one.fingerprint for one in found} == {found[0].fingerprint}
    assert found[1].offset == len(warning(0))


def test_a_flood_does_not_hide_what_is_different() -> None:
    flood = b"".join(warning(number) for number in range(500))
    found = scan(flood + warning(1, "show_map") + flood)
    assert sum(one.count for one in found if one.function == "show_map") == 1
    assert sum(one.count for one in found) == 1001


def test_a_flood_of_different_ones_is_bounded() -> None:
    names = ["f" + "".join(chr(ord("a") + int(digit)) for digit in str(number)) for number in range(3000)]
    scanner = Scanner()
    scanner.feed(b"".join(warning(1, name) for name in names))
    found = scanner.finish()
    assert len({one.fingerprint for one in found}) == splat.MAX_FINGERPRINTS
    assert len(found) + scanner.dropped == 3000


def test_a_panic_in_a_muted_flood_still_shows() -> None:
    flood = b"".join(warning(number) for number in range(500))
    found = scan(flood + b"[    9.000000] Kernel panic - not syncing: stuck for good\n")
    assert found[-1].kind is Kind.PANIC
    assert found[-1].fatal


def test_a_line_without_end_is_cut() -> None:
    data = b"[    1.000000] WARNING: fs/a.c:1 at f+0x1/0x2, CPU#1: " + b"A" * 3_000_000
    scanner = Scanner()
    for start in range(0, len(data), 70_000):
        scanner.feed(data[start : start + 70_000])
        assert len(scanner._tail) <= splat.MAX_LINE
    (found,) = scanner.finish()
    assert found.title == "WARNING in f"
    assert len(found.line) <= splat.MAX_TEXT


def test_offsets_go_on_behind_a_line_that_was_cut() -> None:
    scanner = Scanner()
    for part in (b"A" * 10_000, b"A" * 10_000, b"\n" + warning(1)):
        scanner.feed(part)
    assert [one.offset for one in scanner.finish()] == [20_001]


@pytest.mark.parametrize("before", [b"", b"a line\n"])
@pytest.mark.parametrize("cut", [0, 9, splat.MAX_LINE, splat.MAX_LINE + 3, 2 * splat.MAX_LINE])
def test_what_is_behind_the_cut_is_never_seen(before: bytes, cut: int) -> None:
    line = b"x" * (splat.MAX_LINE - 20) + printk("Oops: 0000 [#1]")
    assert splat.MAX_LINE - 20 < line.index(b"Oops") < splat.MAX_LINE < len(line) - 1
    scanner = Scanner()
    scanner.feed(before + line[:cut])
    scanner.feed(line[cut:])
    assert scanner.finish() == ()


def test_a_report_without_end_is_bounded() -> None:
    start = b"[    1.000000] INFO: task a:1 blocked for more than 30 seconds.\n"
    (found,) = scan(start + b"[    1.000000]  m_next+0x1/0x2\n" * 50_000)
    assert found.function == "m_next"
    assert len(found.excerpt) <= splat.EXCERPT_LINES


def test_only_so_many_lines_of_a_report_are_looked_at() -> None:
    filler = [" #1: held"] * splat.MAX_LINES
    assert scan(printk("BUG: Bad page state", *filler[2:], " late+0x1/0x2"))[0].function == "late"
    assert scan(printk("BUG: Bad page state", *filler, " late+0x1/0x2"))[0].function == ""


def test_a_report_ends_though_its_task_is_silent() -> None:
    other = b"[    1.000000][    T2] x\n"
    begun = b"[    1.000000][    T1] BUG: Bad page state\n"
    frame = b"[    1.000000][    T1]  late+0x1/0x2\n"
    assert scan(begun + other * 100 + frame)[0].function == "late"
    assert scan(begun + other * (splat.SPAN // len(other)) + frame)[0].function == ""


def test_only_so_many_reports_are_open_at_once() -> None:
    scanner = Scanner()
    scanner.feed(b"".join(b"[    1.000000][   T%d] BUG: Bad page state\n" % task for task in range(9)))
    assert len(scanner._open) == splat.MAX_OPEN
    assert sum(one.count for one in scanner.finish()) == 9


@pytest.mark.parametrize(
    "then",
    [
        "[   14.384000] sysrq: Changing Loglevel",
        "[  314.000000] CPU: 1 UID: 0 PID: 75 Comm: sh Not tainted 7.2.12",
    ],
)
def test_a_report_that_says_no_word_of_its_end_has_one(then: str) -> None:
    report = b"".join(
        b"[   14.1953%02d] %s\n" % (number, line)
        for number, line in enumerate(
            [
                b"================================================",
                b"WARNING: lock held when returning to user space!",
                b"7.2.12 #1 Not tainted",
                b"------------------------------------------------",
                b"leaks/71 is leaving the kernel with locks still held!",
                b"1 lock held by leaks/71:",
                b" #0: ffff888005451948 (vm_lock){++++}-{0:0}, at: lock_vma_under_rcu+0xf5/0x380",
            ]
        )
    )
    (found,) = scan(report + then.encode() + b"\n" + b"[  314.400000] RIP: 0010:safe_halt+0x17/0x20\n" * 3)
    assert (found.function, found.last_line, found.corrupted) == ("lock_vma_under_rcu", 7, False)


def test_a_report_ends_where_the_kernel_says_so() -> None:
    (warned,) = scan(read(DATA / "x86-warning-7.2.log")[1])
    assert warned.excerpt[-1] == "---[ end trace 0000000000000000 ]---"
    (kasan,) = scan(read(DATA / "x86-kasan-interleaved.log")[1])
    assert kasan.excerpt[-1].startswith("=====")


@pytest.mark.parametrize("between", [["x"] * (splat.MAX_HEAD + 1), ["x", " f+0x1/0x2"]])
def test_the_head_of_a_report_is_short(between: list[str]) -> None:
    hung = "INFO: task a:1 blocked for more than 30 seconds."
    found = scan(printk("------------[ cut here ]------------", *between, hung))
    assert [one.kind for one in found] == [Kind.WARNING, Kind.HUNG_TASK]


def test_each_cut_here_is_a_report_of_its_own() -> None:
    found = scan(
        printk("------------[ cut here ]------------", "first", "------------[ cut here ]------------")
    )
    assert len(found) == 2


def test_long_reports_keep_head_and_trace() -> None:
    head = b"[    1.000000] WARNING: possible circular locking dependency detected\n"
    chain = b"".join(b"[    1.000000]    -> #%d\n" % number for number in range(300))
    (found,) = scan(head + chain + b"[    1.000000] stack backtrace:\n[    1.000000]  m_next+0x1/0x2\n")
    assert len(found.excerpt) <= splat.EXCERPT_LINES
    assert "possible circular" in found.excerpt[0]
    assert "m_next" in found.excerpt[-1]


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    (found,) = scan("[    1.000000] BUG: odd \x1b]0;x\x07owned\u202e \x1b[2J\x9bmoo\n".encode())
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", found.title + found.line + "".join(found.excerpt))


# --- one thing, one splat, one name


def test_the_cause_stands_before_the_panic_that_follows() -> None:
    found = scan(read(DATA / "x86-null-deref-then-panic.log")[1])
    assert [(one.kind, one.fatal) for one in found] == [(Kind.OOPS, True)]


def test_a_panic_of_its_own_is_second() -> None:
    body = read(DATA / "x86-kasan-interleaved.log")[1]
    found = scan(body + b"[   42.000000][  T300] Kernel panic - not syncing: No working init found.\n")
    assert [one.kind for one in found] == [Kind.KASAN, Kind.PANIC]
    assert [one.fatal for one in found] == [False, True]


def test_a_panic_much_later_is_not_the_end_of_an_old_report() -> None:
    body, quiet = read(DATA / "x86-warning-7.2.log")[1], b"nothing\n" * (splat.SPAN // 2)
    found = scan(body + quiet + printk("Kernel panic - not syncing: Fatal exception"))
    assert [(one.kind, one.fatal) for one in found] == [(Kind.WARNING, False), (Kind.PANIC, True)]


def test_the_fingerprint_is_the_same_in_every_run() -> None:
    body = read(DATA / "x86-warning-7.2.log")[1]
    (one,) = scan(body)
    again = body.replace(b".isra.0", b".constprop.3").replace(b"0x1c5", b"0x1d9").replace(b"h:214", b"h:230")
    again = again.replace(b"/88", b"/1234").replace(b"CPU#2", b"CPU#0").replace(b"12.000", b"99.111")
    (other,) = scan(again)
    assert again != body
    assert one.fingerprint == other.fingerprint == "warning-WARNING-in-vma_start_read"


def test_numbers_are_not_in_the_fingerprint() -> None:
    one, other = (
        f"Kernel panic - not syncing: No room for ptm{n} at 0xff{n} --- error -{n}" for n in (1, 22)
    )
    assert scan(printk(one))[0].fingerprint == scan(printk(other))[0].fingerprint


def test_only_a_banner_at_the_start_of_time_is_a_boot() -> None:
    assert scan(printk("Linux version 7.2.11", "Linux version 7.2.11")) == ()


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("m_next", "m_next"),
        ("m_next.isra.0", "m_next"),
        ("split_vma.part.0.constprop.0", "split_vma"),
        ("vma_merge.cold", "vma_merge"),
        ("vma_merge.llvm.123", "vma_merge"),
        ("__x64_sys_mmap", "sys_mmap"),
        ("__arm64_sys_mmap", "sys_mmap"),
        ("__riscv_sys_mmap", "sys_mmap"),
        ("__se_sys_mmap", "sys_mmap"),
        ("__do_sys_mmap", "sys_mmap"),
        ("ksys_mmap_pgoff", "ksys_mmap_pgoff"),
    ],
)
def test_function_name(symbol: str, name: str) -> None:
    assert function_name(symbol) == name


@pytest.mark.parametrize(
    "function",
    ["copy_page_range", "lock_vma_under_rcu", "lock_next_vma", "vma_start_read", "mas_find", "free_pgtables",
     "free_pages_and_swap_cache", "handle_mm_fault", "find_vma", "unmap_page_range", "do_anonymous_page",
     "__vma_start_write", "mmap_region", "show_map_vma", "walk_page_vma"],
)  # fmt: skip
def test_what_is_under_test_can_be_blamed(function: str) -> None:
    frames = (" dump_stack+0x1/0x2", f" {function}+0x1/0x2", " caller+0x1/0x2")
    (found,) = scan(printk("BUG: Bad page state in process a", "Call Trace:", *frames))
    assert found.function == function


def test_unreliable_frames_are_not_blamed() -> None:
    frames = (" dump_stack+0x1/0x2", " ? stale+0x1/0x2", " real+0x1/0x2")
    (found,) = scan(printk("BUG: Bad page state in process a", "Call Trace:", *frames))
    assert found.function == "real"


def test_panic_on_warn_does_not_rename_an_unknown_warning() -> None:
    panic = "Kernel panic - not syncing: kernel: panic_on_warn set ..."
    (found,) = scan(printk("------------[ cut here ]------------", "A new header", panic, " f+0x1/0x2"))
    assert (found.kind, found.function, found.fatal) == (Kind.WARNING, "f", True)


def test_two_tasks_report_at_once() -> None:
    one = b"".join(
        b"[    1.000000][   T%d] BUG: KASAN: use-after-free in f%d+0x1/0x2\n" % (n, n) for n in (1, 2)
    )
    frames = b"".join(b"[    1.000000][   T%d]  g%d+0x1/0x2\n" % (n, n) for n in (2, 1))
    found = scan(one + frames)
    assert [line.function for line in found] == ["f1", "f2"]
    assert [line.excerpt[-1].strip() for line in found] == ["g1+0x1/0x2", "g2+0x1/0x2"]


# --- the table

SAMPLES = [
    (Kind.KASAN, "BUG: KASAN: double-free or invalid-free in kvfree+0x36/0x60"),
    (Kind.KCSAN, "BUG: KCSAN: assert: race in dequeue+0x6df/0x760"),
    (Kind.KFENCE, "BUG: KFENCE: memory corruption in test+0xb3/0x20f"),
    (Kind.KMSAN, "BUG: KMSAN: kernel-infoleak in _copy_to_user+0x1c9/0x270"),
    (Kind.UBSAN, "UBSAN: Undefined behaviour in mm/mmap.c:15:25"),
    (Kind.LOCKDEP, "WARNING: possible recursive locking detected"),
    (Kind.LOCKDEP, "WARNING: possible irq lock inversion dependency detected"),
    (Kind.LOCKDEP, "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected"),
    (Kind.LOCKDEP, "WARNING: inconsistent lock state"),
    (Kind.LOCKDEP, "WARNING: bad unlock balance detected!"),
    (Kind.LOCKDEP, "WARNING: bad contention detected!"),
    (Kind.LOCKDEP, "WARNING: held lock freed!"),
    (Kind.LOCKDEP, "WARNING: a/1 still has locks held!"),
    (Kind.LOCKDEP, "WARNING: Nested lock was not taken"),
    (Kind.LOCKDEP, "WARNING: suspicious RCU usage"),
    (Kind.LOCKDEP, "[ BUG: Invalid wait context ]"),
    (Kind.LOCKDEP, "INFO: trying to register non-static key."),
    (Kind.LOCKDEP, "BUG: MAX_LOCKDEP_CHAINS too low!"),
    (Kind.LOCKDEP, "WARNING: CPU: 0 PID: 2 at kernel/locking/lockdep.c:704 register_lock_class+0x1/0x2"),
    (Kind.REFCOUNT, "refcount_t: addition on 0; use-after-free."),
    (Kind.REFCOUNT, "WARNING: CPU: 0 PID: 2 at lib/refcount.c:28 refcount_warn_saturate+0x1/0x2"),
    (Kind.LIST, "list_add corruption. prev->next should be next (1), but was 2."),
    (Kind.LIST, "kernel BUG at lib/list_debug.c:29!"),
    (Kind.BUG, "BUG: Dentry 00000000c{i=1,n=a}  still in use (1) [unmount of tmpfs tmpfs]"),
    (Kind.SOFT_LOCKUP, "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [a:1]"),
    (Kind.HARD_LOCKUP, "watchdog: Watchdog detected hard LOCKUP on cpu 1"),
    (Kind.RCU_STALL, "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }"),
    (Kind.RCU_STALL, "INFO: rcu_tasks detected stalls on tasks:"),
    (Kind.RCU_STALL, "rcu: rcu_preempt kthread starved for 2625 jiffies! g1 f0x0"),
    (Kind.HUNG_TASK, "INFO: task a b:12 blocked in I/O wait for more than 30 seconds."),
    (Kind.HUNG_TASK, "INFO: task a:1 can't die for more than 143 seconds."),
    (Kind.RCU_USE, "Voluntary context switch within RCU read-side critical section!"),
    (Kind.SEQ_FILE, "seq_file: buggy .next function m_next did not update position index"),
    (Kind.OOM_PANIC, "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled"),
    (Kind.OOM, "Memory cgroup out of memory: Killed process 3 (a) total-vm:1kB"),
    (Kind.KMEMLEAK, "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"),
    (Kind.KMEMLEAK, "unreferenced object 0xffff8880055 (size 64):"),
    (Kind.OOPS, "BUG: unable to handle kernel NULL pointer dereference at 0000000000000010"),
    (Kind.OOPS, "Unable to handle kernel access to user memory outside uaccess at virtual address 1"),
    (Kind.OOPS, "BUG: TASK stack guard page was hit at ffffc9 (stack is ffffc9..ffffca)"),
    (Kind.OOPS, "Insufficient stack space to handle exception!"),
    (Kind.OOPS, "PANIC: double fault, error_code: 0x0"),
    (Kind.OOPS, "Oops: general protection fault, probably for non-canonical address 0xdf: 0000 [#1] SMP"),
    (Kind.OOPS, "divide error: 0000 [#1] SMP"),
    (Kind.OOPS, "Unhandled 64-bit el1h sync exception on CPU0, ESR 0x2"),
    (Kind.BUG, "kernel BUG at mm/vma.c:1!"),
    (Kind.OOPS, "Internal error: synchronous external abort: 0000000096000010 [#1]  SMP"),
    (Kind.OOPS, "Oops: 0002 [#1] SMP"),
    (Kind.OOPS, "Oops [#1]"),
    (Kind.OOPS, "Oops - illegal instruction [#1]"),
    (Kind.PANIC, "Kernel panic - not syncing: Fatal exception in interrupt"),
    (Kind.PANIC, "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: f+0x1/0x2"),
    (Kind.PANIC, "Kernel panic - not syncing: corrupted stack end detected inside scheduler"),
    (Kind.PANIC, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
    (Kind.BUG, "BUG: spinlock bad magic on CPU#0, a/1"),
    (Kind.BUG, "BUG: assuming non-atomic context at mm/x.c:1"),
    (Kind.LOCKUP, "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 132s!"),
    (Kind.BUG, "VFS: Busy inodes after unmount of tmpfs. Self-destruct in 5 seconds."),
    (Kind.BUG, "BUG vm_area_struct (Not tainted): Object already free"),
    (Kind.BUG, "BUG vm_area_struct (Not tainted): Poison overwritten"),
    (Kind.BUG, "INFO: Allocated in f+0x29/0x90 age=1 cpu=1 pid=6024"),
    (Kind.WARNING, "WARNING: CPU: 1 PID: 8377 at mm/memory.c:7209 f+0x1f7/0x5a00"),
    (Kind.WARNING, "WARNING: mm/memory.c:7209 at 0x0, CPU#1: a/1"),
    (Kind.WARNING, "WARNING: kernel stack regs at 000000 in a:1 has bad 'bp' value 000000"),
    (Kind.BUG, "BUG: something that was never seen before"),
    (Kind.WARNING, "------------[ cut here ]------------"),
    (Kind.REBOOT, "Linux version 7.2.11"),
    (Kind.OOPS, "Alignment trap: not handling instruction e1932f9f at [<8028bd58>]"),
    (Kind.OOPS, "BUG: Unable to handle kernel data access on read at 0xc000000012345678"),
    (Kind.OOPS, "Unable to handle kernel pointer dereference in virtual kernel address space"),
    (Kind.OOPS, "specification exception: 0006 ilc:2 [#1] SMP"),
    (Kind.WARNING, "WARNING: stack going in the wrong direction? at f+0x1/0x2"),
    (Kind.UBSAN, "UBSAN: array index out of bounds at f+0x1/0x2"),
    (Kind.LOCKDEP, "WARNING: lock held when returning to user space!"),
    (Kind.LOCKDEP, "WARNING: chain_key collision"),
    (Kind.LOCKDEP, "BUG: key ffff888005d4c840 has not been registered!"),
    (Kind.LOCKDEP, "BUG: looking up invalid subclass: 8"),
    (Kind.LOCKDEP, "WARNING: RECLAIM_FS-safe -> RECLAIM_FS-unsafe lock order detected"),
    (Kind.REFCOUNT, "refcount_t overflow at f+0x1/0x2 in a[1], uid/euid: 0/0"),
    (Kind.BUG, "BUG: assuming non migratable context at fs/x.c:1"),
    (Kind.BUG, "usercopy: kernel memory exposure attempt detected from ffff (kmalloc-64) (65 bytes)"),
    (Kind.OOPS, "BUG: Kernel NULL pointer dereference on read at 0x00000000"),
    (Kind.BUG, "usercopy: Kernel memory overwrite attempt detected to SLUB object 'x' (offset 0, size 8)!"),
    (Kind.WARNING, "ODEBUG: free active (active state 0) object: 1 object type: work_struct hint: f+0x0/0x1"),
    (Kind.WARNING, "WARNING: CPU: 0 PID: 1 at lib/debugobjects.c:505 debug_print_object+0xb0/0xc4"),
    (Kind.BUG, "rust_kernel: panicked at drivers/x.rs:1:2:"),
    (Kind.OTHER, "firmware: panic: ASSERT FAILED at (a.h:63): x"),
    (Kind.LOCKUP, "BUG: spinlock lockup suspected on CPU#2, a/1"),
    (Kind.BUG, "kernel BUG at f+0x1/0x2 [verbose debug info unavailable]"),
    (Kind.BUG, "BUG at mas_validate:12 (1)"),
    (Kind.WARNING, "WARN at mas_validate:12 (1)"),
    (Kind.OOPS, "PANIC: early exception 0x0e IP 10:1 error 0 cr2 0x1"),
    (Kind.BUG, "BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1"),
    (Kind.BUG, "BUG: workqueue leaked atomic, lock or RCU: kworker/1[3]"),
    (Kind.BUG, "VFS: Close: file count is 0 (f_op=x)"),
    (Kind.OTHER, "unregister_netdevice: waiting for lo to become free. Usage count = 2"),
    (Kind.BUG, "slab error in verify_redzone_free(): cache `a': double free detected"),
    (Kind.BUG, "Slab corruption (Not tainted): kmalloc-64 start=1, len=64"),
    (Kind.BUG, "BUG: Bad page map in process a  pte:1 pmd:2"),
    (Kind.KMEMLEAK, "BUG: memory leak"),
    (Kind.WARNING, "WARNING: at f+0x1/0x2, CPU#1: a/1"),
    (Kind.WARNING, "WARNING: at mm/mmap.c:12 f+0x1/0x2()"),
    (Kind.WARNING, "WARNING: stack recursion on stack type 4"),
]  # fmt: skip


#: What looks like a report and is none.
SILENT = [(None, line) for line in (
    "BUG: Bad page state: 12 messages suppressed",
    "a[123] vsyscall read attempt denied -- look up the vsyscall kernel parameter if you need a workaround",
    "process 'proc-pid-vm' launched '/dev/fd/4' with NULL argv: empty string added",
    "WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!",
    "INFO: lockdep is turned off.",
    "INFO: NMI handler (perf_event_nmi_handler) took too long to run: 2.277 msecs",
    "clocksource: Watchdog remote CPU 1 read timed out",
    "a[12]: segfault at 0 ip 00000000004cb420 sp 00007f27fd37a250 error 15 in a[4c9000+3000]",
    "sysrq: HELP : loglevel(0-9) reboot(b) crash(c)",
    "ODEBUG: Out of memory. ODEBUG disabled",
    "reboot: Restarting system",
    # follows a report, or goes before one
    "---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---",
    "[End Poison overwritten] 0x00000000d1b2a7c3-0x00000000d1b2a7c3 @offset=3103. First byte 0x0",
)]  # fmt: skip


@pytest.mark.parametrize("line", [line for _, line in SILENT], ids=lambda line: line[:50])
def test_what_a_healthy_kernel_prints_is_no_splat(line: str) -> None:
    assert scan(printk(line)) == ()


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_a_class(kind: Kind) -> None:
    assert CLASSES[kind] in Class


def test_each_rule_knows_a_word_of_each_of_its_lines() -> None:
    for _, line in SAMPLES:
        for rule in RULES:
            assert not rule.pattern.search(line) or any(word in line for word in rule.words), rule


@pytest.mark.parametrize(("kind", "line"), SAMPLES, ids=[line[:50] for _, line in SAMPLES])
def test_each_line_is_known(kind: Kind, line: str) -> None:
    stamp = b"[    0.000000] "
    banner = stamp + b"Linux version 1\n" if kind is Kind.REBOOT else b""
    assert [found.kind for found in scan(banner + stamp + line.encode())] == [kind]


def test_each_rule_has_a_sample() -> None:
    others = [(None, "Booting the kernel."), (None, "2026/01/02 03:04:05 SYZFATAL: executor 1 failed")]
    used = [
        next((rule for rule in RULES if rule.pattern.search(line)), None)
        for _, line in SAMPLES + SILENT + others
    ]
    assert [rule.pattern.pattern for rule in RULES if rule not in used] == []


def test_each_kind_has_a_rule() -> None:
    assert {rule.kind for rule in RULES} == set(Kind)


# --- torn, cut, mixed

FRAMES = ["Call Trace:", " <TASK>", " dump_stack_lvl+0x1/0x2", " m_next+0x1/0x2", " seq_read_iter+0x1/0x2"]
WHOLE = ["BUG: Bad page state in process a  pfn:00001", *FRAMES]


def test_a_whole_report_is_not_corrupted() -> None:
    (found,) = scan(printk(*WHOLE))
    assert not found.corrupted
    assert found.function == "m_next"


@pytest.mark.parametrize(
    ("why", "lines"),
    [
        ("nothing but the head", WHOLE[:1]),
        ("a trace without a frame", WHOLE[:2]),
        ("only what printed it", WHOLE[:4]),
        ("only frames that the unwinder doubts", [*WHOLE[:3], " ? m_next+0x1/0x2", " ? f+0x1/0x2"]),
        ("two records on one line", [WHOLE[0] + "[    1.000000] e1000: link is up", *FRAMES]),
        ("lost lines", [WHOLE[0], "** 12 printk messages dropped **", *FRAMES]),
        ("a trace that something else follows", [*WHOLE[:2], "Code: 00 00", *FRAMES]),
        ("two tasks without callers", [WHOLE[0], "CPU: 0 PID: 1 Comm: a", "CPU: 1 PID: 2 Comm: b", *FRAMES]),
    ],
)  # fmt: skip
def test_what_is_torn_is_told(why: str, lines: list[str]) -> None:
    assert scan(printk(*lines))[0].corrupted, why


def test_between_two_tasks_nothing_is_guessed() -> None:
    (found,) = scan(printk(WHOLE[0], "CPU: 0 PID: 1 Comm: a", "CPU: 1 PID: 2 Comm: b", *FRAMES))
    assert found.function == ""
    head = "BUG: KASAN: use-after-free in m_start+0x1/0x2"
    (found,) = scan(printk(head, "CPU: 0 PID: 1 Comm: a", "CPU: 1 PID: 2 Comm: b", *FRAMES))
    assert found.corrupted
    assert found.function == "m_start"


def test_a_mark_before_a_frame_is_not_torn() -> None:
    (found,) = scan(printk(*WHOLE[:2], " <IRQ> [    1.000000]  dump_stack+0x1/0x2", *WHOLE[4:]))
    assert not found.corrupted


def test_a_prompt_before_the_head_is_not_torn() -> None:
    (found,) = scan(b"guest login: " + printk(*WHOLE))
    assert not found.corrupted


# --- from where to where


def test_lines_are_counted_from_one() -> None:
    quiet = ["nothing"] * 7
    rss = "BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1"
    found = scan(printk(*quiet, *WHOLE, *quiet, rss, *quiet))
    assert [(one.first_line, one.last_line) for one in found] == [(8, 13), (21, 21)]
    assert found[0].excerpt == tuple(WHOLE)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_line_numbers_are_right_in_any_chunks(data: st.DataObject) -> None:
    parts = st.sampled_from([b"\n", b"x\n", printk(*WHOLE), b"y" * 9000])
    body = b"".join(data.draw(st.lists(parts, max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    scanner = Scanner()
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        scanner.feed(body[start:end])
    for found in scanner.finish():
        assert found.first_line == body[: found.offset].count(b"\n") + 1


def test_a_report_ends_where_the_log_goes_on_about_other_things() -> None:
    (found,) = scan(printk(*WHOLE, *["other business"] * 300, " late_frame+0x1/0x2"))
    assert found.last_line == len(WHOLE)
    assert "late_frame" not in "".join(found.excerpt)


def test_a_stall_takes_the_traces_of_the_cpus_it_asked() -> None:
    def by(caller: str, *lines: str) -> bytes:
        return "".join(f"[    1.000000][{caller:>6}] {line}\n" for line in lines).encode()

    head = by("C1", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")
    foreign = by("T9", "innocent")
    asked = by("C1", "Sending NMI from CPU 1 to CPUs 0:")
    trace = by(
        "C0", "NMI backtrace for cpu 0", "RIP: 0010:m_next+0x1/0x2", "Call Trace:", " sys_read+0x1/0x2"
    )
    (found,) = scan(head + foreign + asked + trace)
    assert (found.function, found.last_line) == ("m_next", 7)
    assert "innocent" not in found.excerpt
    (alone,) = scan(head + foreign + trace)
    assert (alone.function, alone.last_line) == ("", 1)


def test_text_between_that_the_kernel_did_not_print_is_left_out() -> None:
    sshd = b"[67] Nov 26 00:33:45 Child connection from 10.0.2.2:34532\n other_frame+0x1/0x2\n"
    (found,) = scan(printk(*WHOLE[:3]) + sshd * 30 + printk(*WHOLE[3:]))
    assert found.excerpt == tuple(WHOLE)
    assert (found.first_line, found.last_line, found.corrupted) == (1, 6 + 60, False)


# --- who wrote it


@pytest.mark.parametrize(
    ("line", "user"),
    [
        (b"<0>[    1.000000] Kernel panic - not syncing: x", False),
        (b"<12>[    1.000000] Kernel panic - not syncing: x", True),
        (b"kern  :emerg : [    1.000000] Kernel panic - not syncing: x", False),
        (b"user  :warn  : [    1.000000] Kernel panic - not syncing: x", True),
        (b"0,339,1000000,-;Kernel panic - not syncing: x", False),
        (b"12,339,1000000,-,caller=T1;Kernel panic - not syncing: x", True),
    ],
)
def test_what_a_program_wrote_is_marked_where_the_log_tells(line: bytes, user: bool) -> None:
    (found,) = scan(line + b"\n")
    assert (found.user, found.fatal) == (user, not user)
    assert blame(found) is (Blame.TEST if user else Blame.KERNEL)


def test_a_program_does_not_end_a_report_of_the_kernel() -> None:
    kernel = b"".join(b"<4>" + line + b"\n" for line in printk(*WHOLE).splitlines())
    panic = b"<12>[    1.000000] Kernel panic - not syncing: Fatal exception\n"
    (real, forged) = scan(kernel + panic)
    assert (real.fatal, real.function, forged.user) == (False, "m_next", True)


def test_text_without_a_stamp_is_not_the_kernels_where_it_stamps() -> None:
    forged = b"Kernel panic - not syncing: VFS: Unable to mount root fs\nBUG: KASAN: x in f+0x1/0x2\n"
    assert len(scan(forged)) == 2
    assert scan(printk(*["boot"] * splat.STAMPING) + forged) == ()
    assert len(scan(printk(*["boot"] * splat.STAMPING) + printk(*forged.decode().splitlines()))) > 0


def test_a_console_that_begins_in_the_middle_shows_a_reboot_too() -> None:
    running, banner = b"[  812.000000] eth0: up\n", b"[    0.000000] Linux version 7.2.12\n"
    assert [found.kind for found in scan(running + banner)] == [Kind.REBOOT]
    assert scan(b"SeaBIOS\n" + banner + running) == ()
    assert scan(b"[    0.000000] Booting Linux on physical CPU 0x0\n" + banner) == ()


def test_what_the_decompressor_says_is_a_reboot_too() -> None:
    boot = b"Decompressing Linux... done.\nBooting the kernel.\n[    0.000000] Linux version 7.2.12\n"
    running = printk("eth0: up")
    assert scan(boot + running) == ()
    again = scan(boot + running + boot + running)
    assert [found.kind for found in again][:1] == [Kind.REBOOT]
    assert sum(found.count for found in again) == 1
    assert (
        scan(running + b"xfs: Unknown parameter 'Booting the kernel.'\n" + printk("Booting the kernel."))
        == ()
    )


def test_a_fuzzer_that_fails_is_not_the_kernels_fault() -> None:
    (found,) = scan(printk(*["boot"] * splat.STAMPING) + b"SYZFAIL: mmap failed\n")
    assert (found.kind, blame(found), found.fatal) == (Kind.FUZZER, Blame.TEST, False)
    assert scan(printk("SYZFAIL: mmap failed")) == ()


@pytest.mark.parametrize(
    "line",
    [
        "EIP: f+0x1/0x2 SS:ESP 0068:1",
        "EIP is at f+0x1/0x2",
        "NIP [c0000000000d7a3c] f+0x2c/0x50",
        "epc : f+0x1/0x2",
        "pc : f+0x1/0x2",
        "Krnl PSW : 0704c00180000000 00000000001ef2a8 (f+0x1/0x2)",
        "RIP: 0010:[<ffffffff82d4e304>]  [<ffffffff82d4e304>] f+0x1/0x2",
    ],
)
def test_registers_name_the_place(line: str) -> None:
    (found,) = scan(printk("Internal error: Oops: 5 [#1]", line, "Call Trace:", " caller+0x1/0x2"))
    assert found.function == "f"


# --- the fingerprint


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_fingerprint_outlives_what_differs_from_run_to_run(data: st.DataObject) -> None:
    draw = data.draw
    body = read(draw(st.sampled_from(GOLDEN)))[1]

    def other_number(base: int, least: int, most: int) -> bytes:
        return (f"{{:{'x' if base == 16 else 'd'}}}".format(draw(st.integers(least, most)))).encode()

    before = [found.fingerprint for found in scan(body)]
    shift = draw(st.integers(1, 9000))
    body = re.sub(
        rb"(?m)^\[ *(\d+)\.(\d{6})\]",
        lambda m: b"[%5d.%s]" % (int(m[1]) + (0 if m[1] == b"0" else shift), m[2]),
        body,
    )
    offset, size = other_number(16, 1, 0xFFF), other_number(16, 0x1000, 0xFFFF)
    suffix = draw(st.sampled_from([b"", b".isra.0", b".constprop.3", b".part.0.cold", b".llvm.123"]))
    # the very start of a function is another function's end
    at = rb"(?:\.(?:isra|constprop|part|cold|llvm)[.\d]*)*\+0x(?!0/)[0-9a-f]+/0x[0-9a-f]+"
    body = re.sub(at, suffix + b"+0x" + offset + b"/0x" + size, body)
    address = b"ffff8880" + other_number(16, 0x10000000, 0xFFFFFFFF)
    body = re.sub(rb"\bffff[0-9a-f]{12}\b", address, body)
    pid = other_number(10, 2, 99999)
    body = re.sub(rb"(PID: |pid:|pid |by task \S+/)\d+", lambda m: m[1] + pid, body)
    body = re.sub(rb"(CPU#|CPU: )\d+", rb"\g<1>3", body)
    assert [found.fingerprint for found in scan(body)] == before


def test_the_prefix_of_a_record_is_not_in_the_fingerprint() -> None:
    body = printk(*WHOLE)
    plain = re.sub(rb"(?m)^\[ +1\.000000\] ", b"", body)
    raw = re.sub(rb"(?m)^", b"<4>", body).removesuffix(b"<4>")
    callers = body.replace(b"] ", b"][   T12] ")
    each = (body, plain, raw, callers, body.replace(b"\n", b"\r\n"))
    assert len({scan(one)[0].fingerprint for one in each}) == 1


# --- bad input


def test_noise_is_survived_and_says_nothing() -> None:
    assert scan(bytes(range(256)) * 4000) == ()


@pytest.mark.parametrize("junk", [b"\x00", b"\x1b[31m", b"\xe2\x82", b"\xff\xfe", b"\x1b]0;t\x07"])
def test_junk_in_a_line_hides_no_report(junk: bytes) -> None:
    body = printk(*WHOLE).replace(b"] BUG", b"] " + junk + b"BUG").replace(b"\n", junk + b"\r\n")
    (found,) = scan(body)
    assert found.function == "m_next"
    assert "\x1b" not in "".join(found.excerpt)


def test_lines_of_a_megabyte_cost_no_more_than_their_head() -> None:
    scanner = Scanner()
    for _ in range(3):
        scanner.feed(b"z" * 1_000_000 + b"BUG: not seen\n" + printk(*WHOLE))
    found = scanner.finish()
    assert sum(one.count for one in found) == 3
    assert found[1].first_line == 1 + len(WHOLE) + 2


def test_an_empty_console_is_clean() -> None:
    assert scan(b"") == scan(b"\n") == scan(b"\r\n") == ()


def test_memory_that_runs_out_meanwhile_does_not_end_a_report_of_another() -> None:
    oom = "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"
    found = scan(printk(*WHOLE[:4], oom, *WHOLE[4:]))
    assert [(one.kind, one.function) for one in found] == [(Kind.BUG, "m_next"), (Kind.OOM, "")]
    assert not found[0].corrupted


def test_a_program_does_not_rename_a_report_of_the_kernel() -> None:
    cut = b"<4>[    1.000000] ------------[ cut here ]------------\n"
    forged = b"<12>[    1.000000] WARNING: mm/x.c:1 at innocent+0x1/0x2, CPU#0: a/1\n"
    real, other = scan(cut + forged + b"<4>[    1.000000]  culprit+0x1/0x2\n")
    assert (real.user, other.user) == (False, True)
    assert (real.title, other.title) == ("WARNING in culprit", "WARNING in innocent")


RISCV_OOPS = """\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
Oops [#1]
CPU: 1 UID: 0 PID: 61 Comm: sh Not tainted 7.2.12 #1 NONE
epc : {at}
 ra : caller+0x1c/0x3a
epc : ffffffff80412344 ra : ffffffff80412380 sp : ff20000000123d10
 gp : ffffffff81012345 tp : ff60000001234000 t0 : 0000000000000000
status: 0000000200000120 badaddr: 0000000000000000 cause: 000000000000000{cause}
[<ffffffff80412344>] {at}
[<ffffffff80412380>] above+0x3e/0x50
[<ffffffff80612680>] do_trap_ecall_u+0x1d0/0x3a0
[<ffffffff80712680>] handle_exception+0x14e/0x15a
---[ end trace 0000000000000000 ]---
"""


@pytest.mark.parametrize(
    ("at", "cause", "function"),
    [("own+0x14/0x40", "f", "own"), ("__raw_spin_lock+0x14/0x40", "f", "caller"), ("0x0", "c", "caller")],
)
def test_riscv_prints_two_program_counters_and_no_head_of_the_trace(
    at: str, cause: str, function: str
) -> None:
    lines = RISCV_OOPS.format(at=at, cause=cause).splitlines()
    (found,) = scan(printk(*lines))
    assert (found.function, found.fatal, found.corrupted) == (function, True, False)
