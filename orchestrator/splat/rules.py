# SPDX-License-Identifier: GPL-2.0-only
"""The table of kernel reports (splats): which line begins one, its kind, and its title.

`RULES` is one ordered table, read by `orchestrator.splat.scanner`.

Not splats on purpose, since a healthy kernel prints them: the clocksource watchdog, RT throttling,
a slow hrtimer or NMI handler, `WARNING:` in front of plain advice, a user process that faults, and
SysRq help. A soft lockup or RCU stall *is* one; whether the host's steal made it is the caller's call.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from orchestrator.splat.kinds import Kind


@dataclass(frozen=True)
class Rule:
    """Which line begins a report, and how the report is named.

    ``title`` is filled from the named groups; ``by`` is the way to find the function (see `frames`).

    ``fatal`` as in `Splat`. ``head``: until its first frame the report may be continued by a line whose rule
    has ``joins``. ``tail``: the line belongs to an earlier report, if there is one. ``weak``: any line that
    follows describes the report better. ``lead``: not a report, but it names the next one whose rule has
    ``led``. ``object``: the report shows an object and who had it before its own trace, which a WARN() may
    print. ``stamped``: only behind a printk timestamp. ``bare``: the kernel prints no stack trace with it.
    ``line``: the report is this one line. ``raw``: not a printk record, it has no stamp. ``ignored``: not a
    report, though it looks like one. ``asked``: it announces a restart. ``reason``: the message of a WARN(),
    before or right behind its own line, whose rule has ``unsaid``.
    """

    kind: Kind
    pattern: re.Pattern[str]
    title: str
    by: str
    flags: frozenset[str]
    words: tuple[str, ...]
    """Every line that matches contains one of them: a search for them is faster than the pattern."""

    @property
    def fatal(self) -> bool:
        """Whether the kernel dies of it."""
        return "fatal" in self.flags


def _rule(
    kind: Kind, pattern: str, title: str, by: str = "frame", flags: str = "", words: tuple[str, ...] = ()
) -> Rule:
    return Rule(kind, re.compile(pattern), title, by, frozenset(flags.split()), words or _words(pattern))


_ESCAPED = 0xE000


def _words(pattern: str) -> tuple[str, ...]:
    """The longest plain text that each alternative of a pattern cannot do without."""
    hole = "\0"
    # an escaped character is text, not an operator
    text = re.sub(r"\\[wdsSb]", hole, pattern)
    text = re.sub(r"\\(.)", lambda sign: chr(_ESCAPED + ord(sign[1])), text)
    text = re.sub(r"\[[^\]]*\]", hole, text)
    group = re.compile(r"\([^()]*\)[?*+]?")
    while group.search(text):
        text = group.sub(hole, text)
    words = []
    for alternative in text.split("|"):
        plain = re.sub(r".(?:[?*]|\{[^}]*\})|[.^$+]", hole, alternative)
        longest = max(plain.split(hole), key=len)
        words.append("".join(chr(ord(sign) % _ESCAPED) for sign in longest))
    if min(map(len, words)) < 4:
        raise ValueError(f"{pattern}: name the words that each match has")
    return tuple(words)


_K = Kind
#: Behind a function: its offset, or the place that decode_stacktrace.sh gives.
_AT = r"(?:\+0x| \((?=[^ ()]*:[\d?]))"
_IN = rf"(?: (?:in|at|on) (?P<f>[A-Za-z_][\w.$]*){_AT})?"
_PANIC = r"Kernel panic - not syncing: "
_SLAB = r"BUG \S+ \((?:Not tainted|Tainted).*?\): "

#: The first rule that matches a line wins.
# fmt: off
RULES: tuple[Rule, ...] = (
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
    _rule(_K.UBSAN,
          rf"UBSAN: (?P<what>[\w -]+?)(?: at (?P<f>[A-Za-z_][\w.$]*){_AT}|: [0-9a-f]{{16}} \[#\d+\])",
          "UBSAN: {what}", flags="fatal head"),
    # lockdep
    _rule(_K.LOCKDEP,
          r"possible (?:circular|recursive) locking (?:dependency )?detected"
          r"|possible irq lock inversion",
          "possible deadlock", "lock"),
    _rule(_K.LOCKDEP, r"[A-Z]+-safe -> \w+-unsafe lock order detected", "possible deadlock", "irqlock"),
    _rule(_K.LOCKDEP, r"(?:WARNING|INFO): (?P<what>inconsistent (?:lock|\{\S+\}) \w+)", "{what}", "lock",
          words=("inconsistent ",)),
    _rule(_K.LOCKDEP, r"(?P<what>bad (?:unlock balance|contention)) detected!", "WARNING: {what}", "lock"),
    _rule(_K.LOCKDEP,
          r"(?:BUG|WARNING): (?:.* )?(?P<what>held lock freed|still has locks held|lock held at task exit"
          r"|Nested lock was not taken)",
          "WARNING: {what}", "lock", words=("held lock freed", "locks held", "lock held at", "Nested lock")),
    _rule(_K.LOCKDEP,
          r"(?:BUG|WARNING): (?P<what>lock held when returning to user space)",
          "WARNING: {what}", "lock", "bare", words=('lock held when',)),
    _rule(_K.LOCKDEP,
          r"(?:WARNING|INFO|BUG): (?P<what>suspicious RCU usage|Invalid wait context)",
          "WARNING: {what}", words=("suspicious RCU", "Invalid wait")),
    _rule(_K.LOCKDEP, r"WARNING: (?P<what>chain_key collision)", "WARNING: {what}"),
    _rule(_K.LOCKDEP, r"INFO: (?P<what>trying to register non-static key)", "INFO: {what}"),
    _rule(_K.LOCKDEP, r"BUG: (?P<what>MAX_\w+ too low)", "BUG: {what}", "none", "bare"),
    _rule(_K.LOCKDEP, r"BUG: (?P<what>looking up invalid subclass): \d", "BUG: {what}"),
    _rule(_K.LOCKDEP,
          r"BUG: key \S+ (?P<what>has not been registered)",
          "BUG: key {what}", flags="head"),
    _rule(_K.LOCKDEP,
          r"WARNING: .*kernel/(?:locking/)?lockdep\.c:\d+",
          "WARNING: locking bug", flags="joins"),
    # the reason, given just before (or inside) a WARN() or BUG()
    _rule(_K.REFCOUNT,
          r"refcount_t:? (?P<what>underflow|overflow|saturated|addition on 0|decrement hit 0|increment on 0)",
          "refcount bug: {what}", flags="head joins reason"),
    _rule(_K.REFCOUNT, r"WARNING: .*lib/refcount\.c:\d+", "refcount bug", flags="joins unsaid"),
    _rule(_K.LIST,
          r"(?:list_(?:add|del)|hlist_\w+) (?:double add|corruption)",
          "corrupted list", flags="head joins reason", words=("double add", "corruption")),
    _rule(_K.LIST,
          r"(?:kernel BUG at |WARNING: .*)\blib/list_debug\.c:\d+",
          "corrupted list", flags="joins unsaid"),
    _rule(_K.BUG,
          r"usercopy: [Kk]ernel memory \w+ attempt detected",
          "BUG: bad usercopy", flags="fatal head"),
    _rule(_K.WARNING, r"ODEBUG: .*\(active state \d", "WARNING: ODEBUG bug", flags="head joins reason"),
    _rule(_K.WARNING,
          r"WARNING: .*lib/debugobjects\.c:\d+(?: at)?(?: (?P<f>[\w.$]+)(?:\+| \())?",
          "WARNING: ODEBUG bug", flags="head joins unsaid"),
    _rule(_K.BUG, r"rust_kernel: panicked at", "rust panic", flags="fatal head"),
    _rule(_K.OTHER,
          r"^(?P<what>[\w-]+): .*\bASSERT(?:ION)? FAILED\b",
          "{what}: ASSERT FAILED", "none", "head stamped bare"),
    # the kernel names the operation; the frames are those of any unmount
    _rule(_K.BUG,
          r"BUG:? Dentry .*still in use(?:.*\[(?P<f>unmount) of )?",
          "BUG: Dentry still in use", "header", "head"),
    # lockups
    _rule(_K.SOFT_LOCKUP, r"BUG: soft lockup", "BUG: soft lockup", "stall"),
    _rule(_K.HARD_LOCKUP,
          r"Watchdog detected hard LOCKUP",
          "hard LOCKUP", "stall", "fatal head joins reason"),
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
          "voluntary context switch within RCU read-side critical section", flags="head joins reason"),
    _rule(_K.SEQ_FILE,
          r"seq_file: buggy \.next function (?P<f>[\w.$]+)",
          "seq_file: buggy .next function", "header", "line bare"),
    # memory
    _rule(_K.OOM_PANIC,
          rf"{_PANIC}.*(?P<what>[Oo]ut of memory|deadlocked on memory)",
          "kernel panic: {what}", "none", "fatal tail bare"),
    _rule(_K.OOM,
          r"invoked oom-killer:|oom-kill:constraint=|[Oo]ut of memory: Kill|[Oo]ut of memory \(oom_kill",
          "out of memory", "none", "tail bare"),
    _rule(_K.KMEMLEAK,
          r"kmemleak: \d+ new suspected memory leaks",
          "memory leak", "leak", "head bare"),
    _rule(_K.KMEMLEAK, r"BUG: memory leak", "memory leak", "leak", "head"),
    _rule(_K.KMEMLEAK, r"^\s*unreferenced object 0x[0-9a-f]+ \(size", "memory leak", "leak", "joins"),
    # exceptions
    _rule(_K.OOPS,
          r"(?:BUG|Unable).*(?:[Kk]ernel|handle) NULL pointer dereference",
          "BUG: unable to handle kernel NULL pointer dereference", flags="fatal head"),
    _rule(_K.OOPS,
          r"BUG: unable to handle (?:kernel paging|page fault)|BUG: Unable to handle kernel "
          r"|Unable to handle kernel [\w -]+ (?:at virtual|for|in virtual)",
          "BUG: unable to handle kernel paging request", flags="fatal head"),
    _rule(_K.OOPS,
          r"BUG: .*stack guard page was hit",
          "BUG: stack guard page was hit", "entry", "fatal head"),
    _rule(_K.OOPS,
          r"kernel stack overflow \(|Insufficient stack space to handle",
          "BUG: stack guard page was hit", "entry", "fatal head joins"),
    _rule(_K.OOPS, r"PANIC: (?P<what>double fault|early exception|invalid or fatal FRED)",
          "PANIC: {what}", flags="fatal head"),
    _rule(_K.OOPS, r"general protection fault[,:]", "general protection fault", flags="fatal head joins"),
    _rule(_K.OOPS,
          r"\b(?P<what>[a-z][a-z0-9 _-]{2,30}): [0-9a-f]{4}(?: ilc:\d)? \[#\d+\]",
          "{what}", flags="fatal joins", words=(' [#',)),
    _rule(_K.OOPS, r"Alignment trap: not handling", "alignment trap", flags="fatal head"),
    _rule(_K.OOPS,
          r"Unhandled (?:fault: |prefetch abort|[\w -]+ exception on CPU)",
          "unhandled fault", flags="fatal head"),
    _rule(_K.BUG, r"kernel BUG at [^\s:]+:\d+", "kernel BUG", flags="fatal head joins"),
    _rule(_K.BUG,
          r"[Kk]ernel BUG at (?P<f>[A-Za-z_][\w.$]*)?.*\[verbose debug info unavailable\]",
          "kernel BUG", flags="fatal head joins"),
    _rule(_K.BUG, r"^BUG at (?P<f>[A-Za-z_]\w*):\d+ \(\d+\)", "BUG: maple tree"),
    _rule(_K.WARNING, r"^WARN at (?P<f>[A-Za-z_]\w*):\d+ \(\d+\)", "WARNING: maple tree"),
    _rule(_K.PANIC, r"---\[ end Kernel panic", "", "none", "ignored"),
    _rule(_K.OOPS, r"Internal error: .*\[#\d+\]", "Internal error", flags="fatal joins"),
    _rule(_K.OOPS, r"\bOops - (?P<what>[\w -]+) \[#\d+\]", "Oops: {what}", flags="fatal joins"),
    _rule(_K.OOPS, r"\bOops(?::.*)? ?\[#\d+\]", "Oops", flags="fatal joins"),
    _rule(_K.PANIC,
          rf"{_PANIC}(?P<what>(?:\w+: )?(?:panic_on_\w+ set|kmsan\.panic set|Fatal exception"
          r"|Fatal machine check|Aiee, killing interrupt|Oops|softlockup|hung_task"
          r"|RCU Stall|Hard LOCKUP|Machine halted|scheduling while atomic|kernel stack overflow"
          r"|Attempted to kill (?:init|the idle task)))",
          "kernel panic: {what}", "none", "fatal tail"),
    _rule(_K.PANIC,
          rf"{_PANIC}stack-protector: Kernel stack is corrupted in: (?:(?P<f>[A-Za-z_][\w.]*)\+)?",
          "kernel panic: stack is corrupted", flags="fatal bare"),
    _rule(_K.PANIC,
          rf"{_PANIC}(?P<what>corrupted stack end) detected",
          "kernel panic: {what}", "entry", "fatal"),
    _rule(_K.PANIC, rf"{_PANIC}(?P<what>.{{0,100}})", "kernel panic: {what}", flags="fatal"),
    # BUG: and its cousins
    _rule(_K.BUG, r"BUG: Bad page (?:state|map|cache): \d+ messages suppressed", "", "none", "ignored"),
    _rule(_K.LOCKUP, r"BUG: (?P<what>(?:spin|rw)lock lockup suspected)", "BUG: {what}"),
    _rule(_K.BUG,
          r"BUG: (?P<what>Bad rss-counter|non-zero (?:pgtables_bytes|nr_p[mt][de]s))",
          "BUG: {what}", "none", "line bare"),
    _rule(_K.BUG, r"BUG: (?P<what>workqueue leaked (?:lock|atomic))", "BUG: {what}", flags="bare"),
    _rule(_K.BUG,
          r"BUG: (?P<what>Bad page (?:state|map|cache)"
          r"|scheduling (?:while atomic|in a non-blocking section)|sleeping function called"
          r" from invalid context|assuming (?:atomic|non migratable) context"
          r"|(?:spin|rw)lock (?:bad magic|(?:cpu )?recursion|wrong \w+|already unlocked)"
          r"|using \w+\(\) in preemptible)",
          "BUG: {what}"),
    _rule(_K.LOCKUP, r"BUG: workqueue lockup", "BUG: workqueue lockup", "none", "bare"),
    _rule(_K.BUG, r"VFS: Busy inodes after unmount", "VFS: Busy inodes after unmount", "none", "line bare"),
    _rule(_K.BUG, r"VFS: Close: file count is (?:0|zero)", "VFS: Close: file count is zero", "none",
          "line bare"),
    _rule(_K.OTHER,
          r"unregister_netdevice: waiting for \S+ to become free",
          "unregister_netdevice: waiting for a device to become free", "none", "line bare"),
    _rule(_K.BUG, r"slab error in \w+\(\): cache", "BUG: slab error", flags="tail"),
    _rule(_K.BUG, r"Slab corruption[ (:]", "BUG: slab corruption", flags="tail"),
    _rule(_K.BUG, r"^\[(?P<what>[A-Za-z][\w ]* overwritten)\] 0x",
          "BUG: slab: {what}", "owner", "lead object", words=(" overwritten] 0x",)),
    _rule(_K.BUG,
          rf"{_SLAB}(?P<what>Object corrupt|[\w ]+ overwritten)",
          "BUG: slab: {what}", "owner", "tail led object", words=("BUG ",)),
    _rule(_K.BUG, rf"{_SLAB}(?P<what>[\w -]+)", "BUG: slab: {what}", flags="tail object", words=("BUG ",)),
    _rule(_K.BUG,
          rf"INFO: (?:Allocated|Freed) in (?P<f>[\w.$]+){_AT}.* age=",
          "BUG: slab object", "header", "tail"),
    _rule(_K.WARNING,
          r"WARNING: CPU: \d+ PID: \d+ at (?P<file>[^\s:]+):\d+(?: (?P<f>[A-Za-z_][\w.$]*)(?:\+| \())?",
          "WARNING", flags="joins unsaid"),
    _rule(_K.WARNING,
          r"WARNING: at (?P<file>[^\s:]+):\d+(?: (?P<f>[A-Za-z_][\w.$]*)(?:\+| \())?",
          "WARNING", flags="joins unsaid"),
    _rule(_K.WARNING, rf"WARNING: at (?P<f>[A-Za-z_][\w.$]*){_AT}", "WARNING", flags="joins unsaid"),
    _rule(_K.WARNING,
          r"WARNING: (?P<file>[^\s:]+):\d+ at (?P<f>[A-Za-z_][\w.$]*)?",
          "WARNING", flags="joins unsaid"),
    _rule(_K.WARNING,
          r"WARNING: kernel stack (?:regs|frame pointer) at .* has bad",
          "WARNING: kernel stack has bad value", "none", "bare"),
    _rule(_K.WARNING,
          r"WARNING: (?P<what>stack (?:recursion|going in the wrong direction)"
          r"|can't (?:access|dereference) (?:iret )?registers)",
          "WARNING: {what}", "none", "line bare"),
    _rule(_K.BUG, r"^(?:\[ )?BUG: (?P<what>[A-Za-z][\w ]{0,60})", "BUG: {what}", flags="stamped bare",
          words=("BUG: ",)),
    _rule(_K.WARNING, r"-----\[ cut here \]-----", "WARNING", flags="head joins weak"),
    _rule(_K.REBOOT,
          r"^(?:reboot: |sysrq: |SysRq : )?(?:Restarting system|machine restart|Power down)"
          r"|^(?:reboot: |sysrq: |SysRq : )?(?:System halted|Resetting\b)"
          r"|^(?:kexec\w*: )?Starting (?:new|crashdump) kernel|^Rebooting in \d+ seconds",
          "", "none", "ignored asked",
          ("Restarting system", "machine restart", "Power down", "System halted", "Resetting",
           "Starting new kernel", "Starting crashdump kernel", "Rebooting in ")),
    _rule(_K.REBOOT, r"^Linux version \d", "unexpected reboot", "none", "fatal stamped line bare"),
    _rule(_K.REBOOT,
          r"^(?:Decompressing Linux\.\.\.|Booting the kernel\b)",
          "unexpected reboot", "none", "fatal raw line bare",
          words=("Decompressing ", "Booting the kernel")),
    _rule(_K.FUZZER,
          r"^(?:\d{4}/\d\d/\d\d \S+ )?(?P<what>SYZ(?:FAIL|FATAL): .{0,80})",
          "{what}", "none", "raw line bare", words=("SYZF",)),
)
#: Every line that a rule can match contains one of these. Searching for bytes first makes a flood cheap.
HINTS: tuple[bytes, ...] = (
    b"BUG", b"WARNING", b"UBSAN: ", b"INFO: ", b"detected", b"-safe -> ", b"refcount_t", b"corruption",
    b"double add", b"LOCKUP", b" kthread ", b"ODEBUG: ", b"usercopy: ", b"rust_kernel", b"FAILED",
    b"unregister_netdevice", b"lab error in", b"lab corruption", b"file count", b"blocked ", b"PANIC",
    b"WARN at",
    b"Voluntary", b"seq_file: ", b"oom-kill", b"ut of memory", b"kmemleak: ", b"unreferenced ", b"Unable to",
    b"stack overflow", b"Insufficient stack", b"protection fault", b" [#", b"Unhandled ", b"Internal error",
    b"Oops", b"Kernel panic", b"VFS: Busy", b"cut here", b"Linux version",
    b"Decompressing ", b"Booting the kernel", b"SYZF", b"Alignment trap", b"registers", b"wrong direction",
    b" overwritten] 0x", b"Restarting system", b"machine restart", b"Power down", b"System halted",
    b"Resetting", b"Starting new kernel", b"Starting crashdump kernel", b"Rebooting in",
)
# fmt: on


def hints(data: bytes) -> re.Pattern[bytes] | None:
    """A pattern that matches the hints in ``data``; ``None`` where there is none."""
    words = tuple(word for word in HINTS if word in data)
    return _any_of(words) if words else None


@functools.lru_cache(512)
def _any_of(words: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(word) for word in words))


#: Reports of these kinds end at a ruled line.
RULED_OFF = frozenset({Kind.KASAN, Kind.KCSAN, Kind.KFENCE, Kind.KMSAN, Kind.UBSAN})
#: A line of a kind whose rule has ``tail`` belongs to an earlier report of one of these kinds.
TAIL_OF: dict[Kind, frozenset[Kind]] = {
    Kind.OOM: frozenset({Kind.OOM}),
    Kind.OOM_PANIC: frozenset({Kind.OOM}),
    Kind.RCU_STALL: frozenset({Kind.RCU_STALL}),
    Kind.BUG: frozenset({Kind.KASAN, Kind.KFENCE, Kind.BUG}),
}
