# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU command line: pure, and one that the real QEMU accepts."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from orchestrator.core import arch
from orchestrator.core.errors import InfraError
from orchestrator.core.process import Supervised
from orchestrator.vm import qemu
from orchestrator.vm.console import Console
from orchestrator.vm.qemu import GuestSpec


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is taken as installed."""
    monkeypatch.setattr(qemu, "program", lambda known: f"/bin/{known.qemu}")


def spec(name: str = "x86_64", **changes: object) -> GuestSpec:
    given = {"arch": arch.load(name), "kernel": Path("/k/bzImage"), "initrds": (Path("/i"),)}
    return GuestSpec(**{**given, **changes})  # type: ignore[arg-type]


def argv(wanted: GuestSpec, accel: str = "tcg") -> list[str]:
    return qemu.argv(wanted, accel=accel, folder=Path("/f"), initrd=Path("/f/initrd"), cmdline="a b")


def value(words: list[str], option: str) -> str:
    assert words.count(option) == 1
    return words[words.index(option) + 1]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("name", arch.names())
def test_what_every_machine_has(name: str) -> None:
    words = argv(spec(name, smp=3, mem_mib=700))
    known = arch.load(name)
    assert words == argv(spec(name, smp=3, mem_mib=700))
    assert words[0] == f"/bin/{known.qemu}"
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)
    assert value(words, "-action") == "panic=none", "the guest prints all that it has to say"
    assert value(words, "-machine") == known.machine_tcg
    assert value(words, "-cpu") == known.cpu_tcg
    assert value(words, "-accel").startswith("tcg")
    assert value(words, "-smp").split(",")[0] == "3"
    assert value(words, "-m") == "700M"
    assert (value(words, "-kernel"), value(words, "-initrd")) == ("/k/bzImage", "/f/initrd")
    assert value(words, "-append") == "a b"


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("name", arch.names())
def test_under_kvm(name: str) -> None:
    words, known = argv(spec(name), "kvm"), arch.load(name)
    assert value(words, "-accel") == "kvm"
    assert value(words, "-cpu") == known.cpu_kvm
    assert value(words, "-machine") == known.machine_kvm


#: All of it, since what a guest is made of changes what is measured in it.
ARM64 = """
/bin/qemu-system-aarch64 -nodefaults -no-user-config -no-reboot -action panic=none -display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -name orchestrate
-machine virt,gic-version=3 -accel tcg,thread=multi -cpu max,pauth-impdef=on -smp 2 -m 512M
-kernel /k/bzImage -initrd /f/initrd -append {append} -chardev socket,id=console,path=/f/console
-serial chardev:console -qmp unix:/f/qmp -netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22
-device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci -device pvpanic-pci
"""
X86_64 = (
    ARM64.replace("qemu-system-aarch64", "qemu-system-x86_64")
    .replace("virt,gic-version=3", "q35")
    .replace("max,pauth-impdef=on", "max,la57=off")
)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("name", "expected"), [("arm64", ARM64), ("x86_64", X86_64)])
def test_word_for_word(name: str, expected: str) -> None:
    assert argv(spec(name)) == [word.format(append="a b") for word in expected.split()]
    kvm = expected.replace(f"-machine {arch.load(name).machine_tcg} -accel tcg,thread=multi", "{kvm}")
    kvm = kvm.replace("{kvm}", f"-machine {arch.load(name).machine_kvm} -accel kvm")
    kvm = kvm.replace(arch.load(name).cpu_tcg, "host")
    assert argv(spec(name), "kvm") == [word.format(append="a b") for word in kvm.split()]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("accel", ["tcg", "kvm"])
@pytest.mark.parametrize("name", arch.names())
def test_a_saved_guest_gets_the_same_machine(name: str, accel: str) -> None:
    """All but what is in its memory already."""
    booted = argv(spec(name), accel)
    words = qemu.argv(spec(name), accel=accel, folder=Path("/f"), incoming=17)
    assert value(words, "-incoming") == "fd:17"
    given = ("-kernel", "-initrd", "-append")
    assert not set(given) & set(words)
    for option in given:
        at = booted.index(option)
        del booted[at : at + 2]
    at = words.index("-incoming")
    assert words[:at] + words[at + 2 :] == booted


@pytest.mark.usefixtures("anywhere")
def test_guests_share_nothing() -> None:
    """No fixed port, only loopback, nothing on the host but the forwarded port."""
    words = argv(spec())
    assert value(words, "-netdev") == "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
    assert {word for word in words if "/f/" in word} == {
        "/f/initrd",
        "socket,id=console,path=/f/console",
        "unix:/f/qmp",
    }
    assert not [word for word in words if re.search("snapshot|virtfs|drive|vsock|guest-cid", word)]


def test_the_kernels_command_line() -> None:
    words = qemu.kernel_cmdline(spec(cmdline=("vsyscall=none", "quiet")), nonce="abc", epoch=17).split()
    assert words[0] == "console=ttyS0"
    assert {"panic=-1", "oops=panic", "orc.nonce=abc", "orc.epoch=17", *arch.load("x86_64").cmdline} <= set(
        words
    )
    assert words[-2:] == ["vsyscall=none", "quiet"], "the user's words win"
    assert qemu.kernel_cmdline(spec("arm64"), nonce="", epoch=0).startswith("console=ttyAMA0 ")


@pytest.mark.parametrize("name", arch.names())
def test_without_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="is not installed") as caught:
        qemu.program(arch.load(name))
    assert caught.value.remedy == f"Install it: apt-get install {arch.load(name).packages.qemu}"


def a_boot_sector() -> bytes:
    """As much of a bzImage as QEMU's loader looks at: it never runs (x86's boot protocol, 2.08)."""
    image = bytearray(64 << 10)
    image[0x1F1] = 1
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x208] = b"HdrS\x08\x02"
    image[0x211] = 1
    image[0x22C:0x230] = b"\xff\xff\xff\x7f"
    return bytes(image)


@pytest.mark.parametrize("name", arch.names())
def test_the_real_qemu_accepts_it(tmp_path: Path, name: str) -> None:
    known = arch.load(name)
    if not shutil.which(known.qemu):
        pytest.skip(f"{known.qemu} is not installed")
    assert re.fullmatch(r"\d+\.\d+\S*", qemu.version(known))
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(a_boot_sector())
    initrd.write_bytes(b"070701")
    wanted = spec(name, kernel=kernel, initrds=(initrd,), smp=2, mem_mib=256)
    words = qemu.argv(wanted, accel="tcg", folder=tmp_path, initrd=initrd, cmdline="x")
    console = Console(tmp_path / "console", tmp_path / "console.log")
    monitor = QEMUMonitorProtocol(str(tmp_path / "qmp"), server=True)
    child = Supervised([*words, "-S"], limit_s=120, output=tmp_path / "output")
    try:
        monitor.accept(timeout=60)
        tell: Callable[..., Any] = monitor.cmd
        assert tell("query-status")["status"] == "prelaunch"
        assert len(tell("query-cpus-fast")) == 2
        assert tell("query-memory-size-summary")["base-memory"] == 256 << 20
        forwarded = tell("human-monitor-command", **{"command-line": "info usernet"})
        assert re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+[1-9]\d*", forwarded)
        assert (tmp_path / "output").read_text() == "", "QEMU has no complaint"
        monitor.cmd("quit")
        outcome = child.wait(60)
        assert outcome
        assert outcome.exit == 0
    finally:
        child.kill()
        with contextlib.suppress(EOFError):  # of a QEMU that has quit
            monitor.close()
        console.close()
