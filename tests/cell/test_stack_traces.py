# SPDX-License-Identifier: GPL-2.0-only
"""A crashed cell's stack traces: which vmlinux explains them, and what is written of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import msgspec
import pytest
from fakes.records import record
from under_test import ORCHESTRATE, SOURCE

from orchestrator.cell import stack_traces
from orchestrator.cell.record import FILE
from orchestrator.core import arch, data
from orchestrator.core.errors import Inconclusive, UserError
from orchestrator.core.store import Store
from orchestrator.debug import reopen
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import CellPlan, Plan
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.run import latest
from orchestrator.run.summary import RunResult

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")

CODE = """
__attribute__((noinline)) int leaf(int x) { return x * MORE; }
int start_kernel(int x) { return leaf(x) + 1; }
int main(void) { return start_kernel(2); }
"""


class Crashed:
    """A run of one cell that crashed, with a vmlinux without lines."""

    def __init__(self, runs: Path) -> None:
        self.root = runs / "20260101-000000-aaaa"
        self.cell = self.root / "cells" / "c"
        self.cell.mkdir(parents=True)
        self.kernel = self.root / "artifacts/k"
        self.kernel.mkdir(parents=True)
        self.vmlinux = self.compile(self.kernel / "vmlinux")
        size = next(s.size for s in debug_build.text_symbols(self.vmlinux) if s.name == "leaf")
        self.frame = f"leaf+0x4/{size:#x}"
        self.record = record(arch.host().name, vmlinux="artifacts/k/vmlinux")
        (self.cell / FILE).write_bytes(msgspec.json.encode(self.record))
        console = f"[    1.0] Kernel panic - not syncing: x\n[    1.1]  {self.frame}\n"
        (self.cell / "console.log").write_text(console)
        (self.cell / "console-2.log").write_text("[    1.0] all is well\n")
        panicked = Case(
            id="own/one", verdict=Verdict.CRASH, blame=Blame.KERNEL, reason="panic", detail=console
        )
        self.result = CellResult(
            cell="c",
            cases=(Case(id="boot", verdict=Verdict.PASS, detail=self.frame),),
            suites=(SuiteResult(suite="own", cases=(panicked,)),),
        )
        plan = CellPlan(id="c", label="x", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512)
        choices = Choices(arches=("x86_64",), variants=("mmap-lock",))
        whole = Plan(choices=choices, kernels=(), cells=(plan,))
        (self.root / "plan.json").write_bytes(msgspec.json.encode(whole))
        (self.cell / "result.json").write_bytes(msgspec.json.encode(self.result))
        everything = RunResult(
            schema_version=2, id=self.root.name, sources=(), started_at="", cells=(self.result,)
        )
        (self.root / "results.json").write_bytes(msgspec.json.encode(everything))

    def compile(self, path: Path, *flags: str, more: str = "3") -> Path:
        source = path.with_name("main.c")
        source.write_text(CODE)
        words = ["-O1", "-no-pie", f"-DMORE={more}", *flags]
        subprocess.run(["gcc", *words, "-o", path, source], check=True)
        return path

    def kept(self) -> Path:
        return self.kernel / debug_build.DEBUG_VMLINUX


@pytest.fixture
def crashed(tmp_path: Path) -> Crashed:
    return Crashed(tmp_path / "runs")


def _no_spec() -> NoReturn:
    raise AssertionError("the source is not needed for that")


def _explaining(crashed: Crashed, store: Store, *, build: bool = False, ask: bool = False) -> Path:
    spec = (lambda: object()) if ask else _no_spec
    return stack_traces.explaining(crashed.root, crashed.record, spec, store, print, build=build)  # type: ignore[arg-type]


def test_only_what_is_bad_and_has_a_trace_is_decoded(crashed: Crashed) -> None:
    assert stack_traces.has_frames(crashed.result)
    assert not stack_traces.has_frames(msgspec.structs.replace(crashed.result, suites=()))


def test_consoles_and_details_get_lines(crashed: Crashed) -> None:
    lines = crashed.compile(crashed.kept(), "-g")
    told, files = stack_traces.write(crashed.root, crashed.record, lines, crashed.result)
    assert [path.name for path in files] == ["console.decoded.log"]
    assert files[0].read_text().splitlines()[1].endswith(f" {crashed.frame} {crashed.kernel}/main.c:2")
    (case,) = told.suites[0].cases
    assert "main.c:2" in case.detail
    assert told.cases == crashed.result.cases
    assert told.properties["stack traces"] == "with lines: cells/c/console.decoded.log"
    again_, _ = stack_traces.write(crashed.root, crashed.record, lines, told)
    assert again_ == told


def test_vmlinux_is_taken_where_it_has_lines(crashed: Crashed, store: Store) -> None:
    crashed.compile(crashed.vmlinux, "-g")
    assert _explaining(crashed, store) == crashed.vmlinux


def test_kept_debug_build_is_taken_unless_it_is_other_code(
    crashed: Crashed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed.compile(crashed.kept(), "-g")
    assert _explaining(crashed, store) == crashed.kept()
    crashed.compile(crashed.kept(), "-g", more="1000001")
    monkeypatch.setattr(debug_build, "find", lambda spec, store: None)
    with pytest.raises(UserError, match=re.escape(f"`{stack_traces.command(crashed.root, 'c')}` makes")):
        _explaining(crashed, store, ask=True)


def _builds(monkeypatch: pytest.MonkeyPatch, vmlinux: Path) -> None:
    def build(spec: KernelSpec, store: Store, **_: object) -> Kernel:
        return Kernel(
            key="d", folder=vmlinux.parent, image=vmlinux, vmlinux=vmlinux, config=None, release="7.2",
            build_id="", toolchain="gcc", cpu_s=0, cached=False,
        )  # fmt: skip

    monkeypatch.setattr(debug_build, "find", lambda spec, store: None)
    monkeypatch.setattr(debug_build, "build", build)


def test_debug_build_is_made_where_it_may_and_kept(
    crashed: Crashed, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _builds(monkeypatch, crashed.compile(tmp_path / "vmlinux", "-g"))
    assert _explaining(crashed, store, build=True, ask=True) == crashed.kept()
    assert debug_build.has_lines(crashed.kept())


def test_debug_build_of_other_code_is_refused(
    crashed: Crashed, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _builds(monkeypatch, crashed.compile(tmp_path / "vmlinux", "-g", more="1000001"))
    with pytest.raises(Inconclusive, match=r"other code than the kernel that crashed: \d+ of \d+"):
        _explaining(crashed, store, build=True, ask=True)
    assert not crashed.kept().exists()


def test_image_alone_explains_nothing(crashed: Crashed, store: Store) -> None:
    alone = msgspec.structs.replace(crashed.record, vmlinux="")
    with pytest.raises(UserError, match="only an image"):
        stack_traces.explaining(crashed.root, alone, _no_spec, store, print, build=True)


def test_image_alone_is_compared_by_its_build_id(crashed: Crashed, store: Store) -> None:
    found = reopen.CellReference(crashed.root, "c")
    crashed.vmlinux.unlink()
    own = crashed.compile(crashed.root.parent / "own", "-g", "-Wl,--build-id=0x1234567890abcdef")
    with pytest.raises(UserError, match="own cannot be compared"):
        reopen.decode(found, store, print, vmlinux=own)
    for build_id, fits in (("1234567890abcdef", True), ("12345678ffffffff", False)):
        told = msgspec.structs.replace(crashed.result, properties={"proof: build-id": build_id})
        (crashed.cell / "result.json").write_bytes(msgspec.json.encode(told))
        if fits:
            assert "main.c:2" in reopen.decode(found, store, print, vmlinux=own).cases[0].detail
        else:
            with pytest.raises(
                UserError, match="its build-id is 1234567890abcdef, the cell's 12345678ffffffff"
            ):
                reopen.decode(found, store, print, vmlinux=own)


def test_verb_writes_the_results_anew(crashed: Crashed, store: Store) -> None:
    lines = crashed.compile(crashed.root.parent / "own", "-g")
    found = reopen.CellReference(crashed.root, "c")
    decoded = reopen.decode(found, store, print, vmlinux=lines)
    assert [path.name for path in decoded.files] == ["console.decoded.log"]
    assert "main.c:2" in decoded.cases[0].detail
    for name in ("results.json", "cells/c/result.json", "junit.xml"):
        assert "main.c:2" in (crashed.root / name).read_text()


def test_vmlinux_that_does_not_match_is_refused_in_one_line(crashed: Crashed, store: Store) -> None:
    found = reopen.CellReference(crashed.root, "c")
    other = crashed.compile(crashed.root.parent / "other", "-g", more="1000001")
    with pytest.raises(UserError, match="other does not match the kernel of this cell") as error:
        reopen.decode(found, store, print, vmlinux=other)
    assert "\n" not in error.value.message
    plain = crashed.compile(crashed.root.parent / "plain")
    with pytest.raises(UserError, match="plain has no line numbers"):
        reopen.decode(found, store, print, vmlinux=plain)
    assert not list(crashed.cell.glob("*.decoded.log"))


def _in_run(crashed: Crashed, *, decode: bool = False, result: CellResult | None = None) -> CellResult:
    plan = CellPlan(id="c", label="x", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512)
    choices = Choices(arches=("x86_64",), variants=("mmap-lock",), decode=decode)
    cell = SimpleNamespace(
        plan=plan,
        folder=crashed.root / "cells/c",
        inputs=SimpleNamespace(choices=choices),
        host=SimpleNamespace(root=crashed.root, store=None, cancelled=lambda: False),
        kernel_spec=object,
        say=lambda phase, text: None,
    )
    return stack_traces.add_to_result(cast("Any", cell), result or crashed.result)


def test_run_decodes_what_costs_nothing_and_more_when_told(
    crashed: Crashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_build, "find", lambda spec, store: None)
    _builds(monkeypatch, crashed.compile(tmp_path / "vmlinux", "-g"))
    told = _in_run(crashed)
    assert told.suites == crashed.result.suites
    assert told.properties["stack traces"].startswith(
        f"without lines: `{stack_traces.command(crashed.root, 'c')}`"
    )
    assert "main.c:2" in _in_run(crashed, decode=True).suites[0].cases[0].detail
    # now it is there
    assert "main.c:2" in _in_run(crashed).suites[0].cases[0].detail


def test_the_command_that_is_named_finds_the_cell(
    crashed: Crashed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it stands there, typed where the run was begun: runs that are kept elsewhere by their path."""
    plan = Plan(
        choices=Choices(arches=("x86_64",), variants=("mmap-lock",)),
        kernels=(),
        cells=(
            CellPlan(id="c", label="x", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512),
        ),
    )
    (crashed.root / "plan.json").write_bytes(msgspec.json.encode(plan))
    odd = tmp_path / "my runs" / crashed.root.name
    shutil.copytree(crashed.root, odd)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(crashed.root, Path("runs") / crashed.root.name)
    for root in (crashed.root, odd, Path("runs").absolute() / crashed.root.name):
        program, verb, word = shlex.split(stack_traces.command(root, "c"))
        assert (program, verb) == ("orchestrate", "decode")
        assert reopen.find(Path("runs"), word) == reopen.CellReference(root, "c")
    assert word == f"{crashed.root.name}/c"


def test_run_loses_no_result_for_want_of_lines(crashed: Crashed, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = msgspec.structs.replace(crashed.result, suites=())
    assert _in_run(crashed, result=fine) is fine
    (crashed.cell / FILE).unlink()
    assert _in_run(crashed).properties["stack traces"].startswith("without lines: cell c booted no guest")
    interrupted = msgspec.structs.replace(crashed.result, interrupted=True)
    assert _in_run(crashed, result=interrupted) is interrupted


def test_debug_fragment_asks_for_what_moves_no_code() -> None:
    text = (data.kconfigs() / debug_build.FRAGMENT).read_text()
    asked = {line for line in text.splitlines() if line.startswith(("CONFIG_", "# CONFIG_"))}
    assert all("DEBUG_INFO" in line for line in asked)


# --- with real kernels ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", arch.usual())
def test_real_crash_gets_lines_of_a_debug_build(tmp_path: Path, name: str) -> None:
    """A second build, eight minutes; that both are the same code is checked by the tool itself."""
    words = ["--source", SOURCE, "--arch", name, "--variant", "per-vma-lock", "--decode"]
    words += ["--cmd", "echo c >/proc/sysrq-trigger"]
    done = subprocess.run(
        [*ORCHESTRATE, "run", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (results,) = (run / "results.json" for run in latest.folders(tmp_path / "runs"))
    (cell,) = msgspec.json.decode(results.read_bytes(), type=RunResult).cells
    assert cell.properties["stack traces"].startswith("with lines: ")
    (case,) = cell.suites[0].cases
    assert "sysrq_handle_crash" in case.detail
    assert "drivers/tty/sysrq.c:" in case.detail
