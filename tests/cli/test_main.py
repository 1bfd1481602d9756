# SPDX-License-Identifier: GPL-2.0-only
"""The command line: exit codes, and what goes wrong in a line or two, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command import Command
from fakes.linux import make_linux
from under_test import ORCHESTRATE

from orchestrator.cli import main
from orchestrator.core import arch, data, errors
from orchestrator.results.model import SCHEMA_VERSION, Case, CellResult, SuiteResult, Verdict
from orchestrator.run import start
from orchestrator.run.summary import RunResult


@pytest.fixture
def linux(tmp_path: Path) -> str:
    """A kernel tree to name."""
    return str(make_linux(tmp_path / "linux").path)


@pytest.mark.parametrize(
    "argv", [["--help"], ["-h"], ["--version"], ["list"], *([v, "-h"] for v in main.cli.commands)]
)
def test_what_only_tells(call: Command, argv: list[str]) -> None:
    said = call(*argv)
    assert said.code == 0
    assert said.out
    assert said.err == ""
    assert max(map(len, said.out.splitlines())) <= 80


def test_the_list_has_everything(call: Command) -> None:
    words = call("list").out.split()
    assert {*data.variants(), *data.suites(), "x86_64", "arm64"} <= set(words)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "Usage: orchestrate"),
        (["nosuch"], "No such command 'nosuch'"),
        (["run", "--nosuch"], "No such option"),
        (["run", "--smp", "0"], "0 is not in the range"),
        (["run", "--smp", "two"], "'two' is not a valid integer"),
        (["run", "--accel", "fast"], "'fast' is not one of"),
        (["run", "--arch", "vax"], "unknown architecture 'vax'"),
        (["run", "--source", "nosuch"], "nosuch"),
        (["run", "--source", "/nonexistent/linux"], "/nonexistent/linux"),
        (["run", "--source", "LINUX", "--variant", "no-lock"], "unknown variant 'no-lock'"),
        (["run", "--source", "LINUX", "--suite", "nosuch"], "unknown suite 'nosuch'"),
        (["run", "--source", "LINUX", "--smp", "1"], "needs 2 CPUs, --smp is 1"),
        (["run", "--source", "LINUX", "--vsyscall", "native"], "unknown vsyscall mode 'native'"),
        (["run", "--source", "LINUX", "--kconfig", "nosuch.config"], "nosuch.config: No such file"),
        (["run", "--source", "LINUX", "--kconfig", "CONFIG_PER_VMA_LOCK=n"], "decided by the variant"),
        (["run", "--source", "LINUX", "--config", "nosuch"], "nosuch: No such file"),
        (["run", "--source", "LINUX", "--out", "/proc/nosuch"], "cannot write results to /proc/nosuch"),
        (["build", "--source", "LINUX", "--arch", "vax"], "unknown architecture 'vax'"),
        (["build", "--source", "LINUX", "--toolchain", "icc"], "unknown toolchain 'icc'"),
    ],
    ids=" ".join,
)
def test_wrong_usage(call: Command, linux: str, argv: list[str], says: str) -> None:
    argv = [linux if word == "LINUX" else word for word in argv]
    if "--vsyscall" in argv:
        argv += ["--arch", "x86_64"]
    said = call(*argv)
    assert (said.code, says in said.err) == (2, True), said
    assert "Traceback" not in said.err
    if said.err.startswith("orchestrate: "):
        assert len(said.err.splitlines()) <= 2, said.err
    assert not Path("runs").exists(), "a run that could not begin left a folder"


def fail_with(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.KernelError("it is the kernel"), 1, "orchestrate: it is the kernel\n"),
        (errors.UserError("wrong", remedy="Do this."), 2, "orchestrate: wrong\n  Do this.\n"),
        (errors.InfraError("the host"), 3, "orchestrate: the host\n"),
        (errors.Inconclusive("nothing shown"), 4, "orchestrate: nothing shown\n"),
        (errors.Interrupted("stopped"), 130, "orchestrate: stopped\n"),
        (KeyboardInterrupt(), 130, "orchestrate: interrupted\n"),
    ],
)
def test_errors_and_their_exit_codes(
    call: Command, linux: str, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    monkeypatch.setattr(start, "execute", fail_with(error))
    said = call("run", "--source", linux)
    assert (said.code, said.err.lstrip("\n")) == (code, says)  # click ends the line of the ^C


def test_a_fault_of_its_own_is_a_line_and_a_file(
    call: Command, linux: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(start, "execute", fail_with(RuntimeError("surprise")))
    said = call("run", "--source", linux)
    assert said.code == 3
    first, second = said.err.splitlines()
    assert first == "orchestrate: internal error: RuntimeError: surprise"
    (kept,) = tmp_path.glob("orchestrate-*.traceback")
    assert str(kept) in second
    assert "Traceback" in kept.read_text()


P, F, C, T = Verdict.PASS, Verdict.FAIL, Verdict.CRASH, Verdict.TIMEOUT
S, N, Q, E = Verdict.SKIP, Verdict.NA, Verdict.INCONCLUSIVE, Verdict.ERROR


@pytest.mark.parametrize(
    ("own", "suite", "interrupted", "code"),
    [
        ([P], [P], False, 0),
        ([P], [P, S, N], False, 0),
        ([P], [P, F], False, 1),
        ([P], [P, C], False, 1),
        ([P], [P, T], False, 1),
        ([F], [], False, 1),
        ([P], [P, E], False, 3),
        ([P, E], [P], False, 3),
        ([P], [P, Q], False, 4),
        ([P], [S, N], False, 4),
        ([P], [], False, 4),
        ([N], [N], False, 4),
        # precedence: 130 > 1 > 3 > 4 > 0
        ([P], [P, Q, E], False, 3),
        ([P], [P, Q, E, F], False, 1),
        ([P], [P, Q, E, F], True, 130),
    ],
)
def test_the_table_of_exit_codes(
    call: Command,
    linux: str,
    monkeypatch: pytest.MonkeyPatch,
    own: list[Verdict],
    suite: list[Verdict],
    interrupted: bool,
    code: int,
) -> None:
    cell = CellResult(
        cell="c",
        cases=tuple(Case(id=f"own-{n}", verdict=v) for n, v in enumerate(own)),
        suites=(
            SuiteResult(suite="maps", cases=tuple(Case(id=f"m/{n}", verdict=v) for n, v in enumerate(suite))),
        ),
    )
    result = RunResult(
        schema_version=SCHEMA_VERSION,
        id="x",
        sources=(),
        started_at="",
        interrupted=interrupted,
        cells=(cell,),
    )
    monkeypatch.setattr(start, "execute", lambda *_, **__: result)
    said = call("run", "--source", linux)
    assert said.code == code
    assert said.err == ""
    assert "results: " in said.out


def test_the_installed_command() -> None:
    """As a process: no traceback on a closed pipe, and the exit code is the process's."""
    argv = [*ORCHESTRATE]
    done = subprocess.run([*argv, "run", "--arch", "vax"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"orchestrate: unknown architecture 'vax'\n  Known are: {', '.join(arch.names())}.\n"
    )
    piped = f"{sys.executable} -m orchestrator.cli.main list | true"
    assert (
        "Traceback"
        not in subprocess.run(piped, shell=True, capture_output=True, text=True, check=True).stderr
    )
