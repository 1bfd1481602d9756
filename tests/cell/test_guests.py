# SPDX-License-Identifier: GPL-2.0-only
"""The guests of a cell: the next one comes while the one before goes down. QEMU's part is faked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from paths import DATA

from orchestrator.cell import guests
from orchestrator.cell.boot import console_log
from orchestrator.cell.guests import Guests
from orchestrator.core.errors import InfraError, Interrupted
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import Case, Verdict
from orchestrator.vm import snapshot
from orchestrator.vm.machine import BootFailure, Guest

WAITS_S = 10.0
PANIC = (DATA / "splat/x86-panic-7.2.log").read_bytes()


class FakeGuest:
    def __init__(self, name: str) -> None:
        self.name = name
        self.accel = "tcg"
        self.closed = False
        self.phases_s = {"fresh": 0.25}

    def poll(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Scene:
    """A cell with a saved guest; ``restore`` is what restoring does, ``events`` what happened in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.made: list[FakeGuest] = []
        self.stop = False
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self.restore: Callable[[], None] = lambda: None
        self.cases: list[Case] = []
        self.cell: Any = SimpleNamespace(
            folder=folder,
            guests=0,
            properties={"guest image": "digest"},
            health=None,
            proven_health=None,
            watch=ConsoleWatch(),
            watch_for=lambda kernel: ConsoleWatch(),
            say=lambda phase, text: self.events.append(phase),
            put=self.cases.append,
            case=lambda name, error, **_: self.cases.append(
                Case(id=name, verdict=error.verdict, blame=error.blame, reason=error.message)
            ),
            host=SimpleNamespace(cancelled=lambda: self.stop, store=None),
        )
        saved = SimpleNamespace(close=lambda: self.events.append("forgotten"))
        monkeypatch.setattr(guests, "boot", lambda *_: self._make("booted"))
        monkeypatch.setattr(snapshot, "key", lambda *_, **__: "key")
        monkeypatch.setattr(snapshot, "recall", lambda *_: snapshot.Trust(True, "seen before"))
        monkeypatch.setattr(snapshot, "save", lambda guest: saved)
        monkeypatch.setattr(snapshot, "restore", self._restored)
        kernel: Any = SimpleNamespace(key="kernel")
        self.guests = Guests(cast(Any, self.cell), kernel, cast(Any, None), one_each=True)

    def _make(self, name: str) -> FakeGuest:
        console_log(self.cell)
        self.made.append(FakeGuest(name))
        return self.made[-1]

    def _restored(self, saved: object, *, log: Path, sink: Callable[[bytes], None]) -> FakeGuest:
        log.touch()
        self.log, self.sink = log, sink
        self.begun.set()
        assert self.may_end.wait(WAITS_S)
        self.restore()
        self.made.append(FakeGuest("restored"))
        return self.made[-1]

    def next(self, left: int = 3) -> FakeGuest | None:
        guest: Guest | None = self.guests.next(left)
        return cast("FakeGuest | None", guest)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path, monkeypatch)
    first = made.next()
    assert first
    assert first.name == "booted"
    return made


def test_it_comes_while_the_one_before_goes_down(scene: Scene) -> None:
    scene.may_end.clear()
    scene.guests.ahead(2)
    assert scene.begun.wait(WAITS_S)
    # the console of the one that goes down is still the cell's
    watch = scene.cell.watch
    scene.sink(PANIC)
    assert not watch.take()
    scene.events.append("shutdown")
    scene.may_end.set()
    guest = scene.next(2)
    assert guest
    assert guest.name == "restored"
    assert scene.cell.watch.take()
    assert scene.events == ["save", "restore", "shutdown"]
    assert scene.log.name == "console-2.log"
    assert scene.cell.properties["restored guests"] == "1"
    assert guests.WAIT in scene.cell.properties


def test_without_the_head_start_it_is_restored_when_asked_for(scene: Scene) -> None:
    assert cast(FakeGuest, scene.next(2)).name == "restored"
    assert scene.events == ["save", "restore"]
    # and only once for each
    scene.guests.ahead(1)
    scene.guests.ahead(1)
    scene.next(1)
    assert len(scene.made) == 3


def test_none_comes_where_nothing_is_left(scene: Scene) -> None:
    scene.guests.ahead(0)
    scene.stop = True
    scene.guests.ahead(2)
    assert scene.events == ["save"]
    assert scene.cell.guests == 1


def test_one_that_is_not_needed_goes(scene: Scene) -> None:
    scene.guests.ahead(2)
    assert scene.begun.wait(WAITS_S)
    scene.guests.close()
    assert scene.made[-1].name == "restored"
    assert scene.made[-1].closed
    assert not scene.log.exists()
    assert scene.events[-1] == "forgotten"


def test_one_that_fails_unneeded_is_no_news(scene: Scene) -> None:
    def fails() -> None:
        raise InfraError("QEMU was killed by signal 9")

    scene.restore = fails
    scene.guests.ahead(2)
    scene.guests.close()
    assert scene.events[-1] == "forgotten"
    assert not scene.cases


def test_one_that_fails_is_booted_for(scene: Scene) -> None:
    def fails() -> None:
        raise InfraError("QEMU was killed by signal 9")

    scene.restore = fails
    scene.guests.ahead(2)
    guest = scene.next(2)
    assert guest
    assert guest.name == "booted"
    assert scene.cell.properties["further guests"] == "booted: QEMU was killed by signal 9"
    assert not scene.cases
    # from now on
    scene.guests.ahead(1)
    assert cast(FakeGuest, scene.next(1)).name == "booted"


def test_a_panic_meanwhile_is_the_kernels(scene: Scene) -> None:
    def panics() -> None:
        scene.sink(PANIC)
        raise BootFailure("ssh", "died", "the guest panicked", [])

    scene.restore = panics
    scene.guests.ahead(2)
    scene.next(2)
    (case,) = scene.cases
    assert (case.id, case.verdict) == ("boot", Verdict.CRASH)


def test_an_interrupt_meanwhile(scene: Scene) -> None:
    def killed() -> None:
        scene.stop = True
        raise InfraError("QEMU was killed by signal 9")

    scene.restore = killed
    scene.guests.ahead(2)
    with pytest.raises(Interrupted):
        scene.next(2)
