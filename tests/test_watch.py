# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import threading
from pathlib import Path

from orchestrator.evidence.splat import KEEP
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import Blame

LOGS = Path(__file__).parent / "data/splat"
WARNING = (LOGS / "x86-warning-7.2.log").read_bytes()
OOM = b"".join((LOGS / "oom-then-reboot.log").read_bytes().splitlines(keepends=True)[5:12])


def titles(watch: ConsoleWatch) -> list[tuple[str, Blame]]:
    return [(splat.title, blame) for splat, blame in watch.take()]


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


def test_a_report_that_came_byte_by_byte() -> None:
    watch = ConsoleWatch()
    for byte in WARNING:
        watch.feed(bytes([byte]))
    assert titles(watch) == [("WARNING in vma_start_read", Blame.KERNEL)]


def test_fed_by_one_thread_and_asked_by_another() -> None:
    watch = ConsoleWatch()
    thread = threading.Thread(target=lambda: [watch.feed(WARNING) for _ in range(50)])
    thread.start()
    found = 0
    while thread.is_alive():
        found += len(watch.take())
    thread.join()
    found += len(watch.take())
    assert 1 <= found <= 50
