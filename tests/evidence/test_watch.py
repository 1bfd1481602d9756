# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from paths import DATA

from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import Blame
from orchestrator.splat.scanner import KEEP, Scanner
from orchestrator.vm.ssh import Mark

LOGS = DATA / "splat"
WARNING = (LOGS / "x86-warning-7.2.log").read_bytes()
OOPS = (LOGS / "x86-null-deref-then-panic.log").read_bytes()
OOM = b"".join((LOGS / "oom-then-reboot.log").read_bytes().splitlines(keepends=True)[5:12])


def titles(watch: ConsoleWatch) -> list[tuple[str, Blame]]:
    return [(seen.finding.title, seen.blame) for seen in watch.take()]


def test_each_splat_is_taken_once() -> None:
    watch = ConsoleWatch()
    assert titles(watch) == []
    watch.feed((LOGS / "clean-boot.log").read_bytes())
    assert titles(watch) == []
    watch.feed(WARNING)
    assert titles(watch) == [("WARNING in vma_start_read", Blame.KERNEL)]
    assert titles(watch) == []
    watch.feed(OOM)
    assert [blame for _, blame in titles(watch)] == [Blame.INFRA]


def test_the_same_again_is_new() -> None:
    watch = ConsoleWatch()
    for _ in range(3 * KEEP):
        watch.feed(WARNING)
        assert titles(watch) == [("WARNING in vma_start_read", Blame.KERNEL)]
    assert titles(watch) == []


def test_a_flood_is_one_finding_each_time() -> None:
    watch = ConsoleWatch()
    for _ in range(2):
        watch.feed(WARNING * 100)
        assert titles(watch) == [("WARNING in vma_start_read", Blame.KERNEL)]


def test_of_the_same_again_the_first_is_shown() -> None:
    """The ones behind it are of a kernel that is tainted by it."""
    watch = ConsoleWatch()
    for number in range(2 * KEEP):
        watch.feed(WARNING.replace(b"Comm: ", b"Comm: %d-" % number))
    (seen,) = watch.take()
    assert any("Comm: 0-" in line for line in seen.finding.excerpt)


def test_a_report_that_came_byte_by_byte() -> None:
    watch = ConsoleWatch()
    for byte in WARNING:
        watch.feed(bytes([byte]))
    assert titles(watch) == [("WARNING in vma_start_read", Blame.KERNEL)]


def test_fed_by_one_thread_and_asked_by_another() -> None:
    watch = ConsoleWatch()

    def feed() -> None:
        for _ in range(50):
            watch.feed(WARNING)

    thread = threading.Thread(target=feed)
    thread.start()
    found = 0
    while thread.is_alive():
        found += len(watch.take())
    thread.join()
    found += len(watch.take())
    assert 1 <= found <= 50


# --- whose it is ------------------------------------------------------------------------------------------


def line(what: str, name: str, word: str) -> bytes:
    return f"[    2.5] orchestrate: {what} {name} #{word}\r\n".encode()


def begin(mark: Mark) -> bytes:
    return line("begin", mark.id, mark.first)


def end(mark: Mark) -> bytes:
    return line("end", mark.id, mark.second)


def places(watch: ConsoleWatch, within: str = "") -> list[tuple[str, str, str]]:
    return [(seen.program, seen.case, seen.after) for seen in watch.take(within)]


@pytest.fixture
def mark() -> Mark:
    return Mark.of("s/p")


def test_a_splat_is_whose_marks_it_stands_between(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(WARNING + begin(mark) + WARNING + end(mark) + OOPS)
    assert places(watch, "s/p") == [("", "", ""), ("s/p", "s/p", "")]
    # what stands behind the end is whoever asks next's
    assert watch.waits()
    assert places(watch) == [("", "", "s/p")]
    assert not watch.waits()


def test_marks_of_cases_within_the_program(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark))
    for name in ("s/p/g/a", "s/p/g/b"):
        watch.feed(line("begin", name, mark.first) + WARNING + line("end", name, mark.first))
    watch.feed(OOPS + end(mark))
    assert places(watch, "s/p") == [
        ("s/p", "s/p/g/a", ""),
        ("s/p", "s/p/g/b", ""),
        ("s/p", "s/p", ""),
    ]
    assert watch.after_first_splat("s/p") == frozenset({"s/p/g/b"})


def test_marks_in_any_chunks(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    for byte in b"boot\n" * 300 + begin(mark) + WARNING + end(mark):
        watch.feed(bytes([byte]))
    assert places(watch, "s/p") == [("s/p", "s/p", "")]


def test_without_marks_it_is_who_ran_when_it_came(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(WARNING)
    assert not watch.ended(5.0)
    assert places(watch, "s/p") == [("s/p", "s/p", "")]


def test_a_guest_that_died_before_the_end(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark) + line("begin", "s/p/g/a", mark.first) + OOPS)
    assert places(watch, "s/p") == [("s/p", "s/p/g/a", "")]


@pytest.mark.parametrize(
    ("forged", "says"),
    [
        (("end", "s/p", "0" * 16), "a word that it does not know"),
        (("end", "s/p", None), "the word of the beginning"),
        (("end", "s/q", None), "another program"),
        (("begin", "s/q/g/a", None), "a case of another program"),
        (("begin", "t", "f" * 16), "another suite"),
    ],
)
def test_a_forged_mark_is_none(mark: Mark, forged: tuple[str, str, str | None], says: str) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    what, name, word = forged
    watch.feed(begin(mark) + line(what, name, word or mark.first) + WARNING + end(mark))
    assert places(watch, "s/p") == [("s/p", "s/p", "")], says


def test_a_mark_that_is_shown_again_counts_once(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark) + end(mark) + begin(mark) + WARNING)
    assert places(watch, "s/p") == []
    assert places(watch) == [("", "", "s/p")]


def test_many_forged_cases_cost_little(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark))
    for number in range(40):
        watch.feed(b"".join(line("begin", f"s/p/{number}-{n}", mark.first) for n in range(1000)))
    assert len(watch._places) <= 20_000
    watch.feed(end(mark))
    assert watch.ended(5.0)


def test_one_guest_for_two_programs(mark: Mark) -> None:
    watch, other = ConsoleWatch(), Mark.of("s/q")
    watch.expect(mark)
    watch.feed(begin(mark) + WARNING + end(mark))
    assert places(watch, "s/p") == [("s/p", "s/p", "")]
    watch.feed(WARNING)
    assert places(watch) == [("", "", "s/p")]
    watch.expect(other)
    watch.feed(begin(other) + WARNING + end(other))
    assert places(watch, "s/q") == [("s/q", "s/q", "")]


def test_the_share_of_a_flood_is_the_next_programs_too(mark: Mark) -> None:
    watch, other = ConsoleWatch(), Mark.of("s/q")
    watch.expect(mark)
    watch.feed(begin(mark) + WARNING * 100 + end(mark))
    assert places(watch, "s/p") == [("s/p", "s/p", "")]
    assert places(watch) == []
    watch.expect(other)
    watch.feed(begin(other) + WARNING * 100 + end(other))
    assert places(watch, "s/q") == [("s/q", "s/q", "")]


def test_what_we_asked_for_is_no_finding(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark) + WARNING)
    with watch.ignoring():
        watch.feed(OOPS)
    watch.feed(WARNING + end(mark))
    assert {seen.finding.title for seen in watch.take("s/p")} == {"WARNING in vma_start_read"}


def test_waits_for_the_end_where_marks_are_shown(mark: Mark) -> None:
    watch = ConsoleWatch()
    watch.expect(mark)
    watch.feed(begin(mark))
    assert not watch.ended(0.01)
    threading.Timer(0.05, watch.feed, [end(mark)]).start()
    assert watch.ended(10.0)


def test_counters_below_zero() -> None:
    watch = ConsoleWatch()
    watch.feed(b"[ 1.0] vmstat_refresh: nr_mlock -3\n[ 1.1] vmstat_refresh: nr_mlock -4\n")
    assert watch.negative() == {"nr_mlock": -4}
    assert watch.negative() == {}


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_a_console_with_facilities_reads_the_same(path: Path) -> None:
    """The format of guests' consoles (console_msg_format=syslog), against that of the corpus."""
    plain = path.read_bytes()
    found = []
    for text in (plain, re.sub(rb"(?m)^(?=\[ *\d+\.\d+\])", b"<4>", plain)):
        scanner = Scanner()
        scanner.feed(text)
        found.append(
            [(splat.title, splat.fingerprint, splat.excerpt, splat.user) for splat in scanner.finish()]
        )
    assert found[0] == found[1]
