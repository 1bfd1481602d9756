# SPDX-License-Identifier: GPL-2.0-only
"""Which function a report blames."""

from __future__ import annotations

import pytest

from orchestrator.splat import frames
from orchestrator.splat.scanner import Scanner


def blamed(*lines: str) -> str:
    scanner = Scanner()
    scanner.feed("".join(f"[    1.000000] {line}\n" for line in lines).encode())
    (found,) = scanner.finish()
    return found.function


def at(*functions: str) -> list[str]:
    return [f" {function}+0x1/0x2" for function in functions]


@pytest.mark.parametrize(
    ("handler", "entry"),
    [("report_bug", "invalid_op"), ("report_bug", "asm_exc_invalid_op"), ("call_bug_handler", "el1_dbg")],
)
def test_what_ran_since_the_trap_only_reports(handler: str, entry: str) -> None:
    head = ["WARNING: CPU: 0 PID: 1 at mm/x.c:1", "Call Trace:"]
    assert blamed(*head, *at("new_reporter", handler, entry), *at("culprit", "caller")) == "culprit"
    assert blamed(*head, *at("not_reporting", entry), *at("culprit", "caller")) == "not_reporting"


def test_frames_above_the_one_in_the_head_only_report() -> None:
    head = ["BUG: KASAN: use-after-free in memcpy+0x1/0x2", "Call Trace:"]
    assert blamed(*head, *at("new_reporter", "memcpy", "culprit", "caller")) == "culprit"


def test_a_frame_that_is_called_unreliable_is_not_blamed() -> None:
    frames = [" [c000000001bb3530] [c000000001bb35a0] stale+0x1/0x2 (unreliable)", *at("culprit")]
    assert blamed("BUG: Bad page state in process a", "Call Trace:", *frames) == "culprit"


@pytest.mark.parametrize(
    ("frames", "function"),
    [
        (["spins", "kvm_vm_ioctl", "kvm_vm_compat_ioctl", "do_syscall_64"], "kvm_vm_ioctl"),
        (["spins", "kvm_vm_compat_ioctl", "do_syscall_64"], "kvm_vm_compat_ioctl"),
        (["spins", "kvm_vm_ioctl", "__x64_sys_ioctl", "do_syscall_64"], "kvm_vm_ioctl"),
        (["spins", "a_timer", "call_timer_fn", "run_timer_softirq"], "a_timer"),
        (["default_idle", "cpu_startup_entry"], ""),
        (["spins", "acts", "direct_entry", "full_proxy_write", "vfs_write", "do_syscall_64"], "direct_entry"),
        (["spins", "acts", "handler", "proc_reg_write", "vfs_write", "do_syscall_64"], "handler"),
        (["spins", "a_store", "sysfs_kf_write", "kernfs_fop_write_iter", "vfs_write"], "a_store"),
        (["full_proxy_write", "vfs_write", "do_syscall_64"], "full_proxy_write"),
    ],
)
def test_a_stall_is_blamed_below_what_dispatched_it(frames: list[str], function: str) -> None:
    head = ["rcu: INFO: rcu_preempt self-detected stall on CPU", "Call Trace:"]
    assert blamed(*head, *at(*frames)) == function


NX, REGISTERS = "BUG: unable to handle page fault for address: 1", "Oops: Oops: 0011 [#1] SMP"


@pytest.mark.parametrize(
    ("registers", "frames", "function"),
    [
        (["#PF: supervisor instruction fetch in kernel mode", "RIP: 0010:data+0x0/0x4"], ["? f"], "f"),
        (["RIP: 0010:0xffffffff82e3d0c0"], ["? _printk", "? f", "g"], "f"),
        (["RIP: 0010:          (null)"], ["f", "g"], "f"),
        (["  EC = 0x21: IABT (current EL), IL = 32 bits", "pc : 0x0", "lr : f+0x1/0x2"], ["0x0", "g"], "f"),
        (["pc : 0xffff800081d43a60", "lr : 0xffff800081d43a60"], ["g"], "g"),
        # there is a function, or the program was there
        (["#PF: supervisor read access in kernel mode", "RIP: 0010:h+0x1/0x2"], ["? f", "g"], "h"),
        (["RIP: 0033:0x4012ab"], ["? f", "g"], "g"),
    ],
)
def test_a_jump_to_nowhere_is_blamed_on_who_jumped(
    registers: list[str], frames: list[str], function: str
) -> None:
    assert blamed(NX, REGISTERS, *registers, "Call Trace:", *at(*frames)) == function


def test_who_asked_for_a_damaged_object_is_blamed() -> None:
    def damaged(what: str, *tracks: str) -> str:
        bug = f"BUG kmalloc-64 (Not tainted): {what}"
        return blamed(bug, *tracks, "Call Trace:", *at("dump_stack_lvl", "kfree", "finder"))

    had = ("Allocated in kmemdup+0x1/0x2 age=1 cpu=0 pid=9", *at("__kmalloc_noprof", "kmemdup", "owner"))
    gone = ("Freed in freer+0x1/0x2 age=1 cpu=0 pid=9", *at("kfree", "freer"))
    assert damaged("Right Redzone overwritten", *had, *gone) == "owner"
    assert damaged("Poison overwritten", "INFO: Allocated in old+0x1/0x2 age=1 cpu=0 pid=9") == "old"
    assert damaged("Poison overwritten", *gone) == "finder"
    assert damaged("Object already free", *had, *gone) == "finder"


def test_a_lock_is_blamed_on_who_wants_it_then_on_who_holds_another() -> None:
    def locks(wants: str, holds: str) -> list[str]:
        return [
            "WARNING: possible circular locking dependency detected",
            "a/1 is trying to acquire lock:",
            f"(&x){{+.+.}}, at: {wants}+0x1/0x2",
            "but task is already holding lock:",
            f"(&y){{+.+.}}, at: {holds}+0x1/0x2",
            "stack backtrace:",
            "Call Trace:",
            *at("lock_acquire", "from_trace"),
        ]

    assert blamed(*locks("wanter", "holder")) == "wanter"
    assert blamed(*locks("down_read", "holder")) == "holder"
    assert blamed(*locks("down_read", "down_write")) == "from_trace"


def test_a_leak_is_blamed_on_who_asked_for_memory() -> None:
    head = ["unreferenced object 0xffff888005d4c840 (size 192):", "  backtrace:"]
    assert blamed(*head, *at("kmem_cache_alloc", "thing_alloc", "asker", "caller")) == "asker"


@pytest.mark.parametrize(
    ("line", "after", "mended"),
    [
        (" next+0x0/0x7c", "", " last+0x34/0x34"),
        (" next+0x0/0x7c (P)", "", " next+0x0/0x7c (P)"),
        (" next+0x0/0x7c", "pc : next+0x0/0x7c", " next+0x0/0x7c"),
        (" next+0x4/0x7c", "", " next+0x4/0x7c"),
        (" other+0x0/0x7c", "", " other+0x0/0x7c"),
        ("pc : next+0x0/0x7c", "", "pc : next+0x0/0x7c"),
    ],
)
def test_start_of_a_function_is_the_end_of_the_one_before(line: str, after: str, mended: str) -> None:
    ends = {"next": "last+0x34/0x34"}
    assert frames.with_call_site(line, [after], lambda name: ends.get(name, "")) == mended
    sure = line not in (" next+0x0/0x7c", " other+0x0/0x7c", "pc : next+0x0/0x7c")
    assert frames.frame(line)[1] is sure


@pytest.mark.parametrize(
    ("pc", "lr", "culprit"),
    [
        ("__pi_memcpy_generic", "writes", "writes"),
        # it has called something itself, and then its frame is there
        ("__pi_memcpy_generic", "__pi_memcpy_generic", "caller"),
        ("__pi_memcpy_generic", "__memset", "caller"),
        ("reads", "writes", "reads"),
    ],
)
def test_who_calls_what_leaves_no_frame_is_in_the_link_register(pc: str, lr: str, culprit: str) -> None:
    head = ["Unable to handle kernel paging request at virtual address ffff800080010000"]
    registers = [
        "Internal error: Oops: 000000009600004f [#1]  SMP",
        f"pc : {pc}+0xd8/0x22c",
        f"lr : {lr}+0x48/0x78",
    ]
    frames = [f" {pc}+0xd8/0x22c (P)", " caller+0x18/0x30"]
    assert blamed(*head, *registers, "Call trace:", *frames) == culprit


def test_the_start_of_the_function_that_walks_the_stack_is_its_own() -> None:
    """riscv64 prints it so; every other start of a function is the end of the one before."""
    walker = "[    3.3] [<ffffffff8000b464>] walk_stackframe+0x0/0x7c"
    other = "[    3.3] [<ffffffff80202a0c>] sysrq_sysctl_handler+0x0/0x5e"
    assert frames.with_call_site(walker, [], lambda _: "is_valid_bugaddr+0x46/0x46") == walker
    assert "sysrq_handle_crash+0x1a" in frames.with_call_site(
        other, [walker], lambda _: "sysrq_handle_crash+0x1a/0x1a"
    )


# --- decoded traces

PLACES = [
    "(fs/gadget.c:55)",
    "(/build/linux/fs/gadget.c:55 fs/inline.h:12)",
    "(fs/gadget.c:55 (discriminator 3))",
    "(??:?)",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("module", ["", " gadget", " [gadget]"])
@pytest.mark.parametrize(
    ("head", "function"),
    [
        (["BUG: kernel NULL pointer dereference, address: 0", "RIP: 0010:strlen {}"], "gadget_name"),
        (["BUG: kernel NULL pointer dereference, address: 0", "RIP: 0010:gadget_x {}"], "gadget_x"),
        (
            [
                "Unable to handle kernel paging request at virtual address 0",
                "pc : strlen {}",
                "lr : gadget_y {}",
            ],
            "gadget_y",
        ),
        (["BUG: KASAN: slab-out-of-bounds in gadget_z {}"], "gadget_z"),
        (["BUG: KASAN: slab-out-of-bounds in memcpy {}"], "gadget_name"),
        (["WARNING: CPU: 0 PID: 1 at fs/gadget.c:12 gadget_w {}"], "gadget_w"),
        (["WARNING: fs/gadget.c:12 at gadget_v {}, CPU#1: a/1"], "gadget_v"),
        (["INFO: task a:1 blocked for more than 120 seconds."], "gadget_name"),
        (["watchdog: BUG: soft lockup - CPU#0 stuck for 22s!"], "gadget_ioctl"),
    ],
)
def test_a_decoded_trace_is_read_like_any_other(
    place: str, module: str, head: list[str], function: str
) -> None:
    trace = [
        "<TASK>",
        "? __die_body {}",
        "strlen {}",
        "gadget_name {}",
        "gadget_ioctl {}",
        "__x64_sys_ioctl {}",
        "</TASK>",
    ]
    lines = [
        f"{line.format(place)}{module if line.endswith('{}') else ''}"
        for line in (*head, "Call Trace:", *trace)
    ]
    scanner = Scanner()
    scanner.feed("".join(f"[    1.000000] {line}\n" for line in lines).encode())
    (found,) = scanner.finish()
    assert (found.function, found.corrupted) == (function, False)


# --- plumbing


@pytest.mark.parametrize(
    "culprit",
    [
        "kmalloc_oob_right",
        "kmalloc_uaf_memset",
        "krealloc_more_oob",
        "kasan_global_oob_right",
        "kasan_stack_oob",
        "kmem_cache_oob",
        "mempool_oob_right_helper",
        "vmalloc_oob",
        "copy_user_test_oob",
        "rb_insert_pages",
        "rb_allocate_cpu_buffer",
        "list_devices",
        "list_widgets",
        "print_gadget",
        "report_gadget",
        "nmi_gadget",
        "die_temperature",
        "oops_counter",
        "warn_gadget",
        "up_gadget",
        "schedule_gadget",
        "bitmap_daemon_work",
        "entry_gadget",
        "gadget_copy_from_user",
    ],
)
def test_the_name_in_the_head_is_not_swallowed_by_a_family(culprit: str) -> None:
    head = f"BUG: KASAN: slab-out-of-bounds in {culprit}+0x190/0x3b8 [gadget]"
    assert (
        blamed(head, "Call Trace:", *at("dump_stack_lvl", "kasan_report", culprit, "kunit_try_run_case"))
        == culprit
    )
    assert (
        blamed(f"WARNING: CPU: 0 PID: 1 at fs/x.c:1 {culprit}+0x1/0x2", "Call Trace:", *at(culprit, "caller"))
        == culprit
    )


@pytest.mark.parametrize(
    "helper",
    [
        "kmalloc",
        "__kmalloc_node_track_caller_noprof",
        "kvmalloc_array_noprof",
        "__kvmalloc_node",
        "kmemdup_noprof",
        "kfree_sensitive",
        "kvfree",
        "kmem_cache_alloc_lru_noprof",
        "vmalloc_user",
        "__list_del_entry_valid_or_report",
        "__list_add_valid",
        "list_lru_add",
        "rb_erase",
        "rb_insert_color",
        "memdup_user_nul",
        "_copy_from_user",
        "__copy_to_user_inatomic",
        "down_read_killable",
        "__warn_printk",
        "report_bug",
        "die_addr",
        "print_hex_dump",
        "hex_dump_to_buffer",
        "hex_string",
        "vsnprintf",
        "symbol_string",
        "seq_printf",
        "format_decode",
        "number",
        "kstrtoull",
        "__set_page_owner_handle",
        "save_stack",
        "validate_chain",
        "check_prev_add",
        "lock_sync",
        "hlock_class",
        "__dentry_kill",
        "shrink_dentry_list",
        "dput",
        "hrtimer_try_to_cancel",
        "enqueue_timer",
        "timer_fixup_activate",
        "lookup_object_or_alloc",
        "__cfi_check",
        "__cfi_slowpath_diag",
        "__cfi_check_fail",
        "__ubsan_handle_cfi_check_fail_abort",
        "dump_backtrace.cfi_jt",
    ],
)
def test_a_helper_is_not_blamed_while_there_is_another(helper: str) -> None:
    assert (
        blamed("BUG: Bad page state in process a", "Call Trace:", *at("dump_stack", helper, "culprit"))
        == "culprit"
    )
    assert (
        blamed(f"BUG: KASAN: use-after-free in {helper}+0x1/0x2", "Call Trace:", *at(helper, "culprit"))
        == "culprit"
    )


@pytest.mark.parametrize(
    "handlers",
    [
        ["__ubsan_handle_cfi_check_fail_abort", "__cfi_check"],
        ["__cfi_check_fail", "__cfi_check"],
        ["__cfi_slowpath_diag"],
    ],
)
def test_the_handlers_of_old_cfi_are_not_blamed(handlers: list[str]) -> None:
    head = [
        "Kernel panic - not syncing: CFI failure (target: 0x0)",
        "Call trace:",
        " dump_backtrace.cfi_jt+0x0/0x4",
    ]
    assert blamed(*head, *at("show_stack", "panic", *handlers, "gadget_thread", "kthread")) == "gadget_thread"


# --- stalls and leaks

TICKS = ["rcu_sched_clock_irq", "update_process_times", "tick_sched_handle", "hrtimer_interrupt"]


@pytest.mark.parametrize(
    "through",
    [
        ["__sysvec_apic_timer_interrupt", "sysvec_apic_timer_interrupt", "asm_sysvec_apic_timer_interrupt"],
        [
            "instr_sysvec_apic_timer_interrupt",
            "sysvec_apic_timer_interrupt",
            "asm_sysvec_apic_timer_interrupt",
        ],
        ["sysvec_hyperv_stimer0", "asm_sysvec_hyperv_stimer0"],
        ["xen_timer_interrupt", "sysvec_xen_hvm_callback", "asm_sysvec_xen_hvm_callback"],
        ["smp_apic_timer_interrupt", "apic_timer_interrupt"],
        ["arch_timer_handler_virt", "gic_handle_irq", "el1_interrupt", "el1h_64_irq_handler", "el1h_64_irq"],
    ],
)
def test_a_stall_is_blamed_on_what_the_interrupt_interrupted(through: list[str]) -> None:
    head = ["rcu: INFO: rcu_preempt self-detected stall on CPU", "Call Trace:", " <IRQ>"]
    task = at("gadget_spin", "gadget_ioctl", "__x64_sys_ioctl", "do_syscall_64")
    assert blamed(*head, *at("dump_stack", *TICKS, *through), " </IRQ>", *task) == "gadget_ioctl"


@pytest.mark.parametrize(
    "by",
    [
        ["irqentry_exit", "sysvec_apic_timer_interrupt", "asm_sysvec_apic_timer_interrupt"],
        ["el1_interrupt", "el1h_64_irq_handler", "el1h_64_irq"],
        ["retint_kernel"],
    ],
)
def test_a_task_that_was_preempted_stalls_where_it_was(by: list[str]) -> None:
    head = [
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "task:a state:R  running task",
        "Call Trace:",
    ]
    assert (
        blamed(
            *head,
            *at("__schedule", "preempt_schedule_irq", *by, "gadget_spin", "gadget_ioctl", "__x64_sys_ioctl"),
        )
        == "gadget_ioctl"
    )


@pytest.mark.parametrize(
    "helper",
    [
        "kmemdup",
        "kstrdup",
        "memdup_user",
        "kvasprintf",
        "kobject_set_name_vargs",
        "idr_get_free",
        "xas_create",
        "mempool_init_node",
        "percpu_ref_init",
        "__alloc_skb",
    ],
)
def test_a_leak_is_not_blamed_on_who_allocates(helper: str) -> None:
    head = [
        "BUG: memory leak",
        "unreferenced object 0xffff888 (size 64):",
        '  comm "a", pid 1',
        "  backtrace (crc 0):",
    ]
    assert (
        blamed(*head, *at("kmem_cache_alloc_noprof", helper, "gadget_open", "do_dentry_open"))
        == "gadget_open"
    )


@pytest.mark.parametrize("where", ["ext4 sda1", "proc proc", "tmpfs tmpfs"])
def test_a_dentry_in_use_is_blamed_on_the_operation_that_the_kernel_names(where: str) -> None:
    head = f"BUG: Dentry ffff88810e2ca880{{i=0,n=a}}  still in use (1) [unmount of {where}]"
    warning = "WARNING: CPU: 0 PID: 380 at fs/dcache.c:1616 umount_check+0x18d/0x1d0"
    trace = at("d_walk", "shrink_dcache_for_umount", "kill_block_super")
    assert blamed(head, "------------[ cut here ]------------", warning, "Call Trace:", *trace) == "unmount"


@pytest.mark.parametrize("start", ["_stext", "__softirqentry_text_start", "__irqentry_text_end"])
def test_the_start_of_a_section_is_not_blamed(start: str) -> None:
    assert (
        blamed("BUG: Bad page state in process a", "Call Trace:", *at("dump_stack", start, "culprit"))
        == "culprit"
    )
