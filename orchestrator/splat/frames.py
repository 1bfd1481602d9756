# SPDX-License-Identifier: GPL-2.0-only
"""Read the stack traces of a kernel report, and find the function that it blames.

Functions on the way of every report of a kind (printing, entry, locking, allocation) are plumbing: they are
skipped while there is another function. ``Rule.by`` says how a report is read.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from orchestrator.splat import formats, rust
from orchestrator.splat.kinds import Kind
from orchestrator.splat.plumbing import PLUMBING, PLUMBING_HEAD
from orchestrator.splat.rules import Rule

#: A stall is blamed on the function that one of these calls: the one that spins differs from run to run.
_DISPATCH = re.compile(
    formats.pattern("entry", r"do_syscall_.*|do_\w+_syscall_.*|ret_fast_syscall|new_sync_.*")
    + r"|(?:do_)?vfs_(?:ioctl|read|write)|\w*SyS_ioctl|(?:compat_)?blkdev_\w*ioctl"
    r"|\w*sys_(?:ioctl|read|write|[gs]etsockopt)"
    r"|sock_(?:sendmsg|recvmsg|common_setsockopt).*|netif_receive_skb.*|(?:nf|rt)?netlink_rcv_msg"
    r"|process_one_work|worker_thread|kthread|task_work_run|call_timer_fn|run_timer.*|run_hrtimer.*"
    r"|hrtimer_run_queues|tasklet_action.*|handle_softirqs|do_softirq.*|run_ksoftirqd|smpboot_thread_fn"
    r"|rcu_(?:do_batch|core\w*)|(?:vfs|do)_iter_\w+|call_(?:read|write)_iter|vfs_(?:readv|writev)|fput"
    r"|(?:compat_)?sock_(?:release|close|mmap|ioctl|do_ioctl)|sk_common_release"
    r"|(?:\w*sys|kernel)_(?:listen|accept4?|socketpair|setsockopt)|do_(?:page_)?fault|exc_page_fault"
    r"|exit_to_user\w*|ret_from_fork.*|start_secondary|cpu_startup_entry"
    r"|(?:full|short|open)_proxy_\w+|proc_reg_\w+|pde_(?:read|write|\w*ioctl|mmap)|proc_sys_(?:call_handler|read|write)"
    r"|kernfs_(?:fop|file)_\w+|sysfs_kf_\w+"
)
_IDLE = re.compile(r"\w*default_idle\w*|\w*safe_halt|cpu_idle\w*|arch_cpu_idle|rcu_gp_\w+|\w*mwait_idle\w*")
#: A leak is blamed on the caller of the allocator, not on the allocator.
_ALLOCATES = re.compile(
    r"alloc|(?:mem|str)n?dup|printf|^_*(?:pcpu|idr|ida|xas?|radix_tree|mempool|bioset|sbitmap|percpu_ref|slab)_"
    r"|^(?:__)?(?:get_free_pages?|kobject_set_name\w*|dev_set_name|percpu_counter_init\w*|rhashtable_init|create_object)$"
)
#: What runs in the interrupt that found the stall.
_TICK = re.compile(
    r"\w*hrtimer_interrupt|update_process_times|tick_\w+|arch_timer_handler\w*|rcu_sched_clock_irq|rcu_check_callbacks"
    r"|watchdog_(?:overflow_callback|hardlockup\w*)"
)
#: A task that an interrupt preempted, at the top of its trace.
_PREEMPTED = re.compile(r"preempt_schedule_irq|\w*irqentry_exit\w*|retint_kernel")
_IRQ_ENTRY = re.compile(
    formats.pattern(
        "irq_entry",
        r"__irq_svc|gic_handle_irq|handle_IPI|timer_interrupt|decrementer_common\w*|end_repeat_nmi|(?:asm_)?exc_nmi",
    )
)

#: Where a trap instruction enters the kernel, and what is above that only if it was one of WARN() or BUG().
_BUG_ENTRY = re.compile(formats.pattern("trap_entry"))
_BUG_HANDLER = re.compile(formats.pattern("bug_handler", r"report_bug|(?:\w+_)?bug_handler"))

_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|cfi|cfi_jt|\d).*$")
_SYSCALL = re.compile(
    rf"^(?:__)?(?:(?:{formats.pattern('system_call', 'se', 'do')})_)+(?:compat_)?sys_"
    r"|^(?:compat_)?(?:SyS|SYSC)_|^compat_sys_"
)
#: Behind a function in a decoded trace (scripts/decode_stacktrace.sh), in place of its offset.
_PLACE = r" \((?:[\w./<>+~-]+|\?\?):[\d?]"
#: One frame of a stack trace; ``doubt``: the unwinder is not sure.
FRAME = re.compile(
    r"\s*(?:#\d+:?\s+)?(?:</?\w+>\s*)*(?:\[<?[0-9a-fx]+>?\]\s*)*(?P<doubt>\? ?)?"
    r"\(?(?P<f>[A-Za-z_][\w.$]*)\)?"
    rf"(?:\+0x[0-9a-f]+/0x[0-9a-f]+|(?= from \[?)|(?= [\w./-]+\.[chS]:\d+)|(?={_PLACE}))"
)
#: A call that does not return, as the last instruction of a function, is shown as the start of the next one.
#: A frame that really is there, and is not a return address, has a mark on the architectures that show such.
_START = re.compile(r"(?P<f>[A-Za-z_][\w.$]*)\+0x0/0x[0-9a-f]++(?! \([A-Z]*P[A-Z]*\))")
_FOREIGN_PC = ("(?:EIP|PC) is at ", "epc : ", "NIP ", r"Krnl PSW : [0-9a-f]+ [0-9a-f]+ [(]")
_PC = re.compile(
    rf"\b(?:{formats.pattern('pc', *_FOREIGN_PC)})"
    r"(?:\s*\[<?[0-9a-f]+>?\])*\s*"
    # registers that are only shown as numbers
    r"(?![0-9a-f]{8,16} )(?P<f>[A-Za-z_][\w.$]*)(?:\+0x| (?!:))"
)
#: The function that walks the stack, where it names its own start as the first frame.
_WALKER = re.compile(formats.pattern("walker"))
_WARN_AT = re.compile(rf"WARNING: .* (?P<f>[A-Za-z_][\w.$]*)(?:\+0x|{_PLACE})")
#: The CPU jumped to an address without code, through a wrong function pointer.
JUMP = re.compile(
    formats.pattern("jump", rf"\b(?:{formats.pattern('pc')})\s*(?:0x[0-9a-f]+|\(null\))(?:\s|$)")
)
#: The register that holds the address to which a call returns.
_LINK = re.compile(rf"^\s?(?:{formats.pattern('link')})(?P<f>[A-Za-z_][\w.$]*)(?:\+0x|{_PLACE})")
#: The last owner of an object, as SLUB records it; a trace follows.
_TRACK = re.compile(
    r"^(?:INFO: )?(?P<how>Allocated|Freed) in (?P<f>[A-Za-z_][\w.$]*)(?:\+0x\S+| \(\S+(?: \S+)?\)) age="
)
#: A stack trace begins near this line.
TRACE = re.compile(
    r"Call [Tt]race:|(?:stack|NMI) backtrace\b|^[Bb]acktrace|\btask:|CPU: \d+ (?:UID|PID)|Task dump for"
)
#: After these come other traces: who allocated the object, what else runs.
_OTHERS = re.compile(
    r"(?i)\b(?:allocated|freed) by task|uninit was|memory state around|showing all locks|---\[ end "
    r"|last potentially|page last (?:allocated|free)|local variable|was (?:created|stored)|kernel panic - not"
    r"|sending nmi"
)
_LOCK_AT = re.compile(r"\bat:?\s+(?:\[<[^>]*>\]\s*)?(?P<f>[A-Za-z_][\w.$]*)(?:\+0x| |$)")
_CHAIN = re.compile(r"existing dependency chain|other info that might|stack backtrace")
_LAST_FUNCTION = re.compile(r"last function: (?P<f>[A-Za-z_][\w.$]*)")


def function_name(symbol: str) -> str:
    """A symbol without what differs from build to build, so that ``__arm64_sys_mmap`` is ``sys_mmap``."""
    if symbol.startswith("_R"):
        return rust.path(symbol)
    return _SYSCALL.sub("sys_", _SUFFIX.sub("", symbol))


@functools.lru_cache(4096)
def is_plumbing(function: str, *, head: bool = False) -> bool:
    """Whether a report blames the function only if it shows no other.

    :param head: the report's own head names it.
    """
    name = rust.path(function) if function.startswith("_R") else _SUFFIX.sub("", function).lstrip("_")
    return (PLUMBING_HEAD if head else PLUMBING).fullmatch(name) is not None


def frame(line: str) -> tuple[str, bool]:
    """The function of a line of a stack trace (else empty), and whether the unwinder is sure of it."""
    match = FRAME.match(line)
    if not match:
        return "", False
    return match["f"], not match["doubt"] and "(unreliable)" not in line and not _START.search(line)


def with_call_site(line: str, before: Iterable[str], ends: Callable[[str], str]) -> str:
    """The line; a frame at the start of a function becomes the call before it, in another function.

    :param before: the lines above it in the report.
    :param ends: returns that frame (``f+0x40/0x40``) for the function's name, or an empty string.
    """
    match = None if _PC.search(line) else _START.search(line)
    if not match or _WALKER.fullmatch(match["f"]):
        return line
    if match["f"] == exception_at(before) or not (end := ends(match["f"])):
        return line
    return f"{line[: match.start()]}{end}{line[match.end() :]}"


def _traces(lines: Iterable[str]) -> list[list[str]]:
    """The kernel functions of each stack trace of a report, innermost first; unreliable frames left out.

    The traces of an object's owners are not among them.
    """
    traces: list[list[str]] = [[]]
    in_frames = tracked = False
    before = ""
    for line in lines:
        aside, before = before.rstrip().endswith("disabled at:"), line
        pc = None
        name, sure = frame(line)
        aside = aside or (tracked and bool(name))
        if not name:
            tracked = _TRACK.search(line) is not None
            if TRACE.search(line):
                if in_frames:
                    traces.append([])
                in_frames = False
            pc = _PC.search(line)
            name, sure = (pc["f"], True) if pc else ("", False)
        if not sure or aside:
            continue
        trace = traces[-1]
        if _BUG_ENTRY.fullmatch(name) and any(_BUG_HANDLER.match(f) for f in trace):
            # what runs after the trap instruction of WARN() or BUG() only reports it
            trace.clear()
            continue
        trace.append(_SUFFIX.sub("", name))
        in_frames = in_frames or not pc
    return [trace for trace in traces if trace]


def _owner(lines: list[str]) -> str:
    """Who allocated an object that SLUB found damaged; empty where SLUB has no record."""
    for at, line in enumerate(lines):
        if (track := _TRACK.search(line)) and track["how"] == "Allocated":
            trace = itertools.takewhile(bool, (frame(below)[0] for below in lines[at + 1 :]))
            return _first([track["f"], *trace])
    return ""


def _jumped(lines: list[str]) -> str:
    """Who made the CPU jump to an address without code; empty if the CPU was in a function.

    The unwinder knows no frame at that address, so it doubts the caller's.
    """
    first = next((at for at, line in enumerate(lines) if FRAME.match(line)), len(lines))
    if not any(JUMP.search(line) for line in lines[:first]):
        return ""
    there = exception_at(lines)
    below = (frame(line)[0] for line in lines[first:])
    return _first(f for f in [*_links(lines[:first]), *below] if f and f != there)


def _called_from(lines: list[str]) -> str:
    """Who called the plumbing in which the CPU took the exception; empty where the stack shows it.

    With a link register a leaf function leaves no frame, and its caller's frame names the caller's caller.
    """
    there = exception_at(lines)
    link = next(_links(lines), "")
    return link if there and is_plumbing(there) and link != there and not is_plumbing(link) else ""


def _links(lines: Iterable[str]) -> Iterator[str]:
    """The functions in the link registers that are shown."""
    return (match["f"] for line in lines if (match := _LINK.search(line)))


def _first(functions: Iterable[str]) -> str:
    return next((f for f in functions if not is_plumbing(f)), "")


def _stalled(lines: list[str]) -> str:
    for trace in _traces(lines):
        tick = next((at for at, f in enumerate(trace) if _TICK.fullmatch(f)), 0)
        if tick := tick or next((at for at, f in enumerate(trace[:5]) if _PREEMPTED.fullmatch(f)), 0):
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
            # kvm_vm_compat_ioctl only leads to kvm_vm_ioctl
            if not below or f.replace("compat_", "") != below:
                below = "" if is_plumbing(f) else f
        if function := _first(functions):
            return function
    return ""


def _locked(lines: list[str], *, irq: bool) -> str:
    """The function that takes the lock in question, else the first of the last trace."""
    if irq:
        for at, line in enumerate(lines):
            nearby = _traces(lines[at : at + 20]) if "which became" in line else []
            if nearby and (function := _first(nearby[0])):
                return function
    # the lock that the task waits for, then the one that it holds
    places = 0
    for at, line in enumerate(lines):
        after = lines[at + 1] if line.endswith(" at:") and at + 1 < len(lines) else ""
        if match := _LOCK_AT.search(line) or FRAME.match(after):
            if not is_plumbing(match["f"]):
                return match["f"]
            places += 1
        if places == 2 or _CHAIN.search(line):
            break
    start = next((at for at, line in enumerate(lines) if "stack backtrace" in line), None)
    traces = _traces(lines[start:]) if start is not None else _traces(lines)[::-1]
    return next((function for trace in traces if (function := _first(trace))), "")


def blamed_function(rule: Rule, header: str, lines: list[str]) -> str:
    """The function that a report blames, as printed; empty if the report names none."""
    if rule.by == "none":
        return ""
    if rule.by == "header":
        return header
    if rule.by in ("stall", "entry"):
        return _stalled(lines)
    if rule.by in ("lock", "irqlock"):
        return _locked(lines, irq=rule.by == "irqlock")
    if rule.by == "owner" and (owner := _owner(lines)):
        return owner
    if rule.kind is Kind.OOPS and (caller := _jumped(lines)):
        return caller
    end = next((at for at, line in enumerate(lines) if at and _OTHERS.search(line)), len(lines))
    if rule.by == "hang":
        traces = _traces(lines)
        return _first(traces[0]) if traces else ""
    if rule.by == "leak":
        frames = [name for trace in _traces(lines) for name in trace]
        return _first(name for name in frames if not _ALLOCATES.search(name)) or _first(frames)
    if last_function := next(
        (match["f"] for line in lines[:8] if (match := _LAST_FUNCTION.search(line))), ""
    ):
        return last_function
    if caller := _called_from(lines[:end]):
        return caller
    heads = [header, *(match["f"] for line in lines[:8] if (match := _WARN_AT.search(line)))]
    heads = [name for name in heads if name]
    if named := next((name for name in heads if not is_plumbing(name, head=True)), ""):
        return named
    for part in (lines[:end], lines):
        frames = [name for trace in _traces(part) for name in trace]
        if function := _first([*heads, *_below(heads, frames)]) or _first(frames):
            return function
    return next(iter([*heads, *frames] if rule.fatal else heads), "")


def exception_at(lines: Iterable[str]) -> str:
    """Where the CPU took the exception, by its registers; empty if they are not shown."""
    return next((match["f"] for line in lines if (match := _PC.search(line) or _WARN_AT.search(line))), "")


def _below(heads: list[str], frames: list[str]) -> list[str]:
    """The frames from the one that the head names: those above it only report."""
    return frames[next((at for at, name in enumerate(frames) if name in heads), 0) :]
