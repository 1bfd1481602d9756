# SPDX-License-Identifier: GPL-2.0-only
"""What one line of KTAP says, in the dialects that programs print.

A name never depends on the outcome: the hyphen goes, the name ends where the comment begins, and a result
without a name has none. A directive makes a failure milder only in capitals, as the KTAP document lists them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.core import text as txt

MAX_NAME = 200
_MAX_LOG_PREFIX = 120

_PREFIX = re.compile(r"(?:# |[ \t])*+")
# kselftest's old runner numbers "1..3" in place of "3"; Test::Harness takes a result without a number
_RESULT = re.compile(r"\.*+(not )?ok(?:\s++(?:1\.\.)?(\d++)(?![\w.,]))?((?:[\s#:-].*)?)")
_PROTOCOL = re.compile(r"\.*+(?:not )?ok|1\.\.|K?TAP |Bail |---|\[\.\.\. |Subtest: ")
# KUnit's and TAP 14's; and that of kselftest's runner
_HEADER = re.compile(r"Subtest: (\S.*)|(selftests: \S+: \S.*)")
_HYPHEN = re.compile(r"\s*+:?-(?=\s|$)")
_PLAN = re.compile(r"1\.\.(\d{1,9})\s*+(?:#\s*+(.*))?")
_VERSION = re.compile(r"K?TAP version \d{1,3}\s*+")
_VERSION_OF_A_LOG = re.compile(r"K?TAP version \d{1,3}\s*+$")
_BAIL_OUT = re.compile(r"Bail out!(.*)")
_COMMENT = re.compile(
    r"(?:^|\s)#(?:\s+|$|(?=(?:(?i:SKIP|TODO)|XFAIL|XPASS|ERROR|TIMEOUT)(?:PED|ped)?\b))",
)
_DIRECTIVE = re.compile(r"(SKIP|TODO|XFAIL|XPASS|ERROR|TIMEOUT)(?:PED)?\b\S*\s*(.*)", re.IGNORECASE)
_EXIT = re.compile(r"exit=(\d{1,3})\s*")
_OLD_RUNNER = re.compile(r"(selftests: .*\S) \[(PASS|FAIL|SKIP)\]")
# a program killed in the middle of a line: the runner's verdict follows on the same line
_GLUED = re.compile(r"(?:not )?ok \d{1,9} selftests: .*")
_STAMP = re.compile(r"\[\s*+\d++\.\d{6}\]")

#: The directive of a result that never came.
MISSING = "MISSING"
#: Directives behind which ksft_test_result_skip() and its like put the name.
_BEFORE_A_NAME = ("SKIP", "XFAIL", "XPASS", "ERROR", "error")


@dataclass(frozen=True, slots=True)
class Result:
    """A result line. ``number`` is empty without one; ``certain``: no prose looks like this."""

    ok: bool
    number: str
    name: str
    directive: str
    reason: str
    certain: bool

    @classmethod
    def missing(cls, name: str) -> Result:
        """In place of the result that a test never reported, which others were reported within."""
        return cls(ok=True, number="", name=name, directive=MISSING, reason="", certain=True)

    @property
    def failing(self) -> bool:
        """Whether it counts as a failure."""
        return is_failing(self.ok, self.directive)


def is_failing(ok: bool, directive: str) -> bool:
    """Whether a result counts as a failure."""
    return directive in ("ERROR", "TIMEOUT", "XPASS") or (
        not ok and directive not in ("SKIP", "TODO", "XFAIL")
    )


def split(line: str) -> tuple[str, str]:
    """The prefix that nests a line, and the rest without white space at its end."""
    match = _PREFIX.match(line)
    prefix = match.group() if match else ""
    return prefix, line[len(prefix) :].rstrip()


def width(prefix: str) -> int:
    """The column at which a prefix ends."""
    return len(prefix) + 3 * prefix.count("\t")


def may_say_something(body: str) -> bool:
    """Whether a line can be anything but noise; cheap."""
    return _PROTOCOL.match(body) is not None or "selftests: " in body


def header(body: str) -> str:
    """The name of the test whose results follow, where the line is its header; else empty."""
    match = _HEADER.fullmatch(body)
    return txt.one_line(match[1] or match[2], limit=MAX_NAME) if match else ""


def log_prefix(line: str) -> re.Pattern[str] | None:
    """The pattern of what a kernel log puts before each line, from its version line; as kunit.py does."""
    version = _VERSION_OF_A_LOG.search(line) if "TAP version " in line else None
    before = line[: version.start()] if version else ""
    if not before.endswith(("] ", "kernel: ")) or len(before) > _MAX_LOG_PREFIX:
        return None
    pieces = re.findall(r" *\w+|[^\w ]| +", before)
    return re.compile("".join(" *+[\\w]++" if p.strip().isalnum() else re.escape(p) for p in pieces))


def glued(body: str) -> int:
    """Where the runner's verdict begins in a line that its program has not ended; 0 elsewhere."""
    match = _GLUED.search(body) if "selftests: " in body else None
    return match.start() if match else 0


def kernel_message(body: str) -> int:
    """Where a message of the kernel with its time begins behind other text; the length without one."""
    match = _STAMP.search(body, 1)
    return match.start() if match else len(body)


def is_version(body: str) -> bool:
    """Whether it is a version line."""
    return _VERSION.fullmatch(body) is not None


def plan(body: str) -> tuple[int, str | None] | None:
    """The number of tests of a plan line, and the reason where it skips all; ``None``: it is no plan."""
    match = _PLAN.fullmatch(body)
    if match is None:
        return None
    planned = int(match[1])
    word, reason, _ = _directive(match[2] or "", ok=True)
    return planned, reason if planned == 0 and word == "SKIP" else None


def bail_out(body: str) -> str | None:
    """The text of a ``Bail out!``."""
    match = _BAIL_OUT.fullmatch(body)
    return match[1].strip() if match else None


def result(body: str) -> Result | None:
    """A result line; ``None``: it is none."""
    match = _RESULT.fullmatch(body)
    if match is None:
        return None
    ok, number, rest = not match[1], (match[2] or "").lstrip("0"), match[3]
    if not match[2] and rest and not rest[0].isspace():
        return None
    hyphen = _HYPHEN.match(rest)
    name, directive, reason = _named(rest[hyphen.end() :] if hyphen else rest, ok=ok)
    certain = bool(match[2] or hyphen or not ok)
    return Result(ok, number, name, directive, txt.one_line(reason), certain)


def _named(rest: str, *, ok: bool) -> tuple[str, str, str]:
    """Name, directive and reason from what follows the number."""
    name, comment = rest.strip(), ""
    if split_at := _COMMENT.search(rest):
        name, comment = rest[: split_at.start()].strip(), rest[split_at.end() :]
    directive, reason, word = _directive(comment, ok=ok)
    if old := _OLD_RUNNER.fullmatch(name):
        name, directive = old[1], directive or ("SKIP" if old[2] == "SKIP" else "")
    if not name and word in _BEFORE_A_NAME:
        name = reason
    return txt.one_line(name.replace("\\#", "#"), limit=MAX_NAME) or "unnamed", directive, reason


def _directive(comment: str, *, ok: bool) -> tuple[str, str, str]:
    """Directive, reason, and the directive as it was written, from what follows the ``#`` of a result line.

    Only capitals make a failure milder or an ``ok`` worse: "not ok 3 x # skip count wrong" is a failure. A
    directive behind a further ``#`` never makes a result milder.
    """
    position = 0
    while True:
        if match := _EXIT.fullmatch(comment, position):
            return "EXIT", match[1], ""
        if match := _DIRECTIVE.fullmatch(comment, position):
            word = match[1].upper()
            worse = word in ("ERROR", "TIMEOUT")
            counts = match[1] == word or (word == "ERROR" and not ok) or (ok and not worse)
            if counts and (position == 0 or ok or worse):
                return word, match[2].strip(), match[1]
        further = comment.find(" # ", position)
        if further < 0:
            return "", comment.strip(), ""
        position = further + 3
