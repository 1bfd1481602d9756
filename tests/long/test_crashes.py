# SPDX-License-Identifier: GPL-2.0-only
"""Real crashes in real guests (make test-long TARGET=crashes): each with verdict, case, function and lines.

What breaks a kernel is in `provoked`: a program of a suite each, which gets a fresh guest, so that one run an
architecture and kernel has them all. What came of them is also a table, ``runs/crashes-*/table.md``.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import paths
import pytest
from provoked import ARCHES, CRASHES, KERNELS, PLACES, PROVOKE, SYSRQ, Crash, Kernel
from under_test import LINUX_7_2, ORCHESTRATE

from orchestrator.kernel.debug_build import Ends
from orchestrator.results.model import Blame, Case, CellResult, Verdict
from orchestrator.run import latest
from orchestrator.run.summary import RunResult
from orchestrator.splat import symbolize
from orchestrator.splat.scanner import Scanner, Splat
from orchestrator.suites import catalog

RUNS = Path(os.environ.get("ORCHESTRATE_RUNS") or paths.RUNS)
WATCHFUL, STRICT, LEAKING = KERNELS


def _orchestrate(*words: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*ORCHESTRATE, *words], capture_output=True, text=True, input=given, check=False)
    print(done.stdout, done.stderr)
    return done


@dataclass(frozen=True)
class Found:
    """What a run of one kernel came to; ``root`` is its directory."""

    root: Path
    cell: CellResult

    def case(self, name: str) -> Case:
        """The case of that id."""
        return next(case for case in self.cell.all_cases() if case.id == name)

    @cached_property
    def consoles(self) -> dict[str, Path]:
        """The console of each program's guest."""
        found: dict[str, Path] = {}
        for path in sorted((self.root / "cells" / self.cell.cell).glob("console*.log")):
            if not path.name.endswith(".decoded.log"):
                marks = re.findall(rb"orchestrate: begin (\S+) #", path.read_bytes())
                found |= {mark.decode(): path for mark in marks}
        return found

    @cached_property
    def ends(self) -> Ends:
        """What the run reads its consoles with."""
        (vmlinux,) = self.root.glob("artifacts/*/vmlinux")
        return Ends(vmlinux)

    def splat(self, case: Case) -> Splat | None:
        """What a case is about, as the console of its program has it."""
        console = self.consoles.get(case.id)
        if console is None:
            return None
        scanner = Scanner(self.ends)
        scanner.feed(console.read_bytes())
        return next((splat for splat in scanner.finish() if splat.fingerprint == case.fingerprint), None)

    def decoded(self, case: Case, where: str) -> str:
        """The first line of a case's trace that was found in a file of the source."""
        lines = [
            line for line in case.detail.splitlines() if symbolize.DECODED.search(line) or "[inlined]" in line
        ]
        return next((line for line in lines if re.search(where, line)), "")


@dataclass
class Provoked:
    """The runs, each made when it is first asked for, and the table of what came of them."""

    runs: Path
    rows: list[str] = field(default_factory=list)
    _found: dict[tuple[str, str], Found] = field(default_factory=dict)

    def run(self, kernel: Kernel, arch: str) -> Found:
        """What came of all that breaks a kernel."""
        key = (kernel.name, arch)
        if key not in self._found:
            out = self.runs / "-".join(key)
            suite = kernel.write_suite(self.runs / "suites" / "-".join(key), arch)
            _orchestrate(
                "run",
                *kernel.words,
                *kernel.more.get(arch, ()),
                "--arch",
                arch,
                "--suite",
                suite,
                "--accel",
                "tcg",
                "--decode",
                "--out",
                out,
            )
            self._found[key] = found = self._read(out)
            for crash in kernel.of(arch):
                self.note(arch, kernel, crash, found)
        return self._found[key]

    def _read(self, out: Path) -> Found:
        (root,) = latest.folders(out)
        (cell,) = msgspec.json.decode((root / "results.json").read_bytes(), type=RunResult).cells
        return Found(root, cell)

    def note(self, arch: str, kernel: Kernel, crash: Crash, found: Found) -> None:
        """Add a row to the table and write it anew."""
        case = found.case(f"{kernel.suite}/{crash.name}")
        splat = found.splat(case)
        first = re.sub(r"^(?:\[[^]]*\] *)+", "", found.decoded(case, crash.where or ".").strip())
        self.rows.append(
            f"| {crash.name} | {kernel.name} | {arch} | {case.verdict} | {case.id} "
            f"| {splat.category if splat else '–'} | {case.reason} | {splat.function if splat else '–'} "
            f"| {first} |"
        )
        (self.runs / "table.md").write_text(self.table())

    def table(self) -> str:
        """The table until now, in Markdown."""
        names = ("what", "kernel", "arch", "verdict", "case", "class", "title", "function", "line")
        return "\n".join([f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *self.rows, ""])


@pytest.fixture(scope="session")
def provoked(request: pytest.FixtureRequest) -> Iterator[Provoked]:
    """The runs, whose table is printed at the end."""
    runs = RUNS / f"crashes-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    runs.mkdir(parents=True)
    made = Provoked(runs)
    yield made
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{made.table()}\n{runs / 'table.md'}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("arch", "kernel", "crash"),
    CRASHES,
    ids=[f"{a}-{kernel.name}-{crash.name}" for a, kernel, crash in CRASHES],
)
def test_a_real_crash_is_told(arch: str, kernel: Kernel, crash: Crash, provoked: Provoked) -> None:
    found = provoked.run(kernel, arch)
    case = found.case(f"{kernel.suite}/{crash.name}")
    assert case.verdict is crash.verdict, case.reason
    # who asks for a crash by sysrq has it; whose guest is too small shows nothing
    blames = {Verdict.CRASH: Blame.KERNEL, Verdict.FAIL: Blame.TEST, Verdict.INCONCLUSIVE: Blame.INFRA}
    assert case.blame is blames[case.verdict]
    splat = found.splat(case)
    assert splat is not None, "its console has no such report: another program's?"
    assert not splat.corrupted
    assert splat.category is crash.category
    assert re.match(crash.title, splat.title), splat.title
    assert re.fullmatch(crash.function, splat.function), splat.function
    if crash.where:
        assert found.decoded(case, crash.where), case.detail


@pytest.mark.long
@pytest.mark.parametrize(("arch", "kernel"), [(a, k) for a in ARCHES for k in KERNELS if a in k.arches])
def test_a_crash_costs_only_its_own_program(arch: str, kernel: Kernel, provoked: Provoked) -> None:
    found = provoked.run(kernel, arch)
    own = {case.id: case.verdict for case in found.cell.cases if case.id != "shutdown"}
    assert own == dict.fromkeys(("config", "build", "boot", "proof"), Verdict.PASS)
    assert all(found.consoles.values())


@pytest.mark.long
@pytest.mark.parametrize("arch", ARCHES)
def test_what_ran_after_lockdep_is_not_passed(arch: str, provoked: Provoked) -> None:
    found = provoked.run(STRICT, arch)
    cases = [found.case(f"{STRICT.suite}/lockdep-off/{name}") for name in ("before", "two-orders", "after")]
    assert [case.verdict for case in cases] == [Verdict.PASS, Verdict.CRASH, Verdict.INCONCLUSIVE]
    assert "possible deadlock in provoke_two_orders" in cases[1].reason
    assert cases[2].reason == "lockdep had turned itself off"


@pytest.mark.long
@pytest.mark.parametrize("arch", ARCHES)
def test_lockdep_names_who_sits_on_a_vma_lock(arch: str, provoked: Provoked) -> None:
    case = provoked.run(STRICT, arch).case(f"{STRICT.suite}/sits")
    # where it comes first, the kernel's own word for hung tasks decides
    assert case.verdict in (Verdict.TIMEOUT, Verdict.CRASH), case.reason
    assert re.search(r"sits/\d+ waits for readers of a VMA lock in \w+", case.reason), case.reason
    assert re.search(r"the VMA lock is held by sits/\d+ since \w+, says lockdep", case.reason), case.reason


@pytest.mark.long
def test_kmemleak_names_who_lost_memory(provoked: Provoked) -> None:
    found = provoked.run(LEAKING, "x86_64")
    lost, kept = (found.case(f"{LEAKING.suite}/{name}") for name in ("leaks", "keeps"))
    assert (lost.verdict, lost.blame) == (Verdict.FAIL, Blame.KERNEL)
    assert re.fullmatch(r"memory leaked, allocated in provoke_leaks \(\d\)", lost.reason), lost.reason
    assert found.decoded(lost, PLACES[PROVOKE])
    assert kept.verdict is Verdict.PASS, kept.reason


@pytest.mark.long
def test_a_shell_in_a_cell_of_arm64(provoked: Provoked) -> None:
    found = provoked.run(WATCHFUL, "arm64")
    done = _orchestrate(
        "shell", found.root / found.cell.cell, given="uname -m; ls -d /proc/provoke panic; exit 7\n"
    )
    assert done.returncode == 7
    assert done.stdout.split() == ["aarch64", PROVOKE, "panic"]


@pytest.mark.long
def test_decode_makes_the_debug_build(tmp_path: Path) -> None:
    """The kernel as it is by default has no line numbers."""
    done = _orchestrate(
        "run", "--source", LINUX_7_2, "--arch", "x86_64", "--variant", "per-vma-lock", "--accel", "tcg",
        "--cmd", f"echo c >{SYSRQ}", "--decode", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    (root,) = latest.folders(tmp_path)
    (cell,) = msgspec.json.decode((root / "results.json").read_bytes(), type=RunResult).cells
    found = Found(root, cell)
    assert cell.properties["stack traces"].startswith("with lines")
    assert found.decoded(found.case("cmd/cmd"), r"sysrq_handle_crash.* drivers/tty/sysrq\.c:\d+")
    assert list(root.glob("artifacts/*/vmlinux.debug"))


def test_there_are_enough_crashes() -> None:
    for arch, least in (("x86_64", 14), ("arm64", 10)):
        titles = {crash.title for a, _, crash in CRASHES if a == arch}
        assert len(titles) >= least
    for kernel in KERNELS:
        names = [crash.name for crash in kernel.crashes]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel.name for kernel in KERNELS])
def test_the_suites_are_as_a_user_writes_them(arch: str, kernel: Kernel, tmp_path: Path) -> None:
    suite = catalog.load(str(kernel.write_suite(tmp_path / "suite", arch)))
    assert {program.name for program in suite.program} >= {crash.name for crash in kernel.of(arch)}
