# SPDX-License-Identifier: GPL-2.0-only
"""Completion: what is proposed, and the script in a real bash."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from fakes.bisected import BAD_RSS, REFCOUNT, START_READ, result

from orchestrator.cli import completion
from orchestrator.cli import main as tool
from orchestrator.core import arch, data, toolchain
from orchestrator.core.errors import InfraError, UserError
from orchestrator.results.model import SCHEMA_VERSION, Case, CellResult, Verdict
from orchestrator.run.directory import LAST, RunDirectory
from orchestrator.run.summary import RunResult

#: A tool with one option of each sort, called as ours is.
PROGRAM = """\
    import click
    from orchestrator.cli import completion

    @click.group()
    def cli(): ...

    @cli.command()
    @click.option("--arch", "arches", multiple=True, shell_complete=completion.arches)
    @click.option("--variant", "variants", multiple=True, shell_complete=completion.variants)
    @click.option("--suite", "suites", multiple=True, shell_complete=completion.suites)
    @click.option("--source", shell_complete=completion.sources)
    @click.option("--config", shell_complete=completion.files)
    @click.option("--out", default="runs", shell_complete=completion.folders)
    @click.option("--resume", shell_complete=completion.runs)
    @click.option("--toolchain", default="gcc", shell_complete=completion.toolchains)
    @click.option("--vsyscall", default="", shell_complete=completion.vsyscall)
    @click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]))
    def run(**given): ...

    @cli.command()
    @click.argument("shell", type=click.Choice(completion.SHELLS))
    def completion_(shell): ...

    cli(prog_name="orchestrate")
"""

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")


class Bash:
    """A bash that has evaluated the script, with an ``orchestrate`` on its PATH."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self.path = folder, path

    def complete(self, *words: str) -> list[str]:
        """What is proposed for the last of the words."""
        code = (
            'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
            # outside of an interactive shell there is no completion whose options could be set
            'compopt() { echo "compopt $*"; }\n'
            '_orchestrate_completion orchestrate; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        script = completion.script("bash", tool.cli)
        argv = ["bash", "--norc", "-c", code, "bash", script, "orchestrate", *words]
        env = {"PATH": f"{self.path}:{os.environ['PATH']}", "HOME": str(self.folder), "LC_ALL": "C"}
        done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=self.folder, check=True)
        assert done.stderr == ""
        return done.stdout.split()


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    program = tmp_path / "bin" / "orchestrate"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(PROGRAM))
    program.chmod(0o755)
    for name in ("gcc-901", "x86_64-linux-gnu-gcc-902", "gcc-ar-903"):
        (program.parent / name).symlink_to(program)
    for run in ("runs/20260101-000000-ab12", "runs/20260102-000000-cd34", "other/20250101-000000-ef56"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "plan.json").touch()
    (tmp_path / "runs" / "20260103-000000-no-plan").mkdir()
    return Bash(tmp_path, str(program.parent))


@needs_bash
@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["ru"], ["run"]),
        (["run", "--suite", "ma"], ["map-latency", "maps", "maps-coherency"]),
        (["run", "--suite", "maps", "--suite", "ma"], ["map-latency", "maps-coherency"]),
        # --suite=ma, as bash takes it apart
        (["run", "--suite", "=", "ma"], ["map-latency", "maps", "maps-coherency"]),
        (["run", "--suite", "=", "maps", "--suite", "=", "map"], ["map-latency", "maps-coherency"]),
        (["run", "--accel", "="], ["auto", "kvm", "tcg"]),
        (["run", "--variant", ""], ["per-vma-lock", "mmap-lock"]),
        (["run", "--variant", "mm"], ["mmap-lock"]),
        (["run", "--arch", "a"], ["arm64", "all"]),
        (["run", "--accel", ""], ["auto", "kvm", "tcg"]),
        (["run", "--arch", "arm64", "--acc"], ["--accel"]),
        (["run", "--suite", "./my"], ["compopt", "-o", "dirnames"]),
        (["run", "--out", ""], ["compopt", "-o", "dirnames"]),
        (["run", "--config", "x"], ["compopt", "-o", "default"]),
        (["run", "--source", ""], ["compopt", "-o", "default"]),
        (["run", "--suite", "zz"], []),
        (["run", "--vsyscall", ""], ["all", "xonly", "emulate", "none"]),
        (["run", "--vsyscall", "=", "e"], ["emulate"]),
        (["run", "--toolchain", "l"], ["llvm"]),
        (["run", "--toolchain", "gcc-90"], ["gcc-902", "gcc-901"]),
        (["run", "--resume", ""], ["last", "20260102-000000-cd34", "20260101-000000-ab12"]),
        (["run", "--resume", "202601010"], []),
        (["run", "--resume", "20260101"], ["20260101-000000-ab12"]),
        (["run", "--out", "nothing", "--resume", ""], []),
        (["run", "--out", "~/other", "--resume", ""], ["last", "20250101-000000-ef56"]),
        (["run", "--resume", "runs/"], ["compopt", "-o", "dirnames"]),
    ],
    ids=" ".join,
)
def test_in_bash(bash: Bash, words: list[str], proposed: list[str]) -> None:
    assert bash.complete(*words) == proposed


@needs_bash
def test_debian_suites_in_bash(bash: Bash) -> None:
    proposed = bash.complete("run", "--source", "deb")
    assert "debian:trixie-backports" in proposed
    assert all(word.startswith("debian:") for word in proposed)


@needs_bash
def test_bash_registers_it(bash: Bash) -> None:
    code = 'eval "$1"; complete -p orchestrate'
    argv = ["bash", "--norc", "-c", code, "bash", completion.script("bash", tool.cli)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o nosort -F _orchestrate_completion orchestrate\n"


@needs_bash
def test_the_tool_itself_in_bash(tmp_path: Path) -> None:
    if not any(isinstance(p, click.Option) and _completes(p) for p in tool.cli.commands["run"].params):
        pytest.skip("the tool's options do not call it yet")
    bash = Bash(tmp_path, str(Path(sys.executable).parent))
    assert bash.complete("run", "--suite", "ma") == ["map-latency", "maps", "maps-coherency"]
    assert set(bash.complete("run", "--arch", "")) == {*arch.names(), "all"}
    assert set(bash.complete("")) == set(tool.cli.commands)
    assert bash.complete("run", "--vsyscall", "e") == ["emulate"]
    assert bash.complete("build", "--toolchain", "l")[0] == "llvm"
    run = tmp_path / "runs" / "20260101-000000-ab12"
    run.mkdir(parents=True)
    (run / "plan.json").touch()
    assert bash.complete("run", "--resume", "") == ["last", run.name]


def _completes(option: click.Option) -> bool:
    return "--suite" in option.opts and bool(option.shell_complete(click.Context(tool.cli), "ma"))


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_scripts(shell: str) -> None:
    script = completion.script(shell, tool.cli)
    assert f"_ORCHESTRATE_COMPLETE={shell}_complete" in script
    assert "orchestrate" in script.replace("_ORCHESTRATE", "")
    assert "%(" not in script, "nothing is left unfilled"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_can_read_theirs(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion.script(shell, tool.cli))
    subprocess.run([shell, "-n", str(script)], check=True)


def proposed(function: Any, incomplete: str, **given: Any) -> list[str]:
    context = click.Context(click.Command("run"))
    context.params.update(given)
    option = click.Option(["--x", "xs"], multiple=True)
    return [item.value for item in function(context, option, incomplete)]


def test_all_there_is_is_proposed() -> None:
    assert set(proposed(completion.suites, "")) == set(data.suites())
    assert set(proposed(completion.variants, "")) == set(data.variants())
    assert set(proposed(completion.arches, "")) == {*arch.names(), "all"}
    assert proposed(completion.variants, "", xs=("mmap-lock",)) == ["per-vma-lock"]


def test_modes_and_toolchains_are_those_of_the_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(proposed(completion.vsyscall, "")) == {"all", *arch.load("x86_64").vsyscall_modes}
    for name in ("clang-19", "clang-format-19", "aarch64-linux-gnu-gcc-14", "gcc-14", "not-gcc-x", "gcc-12"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere::{tmp_path / 'gcc-12'}")
    found = proposed(completion.toolchains, "")
    assert found == ["gcc", "gcc-14", "gcc-12", "llvm", "llvm-19"]
    for name in found:
        with contextlib.suppress(InfraError):  # it is a name, installed or not
            toolchain.find(name, arch.host())


def test_cells_are_proposed_behind_their_run(tmp_path: Path) -> None:
    for name, ids in (("20260101-000000-ab12", ["a", "b-1"]), ("20260102-000000-cd34", ["c"])):
        (tmp_path / name).mkdir()
        cells = ", ".join(f'{{"id": "{word}"}}' for word in ids)
        (tmp_path / name / "plan.json").write_text(f'{{"cells": [{cells}]}}')
    out = str(tmp_path)
    assert proposed(completion.cells, "2", out=out) == ["20260102-000000-cd34", "20260101-000000-ab12"]
    first = "20260101-000000-ab12"
    assert proposed(completion.cells, f"{first}/", out=out) == [f"{first}/a", f"{first}/b-1"]
    assert proposed(completion.cells, f"{first}/b", out=out) == [f"{first}/b-1"]
    assert proposed(completion.cells, "last/", out=out) == ["last/c"]
    path = f"{out}/{first}"
    assert proposed(completion.cells, f"{path}/b", out="nowhere") == [f"{path}/b-1"]
    # no run: a folder, as far as anybody knows
    assert proposed(completion.cells, "nowhere/x", out=out) == ["nowhere/x"]


def test_a_default_is_proposed_too() -> None:
    context = click.Context(click.Command("run"))
    context.params["toolchain"] = "gcc"
    option = click.Option(["--toolchain"], default="gcc")
    assert "gcc" in [item.value for item in completion.toolchains(context, option, "")]


def test_runs_are_proposed_as_resume_takes_them(tmp_path: Path) -> None:
    assert proposed(completion.runs, "", out=str(tmp_path)) == []
    for name in ("20260101-000000-ab12", "20260102-000000-cd34", "a b", "x$(y)", "new\nline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").touch()
    found = proposed(completion.runs, "", out=str(tmp_path))
    assert found == ["last", "20260102-000000-cd34", "20260101-000000-ab12"], (
        "no name that a shell would read"
    )
    taken = [RunDirectory.existing(tmp_path, name).id for name in found[1:]]
    assert taken == found[1:]
    assert found[0] == LAST


def test_fingerprints_are_those_of_the_newest_run(tmp_path: Path) -> None:
    assert proposed(completion.fingerprints, "", out=str(tmp_path)) == []
    boot = Case(id="boot", verdict=Verdict.CRASH, fingerprint=START_READ)
    found = CellResult(cell="x", cases=(boot,), suites=result(Verdict.CRASH, fingerprint=BAD_RSS).suites)
    odd = result(Verdict.CRASH, fingerprint=BAD_RSS, further=(REFCOUNT, "bug-x$(y)"))
    for name, cells in (("20260101-000000-ab12", (odd,)), ("20260102-000000-cd34", (found, odd))):
        (tmp_path / name).mkdir()
        document = RunResult(schema_version=SCHEMA_VERSION, id=name, sources=(), cells=cells, started_at="")
        (tmp_path / name / "results.json").write_bytes(msgspec.json.encode(document))
    assert proposed(completion.fingerprints, "", out=str(tmp_path)) == [START_READ, BAD_RSS, REFCOUNT]
    assert proposed(completion.fingerprints, "bug", out=str(tmp_path)) == [BAD_RSS]


@pytest.mark.parametrize("path", ["/usr/bin/fish", "/bin/zsh", "bash"])
def test_the_users_shell(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("SHELL", path)
    assert completion.users_shell() == path.rpartition("/")[2]


def test_completion_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    said = CliRunner().invoke(tool.cli, ["completion"])
    assert (said.exit_code, said.output) == (0, completion.script("fish", tool.cli))
    said = CliRunner().invoke(tool.cli, ["completion", "zsh"])
    assert (said.exit_code, said.output) == (0, completion.script("zsh", tool.cli))
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert isinstance(CliRunner().invoke(tool.cli, ["completion"]).exception, UserError)


@pytest.mark.parametrize("path", ["/bin/sh", "/usr/bin/nu", "", None])
def test_a_shell_that_is_none_of_the_three(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    if path is not None:
        monkeypatch.setenv("SHELL", path)
    with pytest.raises(UserError) as error:
        completion.users_shell()
    assert error.value.exit_code == 2
    assert (path or "$SHELL is not set") in error.value.message
    assert all(shell in error.value.remedy for shell in completion.SHELLS)


def test_an_error_stays_out_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Path]:
        raise OSError("no such folder")

    monkeypatch.setattr(data, "suites", broken)
    assert proposed(completion.suites, "ma") == []
