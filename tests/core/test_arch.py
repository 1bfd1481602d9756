# SPDX-License-Identifier: GPL-2.0-only
"""One file an architecture: each is whole, and the host finds its own."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import msgspec
import pytest
from elftools.elf.enums import ENUM_E_MACHINE

from orchestrator.core import arch, data
from orchestrator.core.errors import UserError


class Uname(NamedTuple):
    machine: str


def on(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: Uname(machine))


@pytest.mark.parametrize("name", arch.names())
def test_every_file_is_whole(name: str) -> None:
    known = arch.load(name)
    assert known.name == name
    assert known.machines
    assert known.qemu.startswith("qemu-system-")
    assert known.packages.qemu.startswith("qemu-system-")
    assert known.packages.libc.endswith(f"-{known.debian}-cross")
    # Debian spells a triple without underscores
    triple = known.cross_prefix.rstrip("-").replace("_", "-")
    assert (known.packages.gcc, known.packages.binutils) == (f"gcc-{triple}", f"binutils-{triple}")
    assert known.elf in {m.lower().removeprefix("em_") for m in ENUM_E_MACHINE}
    assert known.system_calls.keys() >= {"mmap", "mprotect", "munmap", "brk", "mremap", "madvise"}
    assert known.reports.pc
    for field in known.reports.__struct_fields__[:-1]:
        re.compile(getattr(known.reports, field))
    assert all(re.compile(each) for each in (*known.reports.plumbing, known.call))
    assert known.cross_prefix.endswith("-")
    assert known.image.startswith("arch/")
    assert known.console.startswith("tty")
    assert "PER_VMA_LOCK" in known.expected_config_difference
    assert (data.kconfigs() / f"{name}.config").is_file()


@pytest.mark.parametrize("name", arch.names())
def test_no_machine_belongs_to_two(name: str) -> None:
    others = {m for other in arch.names() if other != name for m in arch.load(other).machines}
    assert not others & set(arch.load(name).machines)


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64")]
)
def test_the_host(monkeypatch: pytest.MonkeyPatch, machine: str, name: str) -> None:
    on(monkeypatch, machine)
    assert arch.host().name == name
    assert arch.host().native
    assert arch.host().compiler_prefix == ""
    for other in map(arch.load, set(arch.names()) - {name}):
        assert not other.native
        assert other.compiler_prefix == other.cross_prefix


def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "vax")
    with pytest.raises(UserError, match="'vax' is not among") as caught:
        arch.host()
    assert caught.value.remedy == f"Name one with --arch: {', '.join(arch.names())}."


@pytest.mark.parametrize("name", ["vax", "", "../arch/x86_64", "X86_64"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(UserError, match="unknown architecture") as caught:
        arch.load(name)
    assert caught.value.remedy == f"Known are: {', '.join(arch.names())}."


def test_all_is_what_is_not_optional_and_the_hosts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: msgspec.structs.replace(arch.load("arm64"), name=name, machines=(name,)) for name in "abc"}
    made["c"] = msgspec.structs.replace(made["c"], optional=True)
    monkeypatch.setattr(arch, "names", lambda: tuple(made))
    monkeypatch.setattr(arch, "load", made.get)
    on(monkeypatch, "a")
    assert arch.expand(["all"]) == ("a", "b")
    assert arch.expand(["b", "b", "c", "all"]) == ("b", "c", "a")
    on(monkeypatch, "c")
    assert arch.expand(["all"]) == ("a", "b", "c")


@pytest.mark.parametrize("name", arch.names())
def test_drgn_knows_it(name: str) -> None:
    drgn = pytest.importorskip("drgn")
    assert hasattr(drgn.Architecture, arch.load(name).drgn)
