# SPDX-License-Identifier: GPL-2.0-only
"""The script of a cell: with a QEMU that only notes its words, and from a copied run with a real one."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from fakes.archives import parse
from fakes.records import program, record
from under_test import ORCHESTRATE, SOURCE

from orchestrator.cell import reproduce
from orchestrator.cell.record import GuestRecord
from orchestrator.cli import main
from orchestrator.core import arch
from orchestrator.core.errors import OrchestrateError
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import CellPlan
from orchestrator.run import latest
from orchestrator.suites import catalog
from orchestrator.vm import qemu
from orchestrator.vm.rootfs import overlay

# --- by orchestrate ---------------------------------------------------------------------------------------


def _call(**changes: object) -> list[str]:
    plan = CellPlan(
        id="c", label="7.2", arch="arm64", variant="mmap-lock", suites=("maps",), smp=3, mem_mib=600, boot=2
    )
    choices = Choices(
        arches=("arm64",),
        variants=("mmap-lock",),
        kconfig=("CONFIG_A=y",),
        toolchain="gcc-12",
        accel="tcg",
        cmdline=("nokaslr",),
    )
    source = Source(spec="/no/my linux", label="7.2", patches=("/no/a.mbox",))
    inputs = Inputs(choices=choices, targets={}, suites={"maps": catalog.load("maps")})
    return reproduce.command(plan, inputs, source)


def test_call_is_one_that_the_tool_understands() -> None:
    script = reproduce.by_orchestrate("c", "7.2", _call())
    command = shlex.split(script.splitlines()[-1])
    assert command[:5] == ["exec", "env", "ORCHESTRATE_CONFIG=/dev/null", "orchestrate", "run"]
    assert command[-1] == "$@"
    assert "7.2=/no/my linux" in command
    assert "7.2=/no/a.mbox" in command
    assert "nokaslr" in command
    # every option exists: with a source that is not there the parser is passed and the source refused
    done = CliRunner().invoke(main.cli, command[4:-1])
    assert "No such option" not in done.output
    assert isinstance(done.exception, OrchestrateError)


def test_description_cannot_break_out_of_its_comment() -> None:
    script = reproduce.by_orchestrate("c", "7.2\ntouch owned\r\x1b[31m", ["true"])
    assert [line.partition(" ")[0] for line in script.splitlines()] == [
        "#!/bin/sh", "#", "#", "command", "exec",
    ]  # fmt: skip
    for line in reproduce.standalone(
        record(describe="7.2\ntouch owned", release="a\n'b"), ["true"]
    ).splitlines():
        assert not line.startswith("touch")
        if not line:
            break


# --- from the run alone -----------------------------------------------------------------------------------


class Copy:
    """A run directory of one cell, and a PATH with a QEMU that notes its words and its initrd."""

    def __init__(self, root: Path, made: GuestRecord) -> None:
        # what users do to paths
        self.root = root / "a copied run"
        self.script = self.root / "cells" / made.cell / reproduce.NAME
        self.script.parent.mkdir(parents=True)
        self.script.write_text(reproduce.standalone(made, ["orchestrate", "run", "--arch", "it's"]))
        for name in (made.kernel, *made.initrds):
            (self.root / name).parent.mkdir(parents=True)
            (self.root / name).write_bytes(name.encode().ljust(512, b"\0"))
        self.tools = root / "tools"
        self.tools.mkdir()
        self.words, self.initrd = root / "words", root / "initrd"
        self.tool(
            arch.load(made.arch).qemu,
            f"printf '%s\\n' \"$@\" >{self.words}\n"
            'while [ "$1" != -initrd ]; do shift; done\n'
            f'cp "$2" {self.initrd}; cp "${{2%/*}}/user" {root}/user; cp "${{2%/*}}/host" {root}/host\n'
            "echo 'no such machine' >&2; exit 1",
        )

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        home = {"PATH": f"{self.tools}:/usr/bin:/bin", "TMPDIR": str(self.tools.parent), **env}
        return subprocess.run(
            ["sh", self.script, *words],
            env=home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
            timeout=60,
        )


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path, record())


def test_help_and_list_need_nothing(copy: Copy) -> None:
    said = copy.run("--help").stdout
    assert said.startswith("c: 7.2\n")
    assert "What it cannot do" in said
    assert "#" not in said
    listed = copy.run("--list")
    assert listed.returncode == 0
    (one, two) = listed.stdout.splitlines()
    name, _, words = one.partition("\t")
    assert name == "own/one"
    assert shlex.split(words) == [
        "--cwd", "/tmp", "--cpus", "0", "--env", "WORD=a b", "--", *program("one").argv,
    ]  # fmt: skip
    assert two.startswith("own/two\t")


@pytest.mark.parametrize(
    ("words", "env", "code", "said"),
    [
        (["own/three"], {}, 2, "it has: own/one own/two"),
        (["--fast"], {}, 2, "no option --fast"),
        ([], {"ACCEL": "xen"}, 2, "auto, kvm or tcg"),
    ],
)
def test_wrong_usage(copy: Copy, words: list[str], env: dict[str, str], code: int, said: str) -> None:
    done = copy.run(*words, **env)
    assert done.returncode == code
    assert said in done.stderr
    assert not copy.words.exists()


def test_missing_artifact_and_tool_are_named(copy: Copy) -> None:
    (copy.root / "artifacts/k/bzImage").unlink()
    done = copy.run()
    assert done.returncode == 3
    assert "bzImage is missing: copy the run directory with its artifacts/" in done.stderr
    (copy.tools / "qemu-system-x86_64").unlink()
    for name in ("sh", "dirname", "sed", "env"):
        (copy.tools / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [copy.tools / "sh", copy.script], env={"PATH": str(copy.tools)}, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "apt-get install qemu-system-x86" in done.stderr


@pytest.mark.parametrize("name", arch.names())
@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_qemu_gets_what_orchestrate_gives_it(tmp_path: Path, name: str, accel: str) -> None:
    made = record(name)
    copy = Copy(tmp_path, made)
    done = copy.run(ACCEL=accel)
    # QEMU did not start: nothing is said about the kernel
    assert done.returncode == 3, done.stdout
    assert "no such machine" in done.stderr
    words = copy.words.read_text().splitlines()
    spec = made.machine(copy.root)
    cmdline = words[words.index("-append") + 1]
    nonce = next(word for word in cmdline.split() if word.startswith("orc.nonce="))
    epoch = next(word for word in cmdline.split() if word.startswith("orc.epoch="))
    assert abs(int(epoch.partition("=")[2]) - time.time()) < 60
    wanted = qemu.kernel_cmdline(spec, nonce=nonce.partition("=")[2], epoch=int(epoch.partition("=")[2]))
    assert cmdline == wanted
    theirs = qemu.argv(spec, accel=accel, folder=Path("/f"), initrd=Path("/i"), cmdline=wanted)[1:]
    # the console and the way to QEMU are the script's own
    here = words.index("-chardev"), words.index("-netdev")
    there = theirs.index("-chardev"), theirs.index("-netdev")
    initrd = words.index("-initrd") + 1
    words[initrd] = "/i"
    assert words[here[0] :][:6] == [
        "-chardev", "file,id=console,path=console", "-serial", "chardev:console", "-monitor", "stdio",
    ]  # fmt: skip
    rest = [w for w in words if w not in words[here[0] :][:6]]
    assert sorted(rest) == sorted(w for w in theirs if w not in theirs[there[0] : there[1]])


def test_keys_are_the_scripts_own_and_in_the_servers_form(copy: Copy) -> None:
    copy.run()
    initrd = copy.initrd.read_bytes()
    whole = b"".join((copy.root / name).read_bytes() for name in record().initrds)
    assert initrd.startswith(whole)
    files = {path: (mode, content) for path, mode, _, content in parse(initrd[len(whole) :])}
    assert files["root/.ssh"][0] == 0o040700
    mode, authorized = files["root/.ssh/authorized_keys"]
    assert mode == 0o100600
    assert authorized.startswith(b"ssh-ed25519 ")
    host = load_ssh_private_key((copy.root.parent / "host").read_bytes(), None)
    assert isinstance(host, Ed25519PrivateKey)
    assert files["etc/orchestrate/host_key"] == (0o100600, overlay.dropbear_key(host))


def test_nothing_is_left_behind_and_nothing_changed(copy: Copy) -> None:
    before = sorted(copy.root.rglob("*"))
    copy.run()
    assert sorted(copy.root.rglob("*")) == before
    assert not list(copy.root.parent.glob("tmp.*"))


def test_orchestrate_is_called_where_it_is_asked_for(copy: Copy) -> None:
    copy.tool("orchestrate", "printf '%s|' \"$@\"; exit 4")
    done = copy.run("--orchestrate", "--times", "3")
    assert done.returncode == 4
    assert done.stdout == "run|--arch|it's|--times|3|"


def test_cells_accelerator_is_taken_where_it_is_known(copy: Copy) -> None:
    (copy.script.parent / "qemu.json").write_text('{\n "accelerator": "tcg",\n "reason": ""\n}')
    text = copy.script.read_text().replace("cell_accel=tcg", "cell_accel=auto")
    copy.script.write_text(text)
    copy.run()
    assert "tcg,thread=multi" in copy.words.read_text()


# --- with a real guest ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of a run of three commands, of which two fail, copied to another place."""
    top = tmp_path_factory.mktemp("reproduce")
    words: list[str | Path] = [
        "--source",
        SOURCE,
        "--arch",
        "x86_64",
        "--variant",
        "per-vma-lock",
        "--out",
        top / "runs",
    ]
    words += ["--cmd", "uname -r; exit 0", "--cmd", "echo bad >&2; exit 3"]
    words += ["--cmd", "echo c >/proc/sysrq-trigger"]
    done = subprocess.run([*ORCHESTRATE, "run", *words], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    (run,) = latest.folders(top / "runs")
    shutil.copytree(run, top / "a copy")
    shutil.rmtree(top / "runs")
    (script,) = (top / "a copy/cells").glob(f"*/{reproduce.NAME}")
    return script


def alone(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it where there is neither orchestrate nor a home."""
    return subprocess.run(
        ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/proc/nonexistent", "sh", script, *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
        timeout=240,
    )


@pytest.mark.guest
def test_failures_are_reproduced_from_a_copy(elsewhere: Path) -> None:
    done = alone(elsewhere)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: exit status 3" in done.stdout
    assert "\nbad\n" in done.stdout
    assert "FAILED: the guest died" in done.stdout
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("these failed: cmd/cmd-2 cmd/cmd-3")


@pytest.mark.guest
def test_what_passes_passes_again(elsewhere: Path) -> None:
    done = alone(elsewhere, "cmd/cmd-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{elsewhere.parent.name.partition('-')[0]}\n" in done.stdout
    assert "nothing failed" in done.stdout


@pytest.mark.guest
def test_interrupt_leaves_nothing_behind(elsewhere: Path, tmp_path: Path, marker: str) -> None:
    from fakes.processes import alive, until

    place = tmp_path / marker
    place.mkdir()
    running = subprocess.Popen(
        ["sh", elsewhere, "cmd/cmd-1"],
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # a shell cannot trap what was ignored when it started, as in a job of a background shell
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert until(lambda: any(path.stat().st_size for path in place.glob("*/guest-1/console")))
    assert alive(marker)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(20) == 130
    assert until(lambda: not alive(marker))
    assert not list(place.iterdir())
