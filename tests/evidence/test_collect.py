# SPDX-License-Identifier: GPL-2.0-only
"""Evidence of what hangs, from real guests that answer, are mute, stopped or killed; on a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.leaky import leak_vma_locks
from fakes.origin import Origin
from paths import DATA

from orchestrator.core import arch as arches
from orchestrator.core.compile import compile_static
from orchestrator.core.store import Store, default_cache
from orchestrator.evidence import collect
from orchestrator.evidence.collect import HangReport
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.vm.machine import Guest
from orchestrator.vm.rootfs import overlay

LOOK, LEAK = str(overlay.LOOKER), str(overlay.PAYLOAD / "leak")
HOSTILE = DATA / "hostile"


def test_the_box_grows_with_the_guest_up_to_a_bound() -> None:
    assert collect.limit_s(0.5) == collect.BOX_S
    assert collect.limit_s(2.0) == 2 * collect.BOX_S
    assert collect.limit_s(100.0) == collect.BOX_MOST_S


class Dumping:
    """A guest whose QEMU dumps at once, into the descriptor that it was given."""

    factor = 1.0
    spec = SimpleNamespace(mem_mib=16)

    def within(self, _: float) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def send_fd(self, _: str, descriptor: int) -> None:
        self.mode = os.fstat(descriptor).st_mode & 0o777
        os.write(descriptor, b"KDUMP")

    def qmp(self, command: str, **_: object) -> dict[str, object]:
        return {"formats": [], "status": "completed"}


@pytest.mark.parametrize("before", [None, 0o644, 0o777])
def test_nobody_else_reads_a_memory_dump(tmp_path: Path, before: int | None) -> None:
    """It has the host key of the run in it."""
    path = tmp_path / "p.vmcore"
    if before is not None:
        path.touch()
        path.chmod(before)
    guest: Any = Dumping()
    collect._Gatherer(guest, "p", tmp_path, tmp_path, ConsoleWatch())._write_core()
    assert guest.mode == path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"KDUMP"


@pytest.fixture(scope="module", params=arches.usual())
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    known, store = arches.load(request.param), Store(default_cache())
    made = Origin(
        request.param,
        tmp_path_factory.mktemp(request.param),
        files={
            LOOK: overlay.build_looker(known, store),
            LEAK: compile_static("leak", ["leak.c"], ("-O2",), folder=HOSTILE, arch=known, store=store),
        },
    )
    yield made
    made.close()


@pytest.fixture
def guest(booted: Origin) -> Iterator[Guest]:
    """A guest of its own."""
    yield booted.restore()
    booted.put_away()


def kept(guest: Guest, folder: Path, *, dump: bool = True) -> HangReport:
    return collect.examine(guest, "p", folder=folder, root=folder, watch=ConsoleWatch(), dump=dump)


@pytest.mark.guest
def test_a_guest_that_answers(guest: Guest, tmp_path: Path) -> None:
    told = kept(guest, tmp_path)
    text = (tmp_path / "p.hang.txt").read_text()
    for word in (
        "@ tasks",
        "Show backtrace of all active CPUs",
        "Show Blocked State",
        "Show State",
        "schedule",
    ):
        assert word in text, word
    assert told.detail.splitlines()[0] == "evidence: p.hang.txt"
    assert "memory: p.vmcore" in told.detail
    assert (tmp_path / "p.vmcore").stat().st_mode & 0o777 == 0o600
    core = (tmp_path / "p.vmcore").read_bytes()
    assert core.startswith((b"makedumpfile", b"KDUMP", b"\x7fELF"))
    assert 1 << 20 < len(core) < guest.spec.mem_mib << 20
    # and it goes on
    assert guest.run(["/bin/true"], limit_s=20).ok


@pytest.mark.guest
def test_a_guest_whose_server_is_mute(guest: Guest, tmp_path: Path) -> None:
    """Its kernel still takes a BREAK on the serial line."""
    guest.ssh.raw("(sleep 0.2; kill -STOP $(pidof dropbear)) >/dev/null 2>&1 &", limit_s=20)
    time.sleep(1.0)
    told = kept(guest, tmp_path, dump=False)
    assert "tasks over SSH: " in told.detail
    text = (tmp_path / "p.hang.txt").read_text()
    for word in ("Show backtrace of all active CPUs", "Show Blocked State", "Show State"):
        assert word in text, word


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_qemu_is_killed_or_stopped_meanwhile(
    guest: Guest, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "BOX_S", 6.0)
    threading.Timer(0.5, os.kill, [guest.pid, number]).start()
    since = time.monotonic()
    told = kept(guest, tmp_path)
    assert time.monotonic() - since < 4 * collect.limit_s(guest.factor)
    # what came until then is kept
    assert (tmp_path / "p.hang.txt").stat().st_size
    assert told.detail.startswith("evidence: p.hang.txt")
    assert not (tmp_path / "p.vmcore").exists()
    if number is signal.SIGSTOP:
        os.kill(guest.pid, signal.SIGCONT)


@pytest.mark.guest
def test_a_leaked_vma_lock_is_named(guest: Guest, tmp_path: Path) -> None:
    """The kernel is broken while it runs; the writer waits for a reader that has gone."""
    if guest.spec.arch.name != "x86_64":
        pytest.skip("the patch is of x86_64's instructions")
    leak_vma_locks(guest, guest.spec.kernel.with_name("vmlinux"))
    guest.ssh.raw(f"{LEAK} >/dev/null 2>&1 &", limit_s=20)
    until = time.monotonic() + 20
    while b" D " not in guest.ssh.raw(LOOK, limit_s=20) and time.monotonic() < until:
        time.sleep(0.1)
    told = kept(guest, tmp_path, dump=False)
    for word in (
        "leak/",
        "waits for readers of a VMA lock in __vma_start_exclude_readers",
        "munmap(0x",
        "a reader has left without unlocking it",
        "mmap_lock is held for writing by leak/",
    ):
        assert word in told.reason, word
    # which VMA it is stands in memory alone
    assert "locks in memory: they need debug information of this kernel" in told.detail
    assert guest.run(["/bin/true"], limit_s=20).ok


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.guest
def test_no_room_for_the_memory(guest: Guest, small: Path) -> None:
    told = kept(guest, small)
    assert "memory dump: not kept: " in told.detail
    assert (small / "p.hang.txt").stat().st_size
    assert not (small / "p.vmcore").exists()


@pytest.mark.guest
def test_the_disk_fills_up_during_the_dump(
    guest: Guest, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=1 << 40))
    told = kept(guest, small)
    assert "memory dump: QEMU could not write it: is the disk full?" in told.detail
    assert (small / "p.hang.txt").stat().st_size
    assert not (small / "p.vmcore").exists()
    assert guest.run(["/bin/true"], limit_s=20).ok
