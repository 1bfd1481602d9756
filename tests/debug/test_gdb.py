# SPDX-License-Identifier: GPL-2.0-only
"""gdb on a halted guest: its command line, what is missing, and a real one that reaches start_kernel."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import psutil
import pytest
from fakes.processes import alive
from fakes.records import record
from under_test import ORCHESTRATE, SOURCE

from orchestrator.cell.record import FILE
from orchestrator.core import arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.debug import gdb
from orchestrator.debug.reopen import CellReference
from orchestrator.kernel import debug_build


def test_command(tmp_path: Path) -> None:
    vmlinux = tmp_path / "vmlinux"
    argv = gdb.command("/usr/bin/gdb", vmlinux, Path("/s/gdb"), ["-batch", "-ex", "bt"])
    assert argv == ["/usr/bin/gdb", "-q", str(vmlinux), "-ex", "target remote /s/gdb", "-batch", "-ex", "bt"]
    (tmp_path / "vmlinux-gdb.py").touch()
    assert f"add-auto-load-safe-path {tmp_path}" in gdb.command("gdb", vmlinux, Path("/s"), [])
    assert gdb.command("gdb", None, Path("/s"), []) == ["gdb", "-q", "-ex", "target remote /s"]


def test_missing_gdb_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="gdb-multiarch is not installed") as error:
        gdb.program(arch.host())
    assert error.value.remedy == "Install it: apt-get install gdb"
    (foreign,) = (arch.load(name) for name in arch.usual() if not arch.load(name).native)
    with pytest.raises(InfraError) as error:
        gdb.program(foreign)
    assert error.value.remedy == "Install it: apt-get install gdb-multiarch"
    (tmp_path / "gdb-multiarch").write_text("#!/bin/sh\n")
    (tmp_path / "gdb-multiarch").chmod(0o755)
    assert gdb.program(arch.host()) == gdb.program(foreign) == str(tmp_path / "gdb-multiarch")


def compiled(path: Path, *flags: str) -> None:
    """A program in place of a vmlinux."""
    source = path.with_name("main.c")
    source.write_text("#ifdef OTHER\nint other(void) { return 1; }\n#endif\nint main(void) { return 0; }\n")
    subprocess.run(["gcc", "-no-pie", *flags, "-o", path, source], check=True)


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_symbols_are_the_best_there_are(tmp_path: Path) -> None:
    found = CellReference(tmp_path, "c")
    found.folder.mkdir(parents=True)
    (found.folder / FILE).write_bytes(msgspec.json.encode(record(vmlinux="artifacts/k/vmlinux")))
    assert gdb.symbols(found, None) is None
    kernel = tmp_path / "artifacts/k"
    kernel.mkdir(parents=True)
    own, kept = kernel / "vmlinux", kernel / debug_build.DEBUG_VMLINUX
    compiled(own)
    assert gdb.symbols(found, None) == own
    compiled(kept, "-g", "-DOTHER")
    assert gdb.symbols(found, None) == own
    compiled(kept, "-g")
    assert gdb.symbols(found, None) == kept
    compiled(own, "-g")
    assert gdb.symbols(found, None) == own
    with pytest.raises(UserError, match="cannot be read"):
        gdb.symbols(found, tmp_path / "no vmlinux")


# --- with real guests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=arch.usual())
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one cell."""
    top = tmp_path_factory.mktemp("gdb")
    words = ["--source", SOURCE, "--arch", request.param, "--variant", "per-vma-lock", "--cmd", "true"]
    done = subprocess.run([*ORCHESTRATE, "run", *words], cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if not arch.load(request.param).native and not shutil.which("gdb-multiarch"):
        pytest.skip("gdb-multiarch is not installed")
    if not shutil.which("gdb") and not shutil.which("gdb-multiarch"):
        pytest.skip("gdb is not installed")
    return top


@pytest.mark.guest
def test_breakpoint_at_start_kernel(run: Path) -> None:
    words = ["-batch", "-ex", "hbreak start_kernel", "-ex", "continue", "-ex", "backtrace"]
    done = subprocess.run(
        [*ORCHESTRATE, "gdb", "last", "--", *words], cwd=run, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert " in start_kernel ()" in done.stdout
    assert any(line.startswith("#1 ") for line in done.stdout.splitlines())
    assert "nokaslr" in done.stderr
    assert "no line numbers" in done.stderr


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_is_printed_and_nothing_stays(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    waiting = subprocess.Popen(
        [*ORCHESTRATE, "gdb", "last", "--print"],
        cwd=run,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    argv = shlex.split(waiting.stdout.readline())
    children = psutil.Process(waiting.pid).children(recursive=True)
    done = subprocess.run([*argv, "-batch", "-ex", "info registers"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "0x" in done.stdout
    waiting.send_signal(number)
    assert waiting.wait(20) == 0
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left
    assert not alive(str(tmp_path))
    assert not list(tmp_path.iterdir())
