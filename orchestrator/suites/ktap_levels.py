# SPDX-License-Identifier: GPL-2.0-only
"""The levels of nested KTAP while it is read: what was planned, what was reported, what does not add up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.suites.ktap_lines import Result

MAX_PROBLEMS = 50
#: Lines of diagnostics that a result keeps: as many of the first and of the last.
MAX_NOTES = 2_000


class Notes:
    """The first and the last lines that were added; those between them are counted."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._n_cut = 0
        self.extend(lines)

    def append(self, line: str) -> None:
        """Add a line."""
        if len(self._first) < MAX_NOTES:
            self._first.append(line)
            return
        self._last.append(line)
        if len(self._last) > MAX_NOTES:
            self._n_cut += len(self._last.popleft().encode()) + 1

    def extend(self, lines: Sequence[str]) -> None:
        """Add some lines."""
        for line in lines:
            self.append(line)

    def lines(self) -> tuple[str, ...]:
        """The lines; where some are missing a mark has the number of their bytes."""
        mark = (f"[... {self._n_cut} bytes cut ...]",) if self._n_cut else ()
        return (*self._first, *mark, *self._last)


@dataclass
class Node:
    """A result, the lines said on its behalf, its line, and the results within it."""

    result: Result
    notes: Notes
    line: str
    children: list[Node] = field(default_factory=list)


@dataclass
class Level:
    """One level of nesting that is open; a second version line on it begins a new segment."""

    prefix: str
    column: int
    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    pending: Notes = field(default_factory=Notes)
    running: str = ""
    totals_failed: int = 0
    skip_all: str | None = None
    problems: list[str] = field(default_factory=list)
    planned_before: int | None = None
    has_header: bool = False
    # of the segment
    announced: bool = False
    planned: int | None = None
    reported: int = 0
    failed: int = 0
    has_numbers: bool = False
    numbered: set[tuple[str, str]] = field(default_factory=set)

    def complain(self, *problems: str) -> None:
        """Note what does not add up; the first ones stay."""
        self.problems += problems[: MAX_PROBLEMS - len(self.problems)]

    def add(self, node: Node) -> None:
        """Add a result."""
        result = node.result
        if result.number and not self.has_numbers:
            self._retract(node)
            self.has_numbers = True
        self.reported += 1
        self.failed += result.failing
        if result.number and (result.number, result.name) in self.numbered:
            self.complain(f"{result.name}: reported twice")
        self.numbered.add((result.number, result.name))
        self.nodes.append(node)

    def _retract(self, first: Node) -> None:
        """Where results have numbers, an ``ok`` without one was prose: it belongs to the first of them."""
        start = len(self.nodes) - self.reported
        notes = Notes()
        for node in (prose := [node for node in self.nodes[start:] if not node.result.certain]):
            notes.extend((*node.notes.lines(), node.line))
        self.nodes[start:] = [node for node in self.nodes[start:] if node.result.certain]
        self.reported -= len(prose)
        notes.extend(first.notes.lines())
        first.notes = notes

    def absorb(self, inner: Level) -> None:
        """Take results that are indented deeper than the header that announces them."""
        for node in inner.nodes:
            self.add(node)
        self.pending.extend(inner.pending.lines())
        self.complain(*inner.problems)

    def end_segment(self, parent: Result | None = None) -> None:
        """Compare what was planned with what was reported.

        :param parent: the result that vouches for this level: then a plan may be omitted (ktap.rst).
        """
        if self.planned is None:
            silent = self.announced and not self.reported
            vouched = parent is not None and (not silent or not parent.ok or parent.directive != "")
            if (silent or self.reported) and not vouched:
                self.complain(f"no plan; {self.reported} reported{self._in_flight()}")
        elif self.planned != self.reported:
            self.complain(f"planned {self.planned}, reported {self.reported}{self._in_flight()}")
        elif self.planned == 0 and self.skip_all is None:
            self.complain("planned 0: nothing ran")
        if self.totals_failed > self.failed:
            self.complain(f"its totals count {self.totals_failed} failed, of which {self.failed} are shown")
        if self.planned is not None:
            self.planned_before = (self.planned_before or 0) + self.planned
        self.announced, self.planned, self.reported, self.failed, self.totals_failed = False, None, 0, 0, 0
        self.has_numbers = False
        self.numbered.clear()

    def _in_flight(self) -> str:
        return f"; {self.running} was running when it ended" if self.running else ""
