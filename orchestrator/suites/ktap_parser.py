# SPDX-License-Identifier: GPL-2.0-only
"""KTAP as kernel selftests really print it: nested by indentation or by ``# ``, torn, noisy, miscounted.

The format is Documentation/dev-tools/ktap.rst of the kernel; kselftest's runner nests with a ``# `` in
front of every line of the program that it runs. `parse` keeps the lines and notes inconsistencies;
`orchestrator.verdict.ktap` judges it.

Take the text from a pipe. kselftest's runner opens its standard output a second time; into a plain
file the two writers overwrite each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.core import text as txt

#: Levels of nesting; anything deeper counts as the deepest level.
MAX_DEPTH = 16
MAX_PROBLEMS = 50
MAX_NAME = 200

_PREFIX = re.compile(r"(?:# |[ \t])*+")
_RESULT = re.compile(r"\.*+(?:(not )?ok (\d{1,9})(?:\s+-(?=\s))?|(not )ok(?=\s|$)|ok -(?=\s))(?:\s+(.*))?")
_PLAN = re.compile(r"1\.\.(\d{1,9})\s*+(?:#\s*+(.*))?")
_VERSION = re.compile(r"K?TAP version \d{1,3}\s*+")
_BAIL_OUT = re.compile(r"Bail out!(.*)")
_COMMENT = re.compile(r"(?:^|\s)#(?:\s+|$|(?=(?:SKIP|TODO|XFAIL|XPASS|ERROR|TIMEOUT)(?:PED)?\b))")
_DIRECTIVE = re.compile(r"(SKIP|TODO|XFAIL|XPASS|ERROR|TIMEOUT)(?:PED)?\b\S*\s*(.*)", re.IGNORECASE)
_EXIT = re.compile(r"exit=(\d{1,3})\s*")
# a program killed in the middle of a line: the runner's verdict follows on the same line
_GLUED = re.compile(r"(?:not )?ok \d{1,9} selftests: .*")
_RUN = re.compile(r"#?\s*RUN\s+(\S+) \.\.\.")
_TOTALS = re.compile(r"#?\s*Totals: pass:\d+ fail:(\d+) .*error:(\d+)")


@dataclass(frozen=True)
class KtapCase:
    """One verdict of a report.

    ``path`` holds the names from the outermost test to this one, unique within the report; never a
    number of the protocol. ``directive`` is ``""``, ``SKIP``, ``TODO``, ``XFAIL``, ``XPASS``, ``ERROR``,
    ``TIMEOUT`` or ``EXIT`` (``exit=n``; ``reason`` is then ``n``). ``diagnostics`` are the lines said on
    its behalf, without their prefix.
    """

    path: tuple[str, ...]
    ok: bool
    directive: str = ""
    reason: str = ""
    diagnostics: tuple[str, ...] = ()

    @property
    def failing(self) -> bool:
        """Whether the result counts as a failure."""
        return _failing(self.ok, self.directive)


@dataclass(frozen=True)
class Report:
    """What a KTAP text says.

    ``cases`` are the leaves, in order, and besides them each parent that failed for a reason of its own.
    ``planned`` is the outermost plan, ``None`` without one. ``problems`` say what does not add up, at any
    level. ``bailed_out`` is the text of the first ``Bail out!``; ``skip_all`` the reason of a ``1..0``
    plan. ``truncated``: the text ends within a line, or was cut by `orchestrator.core.text.clean`.
    """

    cases: tuple[KtapCase, ...] = ()
    planned: int | None = None
    problems: tuple[str, ...] = ()
    bailed_out: str | None = None
    skip_all: str | None = None
    truncated: bool = False


@dataclass
class _Node:
    name: str
    number: int | None
    ok: bool
    directive: str
    reason: str
    diagnostics: list[str]
    children: list[_Node] = field(default_factory=list)


@dataclass
class _Level:
    """One level of nesting that is open; a second version line on it begins a new segment."""

    prefix: str
    column: int
    nodes: list[_Node] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    running: str = ""
    totals_failed: int = 0
    skip_all: str | None = None
    problems: list[str] = field(default_factory=list)
    planned_before: int | None = None
    # of the segment
    announced: bool = False
    planned: int | None = None
    reported: int = 0
    failed: int = 0
    numbered: set[tuple[int | None, str]] = field(default_factory=set)

    def complain(self, *problems: str) -> None:
        self.problems += problems[: MAX_PROBLEMS - len(self.problems)]

    def end_segment(self) -> None:
        if self.planned is None:
            if self.announced or self.reported:
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
        self.numbered.clear()

    def _in_flight(self) -> str:
        return f"; {self.running} was running when it ended" if self.running else ""


class _Parser:
    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.before: list[str] = []  # noise ahead of the first level
        self.problems: list[str] = []
        self.bailed_out: str | None = None
        self.truncated = False

    def feed(self, lines: Sequence[str]) -> None:
        """Take all lines of a text; the last one is what follows its last newline."""
        for line in lines[:-1]:
            self._line(line, torn=False)
        if lines[-1].strip():
            self._line(lines[-1], torn=True)

    def _line(self, line: str, *, torn: bool) -> None:
        match = _PREFIX.match(line)
        prefix = match.group() if match else ""
        body = line[len(prefix) :].rstrip()
        glued = _GLUED.search(body) if prefix and "selftests: " in body else None
        if glued and glued.start():
            self._note(line[: len(prefix) + glued.start()])
            prefix, body = (self.levels[0].prefix if self.levels else ""), glued.group()
        if txt.CUT_LINE.fullmatch(body):
            self.truncated = True
        if result := _RESULT.fullmatch(body):
            ok = not (result[1] or result[3])
            # Half a name must not become a case that passed; half a failure is a failure still.
            if not (torn and ok):
                self._result(prefix, result, ok=ok)
        elif not torn and (plan := _PLAN.fullmatch(body)):
            self._plan(prefix, int(plan[1]), plan[2] or "")
        elif not torn and _VERSION.fullmatch(body):
            self._version(prefix)
        elif bail := _BAIL_OUT.fullmatch(body):
            if self.bailed_out is None:
                self.bailed_out = bail[1].strip()
            self._note(line)
        else:
            self._note(line)
        self.truncated |= torn

    def _note(self, line: str) -> None:
        """Add a line that is not a result to the current case, at the deepest open level."""
        if not self.levels:
            if line.strip():
                self.before.append(line.removeprefix("# ").rstrip())
            return
        level = self.levels[-1]
        text = line.removeprefix(level.prefix).removeprefix("# ").rstrip()
        if not text.strip("# \t"):
            return
        level.pending.append(text)
        if run := _RUN.fullmatch(text):
            level.running = txt.one_line(run[1], limit=MAX_NAME)
        elif totals := _TOTALS.fullmatch(text):
            level.totals_failed += int(totals[1][:9]) + int(totals[2][:9])

    def _close_below(self, prefix: str) -> _Level | None:
        """Close the levels deeper than ``prefix``; the outermost of them, which a result may adopt."""
        column, closed = _width(prefix), None
        while self.levels and self.levels[-1].column > column:
            level = self.levels.pop()
            level.end_segment()
            if closed:
                self._adopt_orphans(level, closed)
            closed = level
        return closed

    def _open(self, prefix: str) -> _Level:
        """The level of ``prefix``, opened where need be; deeper ones must have been closed."""
        if self.levels and (self.levels[-1].column == _width(prefix) or len(self.levels) == MAX_DEPTH):
            return self.levels[-1]
        level = _Level(prefix, _width(prefix))
        if not self.levels:
            level.pending, self.before = self.before, []
        self.levels.append(level)
        return level

    def _at(self, prefix: str) -> _Level:
        """The level of a version line or a plan: neither ends a test, so what was open below is orphaned."""
        closed = self._close_below(prefix)
        level = self._open(prefix)
        if closed:
            self._adopt_orphans(level, closed)
        return level

    def _adopt_orphans(self, level: _Level, closed: _Level) -> None:
        level.complain(*closed.problems)
        level.pending += closed.pending
        level.nodes += closed.nodes
        if closed.nodes:
            level.complain(f"{len(closed.nodes)} results whose parent reported none")

    def _version(self, prefix: str) -> None:
        level = self._at(prefix)
        if level.reported or level.planned is not None:
            level.end_segment()
            if len(self.levels) > 1:
                level.complain("a second version line without a result of the parent between")
        level.announced = True

    def _plan(self, prefix: str, planned: int, comment: str) -> None:
        level = self._at(prefix)
        if level.planned is not None:
            level.complain(f"planned {level.planned}, then {planned}")
            planned = max(planned, level.planned)
        level.planned = planned
        directive, reason = _directive(comment, ok=True)
        if planned == 0 and directive == "SKIP":
            level.skip_all = reason

    def _result(self, prefix: str, match: re.Match[str], *, ok: bool) -> None:
        closed = self._close_below(prefix)
        level = self._open(prefix)
        number = int(match[2]) if match[2] else None
        node = _node(number, ok, match[4] or "", level.pending)
        level.pending, level.running = [], ""
        level.reported += 1
        level.failed += _failing(ok, node.directive)
        if number is not None and (number, node.name) in level.numbered:
            level.complain(f"{node.name}: reported twice")
        level.numbered.add((number, node.name))
        if closed:
            node.children = closed.nodes
            node.diagnostics += closed.pending
            level.complain(*(f"{node.name}: {problem}" for problem in closed.problems))
            if node.directive == "SKIP" and not node.reason and closed.skip_all:
                node.reason = closed.skip_all
        level.nodes.append(node)

    def report(self) -> Report:
        if not self.levels:
            return Report(
                problems=("no KTAP in the output",), bailed_out=self.bailed_out, truncated=self.truncated
            )
        top = self._at(self.levels[0].prefix)
        top.end_segment()
        problems = list(top.problems)
        if self.truncated:
            problems.append("the output is cut")
        cases = tuple(_flatten(top.nodes, (), problems))
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        return Report(
            cases=cases,
            planned=top.planned_before,
            problems=tuple(txt.one_line(problem) for problem in problems),
            bailed_out=self.bailed_out,
            skip_all=top.skip_all if not top.nodes else None,
            truncated=self.truncated,
        )


def parse(text: str) -> Report:
    """Read KTAP from the output of a test program or of kselftest's runner.

    :param text: clean text (`orchestrator.core.text.clean`) as it came, the last newline included: a last
        line without one counts as torn, and a torn ``ok`` is not believed.

    Never raises; linear in the length of the text.
    """
    parser = _Parser()
    parser.feed(text.split("\n"))
    return parser.report()


def _width(prefix: str) -> int:
    return len(prefix) + 3 * prefix.count("\t")


def _failing(ok: bool, directive: str) -> bool:
    return directive in ("ERROR", "TIMEOUT", "XPASS") or (
        not ok and directive not in ("SKIP", "TODO", "XFAIL")
    )


def _directive(comment: str, *, ok: bool) -> tuple[str, str]:
    """Directive and reason from what follows the ``#`` of a result line.

    Only capitals make a failure milder or an ``ok`` worse: "not ok 3 x # skip count wrong" is a failure.
    """
    if match := _EXIT.fullmatch(comment):
        return "EXIT", match[1]
    if match := _DIRECTIVE.fullmatch(comment):
        word = match[1].upper()
        worse = word in ("ERROR", "TIMEOUT")
        if match[1] == word or (word == "ERROR" and not ok) or (ok and not worse):
            return word, match[2].strip()
    return "", comment.strip()


def _node(number: int | None, ok: bool, rest: str, diagnostics: list[str]) -> _Node:
    name, comment = rest, ""
    if split := _COMMENT.search(rest):
        name, comment = rest[: split.start()], rest[split.end() :]
    directive, reason = _directive(comment, ok=ok)
    # ksft_test_result_skip() and its like put the name behind the directive.
    name = txt.one_line(name, limit=MAX_NAME) or txt.one_line(reason, limit=MAX_NAME) or "unnamed"
    return _Node(name, number, ok, directive, txt.one_line(reason), diagnostics)


def unique(name: str, used: set[str], counters: dict[str, int]) -> str:
    """``name``, or the first of ``name#2``, ``name#3`` … that is not used."""
    candidate = name
    while candidate in used:
        counters[name] = counters.get(name, 1) + 1
        candidate = f"{name}#{counters[name]}"
    used.add(candidate)
    return candidate


def _flatten(nodes: Sequence[_Node], parent: tuple[str, ...], problems: list[str]) -> Iterator[KtapCase]:
    used: set[str] = set()
    counters: dict[str, int] = {}
    for node in nodes:
        path = (*parent, unique(node.name, used, counters))
        own = KtapCase(path, node.ok, node.directive, node.reason, tuple(node.diagnostics))
        if not node.children:
            yield own
            continue
        inner = list(_flatten(node.children, path, problems))
        yield from inner
        child_fails = any(case.failing for case in inner)
        if own.failing and (not child_fails or _more_than_its_children(own)):
            yield own
        elif child_fails and not own.failing and own.directive not in ("XFAIL", "TODO"):
            problems.append(f"{node.name}: {own.directive or 'ok'}, although a test within it failed")


def _more_than_its_children(case: KtapCase) -> bool:
    """Whether a parent failed in a way that failing children do not explain: killed, or never started."""
    return case.directive in ("TIMEOUT", "ERROR") or (case.directive == "EXIT" and int(case.reason) >= 124)
