# SPDX-License-Identifier: GPL-2.0-only
"""Completion: what is proposed, and the script in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest

from orchestrator import arch, completion, data
from orchestrator import cli as tool

#: A tool with one option of each sort, called as ours is.
PROGRAM = """\
    import click
    from orchestrator import completion

    @click.group()
    def cli(): ...

    @cli.command()
    @click.option("--arch", "arches", multiple=True, shell_complete=completion.arches)
    @click.option("--variant", "variants", multiple=True, shell_complete=completion.variants)
    @click.option("--suite", "suites", multiple=True, shell_complete=completion.suites)
    @click.option("--source", shell_complete=completion.sources)
    @click.option("--config", shell_complete=completion.files)
    @click.option("--out", shell_complete=completion.folders)
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
    return Bash(tmp_path, str(program.parent))


@needs_bash
@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["ru"], ["run"]),
        (["run", "--suite", "ma"], ["map-latency", "maps"]),
        (["run", "--suite", "maps", "--suite", "ma"], ["map-latency"]),
        # --suite=ma, as bash takes it apart
        (["run", "--suite", "=", "ma"], ["map-latency", "maps"]),
        (["run", "--suite", "=", "maps", "--suite", "=", "map"], ["map-latency"]),
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
    assert bash.complete("run", "--suite", "ma") == ["map-latency", "maps"]
    assert set(bash.complete("run", "--arch", "")) == {*arch.names(), "all"}
    assert set(bash.complete("")) == set(tool.cli.commands)


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


def test_an_error_stays_out_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Path]:
        raise OSError("no such folder")

    monkeypatch.setattr(data, "suites", broken)
    assert proposed(completion.suites, "ma") == []
