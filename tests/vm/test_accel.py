# SPDX-License-Identifier: GPL-2.0-only
"""KVM or emulation: what is decided when boots go this way or that, and what is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.vm import accel, qemu
from orchestrator.vm.accel import Accelerator
from orchestrator.vm.machine import BootFailure, BootLost, Deadlines, Guest

HOST = arch.host()
FOREIGN = next(arch.load(name) for name in arch.usual() if name != HOST.name)
KVM = Accelerator("kvm", "to be tried")


def silent(phase: str = "banner") -> BootFailure:
    return BootFailure(phase, "silent", f"nothing in phase {phase}", [])


class Starts:
    """Boots as told: a guest (any object) or the error for each accelerator; remembers what was tried."""

    def __init__(self, kvm: object = "guest", tcg: object = "guest") -> None:
        self._outcomes = {"kvm": kvm, "tcg": tcg}
        self.tried: list[tuple[str, float]] = []

    def __call__(self, name: str, deadlines: Deadlines) -> Guest:
        self.tried.append((name, deadlines.banner))
        outcome = self._outcomes[name]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose /dev/kvm opens, with a QEMU of some version."""
    (tmp_path / "dev-kvm").touch()
    monkeypatch.setattr(accel, "_KVM", tmp_path / "dev-kvm")
    monkeypatch.setattr(accel, "_boot_id", lambda: "boot-1")
    monkeypatch.setattr(qemu, "version", lambda _: "7.2")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def boot(cache: Path, starts: Starts, *, forced: bool = False, first: Accelerator = KVM) -> Accelerator:
    said: list[str] = []
    guest, chosen = accel.boot(HOST, first, forced, cache, starts, said.append)
    assert guest == "guest"  # type: ignore[comparison-overlap]
    assert bool(said) == (len(starts.tried) > 1), "a fall-back is said, and nothing else"
    return chosen


def test_working_kvm_is_remembered(cache: Path) -> None:
    assert accel.choose(HOST, "auto", cache) == Accelerator("kvm", "/dev/kvm opens; to be tried")
    starts = Starts()
    assert boot(cache, starts).name == "kvm"
    assert starts.tried == [("kvm", accel._KVM_BANNER_S)]
    assert accel.choose(HOST, "auto", cache) == Accelerator("kvm", "a kernel has come up under /dev/kvm")


@pytest.mark.parametrize(
    "error", [silent(), InfraError("QEMU did not start under kvm: refused")], ids=["silent", "qemu"]
)
def test_broken_kvm_is_remembered(cache: Path, error: Exception) -> None:
    starts = Starts(kvm=error)
    chosen = boot(cache, starts)
    assert starts.tried == [("kvm", accel._KVM_BANNER_S), ("tcg", Deadlines().banner)]
    assert chosen.name == "tcg"
    assert chosen.reason.startswith("KVM is broken on this host: ")
    assert chosen.reason.endswith("the same image boots under tcg")
    assert accel.choose(HOST, "auto", cache) == chosen


@pytest.mark.parametrize("change", ["another boot", "another QEMU"])
def test_it_is_tried_again_when_the_host_has_changed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    boot(cache, Starts(kvm=silent()))
    assert accel.choose(HOST, "auto", cache).name == "tcg"
    if change == "another boot":
        monkeypatch.setattr(accel, "_boot_id", lambda: "boot-2")
    else:
        monkeypatch.setattr(qemu, "version", lambda _: "10.0")
    assert accel.choose(HOST, "auto", cache).name == "kvm"


def test_an_image_that_boots_nowhere_says_nothing_of_kvm(cache: Path) -> None:
    with pytest.raises(BootFailure, match="phase banner"):
        boot(cache, Starts(kvm=silent(), tcg=silent()))
    assert not cache.exists()
    assert accel.choose(HOST, "auto", cache).name == "kvm"


@pytest.mark.parametrize("phase", ["init", "ssh"])
def test_a_kernel_that_dies_after_its_banner_is_at_fault_itself(cache: Path, phase: str) -> None:
    starts = Starts(kvm=silent(phase))
    with pytest.raises(BootFailure, match=f"phase {phase}"):
        boot(cache, starts)
    assert [name for name, _ in starts.tried] == ["kvm"]
    assert accel.choose(HOST, "auto", cache).name == "kvm"


def test_a_qemu_that_is_killed_after_the_banner_says_nothing_of_kvm(cache: Path) -> None:
    starts = Starts(kvm=BootLost("init", "QEMU was killed by signal 9", []))
    with pytest.raises(BootLost):
        boot(cache, starts)
    assert [name for name, _ in starts.tried] == ["kvm"]
    assert accel.choose(HOST, "auto", cache).name == "kvm"


@pytest.mark.parametrize("error", [silent(), InfraError("QEMU did not start")], ids=["silent", "qemu"])
def test_forced_kvm_does_not_fall_back(cache: Path, error: Exception) -> None:
    starts = Starts(kvm=error)
    with pytest.raises(InfraError, match="forced KVM brings no kernel up") as caught:
        boot(cache, starts, forced=True)
    assert [name for name, _ in starts.tried] == ["kvm"]
    assert "--accel auto" in caught.value.remedy
    assert not isinstance(caught.value, BootFailure)


def test_under_tcg_there_is_nothing_to_fall_back_to(cache: Path) -> None:
    tcg = Accelerator("tcg", "asked for")
    starts = Starts()
    assert boot(cache, starts, first=tcg) == tcg
    assert starts.tried == [("tcg", Deadlines().banner)]
    with pytest.raises(BootFailure):
        boot(cache, Starts(tcg=silent()), first=tcg)


def test_what_is_asked_for(cache: Path) -> None:
    boot(cache, Starts(kvm=silent()))
    assert accel.choose(HOST, "tcg", cache) == Accelerator("tcg", "requested with --accel tcg")
    assert accel.choose(HOST, "kvm", cache) == Accelerator("kvm", "requested with --accel kvm")


def test_without_dev_kvm(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "dev-kvm").unlink()
    assert accel.choose(HOST, "auto", cache).reason == "/dev/kvm: No such file or directory"
    assert accel.choose(HOST, "auto", cache).name == "tcg"
    with pytest.raises(UserError, match="/dev/kvm: No such file"):
        accel.choose(HOST, "kvm", cache)


def test_a_foreign_architecture_is_emulated(cache: Path) -> None:
    chosen = accel.choose(FOREIGN, "auto", cache)
    assert chosen.name == "tcg"
    assert chosen.reason.startswith(f"an {FOREIGN.name} guest on an ")
    with pytest.raises(UserError, match="--accel kvm cannot be used"):
        accel.choose(FOREIGN, "kvm", cache)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"boot_id": 1}'])
def test_a_torn_memory_is_no_memory(cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "kvm.json").write_bytes(content)
    assert accel.choose(HOST, "auto", cache).name == "kvm"
    boot(cache, Starts(kvm=silent()))
    assert accel.choose(HOST, "auto", cache).name == "tcg"


def test_what_cannot_be_remembered_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert boot(tmp_path / "file", Starts(kvm=silent())).name == "tcg"
    assert boot(tmp_path / "file", Starts()).name == "kvm"
