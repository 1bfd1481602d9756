# SPDX-License-Identifier: GPL-2.0-only
"""Find kernel reports (splats) in the raw bytes of a serial console, and the function that each one blames.

One ordered table (`RULES`) says which line begins a report and gives its title. The rest of the report gives
the function; printk's caller ids, where the kernel prints them, keep reports apart. The
guest is hostile: lines, reports and their number are bounded, and a report is never more than text.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

import msgspec

from orchestrator.results.model import Blame
from orchestrator.splat.frames import function_name, with_call_site
from orchestrator.splat.kinds import Class, Kind
from orchestrator.splat.records import MAX_TEXT, RUNNING, STAMPED, Record, records
from orchestrator.splat.report import EXCERPT_LINES, MAX_LINES, Report, Splat
from orchestrator.splat.rules import RULES, TAIL_OF, Rule, hints

__all__ = [
    "EXCERPT_LINES",
    "MAX_LINES",
    "MAX_TEXT",
    "RULES",
    "Class",
    "Kind",
    "Scanner",
    "Splat",
    "blame",
    "function_name",
]

MAX_LINE = 4096
"""Bytes of one console line that are read; the rest of a longer one is dropped."""
SPAN = 128 * 1024
"""Bytes of console after its first line within which a report must end."""
KEEP = 3
"""Splats of one fingerprint that are stored with their text; further ones are only counted."""
MAX_FINGERPRINTS = 256
MUTE_AFTER = 24
"""After so many reports with the same first line (numbers aside) further ones are not read. They are counted
with the last one that was read, even if the function, which their first line need not name, is another."""
MUTED_LINES = 12
MAX_OPEN = 4
MAX_HEAD = 40
"""Lines of a report, at most, before its first frame."""
STAMPING = 32
"""So many lines with a printk stamp show that this kernel stamps what it prints."""

_BY_WORD = [(word, rule) for rule in RULES for word in rule.words]
#: Old kernels print this, and a stamp, before the rest of a line.
_MARK = re.compile(r"\s*(?:<[A-Z]+> *)?")
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


def blame(splat: Splat) -> Blame:
    """Who is to blame for a splat: the infrastructure if memory ran out, the test if a program wrote it, else
    the kernel."""
    if splat.user or splat.kind is Kind.FUZZER:
        return Blame.TEST
    return Blame.INFRA if splat.kind in (Kind.OOM, Kind.OOM_PANIC) else Blame.KERNEL


class Scanner:
    """Reads a console in chunks of any size and collects its splats; memory stays bounded.

    >>> scanner = Scanner()
    >>> notices = scanner.feed(data)   # at once, on the first line of each
    >>> splats = scanner.finish()      # all, in order, with function and text

    :param ends: the last instruction of a function (`orchestrator.kernel.debug_build.Ends`). A call that does
        not return is shown as a frame of the function behind it; this finds the right one.
    """

    def __init__(self, ends: Callable[[str], str] = lambda _: "") -> None:
        self._ends = ends
        self.dropped = 0
        """Splats beyond `MAX_FINGERPRINTS`, not counted by fingerprint."""
        self._tail = b""
        self._tail_cut = 0
        self._offset = 0
        self._number = 0
        self._stamps = 0
        self._stamped_at: int | None = None
        self._running_at: int | None = None
        self._open: list[Report] = []
        self._stored: list[Report] = []
        self._last: Report | None = None
        self._lead: Report | None = None
        self._counts: dict[str, int] = {}
        self._heads: dict[str, int] = {}
        self._head_fingerprints: dict[str, str] = {}
        self._booted = self._restarts = False
        self._pending: list[Splat] = []

    def feed(self, data: bytes) -> list[Splat]:
        """Read the next bytes of the console; return the splats whose first line is in them.

        Such a splat is a first notice: its function and fingerprint come from the first line alone. `splats`
        and `finish` return the full ones. In a flood only the first notices are returned.
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
        """Close the open reports at the end of the console; return all splats, ordered by first line."""
        if self._tail:
            self._scan(self._tail, b"\n")
            self._tail, self._tail_cut = b"", 0
        for report in list(self._open):
            self._close(report)
        return self.splats()

    def splats(self) -> tuple[Splat, ...]:
        """All splats so far; one that is still being printed has only its lines so far."""
        last = {report.splat.fingerprint: report for report in self._stored if report.splat}
        stored = Counter(report.splat.fingerprint for report in self._stored if report.splat)
        output = []
        for report in self._stored:
            splat = report.splat or report.build()
            if last.get(splat.fingerprint) is report:
                more = self._counts[splat.fingerprint] - stored[splat.fingerprint]
                splat = msgspec.structs.replace(splat, count=1 + more)
            output.append(splat)
        return tuple(output)

    def _notices(self) -> list[Splat]:
        notices, self._pending = self._pending, []
        return notices

    def _scan(self, tail: bytes, block: bytes) -> None:
        """``tail`` and ``block`` are whole lines; between reports only hints are searched for."""
        first = block.find(b"\n")
        head = (tail + block[:first])[:MAX_LINE]
        start = self._offset + len(tail) + self._tail_cut
        self._look_at_stamps(head, self._offset, start, block, first + 1)
        self._number += 1
        self._line(self._offset, head, hints(head) is not None)
        at = first + 1
        finder = hints(block)
        hint = -1
        while at < len(block):
            if hint < at:
                match = finder.search(block, at) if finder else None
                hint = match.start() if match else len(block)
            if not self._open:
                if hint == len(block):
                    break
                begin = block.rfind(b"\n", at, hint) + 1 or at
                self._number += block.count(b"\n", at, begin)
                at = begin
            end = block.find(b"\n", at)
            cut = min(end, at + MAX_LINE)
            self._number += 1
            self._line(start + at, block[at:cut], hint < cut)
            at = end + 1
        self._number += block.count(b"\n", at)
        self._offset = start + len(block)

    def _look_at_stamps(self, head: bytes, offset: int, start: int, block: bytes, at: int) -> None:
        """Find the place from which the kernel is known to stamp lines, and that where its clock runs."""
        if self._running_at is None:
            if RUNNING.match(head):
                self._running_at = offset
            elif match := RUNNING.search(block, at):
                self._running_at = start + match.start()
        if self._stamped_at is None:
            places = [offset] if STAMPED.match(head) else []
            rest = (start + match.start() for match in STAMPED.finditer(block, at))
            places += itertools.islice(rest, STAMPING - self._stamps)
            if self._stamps + len(places) >= STAMPING:
                self._stamped_at = places[STAMPING - self._stamps - 1]
            self._stamps += len(places)

    def _line(self, offset: int, raw: bytes, hint: bool) -> None:
        if not hint and not self._open:
            return
        if self._open and offset - self._open[0].offset > SPAN:
            self._close(self._open[0])
        if not hint and all(report.muted for report in self._open):
            for report in list(self._open):
                self._skip(report)
            return
        pieces = records(raw.rstrip(b"\r"))
        torn = len(pieces) > 1 and sum(bool(r.stamp) and not _MARK.fullmatch(r.text) for r in pieces) > 1
        for record in pieces:
            opened = self._match(record, offset) if hint else None
            for report in [opened] if opened and "line" in opened.rule.flags else list(self._open):
                if report.muted:
                    self._skip(report)
                elif not report.takes(record):
                    continue
                elif report.breaks_off(record):
                    self._close(report)
                else:
                    text = with_call_site(record.text, report.lines, self._ends)
                    report.take(text, self._number, torn=torn)
                    if report.ended:
                        self._close(report)

    def _skip(self, report: Report) -> None:
        """Skip a line of a report that is only counted."""
        report.skipped += 1
        if report.skipped >= MUTED_LINES:
            self._close(report)

    def _match(self, record: Record, offset: int) -> Report | None:
        """The report that a record begins, now open; ``None`` if it begins none."""
        text = record.text
        for word, rule in _BY_WORD:
            if word in text and (match := rule.pattern.search(text)):
                break
        else:
            return None
        if not self._printed(record, rule, offset):
            return None
        if not record.user and ("asked" in rule.flags or rule.kind in (Kind.PANIC, Kind.OOM_PANIC)):
            self._restarts = True
        if "ignored" in rule.flags:
            return None
        if rule.kind is Kind.REBOOT and not self._rebooted(record, offset):
            return None
        if "lead" in rule.flags:
            self._lead = Report(rule, match, record, offset, self._number)
            self._lead.take(text, self._number, torn=False)
            return None
        same = next((r for r in reversed(self._open) if r.by_same(record)), None)
        if same and self._joined(same, rule, match, record):
            return None
        if "tail" in rule.flags and self._trailed(same, rule, record, offset):
            return None
        # without callers such a line may be another task's, in the middle of this trace
        if same and (record.caller or not ("line" in rule.flags or rule.kind is Kind.OOM)):
            self._close(same)
        while len(self._open) >= MAX_OPEN:
            self._close(self._open[0])
        report = self._led(rule, record) or Report(rule, match, record, offset, self._number)
        self._open.append(report)
        self._stored.append(report)
        self._last = report
        if "weak" not in rule.flags:
            self._notice(report)
        return report

    def _led(self, rule: Rule, record: Record) -> Report | None:
        """The report that the ``lead`` line shortly before began."""
        lead = self._lead
        if lead is None or "led" not in rule.flags or not lead.by_same(record):
            return None
        self._lead = None
        return lead if self._number - lead.number <= MAX_HEAD else None

    def _printed(self, record: Record, rule: Rule, offset: int) -> bool:
        """Whether the kernel can have printed it: a kernel that stamps lines stamps every line."""
        if record.printed or "raw" in rule.flags:
            return record.printed is not ("raw" in rule.flags)
        stamping = self._stamped_at is not None and self._stamped_at < offset
        return not stamping and "stamped" not in rule.flags

    def _rebooted(self, record: Record, offset: int) -> bool:
        """Whether the banner is of a later boot than the console's first, and nothing said why.

        The kernel says that it restarts: when it was asked to, and when it panics.
        """
        if record.printed and not record.stamp.startswith("0.0"):
            return False
        before = self._booted or (self._running_at is not None and self._running_at < offset)
        # the decompressor prints before the banner of the same boot
        self._booted = bool(record.stamp)
        self._running_at = self._running_at if record.stamp else None
        for report in list(self._open) if before else ():
            self._close(report)
        # what the decompressor prints and the banner are of one boot
        said, self._restarts = self._restarts, self._restarts and not record.stamp
        return before and not said

    def _joined(self, report: Report, rule: Rule, match: re.Match[str], record: Record) -> bool:
        """Whether a line continues the head of a report, rather than begins a new splat."""
        if "weak" in report.rule.flags:
            joins = "tail" not in rule.flags
        else:
            joins = "head" in report.rule.flags and "joins" in rule.flags
        reason = "unsaid" in report.rule.flags and "reason" in rule.flags
        joins = (joins or reason) and not report.framed and rule is not report.rule
        joins = joins and len(report.lines) <= MAX_HEAD and (not reason or self._number - report.named <= 2)
        if "object" in report.rule.flags:
            joins = rule.kind is Kind.WARNING and "joins" in rule.flags and not report.traced
        if not joins:
            return False
        report.fatal = report.fatal or (rule.fatal and not record.user)
        if "weak" in report.rule.flags:
            report.retitle(rule, match, record, self._number)
            self._notice(report)
        elif reason:
            report.retitle(rule, match, report.record, self._number)
        return True

    def _trailed(self, same: Report | None, rule: Rule, record: Record, offset: int) -> bool:
        """Whether a line is the consequence of an earlier report."""
        # SLUB prints the facts about an object inside the report about it
        for report in (same,) if rule.kind is Kind.BUG else (same, self._last):
            if not report or report.record.user != record.user or offset - report.offset > 2 * SPAN:
                continue
            if rule.kind is Kind.PANIC or report.rule.kind in TAIL_OF[rule.kind]:
                report.fatal = report.fatal or rule.fatal
                if report.splat and rule.fatal:
                    report.splat = msgspec.structs.replace(report.splat, fatal=True)
                return True
        return False

    def _notice(self, report: Report) -> None:
        """Announce a report. If too many have begun with the same line, only count it."""
        key = _NUMBER.sub("N", report.line)[:200]
        if key in self._heads or len(self._heads) < 4 * MAX_FINGERPRINTS:
            report.head = key
            self._heads[key] = self._heads.get(key, 0) + 1
        report.muted = not report.head or self._heads[key] > MUTE_AFTER
        if not report.muted:
            self._pending.append(report.build())

    def _close(self, report: Report) -> None:
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
            self._stored.remove(report)
            return
        count = self._counts[fingerprint] = self._counts.get(fingerprint, 0) + 1
        if count > KEEP or report.muted:
            self._stored.remove(report)
