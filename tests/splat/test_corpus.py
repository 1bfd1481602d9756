# SPDX-License-Identifier: GPL-2.0-only
"""The console reader on a public collection of consoles with a known answer, where it is present.

    ORCHESTRATE_SPLATS=DIR pytest -s tests/splat/test_corpus.py

Head and body of a log are parted by its first empty line; the head's keys are told in the folder's README.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import SHARED

from orchestrator.splat.kinds import Class
from orchestrator.splat.scanner import Scanner, Splat, function_name

CORPUS = Path(os.environ.get("ORCHESTRATE_SPLATS") or SHARED / "splats")

#: What a class of ours is called in the titles there, in the order in which it is looked for.
CLASSES = [
    (r"KASAN", Class.KASAN),
    (r"KCSAN", Class.KCSAN),
    (r"KFENCE", Class.KFENCE),
    (r"KMSAN", Class.KMSAN),
    (r"UBSAN", Class.UBSAN),
    (r"possible (?:deadlock|circular)|suspicious RCU|inconsistent lock|bad unlock", Class.LOCKDEP),
    (r"held lock freed|still has locks|lock held when|locking bug|non-static key", Class.LOCKDEP),
    (r"MAX_STACK_TRACE", Class.LOCKDEP),
    (r"rcu detected stall", Class.RCU),
    (r"task hung|task can't die", Class.HUNG),
    (r"(?:soft|hard|workqueue) lockup|lockup suspected", Class.LOCKUP),
    (r"memory leak", Class.LEAK),
    (r"^BUG: unable to handle|general protection|divide error|^PANIC: double fault", Class.OOPS),
    (r"stack guard page|Internal error|Unhandled fault|Alignment trap", Class.OOPS),
    (r"kernel panic", Class.PANIC),
    (r"WARNING", Class.WARNING),
    (r"BUG|Busy inodes|INFO: (?:Allocated|Freed)|overflow in <", Class.BUG),
    (r"ASSERT FAILED", Class.OTHER),
]

#: Why a log is answered otherwise than there, so that a new miss is told from an old one.
MISSES = {
    "6": "`WARNING:` in front of free text: a healthy kernel prints that too, so it is never counted",
    "160": "theirs leaves out what the unwinder doubts, which is who jumped to where there is no function",
    "256": "theirs leaves out what the unwinder doubts, which is who jumped to where there is no function",
    "480": "no frame is sure after a jump to where there is no function; ours takes the first",
    "338": "theirs takes a test named after the allocator for the allocator; the report's own head names it",
    "340": "theirs takes a test named after the allocator for the allocator; the report's own head names it",
    "134": "a line of the report is torn, though its trace is whole",
    "200": "another task's report is mixed in without a pid, so that it cannot be told",
    "354": "the firmware's line shares one with the kernel's next",
    "492": "of two CPUs' traces the first is of a timer that was interrupted, theirs is the other",
    "548": "32 bit arm: all frames are plumbing, theirs names the exception's entry",
    "604": "the only frame is the entry of a system call",
    "628": "theirs names the lock function, ours its caller, as in all others",
    "632": "two CPUs' idle tasks print with the same caller",
    "714": "32 bit arm: the unwinder's name is that of the function behind a call that does not return",
    "718": "theirs knows no frame of a stalled CPU; ours takes the trace that is there",
    "720": "theirs knows no frame of a stalled CPU; ours takes the trace that is there",
    "734": "arm64: what the link register names left no frame; theirs takes the first that is in the trace",
}


@dataclass(frozen=True)
class Log:
    name: str
    titles: list[str]
    corrupted: bool
    found: tuple[Splat, ...]

    @property
    def first(self) -> Splat | None:
        return self.found[0] if self.found else None


def read(path: Path) -> Log:
    head, _, body = (b"\n" + path.read_bytes()).partition(b"\n\n")
    scanner = Scanner()
    scanner.feed(body.split(b"\nREPORT:")[0])
    titles = re.findall(r"^(?:TITLE|ALT): *(.*?)\s*$", head.decode(), re.MULTILINE)
    return Log(path.stem, [title for title in titles if title], b"CORRUPTED: Y" in head, scanner.finish())


def functions(titles: Iterable[str]) -> set[str]:
    """The names that are right: either of two ("in caller/callee"), ``sys_mount`` for ``mount``."""
    named = {
        part
        for title in titles
        for name in re.findall(r" in (<\S+>\S*|[\w./]+)", title)
        for part in ([name] if name.startswith("<") else name.split("/"))
    }
    plain = {function_name(name) for name in named}
    return plain | {f"sys_{name}" for name in plain}


def class_of(title: str) -> Class | None:
    return next((found for words, found in CLASSES if re.search(words, title)), None)


@dataclass
class Figure:
    """How many were right of how many, and those that were not."""

    right: int = 0
    wrong: list[tuple[str, str, str]] | None = None

    def count(self, right: bool, log: Log) -> None:
        self.wrong = self.wrong or []
        if right:
            self.right += 1
        else:
            wanted, got = (log.titles or [""])[0], log.first.title if log.first else ""
            self.wrong.append((log.name, wanted, got))

    @property
    def share(self) -> float:
        return self.right / max(1, self.right + len(self.wrong or []))

    def __str__(self) -> str:
        return f"{self.right}/{self.right + len(self.wrong or [])} ({self.share:.1%})"


def figures(logs: Iterable[Log]) -> dict[str, Figure]:
    found = {name: Figure() for name in ("presence", "class", "access", "function", "precision", "recall")}
    for log in logs:
        found["presence"].count(bool(log.found) == bool(log.titles), log)
        if not log.titles:
            continue
        title, first = log.titles[0], log.first
        if (wanted := class_of(title)) is not None:
            found["class"].count(first is not None and first.category is wanted, log)
        if first and first.corrupted:
            found["precision"].count(log.corrupted, log)
        if log.corrupted:
            found["recall"].count(first is not None and first.corrupted, log)
            continue
        if first and (access := re.search(r"KASAN.* (Read|Write) in ", title)):
            found["access"].count(first.access.startswith(access[1]), log)
        if wanted is not None and " in " in title:
            found["function"].count(first is not None and first.function in functions(log.titles), log)
    return found


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no collection of consoles; set ORCHESTRATE_SPLATS")
def test_public_collection(capsys: pytest.CaptureFixture[str]) -> None:
    logs = [read(path) for path in sorted(CORPUS.glob("*.log"), key=lambda path: int(path.stem))]
    assert len(logs) > 300
    found = figures(logs)
    with capsys.disabled():
        print()
        for name, figure in found.items():
            print(f"{name}: {figure}")
            for log, wanted, got in figure.wrong or []:
                print(f"    {log}: {wanted!r}, not {got!r}: {MISSES.get(log, '')}")
    assert [log.name for log in logs if log.found and not log.titles] == []
    assert found["presence"].share >= 0.99
    assert found["class"].share >= 0.96
    assert found["function"].share >= 0.96
