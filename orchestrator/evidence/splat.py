# SPDX-License-Identifier: GPL-2.0-only
"""Finds kernel reports (splats) in the raw bytes of a serial console, and names what each one blames.

One ordered table (`RULES`) says which line begins a report and what it is called; the rest of the
report, told apart by printk's caller ids where the kernel prints them, gives the function. The
guest is hostile: lines, reports and their number are bounded, and a report counts at most as text.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from orchestrator.evidence.frames import FRAME, TRACE, blamed, function_name
from orchestrator.evidence.splat_rules import HINTS, RULED_OFF, RULES, TAIL_OF, Kind, Rule
from orchestrator.results.model import Blame

__all__ = ["RULES", "Kind", "Scanner", "Splat", "blame", "function_name"]

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

_STAMP = re.compile(rb"(?:<\d{1,3}>)?\[ *(\d{1,9}\.\d{6})\](?:\[ *([TC]\d{1,9})\])? ?")
_JUNK = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_ACCESS = re.compile(r"\b(?P<a>Read|Write) (?:of size|at addr)")


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
    rule: Rule
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
        function = function_name(blamed(self.rule, header[0] if header else "", self.lines))
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
    trace = next((at for at, line in enumerate(lines) if TRACE.search(line)), 0)
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
                hint = HINTS.search(block, at)
                if not hint:
                    break
                at = block.rfind(b"\n", at, hint.start()) + 1 or at
            end = block.find(b"\n", at)
            self._line(start + at, block[at : min(end, at + MAX_LINE)])
            at = end + 1
        self._offset = start + len(block)

    def _line(self, offset: int, raw: bytes) -> None:
        hint = HINTS.search(raw)
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
            frame = FRAME.match(text)
            report.framed = frame is not None and not frame["doubt"]
        ended = report.rule.by != "stall" and (
            "---[ end " in text
            or (report.framed and report.rule.kind in RULED_OFF and text.lstrip().startswith("=" * 20))
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

    def _joined(self, report: _Report, rule: Rule, match: re.Match[str]) -> bool:
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

    def _trailed(self, same: _Report | None, rule: Rule, offset: int) -> bool:
        """Whether a line only tells what became of an earlier report."""
        for report in (same, self._last):
            if not report or offset - report.offset > 2 * SPAN:
                continue
            if rule.kind is Kind.PANIC or report.rule.kind in TAIL_OF[rule.kind]:
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
