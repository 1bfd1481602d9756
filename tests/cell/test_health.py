# SPDX-License-Identifier: GPL-2.0-only
"""The look after a program: what of it stands in the program's result. The guest says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from paths import DATA

from orchestrator.cell import health
from orchestrator.cell.program import ProgramResult
from orchestrator.evidence.collect import HangReport
from orchestrator.evidence.health import TAINT_BITS, parse_state
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.vm.ssh import Lost, Mark

WARNING = (DATA / "splat/x86-warning-7.2.log").read_bytes()
WELL = "@ tainted\n0\n@ vmstat\nnr_mlock 0\n@ holders\n2 0\n@ tasks\n"
TAINTED = WELL.replace("tainted\n0", "tainted\n512")
LEAKY = WELL.replace("nr_mlock 0", "nr_mlock 5")
STUCK = WELL + "90 91 D __vma_start_exclude_readers bad\n  [<0>] __vma_start_write+0x1/0x2\n"
ON, OFF = (f"{WELL}@ lockdep\n debug_locks: {number}\n" for number in (1, 0))
PASS, FAIL, CRASH = Verdict.PASS, Verdict.FAIL, Verdict.CRASH


class FakeGuest:
    """Looks like this, one after the other; the last for ever."""

    def __init__(self, *looks: str) -> None:
        self.looks = list(looks)
        self.asked = 0
        self.factor = 1.0
        self.ssh = self

    def raw(self, command: str, **_: Any) -> bytes:
        self.asked += 1
        return (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]).encode()

    def death(self) -> str:
        return ""


class Look:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "PASSING_S", 0.05)
        monkeypatch.setattr(health, "_AGAIN_S", 0.01)
        self.watch = ConsoleWatch()
        self.hangs = 0
        choices = SimpleNamespace(flavors=())
        self.cell: Any = SimpleNamespace(watch=self.watch, inputs=SimpleNamespace(choices=choices))

    def __call__(self, guest: FakeGuest, cases: Sequence[Case], before: str = WELL) -> dict[str, Case]:
        self.cell.health = parse_state(before)

        def hang() -> HangReport:
            self.hangs += 1
            return HangReport("bad/91 waits for readers of a VMA lock", "evidence: p.hang.txt")

        done = ProgramResult(cases=tuple(cases))
        return {c.id: c for c in health.check(self.cell, guest, done, "s/p", hang).cases}  # type: ignore[arg-type]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    return Look(monkeypatch)


def case(verdict: Verdict = PASS, id: str = "s/p", reason: str = "") -> Case:
    return Case(id=id, verdict=verdict, reason=reason, log="p.log", duration_s=1.0)


def test_a_guest_that_is_well_is_asked_once(look: Look) -> None:
    guest = FakeGuest(WELL)
    assert look(guest, [case()]) == {"s/p": case()}
    assert guest.asked == 1


def test_taint_is_the_programs(look: Look) -> None:
    found = look(FakeGuest(TAINTED), [case()])["s/p"]
    assert (found.verdict, found.blame, found.reason) == (
        CRASH,
        Blame.KERNEL,
        "the kernel became tainted: W: warning",
    )
    assert (found.log, found.duration_s, found.fingerprint) == ("p.log", 1.0, "tainted")
    # the next program is held against what was left to it
    assert look.cell.health.tainted == 512


@pytest.mark.parametrize("letters", ["O", "OE", "P", "F", "C", "U", "K", "R", "N", "J"])
def test_taint_that_userland_brought_is_no_fault(look: Look, letters: str) -> None:
    """A module of the user's own, loaded by a command."""
    mask = sum(1 << bit for bit, name in enumerate(TAINT_BITS) if name[0] in letters)
    found = look(FakeGuest(WELL.replace("tainted\n0", f"tainted\n{mask}")), [case()])["s/p"]
    assert (found.verdict, found.reason) == (PASS, "")
    assert found.detail.startswith(f"it tainted the kernel: {letters[0]}: ") or letters == "OE"
    # of a failure it says so too
    failed = look(FakeGuest(WELL.replace("tainted\n0", f"tainted\n{mask}")), [case(FAIL, reason="why")])[
        "s/p"
    ]
    assert (failed.verdict, failed.reason) == (FAIL, "why")


@pytest.mark.parametrize("bit", ["W", "D", "B", "L", "T"])
def test_taint_beside_that_of_userland_is_the_kernels(look: Look, bit: str) -> None:
    mask = sum(1 << number for number, name in enumerate(TAINT_BITS) if name[0] in f"O{bit}")
    found = look(FakeGuest(WELL.replace("tainted\n0", f"tainted\n{mask}")), [case()])["s/p"]
    assert (found.verdict, found.blame) == (CRASH, Blame.KERNEL)
    assert "out-of-tree" not in found.reason


@pytest.mark.parametrize("bit", ["M", "S", "I"])
def test_taint_of_the_machine_is_infrastructure(look: Look, bit: str) -> None:
    mask = sum(1 << number for number, name in enumerate(TAINT_BITS) if name[0] == bit)
    found = look(FakeGuest(WELL.replace("tainted\n0", f"tainted\n{mask}")), [case()])["s/p"]
    assert (found.verdict, found.blame) == (Verdict.INCONCLUSIVE, Blame.INFRA)


def test_a_taint_that_a_report_explains_is_not_told_twice(look: Look) -> None:
    crashed = case(CRASH, "s/p/a", "WARNING in f")
    assert look(FakeGuest(TAINTED), [crashed]) == {"s/p/a": crashed}


def test_a_report_behind_the_end_explains_it_too(look: Look) -> None:
    mark = Mark.of("s/p")
    look.watch.expect(mark)
    look.watch.feed(f"orchestrate: begin s/p #{mark.first}\n".encode())
    look.watch.feed(f"orchestrate: end s/p #{mark.second}\n".encode() + WARNING)
    assert look.watch.take("s/p") == []
    assert look(FakeGuest(TAINTED), [case()])["s/p"].verdict is PASS


def test_trouble_stands_beside_the_cases_that_reported(look: Look) -> None:
    found = look(FakeGuest(LEAKY), [case(PASS, "s/p/a"), case(FAIL, "s/p/b", "why")])
    assert {name: c.verdict for name, c in found.items()} == {"s/p/a": PASS, "s/p/b": FAIL, "s/p": FAIL}
    assert "nr_mlock 0 -> 5" in found["s/p"].reason


def test_no_report_is_lost_behind_a_graver_trouble(look: Look) -> None:
    leaked = msgspec.structs.replace(case(FAIL, reason="a leak"), fingerprint="kmemleak-memory-leak-in-f")
    found = look(FakeGuest(TAINTED), [leaked])["s/p"]
    assert found.fingerprints() == ("tainted", "kmemleak-memory-leak-in-f")


def test_what_passes_does_not_count(look: Look) -> None:
    guest = FakeGuest(LEAKY, STUCK, WELL)
    assert look(guest, [case()])["s/p"].verdict is PASS
    assert guest.asked == 3
    assert not look.hangs


def test_what_is_stuck_is_looked_at(look: Look) -> None:
    found = look(FakeGuest(STUCK), [case()])["s/p"]
    assert (found.verdict, found.blame) == (FAIL, Blame.KERNEL)
    assert found.reason.endswith("bad in __vma_start_exclude_readers; bad/91 waits for readers of a VMA lock")
    assert found.detail.startswith("evidence: p.hang.txt")
    assert look.hangs == 1


def test_what_hung_was_looked_at_before(look: Look) -> None:
    late = case(Verdict.TIMEOUT, reason="not done within 5 s, and it cannot be killed")
    found = look(FakeGuest(STUCK), [late])["s/p"]
    assert (found.verdict, found.reason) == (late.verdict, late.reason)
    assert "Also: it left processes that sleep uninterruptibly" in found.detail
    assert not look.hangs


def test_counters_below_zero(look: Look) -> None:
    look.watch.feed(b"[  1.0] vmstat_refresh: nr_mlock -3\n")
    assert look(FakeGuest(WELL), [case()])["s/p"].reason.endswith("below zero: nr_mlock -3")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(ON, ON, PASS), (ON, OFF, Verdict.INCONCLUSIVE), (OFF, OFF, Verdict.INCONCLUSIVE), (WELL, WELL, PASS)],
)
def test_without_lockdep_nothing_has_passed(look: Look, before: str, after: str, verdict: Verdict) -> None:
    found = look(FakeGuest(after), [case(), case(FAIL, "s/p/b", "why")], before)
    assert found["s/p"].verdict is verdict
    assert found["s/p/b"].verdict is FAIL
    assert (found["s/p"].reason == "lockdep had turned itself off") == (verdict is not PASS)


def test_what_passed_before_lockdep_turned_itself_off_stays(look: Look) -> None:
    mark = Mark.of("s/p")
    look.watch.expect(mark)
    for name in ("a", "b", "c"):
        look.watch.feed(f"orchestrate: begin s/p/{name} #{mark.first}\n".encode())
        look.watch.feed(WARNING if name == "b" else b"")
    cases = [case(PASS, "s/p/a"), case(CRASH, "s/p/b"), case(PASS, "s/p/c")]
    found = look(FakeGuest(OFF), cases, ON)
    assert {name: c.verdict for name, c in found.items()} == {
        "s/p/a": PASS,
        "s/p/b": CRASH,
        "s/p/c": Verdict.INCONCLUSIVE,
    }


def test_a_guest_that_does_not_answer(look: Look) -> None:
    class Gone(FakeGuest):
        def raw(self, command: str, **_: Any) -> bytes:
            raise Lost("gone")

    with pytest.raises(Lost):
        look(Gone(WELL), [case()])
