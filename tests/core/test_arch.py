# SPDX-License-Identifier: GPL-2.0-only
"""One file an architecture: each is whole, and the host finds its own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import under_test
from elftools.elf.enums import ENUM_E_MACHINE

from orchestrator.core import arch, data
from orchestrator.core.errors import UserError
from orchestrator.results.model import Blame, Verdict

#: Those that the other tests with real kernels leave out.
OPTIONAL = sorted(set(arch.names()) - set(arch.usual()))
SUITES = ("maps", "maps-coherency", "procmap-query", "locking", "map-latency")
SYSRQ = "/proc/sysrq-trigger"


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


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONAL)
def test_the_main_job_on_an_optional_architecture(name: str, tmp_path: Path) -> None:
    """Both variants are proven, every suite is judged, and the benchmark says what the locks gain."""
    code, result = under_test.run(
        tmp_path, "--arch", name, *(word for suite in SUITES for word in ("--suite", suite))
    )
    for variant in ("per-vma-lock", "mmap-lock"):
        mine = [cell for cell in result.cells if cell.variant == variant]
        own = {case.verdict for cell in mine for case in cell.cases}
        assert own == {Verdict.PASS}
        suites = {suite.suite: suite for cell in mine for suite in cell.suites}
        assert set(suites) == set(SUITES)
        assert all(Verdict.PASS in {case.verdict for case in suite.cases} for suite in suites.values())
        assert suites["map-latency"].metrics
    for cell in result.cells:
        fine = (Verdict.PASS, Verdict.SKIP)
        assert [c for c in cell.all_cases() if c.verdict not in fine and not under_test.known(cell, c)] == []
    assert code == 0


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONAL)
def test_a_crash_of_an_optional_architecture_gets_its_lines(name: str, tmp_path: Path) -> None:
    words = ("--variant", "per-vma-lock", "--decode", "--cmd", f"echo c >{SYSRQ}")
    code, result = under_test.run(tmp_path, "--arch", name, *words)
    assert code == 1
    (cell,) = result.cells
    (case,) = (case for case in cell.all_cases() if case.id == "cmd/cmd")
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert case.fingerprint == "panic-kernel-panic-sysrq-triggered-crash-in-sysrq_handle_crash"
    assert cell.properties["stack traces"].startswith("with lines")
    assert re.search(r"sysrq_handle_crash.* drivers/tty/sysrq\.c:\d+", case.detail), case.detail
