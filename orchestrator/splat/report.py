# SPDX-License-Identifier: GPL-2.0-only
"""One kernel report while it is being printed: which lines belong to it, where it ends, and its fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from orchestrator.splat import formats
from orchestrator.splat.frames import (
    JUMP,
    TRACE,
    blamed_function,
    exception_at,
    frame,
    function_name,
    is_plumbing,
)
from orchestrator.splat.kinds import CLASSES, Class, Kind
from orchestrator.splat.records import Record
from orchestrator.splat.rules import RULED_OFF, Rule

MAX_LINES = 800
"""Lines of one report that are read."""
EXCERPT_LINES = 120
MAX_GAP = 40
"""After so many lines of the same caller that match no part of a report, the report has ended."""
MAX_PAUSE_S = 60.0
"""It has also ended after a silence of that length. (The traces of a stall can arrive late.)"""

_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_ACCESS = re.compile(
    r"^(?P<a>Read|Write)(?P<size> of size \d+)?(?: at addr| by task)"
    r"|^(?:race at unknown origin, with )?(?P<race>read|write|read-write)\b"
    r".* to 0x[0-9a-f]+ of (?P<bytes>\d+) bytes"
    r"|^(?:Out-of-bounds|Use-after-free|Invalid) (?P<fence>read|write) at 0x"
    r"|^#PF: \w+ (?P<fault>read|write) access|^\s*(?:CM = \d, )?WnR = (?P<wnr>[01])"
    r"|Memory access of size (?P<msan>\d+) starts at"
)
_REGISTERS = formats.pattern("registers", r"r\d\d?", "psr")
#: Lines that reports are made of, whatever is reported: frames and what frames stand between, registers,
#: dumps of memory, held locks, rules.
_BODY = re.compile(
    r"\s*</?[A-Z]+>|\s*(?:={8}|-{8}|\*{3} )|---\[|8<---"
    rf"|\s?(?:{_REGISTERS}) ?: +"
    r"(?:\[?<?(?:0x)?[0-9a-f]{8,16}\b|\d{4}[ :]|[A-Za-z_][\w.$]*(?:\+0x| \()|0x0\b)"
    r"|R[IS]P[: ]|Code: |E?IP: "
    r"|Call [Tt]race:|CPU: \d|Hardware name: |Modules linked in:|Workqueue: |task:|Tainted: |Stack: ?"
    # memory, words of a stack (up to arm64 4.10 with the last digits of the address)
    r"|[>\s]*[0-9a-f]{8,16}: [0-9a-f]|[0-9a-f]{4}: [0-9a-f]{8}"
    r"|\s?(?:[0-9a-f]{8}(?:[0-9a-f]{8})? ){2}|raw: [0-9a-f]{8}"
    r"|\s*#\d+:? |\S+ locks? held by |no locks held by "
    r"|Kernel panic - not syncing|Kernel Offset: |Rebooting in |Sending NMI|NMI backtrace|stack backtrace"
    r"|(?:Read|Write|Free) of |(?:Allocated|Freed) (?:by task|in) |The buggy address|Memory state around"
    r"|page:|page dumped because|vma [0-9a-f]|mm [0-9a-f]|hardirqs last|softirqs last|irq event stamp"
    r"|INFO: (?:lockdep|Allocated|Freed|Slab|Object|0x|task )"
    r"|preempt_count|in_atomic|Preemption disabled|Internal error: |Mem abort info|Data abort info"
    r"|\[[0-9a-f]{16}\] |(?:Redzone|Object|Padding|Bytes b4) +[0-9a-f]{8,16}: |(?:Slab|Object) 0x"
    r"|PGD |#PF: |Oops|Reported by Kernel|Uninit was|Bytes? \d|value changed"
    r"|Showing (?:all|busy|idle|backtrace)"
    r"|rcu: (?:\s|INFO|rcu_\w+ kthread|RCU grace|Stack dump|Possible)|Possible |\s*-> #\d"
)
#: The task that prints, on a console without caller ids.
_PID = re.compile(r"CPU: \d+ (?:UID: \d+ )?PID: (?P<pid>\d+) |\b(?:held by|by task) \S+/(?P<by>\d+)\b")
#: A dump that sysrq requested is not a report; "Trigger a crash" begins one.
_REQUESTED = re.compile(r"sysrq: (?!Trigger)")
#: What may follow a trace, but not its first line.
_NO_TRACE = re.compile(r"Code: |Kernel panic|Kernel Offset|Rebooting|---\[ end |Modules linked in")
_DROPPED = re.compile(r"\*\* \d+ printk messages dropped \*\*")
_TRACE = re.compile(formats.pattern("trace", r"stack backtrace:|Call [Tt]race:|^[Bb]acktrace|^\s+backtrace"))


class Splat(msgspec.Struct, frozen=True, kw_only=True):
    """One report on the console.

    ``title`` reads like ``KASAN: slab-use-after-free Read in mas_next_slot``; ``function`` is the frame
    it blames, empty if the report does not name one. ``access`` is ``Read of size 8`` and the like, empty
    where the report has none. ``fingerprint`` is the same in every run: no address, number, pid or compiler
    suffix. ``fatal``: the kernel died of it, or continues only by luck. ``corrupted``: the report is cut or
    torn, so only a function named in its head counts. ``user``: a program wrote it into the kernel's log.
    ``line`` is the first line, ``excerpt`` at most `EXCERPT_LINES` lines, both clean text. ``offset`` is the
    byte in the console stream at which the first line starts; ``first_line`` and ``last_line`` count from 1.
    ``count`` is 1. On the last stored splat of a fingerprint it also counts those that were not stored, so
    that the counts of a console add up. ``at_s`` is the guest's clock, -1 where it is not printed.
    """

    kind: Kind
    title: str
    function: str
    fingerprint: str
    fatal: bool
    line: str
    excerpt: tuple[str, ...]
    offset: int
    access: str = ""
    corrupted: bool = False
    user: bool = False
    first_line: int = 0
    last_line: int = 0
    at_s: float = -1.0
    count: int = 1

    @property
    def category(self) -> Class:
        """The coarse class."""
        return CLASSES[self.kind]


@dataclass(eq=False)
class Report:
    """A report that is open: ``take`` gives it its lines until it is ``ended``."""

    rule: Rule
    match: re.Match[str]
    record: Record
    offset: int
    number: int
    """Of its first line, from 1."""
    named: int = 0
    """Of the line that gives its title."""
    lines: list[str] = field(default_factory=list)
    framed: bool = False
    traced: bool = False
    fatal: bool = False
    muted: bool = False
    skipped: int = 0
    ended: bool = False
    head: str = ""
    splat: Splat | None = None
    _last: int = 0
    _stamp: str = ""
    _length: int = 0
    _gap: int = 0
    _torn: bool = False
    _hollow: bool = False
    _holes: bool = False
    _jumped: bool = False
    _sent_nmi: bool = False
    _awaits: bool = False
    _sure: bool = False
    _pids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fatal = self.rule.fatal and not self.record.user
        self.caller = self.record.caller
        self._last = self.named = self.number
        self._stamp = self.record.stamp

    @property
    def line(self) -> str:
        """The first line."""
        return self.record.text

    def retitle(self, rule: Rule, match: re.Match[str], record: Record, number: int) -> None:
        """A later line of the head describes the report better."""
        self.rule, self.match, self.record, self.named = rule, match, record, number

    def by_same(self, record: Record) -> bool:
        """Whether a record has the same caller, as far as the console shows."""
        return self.caller == record.caller and self.record.user == record.user

    def takes(self, record: Record) -> bool:
        """Whether a record can belong to the report: same caller, and a stamp if the others have one.

        The traces of a stall are printed by other CPUs, in the interrupt that requests them.
        """
        if record.user != self.record.user:
            return False
        if self.record.printed and not record.printed:
            return _DROPPED.match(record.text) is not None
        return (
            not self.caller or self.caller == record.caller or (self._sent_nmi and record.caller[:1] == "C")
        )

    def breaks_off(self, record: Record) -> bool:
        """Whether a record of the same caller shows that the report ended before it, without an end mark."""
        if _REQUESTED.match(record.text):
            return True
        before, self._stamp = self._stamp, record.stamp or self._stamp
        return bool(before and record.stamp) and float(record.stamp) - float(before) > MAX_PAUSE_S

    def take(self, text: str, number: int, *, torn: bool) -> None:
        """The next line; ``torn``: there are several records on it."""
        self.lines.append(text)
        name, sure = frame(text)
        if name or self.number == number or _BODY.match(text):
            self._last, self._length, self._gap = number, len(self.lines), 0
        elif text.strip():
            self._gap += 1
        self._sent_nmi = self._sent_nmi or (self.rule.by == "stall" and "Sending NMI" in text)
        self._learn(text, name, sure, torn)
        at_end = self.rule.by != "stall" and (
            "---[ end " in text
            or (self.framed and self.rule.kind in RULED_OFF and text.lstrip().startswith("=" * 20))
        )
        self.ended = (
            at_end or "line" in self.rule.flags or len(self.lines) >= MAX_LINES or self._gap > MAX_GAP
        )

    def _learn(self, text: str, name: str, sure: bool, torn: bool) -> None:
        alone = not self.caller and self.rule.by not in ("stall", "hang")
        if alone and ("PID: " in text or "/" in text) and (pid := _PID.search(text)):
            self._pids.add(pid["pid"] or pid["by"])
        if self._sure:
            return
        self._torn = self._torn or torn
        self._holes = self._holes or _DROPPED.search(text) is not None
        if self._awaits and (name or _NO_TRACE.match(text)):
            self._hollow, self._awaits = self._hollow or not name, False
        if _TRACE.search(text):
            self.traced = self._awaits = True
        self._jumped = self._jumped or (self.rule.kind is Kind.OOPS and JUMP.search(text) is not None)
        # from where there is no function, no unwinder can be sure
        if name and (sure or self._jumped):
            self.framed = True
            self._sure = self.traced or self.rule.kind in RULED_OFF or self.rule.by == "hang"

    def _mixed(self) -> bool:
        """Whether some of its lines are missing, or another task's."""
        return self._holes or len(self._pids) > 1

    def corrupted(self, function: str) -> bool:
        """Whether it is cut or torn: lines were lost or mixed, or no frame is where one has to be.

        Where the kernel prints no callers, only the pid shows that lines are a second task's.
        """
        if "bare" in self.rule.flags:
            return self._torn or self._mixed()
        if self._torn or self._hollow or not self._sure or self._mixed():
            return True
        return self.rule.by not in ("none", "header") and (not function or is_plumbing(function))

    def build(self) -> Splat:
        """What it says, as far as it has come."""
        groups = {name: value or "" for name, value in self.match.groupdict().items()}
        header = sorted({function_name(groups[name]) for name in ("f", "f2") if groups.get(name)})
        lines = self.lines[: self._length]
        head = header[0] if header else ""
        # in a trace with holes, or in two mixed ones, the next frame is a guess
        function = head or exception_at(lines) if self._mixed() else blamed_function(self.rule, head, lines)
        function = function_name(function)
        access = _access(lines[:12])
        title = self.rule.title.format_map(groups).strip()
        if self.rule.kind is Kind.KASAN and access:
            title = f"{title} {access.split()[0]}"
        elif not function and groups.get("file"):
            title = f"{title} at {groups['file']}"
        title = _NUMBER.sub("N", title)
        where = " / ".join(header) if len(header) > 1 else function
        title = f"{title} in {where}" if where else title
        return Splat(
            kind=self.rule.kind,
            title=title,
            function=function,
            fingerprint=re.sub(r"[^\w.$]+", "-", f"{self.rule.kind}:{title}"),
            fatal=self.fatal,
            line=self.line,
            excerpt=_excerpt(lines or [self.line]),
            offset=self.offset,
            access=access,
            corrupted=self.corrupted(function),
            user=self.record.user,
            first_line=self.number,
            last_line=self._last,
            at_s=float(self.record.stamp or -1),
        )


def _access(lines: list[str]) -> str:
    """The access: ``Read of size 8``, ``Write``; empty where the report has none."""
    for line in lines:
        if not (match := _ACCESS.search(line)):
            continue
        if match["a"]:
            return match["a"] + (match["size"] or "")
        if match["race"]:
            return f"{match['race'].capitalize()} of size {match['bytes']}"
        if match["msan"]:
            return f"Read of size {match['msan']}"
        return "Write" if match["wnr"] == "1" else (match["fence"] or match["fault"] or "read").capitalize()
    return ""


def _excerpt(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= EXCERPT_LINES:
        return tuple(lines)
    trace = next((at for at, line in enumerate(lines) if TRACE.search(line)), 0)
    head = min(trace, EXCERPT_LINES // 3)
    return (
        *lines[:head],
        f"[... {trace - head} lines ...]",
        *lines[trace : trace + EXCERPT_LINES - head - 1],
    )
