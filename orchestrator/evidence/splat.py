# SPDX-License-Identifier: GPL-2.0-only
"""Finds kernel reports (splats) in the raw bytes of a serial console, and names what each one blames.

One ordered table (`RULES`) says which line begins a report and what it is called; the rest of the
report, told apart by printk's caller ids where the kernel prints them, gives the function. The
guest is hostile: lines, reports and their number are bounded, and a report counts at most as text.

Not splats on purpose, since a healthy kernel prints them: the clocksource watchdog, RT throttling,
a slow hrtimer or NMI handler, `WARNING:` in front of plain advice, a user process that faults, and
SysRq help. A soft lockup or RCU stall *is* one; whether the host's steal made it is the caller's call.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from orchestrator.results.model import Blame

MAX_LINE = 4096
"""Bytes of one console line that are looked at; the rest of a longer one is dropped."""
SPAN = 128 * 1024
"""Bytes of console after its first line within which a report must end."""
MAX_LINES = 800
"""Lines of one report that are looked at."""
MAX_TEXT = 512
"""Characters of one printk record that are looked at: what keeps a hostile line from costing much time."""
EXCERPT_LINES = 120
KEEP = 3
"""Splats of one fingerprint that are kept with their text; further ones are only counted."""
MAX_FINGERPRINTS = 256
MUTE_AFTER = 24
"""After so many reports with the same first line (but for numbers) the next ones are not read, but counted
with the last one that was, even if their first line does not name the function and it is another."""
MUTED_LINES = 12
MAX_OPEN = 4
MAX_HEAD = 40
"""Lines of a report, at most, before its first frame."""


class Kind(StrEnum):
    """The class of a splat."""

    PANIC = "panic"
    OOPS = "oops"
    BUG = "bug"
    WARNING = "warning"
    LOCKDEP = "lockdep"
    KASAN = "kasan"
    KCSAN = "kcsan"
    KFENCE = "kfence"
    KMSAN = "kmsan"
    UBSAN = "ubsan"
    RCU_STALL = "rcu-stall"
    RCU_USE = "rcu-use"
    HUNG_TASK = "hung-task"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    REFCOUNT = "refcount"
    LIST = "list-corruption"
    SEQ_FILE = "seq-file"
    KMEMLEAK = "kmemleak"
    OOM = "oom"
    REBOOT = "reboot"


class Splat(msgspec.Struct, frozen=True, kw_only=True):
    """One report on the console.

    ``title`` reads like ``KASAN: slab-use-after-free Read in mas_next_slot``; ``function`` is the frame
    it blames, empty if the report does not tell. ``fingerprint`` is the same in every run: no address,
    number, pid or compiler suffix. ``fatal``: the kernel died of it, or goes on only by luck. ``line`` is
    the first line, ``excerpt`` at most `EXCERPT_LINES` lines, both clean text. ``offset`` is the byte in
    the console stream at which the first line starts. ``count`` is 1, and on the last splat kept of its
    fingerprint also counts those that were not, so that the counts of a console add up.
    """

    kind: Kind
    title: str
    function: str
    fingerprint: str
    fatal: bool
    line: str
    excerpt: tuple[str, ...]
    offset: int
    count: int = 1


def blame(splat: Splat) -> Blame:
    """Whose fault a splat is: running out of memory the infrastructure's, else the kernel's."""
    return Blame.INFRA if splat.kind is Kind.OOM else Blame.KERNEL


@dataclass(frozen=True)
class _Rule:
    """Which line begins a report, and how the report is named.

    ``title`` is filled from the named groups; ``by`` says how the function is found.

    ``fatal`` as in `Splat`. ``head``: until its first frame the report may be continued by a line whose rule
    has ``joins``. ``tail``: the line belongs to an earlier report, if there is one. ``weak``: whatever line
    follows says better what this is. ``stamped``: only behind a printk timestamp.
    """

    kind: Kind
    pattern: re.Pattern[str]
    title: str
    by: str
    flags: frozenset[str]

    @property
    def fatal(self) -> bool:
        return "fatal" in self.flags


def _rule(kind: Kind, pattern: str, title: str, by: str = "frame", flags: str = "") -> _Rule:
    return _Rule(kind, re.compile(pattern), title, by, frozenset(flags.split()))


_K = Kind
_IN = r"(?: (?:in|at|on) (?P<f>[A-Za-z_][\w.$]*)\+0x)?"
_PANIC = r"Kernel panic - not syncing: "

#: The first rule that matches a line wins.
# fmt: off
RULES: tuple[_Rule, ...] = (
    _rule(_K.KASAN, rf"BUG: KASAN: (?P<what>[\w-]+)(?: or [\w-]+)?{_IN}", "KASAN: {what}"),
    _rule(_K.KCSAN,
          r"BUG: KCSAN: (?P<what>(?:assert: )?[\w-]+)(?: in (?P<f>[\w.$]+)(?:\+\S+)?(?: /"
          r" (?P<f2>[\w.$]+))?)?",
          "KCSAN: {what}", "header"),
    _rule(_K.KFENCE,
          r"BUG: KFENCE: (?P<what>[\w -]+?)(?: in (?P<f>[A-Za-z_][\w.$]*)|\s*$)",
          "KFENCE: {what}"),
    _rule(_K.KMSAN, rf"BUG: KMSAN: (?P<what>[\w-]+){_IN}", "KMSAN: {what}"),
    _rule(_K.UBSAN, r"UBSAN: (?P<what>[\w -]+?) in \S+:\d+", "UBSAN: {what}"),
    # lockdep
    _rule(_K.LOCKDEP,
          r"possible (?:circular|recursive) locking (?:dependency )?detected"
          r"|possible irq lock inversion",
          "possible deadlock", "lock"),
    _rule(_K.LOCKDEP, r"IRQ-safe -> \w+-unsafe lock order detected", "possible deadlock", "irqlock"),
    _rule(_K.LOCKDEP, r"(?:WARNING|INFO): (?P<what>inconsistent (?:lock|\{\S+\}) \w+)", "{what}", "lock"),
    _rule(_K.LOCKDEP, r"(?P<what>bad (?:unlock balance|contention)) detected!", "WARNING: {what}", "lock"),
    _rule(_K.LOCKDEP,
          r"(?:BUG|WARNING): (?:.* )?(?P<what>held lock freed|still has locks held|lock held at task exit"
          r"|lock held when returning to user space|Nested lock was not taken)",
          "WARNING: {what}", "lock"),
    _rule(_K.LOCKDEP,
          r"(?:WARNING|INFO|BUG): (?P<what>suspicious RCU usage|Invalid wait context)",
          "WARNING: {what}"),
    _rule(_K.LOCKDEP, r"INFO: (?P<what>trying to register non-static key)", "INFO: {what}"),
    _rule(_K.LOCKDEP, r"BUG: (?P<what>MAX_\w+ too low)", "BUG: {what}", "none"),
    _rule(_K.LOCKDEP, r"WARNING: .*kernel/locking/lockdep\.c:\d+", "WARNING: locking bug", flags="joins"),
    # the reason, given just before (or inside) a WARN() or BUG()
    _rule(_K.REFCOUNT,
          r"refcount_t: (?P<what>underflow|saturated|addition on 0|decrement hit 0|increment on 0)",
          "refcount bug: {what}", flags="head joins"),
    _rule(_K.REFCOUNT, r"WARNING: .*lib/refcount\.c:\d+", "refcount bug", flags="joins"),
    _rule(_K.LIST,
          r"(?:list_(?:add|del)|hlist_\w+) (?:double add|corruption)",
          "corrupted list", flags="head joins"),
    _rule(_K.LIST,
          r"(?:kernel BUG at |WARNING: .*)\blib/list_debug\.c:\d+",
          "corrupted list", flags="joins"),
    _rule(_K.BUG, r"BUG:? (?P<what>Dentry) .*still in use", "BUG: Dentry still in use", flags="head"),
    # lockups
    _rule(_K.SOFT_LOCKUP, r"BUG: soft lockup", "BUG: soft lockup", "stall"),
    _rule(_K.HARD_LOCKUP, r"Watchdog detected hard LOCKUP", "hard LOCKUP", "stall", "fatal"),
    _rule(_K.RCU_STALL,
          r"\brcu\w* (?:self-)?detected (?:expedited )?stalls?\b",
          "INFO: rcu detected stall", "stall", "head"),
    _rule(_K.RCU_STALL,
          r"\brcu\w+ kthread (?:starved for|timer wakeup)",
          "INFO: rcu detected stall", "stall", "tail"),
    _rule(_K.HUNG_TASK,
          r"task .*:\d+ blocked (?:in I/O wait )?for more than \d+ seconds",
          "INFO: task hung", "hang"),
    _rule(_K.HUNG_TASK, r"INFO: task .* can't die for more than", "INFO: task can't die", "hang"),
    _rule(_K.RCU_USE,
          r"Voluntary context switch within RCU read-side critical section!",
          "voluntary context switch within RCU read-side critical section", flags="head joins"),
    _rule(_K.SEQ_FILE,
          r"seq_file: buggy \.next function (?P<f>[\w.$]+)",
          "seq_file: buggy .next function", "header"),
    # memory
    _rule(_K.OOM,
          rf"{_PANIC}.*(?:[Oo]ut of memory|deadlocked on memory)",
          "out of memory", "none", "fatal tail"),
    _rule(_K.OOM,
          r"invoked oom-killer:|oom-kill:constraint=|[Oo]ut of memory: Kill|[Oo]ut of memory \(oom_kill",
          "out of memory", "none", "tail"),
    _rule(_K.KMEMLEAK,
          r"BUG: memory leak|kmemleak: \d+ new suspected memory leaks",
          "memory leak", "leak", "head"),
    _rule(_K.KMEMLEAK, r"^\s*unreferenced object 0x[0-9a-f]+ \(size", "memory leak", "leak", "joins"),
    # exceptions
    _rule(_K.OOPS,
          r"(?:BUG|Unable).*(?:kernel|handle) NULL pointer dereference",
          "BUG: unable to handle kernel NULL pointer dereference", flags="fatal head"),
    _rule(_K.OOPS,
          r"BUG: unable to handle (?:kernel paging|page fault)"
          r"|Unable to handle kernel [\w -]+ at virtual",
          "BUG: unable to handle kernel paging request", flags="fatal head"),
    _rule(_K.OOPS,
          r"BUG: .*stack guard page was hit",
          "BUG: stack guard page was hit", "entry", "fatal head"),
    _rule(_K.OOPS,
          r"kernel stack overflow \(|Insufficient stack space to handle",
          "BUG: stack guard page was hit", "entry", "fatal head joins"),
    _rule(_K.OOPS, r"PANIC: double fault", "PANIC: double fault", flags="fatal head"),
    _rule(_K.OOPS, r"general protection fault[,:]", "general protection fault", flags="fatal head joins"),
    _rule(_K.OOPS,
          r"\b(?P<what>[a-z][a-z _-]{2,30}): [0-9a-f]{4} \[#\d+\]",
          "{what}", flags="fatal joins"),
    _rule(_K.OOPS,
          r"Unhandled (?:fault: |64-bit el1|prefetch abort)",
          "unhandled fault", flags="fatal head"),
    _rule(_K.BUG, r"kernel BUG at [^\s:]+:\d+", "kernel BUG", flags="fatal head joins"),
    _rule(_K.OOPS, r"Internal error: .*\[#\d+\]", "Internal error", flags="fatal joins"),
    _rule(_K.OOPS, r"\bOops: .*\[#\d+\]", "Oops", flags="fatal joins"),
    _rule(_K.PANIC,
          rf"{_PANIC}(?P<what>(?:\w+: )?(?:panic_on_\w+ set|Fatal exception|Oops|softlockup|hung_task"
          r"|RCU Stall|Hard LOCKUP|Machine halted|scheduling while atomic|kernel stack overflow"
          r"|Attempted to kill init))",
          "kernel panic: {what}", "none", "fatal tail"),
    _rule(_K.PANIC,
          rf"{_PANIC}stack-protector: Kernel stack is corrupted in: (?:(?P<f>[A-Za-z_][\w.]*)\+)?",
          "kernel panic: stack is corrupted", flags="fatal"),
    _rule(_K.PANIC,
          rf"{_PANIC}(?P<what>corrupted stack end) detected",
          "kernel panic: {what}", "entry", "fatal"),
    _rule(_K.PANIC, rf"{_PANIC}(?P<what>.{{0,100}})", "kernel panic: {what}", "none", "fatal"),
    # BUG: and its cousins
    _rule(_K.BUG,
          r"BUG: (?P<what>Bad (?:page (?:state|map|cache)|rss-counter)|non-zero pgtables_bytes"
          r"|scheduling while atomic|sleeping function called from invalid context"
          r"|assuming (?:non-)?atomic context|workqueue leaked (?:lock|atomic)"
          r"|(?:spin|rw)lock (?:bad magic|(?:cpu )?recursion|wrong \w+|already unlocked|lockup suspected)"
          r"|using \w+\(\) in preemptible)",
          "BUG: {what}"),
    _rule(_K.BUG, r"BUG: workqueue lockup", "BUG: workqueue lockup", "none"),
    _rule(_K.BUG, r"VFS: Busy inodes after unmount", "VFS: Busy inodes after unmount", "none"),
    _rule(_K.BUG,
          r"BUG \S+ \((?:Not tainted|Tainted).*?\): (?P<what>[\w -]+)",
          "BUG: slab: {what}", "none", "tail"),
    _rule(_K.BUG,
          r"INFO: (?:Allocated|Freed) in (?P<f>[\w.$]+)\+0x\S+ age=",
          "BUG: slab object", "header", "tail"),
    _rule(_K.WARNING,
          r"WARNING: CPU: \d+ PID: \d+ at (?P<file>[^\s:]+):\d+(?: (?P<f>[\w.$]+)\+)?",
          "WARNING", flags="joins"),
    _rule(_K.WARNING,
          r"WARNING: (?P<file>[^\s:]+):\d+ at (?P<f>[A-Za-z_][\w.$]*)?",
          "WARNING", flags="joins"),
    _rule(_K.WARNING,
          r"WARNING: kernel stack (?:regs|frame pointer) at .* has bad",
          "WARNING: kernel stack has bad value", "none"),
    _rule(_K.BUG, r"^(?:\[ )?BUG: (?P<what>[A-Za-z][\w ]{0,60})", "BUG: {what}", flags="stamped"),
    _rule(_K.WARNING, r"-----\[ cut here \]-----", "WARNING", flags="head joins weak"),
    _rule(_K.REBOOT, r"^Linux version \d", "unexpected reboot", "none", "fatal stamped"),
)
# fmt: on

#: One of these is in every line that a rule can match; looking for bytes first is what makes a flood cheap.
_HINTS = re.compile(
    rb"BUG|WARNING|UBSAN: |INFO: |detected|IRQ-safe|refcount_t|corruption|double add|LOCKUP|kthread [st]"
    rb"|blocked |Voluntary|seq_file: |oom-kill|ut of memory|kmemleak: |unreferenced |Unable to|stack overflow"
    rb"|Insufficient stack|protection fault|double fault| \[#\d|Unhandled |Internal error"
    rb"|Oops|Kernel panic|VFS: Busy|cut here|Linux version"
)

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

_STAMP = re.compile(rb"(?:<\d{1,3}>)?\[ *(\d{1,9}\.\d{6})\](?:\[ *([TC]\d{1,9})\])? ?")
_JUNK = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|\d).*$")
_SYSCALL = re.compile(
    r"^(?:__)?(?:(?:x64|ia32|x32|arm64|se|do)_)+(?:compat_)?sys_|^(?:compat_)?(?:SyS|SYSC)_|^compat_sys_"
)
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_FRAME = re.compile(
    r"\s*(?:#\d+:?\s+)?(?:</?\w+>\s*)*(?:\[<?[0-9a-fx]+>?\]\s*)*(?P<doubt>\? ?)?"
    r"\(?(?P<f>[A-Za-z_][\w.$]*)\)?"
    r"(?:\+0x[0-9a-f]+/0x[0-9a-f]+|(?= from \[?)|(?= [\w./-]+\.[chS]:\d+))"
)
_PC = re.compile(
    r"\b(?:R?E?IP: (?:00[16]0:)?|PC is at |pc : )(?:\s*\[<[^>]*>\])*\s*"
    r"(?P<f>[A-Za-z_][\w.$]*)(?:\+0x| (?!:))"
)
_WARN_AT = re.compile(r"WARNING: .* (?P<f>[A-Za-z_][\w.$]*)\+0x")
_TRACE = re.compile(
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
_ACCESS = re.compile(r"\b(?P<a>Read|Write) (?:of size|at addr)")


_RULED_OFF = frozenset({Kind.KASAN, Kind.KCSAN, Kind.KFENCE, Kind.KMSAN, Kind.UBSAN})
_TAIL_OF: dict[Kind, frozenset[Kind]] = {
    Kind.OOM: frozenset({Kind.OOM}),
    Kind.RCU_STALL: frozenset({Kind.RCU_STALL}),
    Kind.BUG: frozenset({Kind.KASAN, Kind.KFENCE, Kind.BUG}),
}


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
        if _TRACE.search(line):
            if in_frames:
                traces.append([])
            in_frames = False
        pc = _PC.search(line)
        frame = pc or _FRAME.match(line)
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
        if match := _LOCK_AT.search(line) or _FRAME.match(after):
            if not _plumbing(match["f"]):
                return match["f"]
            break
    start = next((at for at, line in enumerate(lines) if "stack backtrace" in line), None)
    traces = _traces(lines[start:]) if start is not None else _traces(lines)[::-1]
    return next((found for trace in traces if (found := _first(trace))), "")


def _blamed(rule: _Rule, header: str, lines: list[str]) -> str:
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


def _text(raw: bytes) -> str:
    return _JUNK.sub("", raw[:MAX_TEXT].decode("utf-8", "replace"))


@dataclass
class _Segment:
    """A printk record on a console line; a torn line has several."""

    text: str
    caller: str
    stamp: str


def _segments(line: bytes) -> list[_Segment]:
    stamps = list(_STAMP.finditer(line))
    if not stamps:
        return [_Segment(_text(line), "", "")]
    found = [_Segment(_text(line[: stamps[0].start()]), "", "")] if line[: stamps[0].start()].strip() else []
    ends = [stamp.start() for stamp in stamps[1:]] + [len(line)]
    for stamp, end in zip(stamps, ends, strict=True):
        found.append(_Segment(_text(line[stamp.end() : end]), (stamp[2] or b"").decode(), stamp[1].decode()))
    return found


@dataclass(eq=False)
class _Report:
    rule: _Rule
    match: re.Match[str]
    caller: str
    offset: int
    line: str
    lines: list[str] = field(default_factory=list)
    framed: bool = False
    fatal: bool = False
    muted: bool = False
    head: str = ""
    splat: Splat | None = None

    def takes(self, caller: str) -> bool:
        return not self.caller or self.caller == caller or self.rule.by == "stall"

    def build(self) -> Splat:
        groups = {name: value or "" for name, value in self.match.groupdict().items()}
        header = sorted({function_name(groups[name]) for name in ("f", "f2") if groups.get(name)})
        function = function_name(_blamed(self.rule, header[0] if header else "", self.lines))
        title = self.rule.title.format_map(groups).strip()
        if self.rule.kind is Kind.KASAN:
            access = next((m["a"] for line in self.lines[:12] if (m := _ACCESS.search(line))), "")
            title = f"{title} {access}".strip()
        elif not function and groups.get("file"):
            title = f"{title} at {groups['file']}"
        title = _NUMBER.sub("N", title)
        where = " / ".join(header) if len(header) > 1 else function
        named = f"{title} in {where}" if where else title
        return Splat(
            kind=self.rule.kind,
            title=named,
            function=function,
            fingerprint=re.sub(r"[^\w.$]+", "-", f"{self.rule.kind}:{named}"),
            fatal=self.fatal,
            line=self.line,
            excerpt=_excerpt(self.lines or [self.line]),
            offset=self.offset,
        )


def _excerpt(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= EXCERPT_LINES:
        return tuple(lines)
    trace = next((at for at, line in enumerate(lines) if _TRACE.search(line)), 0)
    head = min(trace, EXCERPT_LINES // 3)
    return (
        *lines[:head],
        f"[... {trace - head} lines ...]",
        *lines[trace : trace + EXCERPT_LINES - head - 1],
    )


class Scanner:
    """Reads a console as it comes, in any chunks, and collects its splats; memory stays bounded.

    >>> scanner = Scanner()
    >>> begun = scanner.feed(data)     # at once, on the first line of each
    >>> splats = scanner.finish()      # all, in order, with function and text
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Splats beyond `MAX_FINGERPRINTS`: seen, but not even counted by name."""
        self._tail = b""
        self._tail_cut = 0
        self._offset = 0
        self._open: list[_Report] = []
        self._kept: list[_Report] = []
        self._last: _Report | None = None
        self._counts: dict[str, int] = {}
        self._heads: dict[str, int] = {}
        self._head_fingerprints: dict[str, str] = {}
        self._booted = False
        self._begun: list[Splat] = []

    def feed(self, data: bytes) -> list[Splat]:
        """Take the next bytes of the console; give the splats whose first line is in them.

        Such a splat is a first notice: the function and the fingerprint are only what the first line
        tells. `splats` and `finish` have the full ones. In a flood only the first notices are given.
        """
        end = data.rfind(b"\n") + 1
        if end:
            self._scan(self._tail, data[:end])
            self._tail, self._tail_cut = b"", 0
        rest = data[end:]
        room = MAX_LINE - len(self._tail)
        self._tail += rest[:room]
        self._tail_cut += max(0, len(rest) - room)
        return self._notices()

    def finish(self) -> tuple[Splat, ...]:
        """End of the console: close what is open and give all splats in the order of their first lines."""
        if self._tail:
            self._scan(self._tail, b"\n")
            self._tail, self._tail_cut = b"", 0
        for report in list(self._open):
            self._close(report)
        return self.splats()

    def splats(self) -> tuple[Splat, ...]:
        """All splats so far, those that are still being printed as far as they go."""
        last = {report.splat.fingerprint: report for report in self._kept if report.splat}
        kept = Counter(report.splat.fingerprint for report in self._kept if report.splat)
        found = []
        for report in self._kept:
            splat = report.splat or report.build()
            if last.get(splat.fingerprint) is report:
                more = self._counts[splat.fingerprint] - kept[splat.fingerprint]
                splat = msgspec.structs.replace(splat, count=1 + more)
            found.append(splat)
        return tuple(found)

    def counts(self) -> dict[str, int]:
        """How often each fingerprint was seen so far; the difference of two calls is a phase's share."""
        return dict(self._counts)

    def _notices(self) -> list[Splat]:
        begun, self._begun = self._begun, []
        return begun

    def _scan(self, tail: bytes, block: bytes) -> None:
        """``tail`` and ``block`` are whole lines; between reports only hints are looked for."""
        first = block.find(b"\n")
        self._line(self._offset, (tail + block[:first])[:MAX_LINE])
        start = self._offset + len(tail) + self._tail_cut
        at = first + 1
        while at < len(block):
            if not self._open:
                hint = _HINTS.search(block, at)
                if not hint:
                    break
                at = block.rfind(b"\n", at, hint.start()) + 1 or at
            end = block.find(b"\n", at)
            self._line(start + at, block[at : min(end, at + MAX_LINE)])
            at = end + 1
        self._offset = start + len(block)

    def _line(self, offset: int, raw: bytes) -> None:
        hint = _HINTS.search(raw)
        if not hint and not self._open:
            return
        for report in [r for r in self._open if offset - r.offset > SPAN]:
            self._close(report)
        for segment in _segments(raw.rstrip(b"\r")):
            if hint:
                self._match(segment, offset)
            for report in list(self._open):
                if report.takes(segment.caller):
                    self._append(report, segment.text)

    def _append(self, report: _Report, text: str) -> None:
        report.lines.append(text)
        if not report.framed:
            frame = _FRAME.match(text)
            report.framed = frame is not None and not frame["doubt"]
        ended = report.rule.by != "stall" and (
            "---[ end " in text
            or (report.framed and report.rule.kind in _RULED_OFF and text.lstrip().startswith("=" * 20))
        )
        if ended or len(report.lines) >= (MUTED_LINES if report.muted else MAX_LINES):
            self._close(report)

    def _match(self, segment: _Segment, offset: int) -> None:
        for rule in RULES:
            if match := rule.pattern.search(segment.text):
                break
        else:
            return
        if "stamped" in rule.flags and not segment.stamp:
            return
        if rule.kind is Kind.REBOOT:
            if not segment.stamp.startswith("0.0"):
                return
            if not self._booted:
                self._booted = True
                return
            for report in list(self._open):
                self._close(report)
        same = next((r for r in reversed(self._open) if r.caller == segment.caller), None)
        if same and self._joined(same, rule, match):
            return
        if "tail" in rule.flags and self._trailed(same, rule, offset):
            return
        if same:
            self._close(same)
        while len(self._open) >= MAX_OPEN:
            self._close(self._open[0])
        report = _Report(rule, match, segment.caller, offset, segment.text, fatal=rule.fatal)
        self._open.append(report)
        self._kept.append(report)
        self._last = report
        if "weak" not in rule.flags:
            self._notice(report)

    def _joined(self, report: _Report, rule: _Rule, match: re.Match[str]) -> bool:
        """Whether a line is the next of a report's head, rather than a splat of its own."""
        if "weak" in report.rule.flags:
            joins = "tail" not in rule.flags
        else:
            joins = "head" in report.rule.flags and "joins" in rule.flags
        if not joins or report.framed or rule is report.rule or len(report.lines) > MAX_HEAD:
            return False
        report.fatal = report.fatal or rule.fatal
        if "weak" in report.rule.flags:
            report.rule, report.match, report.line = rule, match, match.string
            self._notice(report)
        return True

    def _trailed(self, same: _Report | None, rule: _Rule, offset: int) -> bool:
        """Whether a line only tells what became of an earlier report."""
        for report in (same, self._last):
            if not report or offset - report.offset > 2 * SPAN:
                continue
            if rule.kind is Kind.PANIC or report.rule.kind in _TAIL_OF[rule.kind]:
                report.fatal = report.fatal or rule.fatal
                if report.splat and rule.fatal:
                    report.splat = msgspec.structs.replace(report.splat, fatal=True)
                return True
        return False

    def _notice(self, report: _Report) -> None:
        """Announce a report, unless too many have begun with the same words: then it is only counted."""
        key = _NUMBER.sub("N", report.line)[:200]
        if key in self._heads or len(self._heads) < 4 * MAX_FINGERPRINTS:
            report.head = key
            self._heads[key] = self._heads.get(key, 0) + 1
        report.muted = not report.head or self._heads[key] > MUTE_AFTER
        if not report.muted:
            self._begun.append(report.build())

    def _close(self, report: _Report) -> None:
        self._open.remove(report)
        if "weak" in report.rule.flags:
            self._notice(report)
        if report.muted:
            fingerprint = self._head_fingerprints.get(report.head, "")
        else:
            report.splat = report.build()
            fingerprint = report.splat.fingerprint
            self._head_fingerprints[report.head] = fingerprint
        report.lines = []
        if not fingerprint or (fingerprint not in self._counts and len(self._counts) >= MAX_FINGERPRINTS):
            self.dropped += 1
            self._kept.remove(report)
            return
        count = self._counts[fingerprint] = self._counts.get(fingerprint, 0) + 1
        if count > KEEP or report.muted:
            self._kept.remove(report)
