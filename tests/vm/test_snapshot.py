# SPDX-License-Identifier: GPL-2.0-only
"""Saved guests: what is remembered of them, and with real QEMUs what a restored one is and is not."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psutil
import pytest
from fakes.origin import KEYS, Origin
from fakes.processes import until

from orchestrator.core import arch as arches
from orchestrator.core.errors import InfraError
from orchestrator.core.store import Store
from orchestrator.vm import emulator, qemu, snapshot
from orchestrator.vm.machine import BootFailure, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.snapshot import Saved
from orchestrator.vm.ssh import RUNNER, Lost, Ran, Trailer

# they wait for processes and clocks
pytestmark = pytest.mark.slow


def spec(name: str = "x86_64", **changes: object) -> GuestSpec:
    given: dict[str, object] = {"arch": arches.load(name), "kernel": Path("/k"), "initrds": (Path("/i"),)}
    return GuestSpec(**{**given, **changes})  # type: ignore[arg-type]


def saved(**changes: object) -> Saved:
    given: dict[str, object] = {
        "spec": spec(),
        "accel": "tcg",
        "qemu": "7.2.0",
        "release": "7.2",
        "factor": 1.0,
        "state": -1,
        "size": 0,
        "took_s": 0.0,
        "keys": KEYS,
        "draw": b"a-uuid",
    }
    return Saved(**{**given, **changes})  # type: ignore[arg-type]


# --- what is remembered -----------------------------------------------------------------------------------


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is taken as installed."""
    monkeypatch.setattr(qemu, "version", lambda known: "7.2.0")


def test_what_was_found_is_remembered(store: Store) -> None:
    assert snapshot.recall(store, "one") is None
    assert snapshot.remember(store, "one", "").good
    assert not snapshot.remember(store, "two", "its clock is off").good
    kept = snapshot.recall(store, "one")
    # the host may have been at fault: it is tried again
    assert snapshot.recall(store, "two") is None
    assert kept
    assert kept.good
    assert snapshot.recall(store, "three") is None


def test_a_torn_memory_is_none(store: Store) -> None:
    snapshot.remember(store, "one", "")
    (memory,) = (store.root / "restore").iterdir()
    for content in (b"", b'{"good": tr', b'{"good": 1, "reason": ""}', b"[]"):
        memory.write_bytes(content)
        assert snapshot.recall(store, "one") is None


def test_no_room_to_remember_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "restore").touch()
    assert snapshot.remember(Store(tmp_path), "one", "").good


@pytest.mark.usefixtures("anywhere")
def test_the_key_is_of_all_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(wanted: GuestSpec | None = None, accel: str = "tcg", kernel: str = "k", image: str = "i") -> str:
        return snapshot.key(wanted or spec(), accel, kernel=kernel, image=image)

    assert key() == key(spec(kernel=Path("/elsewhere"), initrds=()))
    keys = [
        key(),
        key(spec("arm64")),
        key(spec(smp=3)),
        key(spec(mem_mib=700)),
        key(spec(cmdline=("quiet",))),
        key(accel="kvm"),
        key(kernel="another"),
        key(image="another"),
    ]
    monkeypatch.setattr(qemu, "version", lambda known: "7.2.1")
    keys.append(key())
    assert len(set(keys)) == len(keys)


# --- what a guest says ------------------------------------------------------------------------------------


class FakeGuest:
    """Answers as told; well by default."""

    def __init__(self, **says: Any) -> None:
        self.spec, self.factor = spec(), 1.0
        self.says = says

    def run(self, argv: list[str], *, limit_s: float, options: tuple[str, ...] = ()) -> Ran:
        word = Path(argv[0]).name
        if word == "date":
            return self.ran(argv, f"{time.time() + self.says.get('off_s', 0):.0f}\n".encode())
        if word == "sleep":
            time.sleep(0.35)
            return self.ran(argv, wall_ms=self.says.get("slept_ms", 302), exit=self.says.get("sleep", 0))
        cpu = options[1] if options else ""
        return self.ran(argv, cpus=self.says.get("cpu", cpu), exit=self.says.get(word, 0))

    def ran(self, argv: list[str], out: bytes = b"", **facts: Any) -> Ran:
        return Ran(tuple(argv), self.says.get("out", out), b"", Trailer(**{"exit": 0, **facts}))

    def read(self, path: str) -> bytes:
        if path.endswith("online"):
            return cast(bytes, self.says.get("online", b"0-1\n"))
        return cast(bytes, self.says.get("draw", b"b-uuid\n"))

    def disconnect(self) -> None: ...

    def usernet(self) -> str:
        return "  TCP[HOST_FORWARD]   9       127.0.0.1 38059       10.0.2.15    22     0     0\r\n"

    def connect(self, timeout_s: float) -> None: ...


def behaves(**says: Any) -> str:
    return snapshot.behaves(cast(Guest, FakeGuest(**says)), saved())


def test_a_guest_that_behaves() -> None:
    assert behaves() == ""


@pytest.mark.parametrize(
    ("says", "word"),
    [
        ({"off_s": -5}, "clock is"),
        ({"off_s": 5}, "clock is"),
        ({"out": b"yesterday"}, "date"),
        ({"online": b"0\n"}, "CPUs 0-1"),
        ({"online": b""}, "CPUs 0-1"),
        ({"cpu": "0"}, "CPU 1"),
        ({"sh": None}, "CPU 0"),
        ({"slept_ms": 20}, "20 ms"),
        ({"slept_ms": 3000}, "3000 ms"),
        ({"sleep": None}, "sleep"),
        ({"draw": b"a-uuid\n"}, "randomness"),
        ({"draw": b""}, "random"),
        ({"true": 1}, "nothing"),
    ],
)
def test_a_guest_that_does_not(says: dict[str, Any], word: str) -> None:
    assert word in behaves(**says)


class Rooted:
    """A guest whose runner answers the freshening so."""

    factor = 1.0

    def __init__(self, answer: bytes) -> None:
        self.ssh = SimpleNamespace(raw=self.raw)
        self.answer, self.given = answer, b""

    def raw(self, command: str, *, stdin: bytes, limit_s: float, death: Callable[[], str]) -> bytes:
        assert command.startswith(f"{RUNNER} --freshen ")
        assert abs(int(command.split()[-1]) - time.time_ns()) < 60e9
        self.given = stdin
        return self.answer

    def death(self) -> str:
        return ""


FRESH = snapshot.Freshened(
    clock_ns=2, was_ns=1, clock_errno=0, entropy_bytes=64, entropy_errno=0, reseed_errno=0
)


def test_no_two_guests_are_given_the_same_entropy() -> None:
    guests = [Rooted(msgspec.json.encode(FRESH)) for _ in range(2)]
    for guest in guests:
        assert snapshot.freshen(cast(Guest, guest)) == FRESH
    assert len(guests[0].given) >= 32
    assert guests[0].given != guests[1].given


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"usage",
        b'{"clock_ns": 1}',
        *(
            msgspec.json.encode(msgspec.structs.replace(FRESH, **{name: 1}))
            for name in ("clock_errno", "entropy_errno", "reseed_errno")
        ),
    ],
)
def test_a_guest_that_is_not_fresh_is_no_good(answer: bytes) -> None:
    with pytest.raises(InfraError, match="fresh"):
        snapshot.freshen(cast(Guest, Rooted(answer)))


class Clinging(FakeGuest):
    """Lets go of its connection when it is looked at for the third time."""

    looks = 0

    def usernet(self) -> str:
        self.looks += 1
        state = ("ESTABLISHED", "FIN_WAIT_2", "TIME_WAIT")[min(self.looks, 3) - 1]
        return f"  TCP[{state}]     16       127.0.0.1 38059       10.0.2.15    22\r\n{super().usernet()}"


def test_hanging_up_takes_two(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Clinging()
    snapshot.hang_up(cast(Guest, guest))
    assert guest.looks == 3
    monkeypatch.setattr(snapshot, "_HANG_UP_S", 0.0)
    with pytest.raises(InfraError, match="let go"):
        snapshot.hang_up(cast(Guest, Clinging()))


def test_a_state_that_is_closed_cannot_be_restored(tmp_path: Path) -> None:
    gone = saved(state=os.memfd_create("test"))
    gone.close()
    gone.close()
    with pytest.raises(InfraError, match="cannot be read"):
        snapshot.restore(gone, log=tmp_path / "log")
    assert not list(tmp_path.iterdir())


def test_keys_do_not_show() -> None:
    assert "keys" not in repr(saved())


# --- real guests ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=arches.usual())
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    made = Origin(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


@pytest.fixture
def origin(booted: Origin) -> Iterator[Origin]:
    yield booted
    booted.put_away()


def shell(guest: Guest, script: str) -> str:
    ran = guest.run(["/bin/sh", "-c", script], limit_s=60)
    assert ran.ok, ran.stderr
    return ran.stdout.decode().strip()


@pytest.mark.guest
def test_restored_guests_are_fresh_and_alone(origin: Origin) -> None:
    shell(origin.guest, "echo before > /tmp/before")
    first = origin.restore()
    shell(origin.guest, "echo origin > /tmp/origin")
    shell(first, "echo first > /tmp/first")
    second = origin.restore()
    assert shell(second, "cd /tmp && echo *").split() == ["before"]
    assert shell(first, "cd /tmp && echo *").split() == ["before", "first"]
    assert shell(origin.guest, "cd /tmp && echo *").split() == ["before", "origin"]
    everyone = [origin.guest, first, second]
    assert len({guest.port() for guest in everyone}) == 3
    assert len({shell(guest, "cat /proc/sys/kernel/random/uuid") for guest in everyone}) == 3
    for guest in (first, second):
        assert guest.release == origin.guest.release
        assert guest.factor == origin.guest.factor
        assert list(guest.phases_s) == ["qemu", "restore", "ssh", "fresh"]
        # the listening server and that of this connection: nobody is left from before
        assert shell(guest, "ps | grep -c '[d]ropbear -F'") == "2"
        facts = guest.run(["/bin/sh", "-c", "kill -SEGV $$"], limit_s=60, options=("--nice", "3")).facts
        assert (facts.signal, facts.nice) == (signal.SIGSEGV, 3)


@pytest.mark.guest
def test_the_clock_after_a_pause(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.restore()
    assert origin.saved
    time.sleep(1 + 2 * snapshot.CLOCK_S * origin.guest.factor)
    guest = origin.restore()
    assert snapshot.behaves(guest, origin.saved) == ""
    # as it would be without
    monkeypatch.setattr(snapshot, "freshen", lambda guest: None)
    assert "clock is" in snapshot.behaves(origin.restore(), origin.saved)


@pytest.mark.guest
def test_a_killed_qemu_is_infrastructure(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = origin.restore()
    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(Lost, match="killed by signal 9"):
        guest.run(["/bin/true"], limit_s=30)
    assert not guest.panicked

    for phase in ("_await_running", "freshen"):
        then = getattr(snapshot, phase)

        def killed(guest: Guest, *more: Any, then: Callable[..., object] = then) -> object:
            os.kill(guest.pid, signal.SIGKILL)
            return then(guest, *more)

        with monkeypatch.context() as patch:
            patch.setattr(snapshot, phase, killed)
            with pytest.raises(InfraError, match="killed by signal 9"):
                origin.restore()
    assert shell(origin.restore(), "echo well") == "well"


@pytest.mark.guest
def test_a_panic_costs_only_its_own_guest(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = origin.restore()
    with pytest.raises(Lost, match="panicked"):
        guest.run(["/bin/sh", "-c", "echo c > /proc/sysrq-trigger"], limit_s=30)
    assert guest.panicked
    guest.console.settle()
    assert any("Kernel panic" in line for line in guest.console.tail(60))

    def panic(guest: Guest) -> None:
        guest.run(["/bin/sh", "-c", "echo c > /proc/sysrq-trigger"], limit_s=30)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "freshen", panic)
        with pytest.raises(BootFailure, match="panicked") as caught:
            origin.restore()
    assert (caught.value.phase, caught.value.how) == ("fresh", "died")
    assert shell(origin.restore(), "echo well") == "well"


@pytest.mark.guest
def test_a_torn_state_is_an_error_at_once(origin: Origin) -> None:
    origin.restore()
    assert origin.saved
    whole = os.pread(origin.saved.state, 1 << 30, 0)
    assert len(whole) == origin.saved.size
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(origin.saved.state, b"x", 0)
    # at the very end comes a description that is for people
    devices = whole.rindex(b'"page_size"')
    for size in (0, 100, len(whole) // 2, devices - 4096):
        state = os.memfd_create("torn")
        try:
            os.write(state, whole[:size])
            torn = _with(origin.saved, state=state)
            with pytest.raises(InfraError, match="load of migration failed"):
                origin.restore(torn)
        finally:
            os.close(state)
    other = _with(origin.saved, qemu="1.0")
    with pytest.raises(InfraError, match=r"QEMU \d+\..* cannot be trusted with .* 1\.0 has saved"):
        origin.restore(other)


def _with(state: Saved, /, **changes: object) -> Saved:
    return Saved(**{**vars(state), **changes})


def _open() -> list[str]:
    # descriptors of loops and threads that are done with go with them
    gc.collect()
    return sorted(str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


@pytest.mark.guest
def test_nothing_is_left(origin: Origin) -> None:
    origin.restore().close()
    origin.put_away()
    processes, descriptors = len(psutil.Process().children(recursive=True)), len(_open())
    guest = origin.restore()
    assert origin.saved
    assert psutil.pid_exists(guest.pid)
    # the supervisor holds nothing of the state, and QEMU lets go of it
    state = "/memfd:orchestrate-guest (deleted)"
    for pid in (psutil.Process(guest.pid).ppid(), guest.pid):
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert state not in links, pid
    origin.put_away()
    assert not guest.folder.exists()
    assert until(lambda: len(psutil.Process().children(recursive=True)) == processes)
    assert until(lambda: len(_open()) == descriptors), _open()


@pytest.mark.guest
def test_a_guest_that_cannot_be_saved_goes_on(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(origin.guest, "echo still > /tmp/still")
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_new_state", lambda: os.open("/dev/full", os.O_WRONLY))
        with pytest.raises(InfraError, match="did not save") as caught:
            snapshot.save(origin.guest)
    assert not isinstance(caught.value, Lost)
    assert shell(origin.guest, "cat /tmp/still; rm /tmp/still") == "still"
    state = snapshot.save(origin.guest)
    state.close()
    assert shell(origin.guest, "echo well") == "well"


@pytest.mark.guest
def test_a_qemu_that_ends_or_stops_while_it_saves(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    write = snapshot._write
    for number, message in ((signal.SIGKILL, "killed by signal 9"), (signal.SIGSTOP, "did not execute")):
        guest = origin.restore()

        def struck(guest: Guest, state: int, limit_s: float, number: int = number) -> None:
            os.kill(guest.pid, number)
            write(guest, state, limit_s)

        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "_write", struck)
            patch.setattr(emulator, "_DYING_S", 1.0)
            guest._qmp.settimeout(2.0)
            with pytest.raises(Lost, match=message):
                snapshot.save(guest)
        guest.close()
