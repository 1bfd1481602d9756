# SPDX-License-Identifier: GPL-2.0-only
"""Ties the splat scanner to a guest's console: the console's thread feeds it, the runner asks it.

The runner has the guest write marks into its kernel log where a program begins and ends, and programs that
can do so mark their own cases. A splat belongs to what was running at its place on the console. Marks carry
words that nobody in the guest knows before they are written, so a test cannot end before its time; where a
mark is missing (a console that shows no such messages, a guest that died) what counts is when a splat came.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from orchestrator.core.text import one_line
from orchestrator.evidence import host
from orchestrator.results.model import Blame
from orchestrator.splat import noise
from orchestrator.splat.scanner import Kind, Scanner, Splat, blame
from orchestrator.vm.ssh import Mark

#: What a guest also says when its host does not let it run.
_STALLS = frozenset({Kind.RCU_STALL, Kind.HUNG_TASK, Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP})
_MARK = re.compile(rb"orchestrate: (begin|end) ([^\r\n]{1,600}) #(\w{8,64})\r*\n")
_SIGN = b"orchestrate: "
#: Bytes of a line that may still become a mark.
_CARRY = 1024
#: Marks of cases that are kept of one guest; a program that writes more tells no more.
_MOST = 20_000
#: What the kernel says when it is asked for its counters and one of them is below zero.
_NEGATIVE = re.compile(rb"vmstat_refresh: (\w{1,60}) (-\d{1,20})\r*\n")


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A splat, whose fault it is, and where it stands.

    ``program`` was running there, and of it ``case``, the program itself where no more is known. Both are
    empty where none was running: then ``after`` is the program that had ended last, if there was one.
    """

    finding: Splat
    blame: Blame
    program: str = ""
    case: str = ""
    after: str = ""


class _Place(msgspec.Struct, frozen=True):
    offset: int
    begins: bool
    program: str
    case: str


class ConsoleWatch:
    """Feed it the console's bytes; ``take`` gives the splats since the last time.

    ``ends`` as of `Scanner`.
    """

    def __init__(self, ends: Callable[[str], str] = lambda _: "") -> None:
        self._scanner = Scanner(ends)
        self._lock = threading.Condition()
        self._taken: Counter[str] = Counter()
        self._known: set[tuple[int, int]] = set()
        self._waiting: list[tuple[int, Sighting]] = []
        self._host = host.host_sample()
        self._noise = noise.load()
        self._fed = 0
        self._carry = b""
        self._marks: list[Mark] = []
        self._places: list[_Place] = []
        self._seen: set[str] = set()
        self._ours: list[tuple[int, float, tuple[Kind, ...]]] = []
        self._negative: dict[str, int] = {}

    def feed(self, data: bytes) -> None:
        """The console's sink."""
        with self._lock:
            self._scanner.feed(data)
            text = self._carry + data
            start = self._fed - len(self._carry)
            self._fed += len(data)
            if _SIGN in text or b"vmstat_refresh: " in text:
                self._read(text, start)
            last = text.rfind(b"\n") + 1
            self._carry = text[last:][-_CARRY:]

    def _read(self, text: bytes, start: int) -> None:
        for match in _MARK.finditer(text):
            self._mark(start + match.start(), match[1] == b"begin", match[2], match[3].decode())
        for match in _NEGATIVE.finditer(text):
            self._negative[match[1].decode()] = int(match[2])
        self._lock.notify_all()

    def _mark(self, offset: int, begins: bool, name: bytes, word: str) -> None:
        mark = self._marks[-1] if self._marks else None
        if mark is None:
            return
        program = mark.id.encode()
        if name == program:
            # the second word is the end's alone, and only the first of each is believed
            if word == (mark.first if begins else mark.second) and word not in self._seen:
                self._seen.add(word)
                self._places.append(_Place(offset, begins, mark.id, ""))
        elif word == mark.first and name.startswith(program + b"/") and len(self._places) < _MOST:
            case = one_line(name.decode("utf-8", "replace"), limit=600)
            self._places.append(_Place(offset, begins, mark.id, case))

    def expect(self, mark: Mark) -> None:
        """From now on the marks of this program count, and no other's."""
        with self._lock:
            self._marks.append(mark)

    def ended(self, timeout_s: float) -> bool:
        """Whether the end of the expected program is on the console, and so all that it burned.

        Waits for it, but not if the beginning is missing: then no marks are shown.
        """
        with self._lock:
            mark = self._marks[-1] if self._marks else None
            if mark is None or mark.first not in self._seen:
                return False
            return self._lock.wait_for(lambda: mark.second in self._seen, timeout_s)

    @contextlib.contextmanager
    def ours(self, *kinds: Kind) -> Iterator[None]:
        """What the console says meanwhile was asked for by us: no finding. ``kinds``: these only."""
        with self._lock:
            self._ours.append((self._fed, float("inf"), kinds))
        try:
            yield
        finally:
            with self._lock:
                self._ours[-1] = (self._ours[-1][0], self._fed, kinds)

    def negative(self) -> dict[str, int]:
        """Counters that the kernel found to be below zero since the last call, as they last were."""
        with self._lock:
            found, self._negative = self._negative, {}
        return found

    def waits(self) -> bool:
        """Whether something burned that ``take`` has left for its next call."""
        with self._lock:
            return bool(self._waiting)

    def after_first_splat(self, program: str) -> frozenset[str] | None:
        """The cases of a program that began behind the first splat of this guest.

        ``None`` where nobody can tell: the program does not mark its cases, or there is no splat.
        """
        with self._lock:
            first = min((splat.offset for splat in self._splats()), default=None)
            told = [p for p in self._places if p.program == program and p.case and p.begins]
            if first is None or not told:
                return None
            return frozenset(p.case for p in told if p.offset > first)

    def take(self, within: str = "") -> list[Sighting]:
        """Splats that began since the last call.

        A stall while the host itself was robbed of its CPUs is the infrastructure's.

        :param within: the program that has just ended. What stands behind its end is left for the next call.
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
            if not within or end is None or not mark or mark.first not in self._seen:
                given, self._waiting = self._waiting, []
            else:
                given = [item for item in self._waiting if item[0] < end]
                self._waiting = [item for item in self._waiting if item[0] >= end]
        return _once([sighting for _, sighting in given])

    def _look(self, robbed: bool, within: str) -> None:
        """Add what is new on the console to what waits, in the order of its places."""
        total: Counter[str] = Counter()
        latest: dict[str, Splat] = {}
        at: Counter[int] = Counter()
        fresh: list[tuple[int | None, Splat]] = []
        for splat in self._splats():
            total[splat.fingerprint] += splat.count
            latest[splat.fingerprint] = splat
            at[splat.offset] += 1
            key = (splat.offset, at[splat.offset])
            if key not in self._known:
                self._known.add(key)
                fresh.append((splat.offset, splat))
        # of a flood the scanner keeps the first few and counts the rest, and the next program's share of it
        # must still be seen: by count, where there is no place
        if total.total() - self._taken.total() > len(fresh):
            named = {splat.fingerprint for _, splat in fresh}
            fresh += [
                (None, latest[name])
                for name, count in total.items()
                if count > self._taken[name] and name not in named
            ]
        self._taken = total
        for offset, splat in fresh:
            if offset is not None and self._is_ours(offset, splat.kind):
                continue
            whose = Blame.INFRA if robbed and splat.kind in _STALLS else blame(splat)
            program, case, after = self._where(offset, within)
            sighting = Sighting(finding=splat, blame=whose, program=program, case=case, after=after)
            self._waiting.append((self._fed if offset is None and not within else offset or 0, sighting))
        self._waiting.sort(key=lambda item: item[0])

    def _splats(self) -> tuple[Splat, ...]:
        return noise.loud(self._scanner.splats(), self._noise)

    def _is_ours(self, offset: int, kind: Kind) -> bool:
        return any(start <= offset < end and (not kinds or kind in kinds) for start, end, kinds in self._ours)

    def _where(self, offset: int | None, within: str) -> tuple[str, str, str]:
        """Program, case, and program before, at a place on the console."""
        shown = any(mark.id == within and mark.first in self._seen for mark in self._marks[-1:])
        if within and (offset is None or not shown):
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
    """The first of each fingerprint and case: those behind it come from a kernel that is tainted already."""
    found: dict[tuple[str, str, str], Sighting] = {}
    for each in sightings:
        found.setdefault((each.finding.fingerprint, each.program, each.case), each)
    return list(found.values())
