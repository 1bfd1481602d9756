# SPDX-License-Identifier: GPL-2.0-only
"""Makefiles that attack, builds that are killed, caches that are wrong: with real make and bubblewrap."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path

import psutil
import pytest
from fakes.builds import build, spec_of
from fakes.linux import make_linux, path_with_fault
from fakes.processes import alive, until
from fakes.trees import snapshot

from orchestrator.core import sandbox
from orchestrator.core.errors import InfraError, OrchestrateError
from orchestrator.core.store import Store, file_digest
from orchestrator.kernel import build as kernels
from orchestrator.kernel import make, objdir
from orchestrator.source.model import Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
    ),
]
needs_bwrap = pytest.mark.skipif(bool(sandbox.missing()), reason=sandbox.missing())

#: Targets that a mailed patch may add: each act leaves its name in the log where it succeeds.
ATTACK = """
.PHONY: attack
attack:
	@cat {home}/token && echo ACT read the home || true
	@(echo x >{home}/planted) && echo ACT wrote to the home || true
	@touch planted && echo ACT changed the tree || true
	@bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo ACT reached the network || true
	@kill -0 {pid} && echo ACT saw processes of the host || true
	@env | grep secret && echo ACT read a token || true
	@echo x >{ccache}/planted && echo ACT wrote to the cache of trusted builds || true

all tinyconfig olddefconfig: attack
"""


@needs_bwrap
def test_a_hostile_makefile_in_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, home = Store(tmp_path / "cache"), tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("secret\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    (store.root / "ccache").mkdir(parents=True)
    logs = {}
    with socket.create_server(("127.0.0.1", 0)) as service:
        for sandboxed in (True, False):
            tree = make_linux(tmp_path / f"linux-{sandboxed}")
            with (tree.path / "Makefile").open("a") as makefile:
                makefile.write(
                    ATTACK.format(
                        home=home,
                        port=service.getsockname()[1],
                        pid=psutil.Process().pid,
                        ccache=store.root / "ccache",
                    )
                )
            before = snapshot(tree.path)
            kernel = build(spec_of(tree, sandboxed=sandboxed), store)
            assert (snapshot(tree.path) == before) == sandboxed
            logs[sandboxed] = (kernel.folder / "build.log").read_text()
            acts = {line for line in logs[sandboxed].splitlines() if line.startswith("ACT ")}
            # six of seven are the sandbox's to stop; the environment is clean in any case
            assert len(acts) == (0 if sandboxed else 6), acts
    assert kernel.cpu_s > 0
    assert "read a token" not in "".join(logs.values())


@needs_bwrap
def test_a_sandbox_changes_nothing_of_a_kernel(tmp_path: Path) -> None:
    tree = make_linux(tmp_path / "linux")
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    plain, boxed = build(spec_of(tree), one), build(spec_of(tree, sandboxed=True), two)
    assert plain.key == boxed.key
    assert file_digest(plain.image) == file_digest(boxed.image)
    # one that is known is not built again
    assert build(spec_of(tree, sandboxed=True), one).cached


@needs_bwrap
def test_a_tool_that_the_sandbox_lacks_makes_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kconfig records versions: what it records in a sandbox may be different."""
    tree = make_linux(tmp_path / "linux")
    plain, boxed = spec_of(tree), spec_of(tree, sandboxed=True)
    assert make.tool_versions(plain) == make.tool_versions(boxed)
    (tmp_path / "bin").mkdir()
    (tmp_path / "version").write_text("v1.30")
    (tmp_path / "bin/pahole").write_text(f"#!/bin/sh\ncat {tmp_path}/version\n")
    (tmp_path / "bin/pahole").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert "v1.30" in make.tool_versions(plain)
    assert "does not run" in make.tool_versions(boxed)


@needs_bwrap
def test_what_a_sandboxed_build_leaves_is_not_used_outside(tmp_path: Path) -> None:
    tree, store, place = make_linux(tmp_path / "linux"), Store(tmp_path / "cache"), tmp_path / "objects"
    build(spec_of(tree, sandboxed=True, workplace=place), store)
    assert (tmp_path / "objects-sandboxed/o/vmlinux").is_file()
    assert not place.exists()


@pytest.mark.parametrize("sandboxed", [False, pytest.param(True, marks=needs_bwrap)])
def test_kill_9_of_a_supervisor_leaves_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, sandboxed: bool
) -> None:
    tree, store = make_linux(tmp_path / "linux"), Store(tmp_path / "cache")
    spec = spec_of(tree, sandboxed=sandboxed, workplace=tmp_path / "objects")
    kernels.configure(spec, store)
    with monkeypatch.context() as shell:
        shell.setenv("PATH", path_with_fault(tmp_path / "fault", "slow", marker))
        errors: list[OrchestrateError] = []

        def run() -> None:
            try:
                build(spec, store)
            except OrchestrateError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert until(lambda: alive(marker), 60)
        supervisors = [
            process
            for process in psutil.Process().children()
            if any("supervisor.py" in word for word in process.cmdline())
        ]
        for supervisor in supervisors:
            supervisor.kill()
        thread.join(60)
    assert "supervisor died" in str(errors[0])
    assert isinstance(errors[0], InfraError)
    assert until(lambda: not alive(marker), 10)
    # and it is built in the end, from scratch
    assert build(spec, store).image.is_file()


def test_a_retry_ends_what_an_earlier_build_left(tmp_path: Path, marker: str) -> None:
    """Even what has left its session, of which no guard knows."""
    folder = tmp_path / "objects"
    env = {**make.environment(), make.OWNER: str(folder)}
    for other in (False, True):
        psutil.Popen(
            ["bash", "-c", f"exec -a {marker}-{other} sleep 300"],
            env={**env, make.OWNER: str(tmp_path / "another")} if other else env,
            start_new_session=True,
        )
    assert until(lambda: len(alive(marker)) == 2)
    with objdir.opened(folder, folder):
        assert not alive(f"{marker}-False")
        assert alive(f"{marker}-True"), "the build in another folder goes on"


@pytest.fixture
def linux(tmp_path: Path) -> Tree:
    return make_linux(tmp_path / "linux")


def poison(store: Store, kind: str, key: str, name: str, text: str) -> None:
    """Give an entry another file, with a seal that fits."""
    folder = store.entry(kind, key, lambda fresh: None)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    store.discard(kind, key)

    def make_again(fresh: Path) -> None:
        for other, content in files.items():
            (fresh / other).write_bytes(content)
        (fresh / name).write_text(text)

    store.entry(kind, key, make_again)


@pytest.mark.parametrize("what", ["of another architecture", "without our symbols", "torn", "removed"])
def test_a_wrong_configuration_in_the_cache_heals(linux: Tree, store: Store, what: str) -> None:
    spec = spec_of(linux)
    good = kernels.configure(spec, store)
    text, key = good.path.read_text(), good.path.parent.name
    said: list[str] = []
    if what == "of another architecture":
        other = "arm64" if spec.arch.name != "arm64" else "x86"
        poison(store, "configs", key, "config", f"# Linux/{other} 7.2.1 Kernel Configuration\n{text}")
    elif what == "without our symbols":
        poison(store, "configs", key, "config", "CONFIG_ODD=y\n")
    elif what == "torn":
        good.path.write_text(text[:100])
    else:
        good.path.unlink()
    assert kernels.configure(spec, store, say=said.append) == good
    assert good.path.read_text() == text
    assert len(said) == 1
    assert "configuring again" in said[0]
    said.clear()
    kernels.configure(spec, store, say=said.append)
    assert said == []


@pytest.mark.parametrize("what", ["of another architecture", "torn", "removed"])
def test_a_wrong_kernel_in_the_cache_heals(linux: Tree, store: Store, what: str) -> None:
    spec = spec_of(linux)
    good = build(spec, store)
    digest = file_digest(good.image)
    said: list[str] = []
    if what == "of another architecture":
        poison(store, "kernels", good.key, good.image.name, "MZ and what else an image has")
    elif what == "torn":
        good.image.write_bytes(b"torn")
    else:
        good.image.unlink()
    again = kernels.build(spec, store, say=said.append, jobs=1)
    assert file_digest(again.image) == digest
    assert not again.cached
    assert [line for line in said if "in the cache" in line and "building again" in line]


@pytest.mark.parametrize("what", ["directory", "other", "link"])
def test_a_wrong_config_among_objects_heals(linux: Tree, store: Store, tmp_path: Path, what: str) -> None:
    place = tmp_path / "objects"
    (place / "o").mkdir(parents=True)
    config = place / "o/.config"
    if what == "directory":
        config.mkdir()
    elif what == "link":
        (tmp_path / "victim").write_text("x")
        config.symlink_to(tmp_path / "victim")
    else:
        config.write_text("CONFIG_ARM64=y\n")
    kernel = build(spec_of(linux, workplace=place), store)
    assert kernel.config
    assert kernel.config.read_bytes() == config.read_bytes()
    assert what != "link" or (tmp_path / "victim").read_text() == "x"


def test_the_log_of_a_build_is_bounded(linux: Tree, store: Store) -> None:
    flood = "head -c 71000000 /dev/zero | tr '\\000' x | fold -w 60000"
    with (linux.path / "Makefile").open("a") as makefile:
        makefile.write(f"\n.PHONY: flood\nflood:\n\t@{flood}\n\nall: flood\n")
    kernel = build(spec_of(linux), store)
    size = sum(path.stat().st_size for path in kernel.folder.iterdir())
    assert size < (70 << 20)
