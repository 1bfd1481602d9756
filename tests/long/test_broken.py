# SPDX-License-Identifier: GPL-2.0-only
"""Kernels broken on purpose (make test-long TARGET=broken): each must be noticed, and the table says by whom.

A numbered file of ``tests/broken`` is one mistake, on top of Linux 7.2 without its known gap. Its head says
what it is (``Subject``), which suites and cases must notice it and why (``Notices``), and what the good
kernel gets too (``With``).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import pytest
from broken_tree import BrokenTree
from paths import ROOT, RUNS, TESTS
from under_test import FIX_GAP, orchestrate, results

from orchestrator.results.model import AT_FAULT, Case, Verdict
from orchestrator.run.summary import RunResult

FOLDER = TESTS / "broken"
OURS = ("maps-coherency", "procmap-query", "locking", "progress")
UPSTREAM = "maps"
#: The finding that it mends: known of unmodified kernels, and not to happen here.
MENDED = "docs/findings/0001"
#: The sample for arm64: lookup, bookkeeping, a leaked lock, which lock is used, and an answer.
ARM64 = (
    "05-fallback-goes-on",
    "12-half-rewound",
    "13-stop-stays-locked",
    "16-smaps-under-mmap-lock",
    "19-query-exact-gives-next",
)

_NOTICES = re.compile(r"(?P<suites>[\w-]+(?:, [\w-]+)*) (?P<cases>\S+): (?P<why>.+)")
_TOOK = re.compile(r"\s*# took (?P<s>\d+\.\d+) s\b")


@dataclass(frozen=True)
class Mistake:
    """A patch with its head read."""

    path: Path

    @property
    def name(self) -> str:
        """``01-no-revalidation``."""
        return self.path.stem

    @cached_property
    def head(self) -> list[tuple[str, str]]:
        """The fields above the diff, in order."""
        lines = self.path.read_text().split("\n\n", 1)[0].splitlines()
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    @property
    def subject(self) -> str:
        """What is wrong, in one line."""
        return next(value for name, value in self.head if name == "Subject")

    @property
    def notices(self) -> list[tuple[str, str]]:
        """Who must notice it: pairs of suite and pattern of ``group.case``."""
        found = [_NOTICES.fullmatch(value) for name, value in self.head if name == "Notices"]
        return [(suite, each["cases"]) for each in found if each for suite in each["suites"].split(", ")]

    @property
    def beside(self) -> tuple[Path, ...]:
        """What the good kernel has too."""
        return (FIX_GAP, *(FOLDER / value for name, value in self.head if name == "With"))


MISTAKES = [Mistake(path) for path in sorted(FOLDER.glob("[0-9]*.patch"))]
CELLS = [("x86_64", mistake) for mistake in MISTAKES]
CELLS += [("arm64", mistake) for mistake in MISTAKES if mistake.name in ARM64]
GOOD = sorted({(arch, mistake.beside) for arch, mistake in CELLS})


@dataclass(frozen=True)
class Alarm:
    """A case at fault, and after how many seconds of its program at the latest it was known."""

    case: Case
    seconds: float

    def __str__(self) -> str:
        verdict = Verdict.FAIL if self.case.verdict is Verdict.KNOWN else self.case.verdict
        whole = "the console" if verdict is Verdict.CRASH else "the program"
        return f"{verdict} {_path(self.case) or whole}, {self.seconds:.0f} s"


#: The cases at fault by suite; those of a cell itself (a late splat, no way down) stand under "".
Alarms = dict[str, list[Alarm]]
#: What a case of the good kernel may come to.
QUIET = (Verdict.PASS, Verdict.SKIP, Verdict.NA, Verdict.KNOWN)


@dataclass(frozen=True)
class Findings:
    """What the suites say of a kernel: what is at fault, and all that is not quiet."""

    alarms: Alarms
    loud: list[str]


class Workshop:
    """One tree, broken in one way after the other, and what the suites say of it."""

    def __init__(self, runs: Path) -> None:
        self.tree = BrokenTree()
        self.runs = runs
        self.rows: dict[tuple[str, str], str] = {}
        self.scores: dict[str, list[tuple[bool, bool]]] = {}
        self._good: dict[tuple[str, tuple[Path, ...]], Findings] = {}

    def good(self, arch: str, patches: tuple[Path, ...]) -> Findings:
        """What the suites say of the kernel without a mistake, which should be nothing."""
        key = (arch, patches)
        if key not in self._good:
            self._good[key] = self._run(arch, patches, "good-" + "-".join(p.stem for p in patches))
        return self._good[key]

    def broken(self, arch: str, mistake: Mistake) -> Alarms:
        """What the suites hold against a broken kernel and not against the good one."""
        good = self.good(arch, mistake.beside).alarms.values()
        known = {alarm.case.id for alarms in good for alarm in alarms}
        found = self._run(arch, (*mistake.beside, mistake.path), mistake.name).alarms
        return {suite: [a for a in alarms if a.case.id not in known] for suite, alarms in found.items()}

    def _run(self, arch: str, patches: Sequence[Path], name: str) -> Findings:
        self.tree.apply(patches)
        alarms: Alarms = {}
        loud: list[str] = []
        # apart, so that what burns after the last program is known to be whose
        for suites in (OURS, (UPSTREAM,)):
            out = self.runs / f"{arch}-{name}" / ("ours" if suites is OURS else "upstream")
            orchestrate(
                "run", "--source", self.tree.path, "--arch", arch, "--variant", "per-vma-lock",
                "--out", out, *(word for suite in suites for word in ("--suite", suite)),
            )  # fmt: skip
            result = results(out)
            for suite, found in _alarms(result, out / result.id, suites).items():
                alarms.setdefault(suite, []).extend(found)
            cases = [case for cell in result.cells for case in cell.all_cases()]
            loud += [
                f"{c.id}: {c.verdict}: {c.reason}" for c in cases if c.verdict not in QUIET or _at_fault(c)
            ]
        return Findings(alarms, loud)

    def note(self, arch: str, mistake: Mistake, alarms: Alarms) -> None:
        """Add a row to the table and write it anew."""
        cells = []
        must = {suite for suite, _ in mistake.notices}
        for suite in (*OURS, UPSTREAM):
            first = next(iter(alarms.get(suite, ())), None)
            cells.append(str(first) if first else "**missed**" if suite in must else "–")
        ours = any(alarms.get(suite) for suite in (*OURS, ""))
        self.rows[arch, mistake.name] = (
            f"| {mistake.name} | {mistake.subject} | {arch} | {' | '.join(cells)} |"
        )
        self.scores.setdefault(arch, []).append((ours, bool(alarms.get(UPSTREAM))))
        (self.runs / "table.md").write_text(self.table())

    def table(self) -> str:
        """The table of what was noticed until now, in Markdown."""
        names = ["mistake", "what it is", "arch", *OURS, f"upstream's ({UPSTREAM})"]
        lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *self.rows.values(), ""]
        for arch, scores in self.scores.items():
            ours, theirs = (sum(score[n] for score in scores) for n in (0, 1))
            lines.append(f"{arch}: of {len(scores)} ours noticed {ours}, upstream's {theirs}.")
        return "\n".join(lines) + "\n"


def _at_fault(case: Case) -> bool:
    return case.verdict in AT_FAULT or (case.verdict is Verdict.KNOWN and MENDED in case.reason)


def _path(case: Case) -> str:
    """``group.case``; empty where a whole program is at fault."""
    return ".".join(case.id.split("/")[2:])


def _alarms(result: RunResult, folder: Path, suites: Sequence[str]) -> Alarms:
    alarms: Alarms = {suite: [] for suite in suites}
    for cell in result.cells:
        built = {case.id: case.verdict for case in cell.cases}
        assert built["build"] is Verdict.PASS, "a kernel that does not compile was not noticed by a suite"
        for case in cell.cases:
            if _at_fault(case):
                # the reason says after which program, if it is not a late splat
                after = re.search(r"\bafter ([\w-]+)/", case.reason)
                whose = after[1] if after else suites[0] if len(suites) == 1 else ""
                alarms.setdefault(whose, []).append(Alarm(case, cell.duration_s))
        for suite in cell.suites:
            bad = [case for case in suite.cases if _at_fault(case)]
            found = [Alarm(case, _seconds(case, folder, suite.duration_s)) for case in bad]
            alarms[suite.suite].extend(sorted(found, key=lambda alarm: alarm.seconds))
    assert {suite.suite for cell in result.cells for suite in cell.suites} == set(suites)
    return alarms


def _seconds(case: Case, folder: Path, at_most: float) -> float:
    """The guest's seconds from the start of a program until a case was judged, from its log."""
    name, seconds = re.escape(case.id.rsplit("/", 1)[-1]), 0.0
    lines = (folder / case.log).read_text(errors="replace").splitlines() if case.log else []
    for line in lines:
        if took := _TOOK.match(line):
            seconds += float(took["s"])
        elif re.match(rf"\s*not ok \d+ {name}(?:\s|$)", line) and seconds:
            return seconds
    return at_most


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """The tree to break, and the table, which is printed at the end."""
    runs = RUNS / f"broken-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    runs.mkdir(parents=True)
    made = Workshop(runs)
    yield made
    made.tree.remove()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{made.table()}\n{runs / 'table.md'}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("arch", "patches"), GOOD, ids=["-".join([a, *(p.stem for p in patches)]) for a, patches in GOOD]
)
def test_nothing_is_said_of_the_good_kernel(arch: str, patches: tuple[Path, ...], workshop: Workshop) -> None:
    assert workshop.good(arch, patches).loud == []


@pytest.mark.long
@pytest.mark.parametrize(("arch", "mistake"), CELLS, ids=[f"{arch}-{m.name}" for arch, m in CELLS])
def test_a_broken_kernel_is_noticed(arch: str, mistake: Mistake, workshop: Workshop) -> None:
    """By one of our suites at least, and by a case that is there for it."""
    alarms = workshop.broken(arch, mistake)
    workshop.note(arch, mistake, alarms)
    assert any(
        # where the console burns, whichever case ran at that moment
        suite in OURS
        and (
            not _path(alarm.case)
            or alarm.case.verdict is Verdict.CRASH
            or fnmatchcase(_path(alarm.case), pattern)
        )
        for suite, pattern in mistake.notices
        for alarm in alarms.get(suite, [])
    ), f"{mistake.subject}: not noticed as it should be; found: {workshop.rows[arch, mistake.name]}"


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 16
    assert {mistake.name for mistake in MISTAKES} >= set(ARM64)
    assert len({mistake.name.split("-")[0] for mistake in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_says_what_it_is_and_is_small(mistake: Mistake) -> None:
    assert {name for name, _ in mistake.head} <= {"Subject", "Notices", "With"}
    assert mistake.subject
    assert all(_NOTICES.fullmatch(value) for name, value in mistake.head if name == "Notices")
    assert {suite for suite, _ in mistake.notices} & set(OURS)
    assert {suite for suite, _ in mistake.notices} <= {*OURS, UPSTREAM}
    for suite, pattern in mistake.notices:
        readme = ROOT / "selftests" / suite / "README.md"
        if suite in OURS and pattern != "*":
            cases = re.findall(r"`([\w*-]+\.[\w*-]+)`", readme.read_text())
            assert any(fnmatchcase(case, pattern) or fnmatchcase(pattern, case) for case in cases), (
                f"{suite} has no case {pattern}"
            )
    assert all(path.is_file() for path in mistake.beside)
    for hunk in re.split(r"^@@.*@@.*\n", mistake.path.read_text(), flags=re.M)[1:]:
        lines = hunk.splitlines()
        changed = [
            n for n, line in enumerate(lines) if line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ")
        ]
        assert changed[0] <= 1, "more than one line of context"
        assert len(lines) - 1 - changed[-1] <= 1, "more than one line of context"
