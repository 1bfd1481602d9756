# SPDX-License-Identifier: GPL-2.0-only
"""Connect the splat scanner to a guest's console: the console's thread feeds it, the runner asks it.

The guest writes marks into its kernel log where a program begins and ends, and programs can mark their own
cases. A splat belongs to the program and case at its place on the console. Marks have words that are secret
until they are written, so a program cannot forge its end. If a mark is missing (a console without such
messages, a dead guest), the time of a splat counts.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from orchestrator.core.text import one_line
from orchestrator.evidence import host
from orchestrator.results.model import Blame
from orchestrator.splat import noise
from orchestrator.splat.scanner import Kind, Scanner, Splat, blame
from orchestrator.vm.ssh import Futility, Mark

#: Reports that a guest also prints if its host does not let it run.
_STALLS = frozenset({Kind.RCU_STALL, Kind.HUNG_TASK, Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP})
_MARK = re.compile(rb"orchestrate: (begin|end) ([^\r\n]{1,600}) #(\w{8,64})\r*\n")
_SIGN = b"orchestrate: "
#: Bytes of a line that may still become a mark.
_CARRY = 1024
#: Marks of cases of one guest; further ones are ignored.
_MOST = 20_000
#: The kernel's own words (facility 0) about what userland asked of it, each of which takes a guest down.
_ACT = re.compile(
    rb"(?:^|\n)(?:<[0-7]>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
    rb"(reboot: (?:Restarting system|Power down|System halted)"
    rb"|(?:sysrq: |SysRq : )(?:Trigger a crash|Resetting|Power Off|Kill All Tasks|Terminate All Tasks"
    rb"|Manual OOM execution))"
)
_ACT_SIGNS = (b"reboot: ", b"sysrq: ", b"SysRq : ")
_HALTED = "reboot: System halted"
#: A guest floods if one program has so many reports, or so many bytes of console with a report; or so many
#: bytes without one.
FLOOD_REPORTS = 200
FLOOD_BYTES = 2 << 20
FLOOD_BYTES_QUIET = 16 << 20
#: Seconds in which a program may still end after the kernel reported a stall, and after the guest was halted.
STALL_S = 3.0
#: Between two looks for a flood: seconds, or bytes.
_LOOK_S, _LOOK_BYTES = 1.0, 1 << 16
#: The kernel's message about a counter below zero, when its counters are read.
_NEGATIVE = re.compile(rb"vmstat_refresh: (\w{1,60}) (-\d{1,20})\r*\n")


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A splat, who is to blame, and its place.

    ``program`` was running there, and ``case`` of it, or the program itself if the case is unknown. Both are
    empty if none was running: then ``after`` is the last program that had ended, if any.
    """

    finding: Splat
    blame: Blame
    program: str = ""
    case: str = ""
    after: str = ""


class _Act(msgspec.Struct, frozen=True):
    """Something that userland had the kernel do, and its place."""

    offset: int
    text: str


class _Place(msgspec.Struct, frozen=True):
    offset: int
    begins: bool
    program: str
    case: str


class ConsoleWatch:
    """Feed it the console's bytes; ``take`` returns the splats since the last call.

    :param ends: as of `Scanner`.
    """

    def __init__(self, ends: Callable[[str], str] = lambda _: "") -> None:
        self._scanner = Scanner(ends)
        self._lock = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._reported: set[tuple[int, int]] = set()
        self._waiting: list[tuple[int, Sighting]] = []
        self._host = host.host_sample()
        self._noise = noise.load()
        self._fed = 0
        self._carry = b""
        self._marks: list[Mark] = []
        self._places: list[_Place] = []
        self._words: set[str] = set()
        self._ignored: list[tuple[int, float, tuple[Kind, ...]]] = []
        self._negative: dict[str, int] = {}
        self._acts: list[_Act] = []
        self._begun = 0
        self._looked_at = (0.0, 0)
        self._stalled_at: float | None = None

    def feed(self, data: bytes) -> None:
        """The console's sink."""
        with self._lock:
            self._scanner.feed(data)
            text = self._carry + data
            start = self._fed - len(self._carry)
            self._fed += len(data)
            if _SIGN in text or b"vmstat_refresh: " in text:
                self._read(text, start)
            if any(sign in text for sign in _ACT_SIGNS):
                self._read_acts(text, start)
            last = text.rfind(b"\n") + 1
            self._carry = text[last:][-_CARRY:]

    def _read(self, text: bytes, start: int) -> None:
        for match in _MARK.finditer(text):
            self._mark(start + match.start(), match[1] == b"begin", match[2], match[3].decode())
        for match in _NEGATIVE.finditer(text):
            self._negative[match[1].decode()] = int(match[2])
        self._lock.notify_all()

    def _read_acts(self, text: bytes, start: int) -> None:
        for match in _ACT.finditer(text[: text.rfind(b"\n") + 1]):
            act = _Act(start + match.start(1), match[1].decode())
            # before the first program nobody is there who could
            if self._marks and len(self._acts) < _MOST and not self._is_ignored(act.offset, Kind.OTHER):
                self._acts.append(act)

    def _mark(self, offset: int, begins: bool, name: bytes, word: str) -> None:
        mark = self._marks[-1] if self._marks else None
        if mark is None:
            return
        program = mark.id.encode()
        if name == program:
            # the second word is for the end only, and only the first use of each counts
            if word == (mark.first if begins else mark.second) and word not in self._words:
                self._words.add(word)
                self._places.append(_Place(offset, begins, mark.id, ""))
        elif word == mark.first and name.startswith(program + b"/") and len(self._places) < _MOST:
            case = one_line(name.decode("utf-8", "replace"), limit=600)
            self._places.append(_Place(offset, begins, mark.id, case))

    def expect(self, mark: Mark) -> None:
        """From now on only the marks of this program count."""
        with self._lock:
            self._marks.append(mark)
            self._begun, self._looked_at, self._stalled_at = self._fed, (0.0, self._fed), None

    def act(self) -> str:
        """What userland did to take the guest down since the expected program began; empty if nothing."""
        with self._lock:
            return next((act.text for act in self._acts if act.offset >= self._begun), "")

    def _reported_acts(self) -> list[_Act]:
        """The acts that have a panic, an oops or an OOM kill of their own."""
        return [act for act in self._acts if act.text.endswith(("Trigger a crash", "Manual OOM execution"))]

    def futile(self) -> Futility | None:
        """Why the expected program need not be waited for any more: its guest floods or hangs."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at[0] < _LOOK_S and self._fed - self._looked_at[1] < _LOOK_BYTES:
                return None
            self._looked_at = (now, self._fed)
            if self._stalled_at is None and self._has_stalled():
                self._stalled_at = now
            if self._stalled_at is not None and now - self._stalled_at > STALL_S:
                return Futility("ended early: nothing can change the verdict", hangs=True)
            return self._flood()

    def _has_stalled(self) -> bool:
        halted = any(act.text == _HALTED and act.offset >= self._begun for act in self._acts)
        return halted or any(
            splat.kind in _STALLS
            and splat.offset >= self._begun
            and not splat.user
            and not self._is_ignored(splat.offset, splat.kind)
            for splat in self._splats()
        )

    def _flood(self) -> Futility | None:
        size = self._fed - self._begun
        if size < _LOOK_BYTES:
            return None
        reports = sum(splat.count for splat in self._splats()) - self._counts.total()
        if reports < FLOOD_REPORTS and size < (FLOOD_BYTES if reports else FLOOD_BYTES_QUIET):
            return None
        return Futility(f"ended because it floods the console: {reports} reports, {size >> 10} KiB")

    def ended(self, timeout_s: float) -> bool:
        """Whether the end of the expected program is on the console, and so are all its kernel reports.

        Waits for it, but not if the beginning is missing: then no marks are shown.
        """
        with self._lock:
            mark = self._marks[-1] if self._marks else None
            if mark is None or not self._has_begun():
                return False
            return self._lock.wait_for(lambda: mark.second in self._words, timeout_s)

    def begun(self) -> bool:
        """Whether the beginning of the expected program is on the console."""
        with self._lock:
            return self._has_begun()

    def _has_begun(self) -> bool:
        return bool(self._marks) and self._marks[-1].first in self._words

    @contextlib.contextmanager
    def ignoring(self, *kinds: Kind) -> Iterator[None]:
        """Ignore reports meanwhile: orchestrate itself requests them. ``kinds``: only these."""
        with self._lock:
            self._ignored.append((self._fed, float("inf"), kinds))
        try:
            yield
        finally:
            with self._lock:
                self._ignored[-1] = (self._ignored[-1][0], self._fed, kinds)

    def negative(self) -> dict[str, int]:
        """Counters that the kernel reported below zero since the last call, with their last values."""
        with self._lock:
            counters, self._negative = self._negative, {}
        return counters

    def waits(self) -> bool:
        """Whether ``take`` has left a report for its next call."""
        with self._lock:
            return bool(self._waiting)

    def after_first_splat(self, program: str) -> frozenset[str] | None:
        """The cases of a program that began after the first splat of this guest.

        ``None`` if unknown: the program does not mark its cases, or there is no splat.
        """
        with self._lock:
            first = min((splat.offset for splat in self._splats()), default=None)
            begins = [p for p in self._places if p.program == program and p.case and p.begins]
            if first is None or not begins:
                return None
            return frozenset(p.case for p in begins if p.offset > first)

    def take(self, within: str = "") -> list[Sighting]:
        """Splats that began since the last call.

        A stall while a hypervisor took the host's CPUs is blamed on the infrastructure.

        :param within: the program that has just ended. Reports after its end are left for the next call.
        """
        before, self._host = self._host, host.host_sample()
        robbed = host.steal_fraction(before, self._host) > host.MAX_STEAL
        with self._lock:
            self._look(robbed, within)
            mark = self._marks[-1] if self._marks else None
            end = next(
                (
                    p.offset
                    for p in self._places
                    if mark and p.program == mark.id and not (p.begins or p.case)
                ),
                None,
            )
            if not within or end is None or not mark or mark.first not in self._words:
                items, self._waiting = self._waiting, []
            else:
                items = [item for item in self._waiting if item[0] < end]
                self._waiting = [item for item in self._waiting if item[0] >= end]
        return _once([sighting for _, sighting in items])

    def _look(self, robbed: bool, within: str) -> None:
        """Add new splats to those that wait, in the order of their places."""
        total: Counter[str] = Counter()
        latest: dict[str, Splat] = {}
        at: Counter[int] = Counter()
        new: list[tuple[int | None, Splat]] = []
        for splat in self._splats():
            total[splat.fingerprint] += splat.count
            latest[splat.fingerprint] = splat
            at[splat.offset] += 1
            key = (splat.offset, at[splat.offset])
            if key not in self._reported:
                self._reported.add(key)
                new.append((splat.offset, splat))
        # in a flood the scanner stores the first few and counts the rest; the next program's share is known
        # by its count, without a place
        if total.total() - self._counts.total() > len(new):
            fingerprints = {splat.fingerprint for _, splat in new}
            new += [
                (None, latest[name])
                for name, count in total.items()
                if count > self._counts[name] and name not in fingerprints
            ]
        self._counts = total
        for offset, splat in new:
            if offset is not None and self._is_ignored(offset, splat.kind):
                continue
            to_blame = Blame.INFRA if robbed and splat.kind in _STALLS else blame(splat)
            if offset is not None and any(
                self._begun <= act.offset < offset for act in self._reported_acts()
            ):
                to_blame = Blame.TEST
            program, case, after = self._where(offset, within)
            sighting = Sighting(finding=splat, blame=to_blame, program=program, case=case, after=after)
            self._waiting.append((self._fed if offset is None and not within else offset or 0, sighting))
        self._waiting.sort(key=lambda item: item[0])

    def _splats(self) -> tuple[Splat, ...]:
        return noise.loud(self._scanner.splats(), self._noise)

    def _is_ignored(self, offset: int, kind: Kind) -> bool:
        return any(
            start <= offset < end and (not kinds or kind in kinds) for start, end, kinds in self._ignored
        )

    def _where(self, offset: int | None, within: str) -> tuple[str, str, str]:
        """Program, case, and program before, at a place on the console."""
        is_marked = any(mark.id == within and mark.first in self._words for mark in self._marks[-1:])
        if within and (offset is None or not is_marked):
            return within, within, ""
        program = case = after = ""
        for place in self._places:
            if offset is not None and place.offset > offset:
                break
            if place.case:
                case = place.case if place.begins else program
            elif place.begins:
                program, case, after = place.program, place.program, ""
            else:
                program, case, after = "", "", place.program
        return program, case, after


def _once(sightings: list[Sighting]) -> list[Sighting]:
    """The first of each fingerprint and case: later ones are from an already tainted kernel."""
    first: dict[tuple[str, str, str], Sighting] = {}
    for each in sightings:
        first.setdefault((each.finding.fingerprint, each.program, each.case), each)
    return list(first.values())
