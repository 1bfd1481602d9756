# SPDX-License-Identifier: GPL-2.0-only
"""The sandbox of builds, with real bubblewrap, and what a hostile command sees in it."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from orchestrator.core import sandbox
from orchestrator.core.environment import environment
from orchestrator.core.errors import InfraError

needs_bwrap = pytest.mark.skipif(bool(sandbox.missing()), reason=sandbox.missing())


class Scene:
    """A tree, a folder to build in, a home, and a service on loopback."""

    def __init__(self, top: Path) -> None:
        self.tree, self.folder, self.home = top / "tree", top / "folder", top / "home"
        for path in (self.tree, self.folder, self.home):
            path.mkdir()
        (self.tree / "file").write_text("the tree's")
        (self.home / "token").write_text("secret")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of bash in the sandbox."""
        argv = sandbox.command(["bash", "-c", script], tree=self.tree, writable=[self.folder])
        return subprocess.run(
            argv, env=environment(), capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@needs_bwrap
def test_a_build_can_read_its_tree_and_write_to_its_folder(scene: Scene) -> None:
    made = f"echo made >{scene.folder}/made"
    script = f"pwd; cat file; {made}; gcc --version >/dev/null; echo x >/tmp/x; cat /tmp/x"
    result = scene.run(script)
    assert result.stdout == f"{scene.tree}\nthe tree'sx\n", result.stderr
    assert (scene.folder / "made").read_text() == "made\n"
    assert not Path("/tmp/x").exists()


@needs_bwrap
@pytest.mark.parametrize(
    "act",
    [
        "echo x >>file",
        "rm file",
        "touch new",
        "chmod 777 .",
        "cat {home}/token",
        "ls {home}",
        "echo x >{home}/x",
        "ls /root/.ssh /home/*/.ssh",
        "cat /etc/shadow",
        "echo x >/usr/x",
        "mount -o remount,rw /usr",
        "kill -0 {pid}",
        "ls /proc/{pid}",
        "exec 3<>/dev/tcp/127.0.0.1/{port}",
        "ls /dev/sda /dev/vda /dev/mem /dev/kvm",
        "ls {home}/../folder/../home",
    ],
)
def test_what_a_build_cannot_do(scene: Scene, act: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        words = {"home": scene.home, "pid": os.getpid(), "port": service.getsockname()[1]}
        script = act.format(**words)
        open_host = subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{words['port']}"], check=False)
        assert open_host.returncode == 0, "it cannot be done on the host either"
        assert scene.run(script).returncode != 0
    assert (scene.tree / "file").read_text() == "the tree's"
    assert [path.name for path in scene.tree.iterdir()] == ["file"]


@needs_bwrap
def test_the_tokens_of_the_shell_are_not_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/secret")
    text = scene.run("env; cat /proc/*/environ | tr '\\0' '\\n'").stdout
    assert "secret" not in text
    assert "HOME=/proc/nonexistent" in text
    assert "TMPDIR=/tmp\n" in text


@needs_bwrap
def test_a_compiler_outside_the_system_is_seen_and_the_home_is_not(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = scene.home / "x-tools"
    (compiler / "lib/gcc").mkdir(parents=True)
    (compiler / "bin").mkdir()
    (compiler / "bin/x-gcc").write_text("#!/bin/sh\ncat $(dirname $0)/../lib/gcc/specs\n")
    (compiler / "bin/x-gcc").chmod(0o755)
    (compiler / "lib/gcc/specs").write_text("specs")
    monkeypatch.setenv("HOME", str(scene.home))
    # a careless PATH has the home itself
    monkeypatch.setenv("PATH", f"{scene.home}:{scene.home.parent}:.:{compiler}/bin:{os.environ['PATH']}")
    assert scene.run("x-gcc").stdout == "specs"
    assert scene.run(f"cat {scene.home}/token").returncode != 0


@needs_bwrap
def test_what_programs_of_path_need_is_seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers of rustup, and the scripts that pyenv and asdf have in place of programs."""
    (scene.home / "rust").mkdir()
    (scene.home / "rust/settings").write_text("rust")
    (scene.home / "pyenv/shims").mkdir(parents=True)
    (scene.home / "pyenv/shims/x").write_text("#!/bin/sh\ncat $(dirname $0)/../version\n")
    (scene.home / "pyenv/shims/x").chmod(0o755)
    (scene.home / "pyenv/version").write_text("python")
    monkeypatch.setenv("HOME", str(scene.home))
    monkeypatch.setenv("RUSTUP_HOME", str(scene.home / "rust"))
    monkeypatch.setenv("PATH", f"{scene.home}/pyenv/shims:{os.environ['PATH']}")
    assert scene.run(f"cat {scene.home}/rust/settings; x").stdout == "rustpython"
    assert scene.run(f"cat {scene.home}/token").returncode != 0


@pytest.mark.parametrize(
    ("setting", "untrusted", "possible", "result"),
    [
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("on", False, True, True),
        ("off", True, True, False),
    ],
)
def test_when_there_is_a_sandbox(
    monkeypatch: pytest.MonkeyPatch, setting: str, untrusted: bool, possible: bool, result: bool
) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "" if possible else "bubblewrap is not installed")
    assert sandbox.resolve(setting, untrusted=untrusted) is result


def test_it_is_demanded_and_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.missing.cache_clear()
    try:
        with pytest.raises(InfraError, match="--sandbox on: bubblewrap is not installed") as caught:
            sandbox.resolve("on", untrusted=True)
        assert "apt-get install bubblewrap" in caught.value.remedy
        with pytest.raises(InfraError, match="no sandbox for the build"):
            sandbox.command(["true"], tree=tmp_path, writable=[])
        # there, but not allowed to make namespaces
        (tmp_path / "bwrap").write_text(
            "#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n"
        )
        (tmp_path / "bwrap").chmod(0o755)
        sandbox.missing.cache_clear()
        assert (
            sandbox.missing()
            == "bubblewrap does not work here: bwrap: No permissions to create new namespace"
        )
        assert sandbox.resolve("auto", untrusted=True) is False
    finally:
        sandbox.missing.cache_clear()
