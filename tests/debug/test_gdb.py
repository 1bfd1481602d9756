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
    words = ["-batch", "-ex", "bt"]
    argv = gdb.command("/usr/bin/gdb", vmlinux, Path("/s/gdb"), words, trusted=True)
    assert argv == ["/usr/bin/gdb", "-q", str(vmlinux), "-ex", "target remote /s/gdb", *words]
    (tmp_path / "vmlinux-gdb.py").touch()
    assert f"add-auto-load-safe-path {tmp_path}" in gdb.command("gdb", vmlinux, Path("/s"), [], trusted=True)
    off = ["gdb", "-q", "-iex", "set auto-load off"]
    assert gdb.command("gdb", None, Path("/s"), []) == [*off, "-ex", "target remote /s"]
    assert gdb.command("gdb", vmlinux, Path("/s"), []) == [*off, str(vmlinux), "-ex", "target remote /s"]


@pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("gdb"), reason="gcc or gdb is not installed")
@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("vmlinux-gdb.py", "open('planted', 'w')\n"),
        ("vmlinux-gdb.gdb", "shell touch planted\n"),
        (".gdbinit", "shell touch planted\n"),
    ],
)
def test_no_script_of_a_run_is_executed(tmp_path: Path, name: str, script: str) -> None:
    """Even if the user has switched off gdb's own protection, as many kernel developers do."""
    run, home = tmp_path / "run", tmp_path / "home"
    for folder in (run, home):
        folder.mkdir()
    (home / ".gdbinit").write_text("set auto-load safe-path /\n")
    (run / name).write_text(script)
    compiled(run / "vmlinux")

    def executed(*, trusted: bool) -> bool:
        argv = gdb.command("gdb", run / "vmlinux", run / "nosuch", ["-batch"], trusted=trusted)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}
        subprocess.run(argv, cwd=run, env=env, capture_output=True)
        return (run / "planted").exists()

    assert not executed(trusted=False)
    assert executed(trusted=True)


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
