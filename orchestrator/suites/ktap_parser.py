# SPDX-License-Identifier: GPL-2.0-only
"""KTAP as kernel selftests really print it: nested by indentation or by ``# ``, torn, noisy, miscounted.

The format is Documentation/dev-tools/ktap.rst of the kernel; kselftest's runner nests with a ``# `` in
front of every line of the program that it runs. `parse` keeps the lines and notes inconsistencies;
`orchestrator.verdict.ktap` judges it, `orchestrator.suites.ktap_lines` reads the single line.

Take the text from a pipe. kselftest's runner opens its standard output a second time; into a plain
file the two writers overwrite each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.core import text as txt
from orchestrator.suites import ktap_lines
from orchestrator.suites.ktap_levels import MAX_PROBLEMS as MAX_PROBLEMS
from orchestrator.suites.ktap_levels import Level, Node, Notes
from orchestrator.suites.ktap_lines import MAX_NAME, Result, width

#: Levels of nesting; anything deeper counts as the deepest level.
MAX_DEPTH = 16
#: Results that are read; a program that reports more has lost its way.
MAX_CASES = 20_000

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
        return ktap_lines.is_failing(self.ok, self.directive)


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


class _Parser:
    def __init__(self) -> None:
        self.levels: list[Level] = []
        self.before = Notes()  # noise ahead of the first level
        self.bailed_out: str | None = None
        self.truncated = False
        self.n_results = 0
        self._log_prefix: re.Pattern[str] | None = None
        self._next_name = ""
        self._after_result = False
        self._yaml: int | None = None  # the column of an open YAML block

    @property
    def is_full(self) -> bool:
        return self.n_results > MAX_CASES

    def feed(self, text: str) -> None:
        """Take all lines of a text, until there are too many results; half a line may end it."""
        start = 0
        while (end := text.find("\n", start)) >= 0:
            self._line(text[start:end], torn=False)
            if self.is_full:
                return
            start = end + 1
        if text[start:].strip():
            self._line(text[start:], torn=True)

    def _line(self, line: str, *, torn: bool) -> None:
        inner = self._without_log_prefix(line)
        if inner is None:
            self._note(line)
            return
        line = inner
        prefix, body = ktap_lines.split(line)
        if self._take_yaml(prefix, body):
            return
        if prefix and (start := ktap_lines.glued(body)):
            self._note(line[: len(prefix) + start])
            prefix, body = (self.levels[0].prefix if self.levels else ""), body[start:]
        self._after_result = False
        self.truncated |= torn
        if not ktap_lines.may_say_something(body):
            self._note(line)
            return
        self.truncated |= txt.CUT_LINE.fullmatch(body) is not None
        end = ktap_lines.kernel_message(body)
        if result := ktap_lines.result(body[:end].rstrip()):
            # Half a name must not become a case that passed; half a failure is a failure still.
            if not (torn and result.ok):
                self._result(prefix, result, line)
            if body[end:]:
                self._note(body[end:])
        elif not torn and (plan := ktap_lines.plan(body)):
            self._plan(prefix, *plan)
        elif not torn and ktap_lines.is_version(body):
            self._version(prefix)
        else:
            if self.bailed_out is None:
                self.bailed_out = ktap_lines.bail_out(body)
            self._note(line)
            self._header(ktap_lines.header(body), prefix)

    def _header(self, name: str, prefix: str) -> None:
        """Remember the name of the test whose results come next."""
        if not name:
            return
        level = self.levels[-1] if len(self.levels) > 1 else None
        if level and level.announced and level.planned is None and level.column == width(prefix) - 2:
            level.name = name  # KUnit: below the version line of the level itself
        else:
            self._next_name = name

    def _without_log_prefix(self, line: str) -> str | None:
        """The line without what a kernel log puts before it; ``None``: it is not of the log."""
        if self._log_prefix is None and not self.levels:
            self._log_prefix = ktap_lines.log_prefix(line)
        if self._log_prefix is None:
            return line
        match = self._log_prefix.match(line)
        return line[match.end() :] if match else None

    def _take_yaml(self, prefix: str, body: str) -> bool:
        """Whether the line belongs to a block of YAML, which explains the result before it (TAP 13)."""
        column = width(prefix)
        if self._yaml is None:
            if body != "---" or not self._after_result or column <= self.levels[-1].column:
                return False
            self._yaml = column
        elif body and (column < self._yaml or ktap_lines.is_version(body)):
            self._end_yaml()
            return False
        self.levels[-1].nodes[-1].notes.append(" " * (column - self._yaml) + body)
        if body == "..." and column == self._yaml:
            self._yaml, self._after_result = None, False
        return True

    def _end_yaml(self) -> None:
        self._yaml = None
        self.levels[-1].complain("a YAML block without an end")

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

    def _close_below(self, column: int, parent: Result | None = None, *, last: bool = False) -> Level | None:
        """Close the levels deeper than ``column``; the outermost of them, which a result may adopt.

        :param parent: that result.
        :param last: the text is over.
        """
        closed = None
        while self.levels and self.levels[-1].column > column:
            level = self.levels.pop()
            above = self.levels[-1] if self.levels else None
            inner = above is not None and above.column > column
            if closed:
                self._adopt_orphans(level, closed)
                closed = None
            if above and (inner or last) and not level.has_header and above.has_header and not above.reported:
                above.absorb(level)
                continue
            level.end_segment(None if inner else parent)
            closed = level
        return closed

    def _open(self, prefix: str) -> Level:
        """The level of ``prefix``, opened where need be; deeper ones must have been closed."""
        if self.levels and (self.levels[-1].column == width(prefix) or len(self.levels) == MAX_DEPTH):
            return self.levels[-1]
        level = Level(prefix, width(prefix), self._next_name)
        self._next_name = ""
        if not self.levels:
            level.pending, self.before = self.before, Notes()
        self.levels.append(level)
        return level

    def _at(self, prefix: str, *, last: bool = False) -> Level:
        """The level of a version line or a plan: neither ends a test, so what was open below is orphaned."""
        closed = self._close_below(width(prefix), last=last)
        level = self._open(prefix)
        level.has_header = True
        if closed:
            self._adopt_orphans(level, closed)
        return level

    def _adopt_orphans(self, level: Level, closed: Level) -> None:
        level.complain(*closed.problems)
        level.pending.extend(closed.pending.lines())
        if closed.nodes and closed.name:
            level.nodes.append(Node(Result.missing(closed.name), Notes(), "", closed.nodes))
        else:
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

    def _plan(self, prefix: str, planned: int, skip_all: str | None) -> None:
        level = self._at(prefix)
        if level.planned is not None:
            level.complain(f"planned {level.planned}, then {planned}")
            planned = max(planned, level.planned)
        level.planned = planned
        if skip_all is not None:
            level.skip_all = skip_all

    def _result(self, prefix: str, result: Result, line: str) -> None:
        if not result.certain and self._is_prose(prefix):
            self._note(line)
            return
        self.n_results += 1
        if self.is_full:
            return
        closed = self._close_below(width(prefix), result)
        self._next_name = self._next_name if width(prefix) > self._column() else ""
        level = self._open(prefix)
        node = Node(result, level.pending, line)
        level.pending, level.running = Notes(), ""
        level.add(node)
        if closed:
            node.children = closed.nodes
            node.notes.extend(closed.pending.lines())
            level.complain(*(f"{result.name}: {problem}" for problem in closed.problems))
            if result.directive == "SKIP" and not result.reason and closed.skip_all:
                node.result = _with_reason(result, closed.skip_all)
        self._after_result = True

    def _column(self) -> int:
        return self.levels[-1].column if self.levels else 0

    def _is_prose(self, prefix: str) -> bool:
        """Whether an ``ok`` without a number is prose: it may open or end no level, nor be beside numbers."""
        if not self.levels:
            return bool(prefix)
        level = self.levels[-1]
        return level.column != width(prefix) or level.has_numbers

    def report(self) -> Report:
        if not self.levels:
            return Report(
                problems=("no KTAP in the output",), bailed_out=self.bailed_out, truncated=self.truncated
            )
        if self._yaml is not None:
            self._end_yaml()
        top = self._at(self.levels[0].prefix, last=True)
        top.end_segment()
        problems = [f"more than {MAX_CASES} results; the rest is not read"] if self.is_full else []
        problems += top.problems
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

    Never raises; linear in the length of the text, of which it reads `MAX_CASES` results at most.
    """
    parser = _Parser()
    parser.feed(text)
    return parser.report()


def _with_reason(result: Result, reason: str) -> Result:
    return Result(result.ok, result.number, result.name, result.directive, reason, result.certain)


def _flatten(nodes: Sequence[Node], parent: tuple[str, ...], problems: list[str]) -> Iterator[KtapCase]:
    used: set[str] = set()
    counters: dict[str, int] = {}
    for node in nodes:
        result = node.result
        path = (*parent, txt.unique(result.name, used, counters))
        own = KtapCase(path, result.ok, result.directive, result.reason, node.notes.lines())
        if not node.children:
            yield own
            continue
        inner = list(_flatten(node.children, path, problems))
        yield from inner
        child_fails = any(case.failing for case in inner)
        if own.failing and (not child_fails or _more_than_its_children(own)):
            yield own
        elif child_fails and not own.failing and own.directive not in ("XFAIL", "TODO", ktap_lines.MISSING):
            problems.append(f"{result.name}: {own.directive or 'ok'}, although a test within it failed")


def _more_than_its_children(case: KtapCase) -> bool:
    """Whether a parent failed in a way that failing children do not explain: killed, or never started."""
    return case.directive in ("TIMEOUT", "ERROR") or (case.directive == "EXIT" and int(case.reason) >= 124)
