# SPDX-License-Identifier: GPL-2.0-only
"""One file an architecture: each is whole, and the host finds its own."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

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
    assert caught.value.remedy == "Name one with --arch: arm64, x86_64."


@pytest.mark.parametrize("name", ["vax", "", "../arch/x86_64", "X86_64"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(UserError, match="unknown architecture") as caught:
        arch.load(name)
    assert caught.value.remedy == "Known are: arm64, x86_64."
