# SPDX-License-Identifier: GPL-2.0-only
"""Reads the stack traces of a kernel report, and tells which function it blames.

What every report of some sort goes through (printing, entry, locking, allocation) is plumbing: it is
skipped while there is another function. How a report is read, its rule says (``Rule.by``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.evidence.splat_rules import Rule

#: Functions that every report of some sort goes through, and helpers with thousands of callers: not blamed
#: while there is another. Matched against the whole name without leading underscores.
_PLUMBING_NAMES = (
    # what prints reports, and what leads there
    r" dump_(?:stack|backtrace).* show_(?:stack|regs|trace).* unwind_.* stack_trace_.* save_stack.*"
    r" arch_stack_walk print_.* (?:nmi_)?panic.* check_panic_on_warn warn(?:_.*)? report_.*"
    r" (?:handle|fixup)_bug (?:bug|brk)_handler do_error_trap do_invalid_op invalid_op die(?:_.*)?"
    r" bad_area.* no_context k[ac]san_.* (?:hw)?asan_.* tsan_.* kmsan_.* msan_.* kfence_.* ubsan_.*"
    r" check_memory_region.* sanitizer_cov_.* do_(?:kern|user)_addr_fault do_page_fault page_fault"
    r" do_(?:mem_abort|translation_fault|DataAbort|PrefetchAbort|trap.*) die_kernel_fault do_kernel_fault"
    r" do_tag_check_fault x86_(?:indirect|return)_thunk.* v?printk.* vprintk.* (?:perf_)?trace_lock.*"
    r" assertfail kmemleak_.* create_object rcu_dump_.* \w*trigger\w*_backtrace walk_stackframe bad_page"
    r" dump_page spin_(?:bug|dump) rwlock_bug stack_chk_fail ref_tracker_.* warn_bogus_irq_restore"
    r" stack_depot_.* oops_.* nmi_.*"
    # entry and interrupts
    r" (?:asm_)?(?:exc|sysvec)_.* error_entry entry_.* ret_from_.* ret_fast_syscall do_syscall_.*"
    r" syscall_.* el[01]h?t?_.* irq(?:entry)?_(?:enter|exit).* (?:smp_)?apic_timer_interrupt"
    r" call_on_.*stack.* asm_call_.* do_IRQ common_interrupt (?:do|invoke)_softirq.* handle_softirqs"
    r" dabt_svc irq_svc"
    # locking
    r" lock_(?:acquire|release|is_held|downgrade).* lockdep_.* debug_(?:check_no_locks|lockdep).*"
    r" validate_chain mark_(?:lock|usage|held).*"
    r" check_(?:prev|noncircular|deadlock|irq_usage|wait_context|usage).* (?:register|look_up)_lock_class.*"
    r" assign_lock_key valid_state (?:do_|arch_)?(?:raw_)*(?:spin|read|write)_(?:try|un)?lock.*"
    r" (?:native_)?queued_.* rcu_read_(?:un)?lock.* lock_sock.* rcu_is_watching (?:rt_|ww_)?mutex_.*"
    r" down(?:_.*)? up(?:_.*)? rwsem_.* (?:might|cant)_(?:sleep|fault|resched|alloc).* local_bh_.*"
    r" trace_(?:hard|soft)irqs_.* osq_.* (?:task_|this_)?rq_lock.* call_rwsem_.* console_lock lock_page.*"
    r" folio_(?:un)?lock lock_timer_base mod_timer preempt_.* debug_smp_processor_id this_cpu_preempt_check"
    r" check_preemption_disabled fs_reclaim_.* console_trylock.*"
    # scheduling and waiting
    r" (?:io_)?schedule(?:_timeout.*|_bug|_preempt_.*|_debug)? cond_resched.* wait_(?:for_|on_).*"
    r" do_wait_for_common bit_wait.* out_of_line_wait.* folio_wait_.* do_read_cache_.*"
    r" (?:filemap_)?fdatawait_.* switch_to context_switch retint_.* finish_wait wake_up(?!_new).*"
    r" try_to_wake_up (?:default|autoremove)_wake_.* prepare_to_wait.* swait.* rcu_note_context_switch"
    # memory and strings
    r" k[mzcv]*alloc.* kv?[mz]alloc.* kv?free(?:_.*)? v[mz]?alloc.* vfree kmem_cache_(?!destroy|create).*"
    r" slab_.* cache_alloc.* new_slab allocate_slab alloc_(?:frozen_)?pages?.* get_free_pages?"
    r" free_large_kmalloc free_pages(?:_exact|_nolock)? get_page_from_freelist post_alloc_hook"
    r" prep_new_page free_unref_.* pcpu_.*alloc.* alloc_percpu.* vunmap krealloc.* kmemdup.* kstr.*dup.*"
    r" mem(?:cpy|set|move|cmp|chr|scan|dup).* str[a-z]{1,6} sized_str.* v?s?c?n?printf string pointer"
    r" (?:raw_|instrument_)?copy_(?:to|from|user|mc)_.* copy_page copy_page_(?:to|from)_iter.*"
    r" copy(?:in|out) fortify_.* usercopy_.* check_object_size check_heap_object crc\w*"
    r" skb_(?:panic|over_panic|under_panic|put|push) kfree_skb.*"
    # data structures, deferred work
    r" (?:arch_)?(?:test_and_|set_|clear_|change_|test_|find_)\w*bit\w* (?:arch_)?atomic_.* refcount_.*"
    r" kref_.* kobject_.* add_uevent_var list_.* hlist_.* rb_.* xas_.*"
    r" debug_(?:print_object|check_no_obj_freed|object_.*) del_timer.* try_to_del_timer.* timer_delete.*"
    r" (?:start_)?flush_work.* call_rcu.* insert_work queue_(?:delayed_)?work.* drop_nlink"
    r" mark_buffer_dirty (?:fast_)?dput raw_(?:read|write)[bwlq] timer_is_static_object simple_copy_to_iter"
    r" idr_alloc.* try_to_grab_pending wait_rcu_gp kthread_stop iput klist_.*"
    r" device_(?:add|del|release|destroy|register|unregister|initialize) get_device_parent dpm_sysfs_.*"
    r" logic_(?:in|out)[bwl] page_pool_alloc.* usb_kill_urb \w+fs_panic cancel_(?:delayed_)?work.*"
    r" sysfs_(?:create|remove|warn)_.* devres_release_all"
)
_PLUMBING = re.compile("|".join(_PLUMBING_NAMES.split()))
#: A stall is blamed on the function just below one of these: what it spins in differs from run to run.
_DISPATCH = re.compile(
    r"do_syscall_.*|do_\w+_syscall_.*|entry_SYS.*|el0_svc.*|invoke_syscall|ret_fast_syscall|new_sync_.*"
    r"|(?:do_)?vfs_(?:ioctl|read|write)|\w*sys_(?:ioctl|read|write|[gs]etsockopt)|\w*SyS_ioctl|blkdev_\w*ioctl"
    r"|sock_(?:sendmsg|recvmsg|common_setsockopt).*|netif_receive_skb.*|(?:nf|rt)?netlink_rcv_msg"
    r"|process_one_work|worker_thread|kthread|task_work_run|call_timer_fn|run_timer.*|run_hrtimer.*"
    r"|hrtimer_run_queues|tasklet_action.*|handle_softirqs|do_softirq.*"
)
_IDLE = re.compile(r"\w*default_idle\w*|\w*safe_halt|cpu_idle\w*|arch_cpu_idle|rcu_gp_\w+|\w*mwait_idle\w*")
#: A leak is blamed on who asked for memory, not on how it was got.
_ALLOCATES = re.compile(r"alloc|^_*(?:pcpu|idr)_")
_TICK = re.compile(r"\w*hrtimer_interrupt|update_process_times|tick_\w+|arch_timer_handler\w*")
_IRQ_ENTRY = re.compile(
    r"(?:asm_sysvec_)?(?:local_)?(?:smp_trace_)?apic_timer_interrupt\w*|el1h?_(?:64_)?irq|__irq_svc"
)

_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|\d).*$")
_SYSCALL = re.compile(
    r"^(?:__)?(?:(?:x64|ia32|x32|arm64|se|do)_)+(?:compat_)?sys_|^(?:compat_)?(?:SyS|SYSC)_|^compat_sys_"
)
#: One frame of a stack trace; ``doubt``: the unwinder is not sure of it.
FRAME = re.compile(
    r"\s*(?:#\d+:?\s+)?(?:</?\w+>\s*)*(?:\[<?[0-9a-fx]+>?\]\s*)*(?P<doubt>\? ?)?"
    r"\(?(?P<f>[A-Za-z_][\w.$]*)\)?"
    r"(?:\+0x[0-9a-f]+/0x[0-9a-f]+|(?= from \[?)|(?= [\w./-]+\.[chS]:\d+))"
)
_PC = re.compile(
    r"\b(?:R?E?IP: (?:00[16]0:)?|PC is at |pc : )(?:\s*\[<[^>]*>\])*\s*"
    r"(?P<f>[A-Za-z_][\w.$]*)(?:\+0x| (?!:))"
)
_WARN_AT = re.compile(r"WARNING: .* (?P<f>[A-Za-z_][\w.$]*)\+0x")
#: A stack trace begins near this line.
TRACE = re.compile(
    r"Call [Tt]race:|(?:stack|NMI) backtrace\b|^[Bb]acktrace|\btask:|CPU: \d+ (?:UID|PID)|Task dump for"
)
#: After these come the traces of others: who allocated the object, what else runs.
_OTHERS = re.compile(
    r"(?i)\b(?:allocated|freed) by task|uninit was|memory state around|showing all locks|---\[ end "
    r"|last potentially|page last (?:allocated|free)|local variable|was (?:created|stored)|kernel panic - not"
    r"|sending nmi"
)
_LOCK_AT = re.compile(r"\bat:?\s+(?:\[<[^>]*>\]\s*)?(?P<f>[A-Za-z_][\w.$]*)(?:\+0x| |$)")
_TOLD = re.compile(r"last function: (?P<f>[A-Za-z_][\w.$]*)")


def function_name(symbol: str) -> str:
    """A symbol without what differs from build to build, so that ``__arm64_sys_mmap`` is ``sys_mmap``."""
    return _SYSCALL.sub("sys_", _SUFFIX.sub("", symbol))


def _plumbing(function: str) -> bool:
    return _PLUMBING.fullmatch(_SUFFIX.sub("", function).lstrip("_")) is not None


def _traces(lines: Iterable[str]) -> list[list[str]]:
    """The kernel functions of each stack trace of a report, innermost first; unreliable frames left out."""
    traces: list[list[str]] = [[]]
    in_frames = False
    before = ""
    for line in lines:
        aside, before = before.rstrip().endswith("disabled at:"), line
        if TRACE.search(line):
            if in_frames:
                traces.append([])
            in_frames = False
        pc = _PC.search(line)
        frame = pc or FRAME.match(line)
        if frame and not aside and (pc or not frame["doubt"]):
            traces[-1].append(frame["f"])
            in_frames = in_frames or not pc
    return [trace for trace in traces if trace]


def _first(functions: Iterable[str]) -> str:
    return next((f for f in functions if not _plumbing(f)), "")


def _stalled(lines: list[str]) -> str:
    for trace in _traces(lines):
        if tick := next((at for at, f in enumerate(trace) if _TICK.fullmatch(f)), 0):
            trace = trace[
                next((at for at, f in enumerate(trace) if at > tick and _IRQ_ENTRY.fullmatch(f)), tick) :
            ]
        functions = [f for f in trace if not _IRQ_ENTRY.fullmatch(f)]
        if not functions or any(_IDLE.fullmatch(f) for f in functions):
            continue
        if any(f.startswith("smp_call_function") for f in functions):
            return "smp_call_function"
        below = ""
        for f in functions:
            if _DISPATCH.fullmatch(f.lstrip("_")) and below:
                return below
            below = f
        if found := _first(functions):
            return found
    return ""


def _locked(lines: list[str], *, irq: bool) -> str:
    """The function that takes the lock in question, else the first of the last trace."""
    if irq:
        for at, line in enumerate(lines):
            taken = _traces(lines[at : at + 20]) if "which became" in line else []
            if taken and (found := _first(taken[0])):
                return found
    for at, line in enumerate(lines):
        after = lines[at + 1] if line.endswith(" at:") and at + 1 < len(lines) else ""
        if match := _LOCK_AT.search(line) or FRAME.match(after):
            if not _plumbing(match["f"]):
                return match["f"]
            break
    start = next((at for at, line in enumerate(lines) if "stack backtrace" in line), None)
    traces = _traces(lines[start:]) if start is not None else _traces(lines)[::-1]
    return next((found for trace in traces if (found := _first(trace))), "")


def blamed(rule: Rule, header: str, lines: list[str]) -> str:
    """The function that a report blames, as it stands there; empty if it does not tell."""
    if rule.by == "none":
        return ""
    if rule.by == "header":
        return header
    if rule.by in ("stall", "entry"):
        return _stalled(lines)
    if rule.by in ("lock", "irqlock"):
        return _locked(lines, irq=rule.by == "irqlock")
    end = next((at for at, line in enumerate(lines) if at and _OTHERS.search(line)), len(lines))
    if rule.by == "hang":
        traces = _traces(lines)
        return _first(traces[0]) if traces else ""
    if rule.by == "leak":
        frames = [name for trace in _traces(lines) for name in trace]
        return _first(name for name in frames if not _ALLOCATES.search(name)) or _first(frames)
    if told := next((match["f"] for line in lines[:8] if (match := _TOLD.search(line))), ""):
        return told
    heads = [header, *(match["f"] for line in lines[:8] if (match := _WARN_AT.search(line)))]
    heads = [name for name in heads if name]
    for part in (lines[:end], lines):
        frames = [name for trace in _traces(part) for name in trace]
        if found := _first([*heads, *frames]):
            return found
    return next(iter([*heads, *frames] if rule.fatal else heads), "")
