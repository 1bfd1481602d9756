# SPDX-License-Identifier: GPL-2.0-only
"""A guest that panics, with a QEMU that only says so: what is waited for, and for how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import qemu as fake
from fakes.processes import until

from orchestrator.core import arch
from orchestrator.vm import emulator, machine
from orchestrator.vm.machine import BootFailure, BootLost, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.ssh import Lost, Refused

# they wait for processes and clocks
pytestmark = pytest.mark.slow

HANGS_S = 60.0


@pytest.fixture
def panics(tmp_path: Path) -> Iterator[Callable[[float], Guest]]:
    """Makes a guest that panics as soon as it is started and ends so many seconds after its last word."""
    made: list[Guest] = []
    spec = GuestSpec(arch=arch.host(), kernel=Path("/k"), initrds=())
    keys = overlay.make_keys()

    def make(ends_s: float) -> Guest:
        guest = Guest(spec, "tcg", keys, tmp_path / "console.log", lambda _: None)
        made.append(guest)
        guest.start([sys.executable, fake.__file__, str(ends_s)], limit_s=HANGS_S, timeout_s=20.0)
        return guest

    yield make
    for guest in made:
        guest.close()


@pytest.mark.parametrize(
    ("booted_s", "flavors", "factor"),
    [
        (0.4, 1, 1),
        (3, 1, 3),
        (90, 1, 20),
        # a kernel's own slowness shows in its boot, and counts once
        (4, 15, 15),
        (15, 15, 15),
        (45, 15, 45),
        (9000, 15, 300),
    ],
)
def test_slowness_counts_once(booted_s: float, flavors: float, factor: float) -> None:
    assert machine.slowness(booted_s, flavors) == pytest.approx(factor)


def test_what_a_panic_has_to_say_is_waited_for(panics: Callable[[float], Guest], tmp_path: Path) -> None:
    guest = panics(0.1)
    assert until(guest.death)
    assert guest.death() == "the guest panicked"
    assert guest.panicked
    guest.console.settle()
    assert b"all of it" in (tmp_path / "console.log").read_bytes()


@pytest.mark.parametrize("asks", [lambda guest: until(guest.death), lambda guest: guest.ending()])
def test_a_guest_that_hangs_in_its_panic_is_ended(
    asks: Callable[[Guest], object], panics: Callable[[float], Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "_PANIC_S", 1.0)
    monkeypatch.setattr(emulator, "_DYING_S", 0.5)
    since = time.monotonic()
    guest = panics(HANGS_S)
    guest.factor = 1.5
    assert asks(guest)
    assert time.monotonic() - since > 1.5
    assert guest.poll() is not None
    assert guest.ending() == "the guest panicked"
    guest.console.settle()
    assert any("all of it" in line for line in guest.console.tail())


def test_a_guest_that_is_looked_at_is_not_ended(
    panics: Callable[[float], Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "_PANIC_S", 0.1)
    guest = panics(HANGS_S)
    guest.unhurried()
    assert not until(guest.death, 1.0)


class Booting(Guest):
    """A guest whose end and whose SSH server are given."""

    def __init__(self, died: str, answer: Lost | None = None) -> None:
        self.spec = GuestSpec(arch=arch.host(), kernel=Path("/k"), initrds=())
        self.accel, self.console = "tcg", SimpleNamespace(settle=lambda: None, tail=lambda: ["last"])  # type: ignore[assignment]
        self._died, self._answer = died, answer

    def death(self) -> str:
        return self._died

    def connect(self, timeout_s: float) -> None:
        assert self._answer
        raise self._answer


@pytest.mark.parametrize(
    ("died", "answer", "kind"),
    [
        ("", Lost("no banner"), BootFailure),
        ("the guest panicked", Lost("reset"), BootFailure),
        ("the guest rebooted or powered off", Lost("reset"), BootFailure),
        ("QEMU was killed by signal 9", Lost("reset"), BootLost),
        ("QEMU ended with exit 1: no memory", Lost("reset"), BootLost),
        ("the guest's wall-clock limit passed", Lost("reset"), BootLost),
        ("", Refused("the key was refused"), BootLost),
        ("", Refused("Bad host key"), BootLost),
    ],
)
def test_whose_fault_it_is_that_nobody_answers(died: str, answer: Lost, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        Booting(died, answer)._first_connection(1.0)
    assert "boot phase 'ssh'" in str(caught.value)
    assert "last" in str(caught.value)


@pytest.mark.parametrize(
    ("died", "kind"),
    [
        ("", BootFailure),
        ("the guest panicked", BootFailure),
        ("QEMU was killed by signal 9", BootLost),
        ("the guest's wall-clock limit passed", BootLost),
    ],
)
def test_whose_fault_it_is_that_a_boot_ends(died: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="boot phase 'init'"):
        Booting(died)._give_up("init", "init", 1.0)
