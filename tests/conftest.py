# SPDX-License-Identifier: GPL-2.0-only
"""What several tests need: a store, the host's architecture, programs compiled once, marked processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import mounts
from fakes.builds import spec_of
from fakes.command import Command
from fakes.dropbear import real_dropbear
from fakes.linux import make_linux_repository
from fakes.processes import alive
from fakes.trees import git
from filelock import FileLock
from hypothesis import settings

from orchestrator.core import arch, data
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.core.store import Store
from orchestrator.kernel import build
from orchestrator.source import checkout

# a busy host is no failure
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def _history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of tests are no part of the user's history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATE_HISTORY", str(tmp_path_factory.mktemp("history") / "history.sqlite"))
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty cache of the test's own."""
    return Store(tmp_path / "cache")


@pytest.fixture
def host_arch() -> Arch:
    """The architecture of this machine."""
    return arch.host()


@pytest.fixture(scope="session")
def linux_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``configs`` of a cache in which ``make_linux_repository`` is configured for this host.

    Copied to another cache it spares all tests but the first what is the same for each commit.
    """
    place = tmp_path_factory.mktemp("configs")
    repository = make_linux_repository(place / "linux")
    with checkout.opened(repository, cache=place / "cache") as shop:
        tree = shop.check_out(git(repository, "rev-parse", "HEAD").strip())
        build.pair_difference(spec_of(tree), Store(place / "cache"))
    return place / "cache/configs"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The command, in this process, in a folder and with a cache of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="session")
def orc_exec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's runner, compiled for this host."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    made = tmp_path_factory.mktemp("orc-exec") / "orc-exec"
    subprocess.run(["gcc", "-O1", "-o", str(made), str(data.guest() / "orc-exec.c")], check=True)
    return made


@pytest.fixture(scope="session")
def dropbear(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """argv of a real dropbear, out of Debian's packages the first time; nothing is installed."""
    if not mounts.possible():
        pytest.skip("cannot give dropbear a home here: needs root and mount namespaces")
    if found := shutil.which("dropbear"):
        return [found]
    cache = request.config.cache
    assert cache
    kept = cache.mkdir("dropbear")
    recorded = kept / "argv.json"
    # another worker may be at it: a program that runs cannot be written again
    with FileLock(kept / "lock"):
        if not recorded.exists():
            try:
                recorded.write_text(json.dumps(real_dropbear(kept)))
            except InfraError as error:
                pytest.skip(f"no dropbear to be had: {error.message}")
    argv: list[str] = json.loads(recorded.read_text())
    return argv


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A word for the command lines of a test's processes; what still has it at the end is killed."""
    word = f"orctest-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**8}"
    yield word
    for pid in alive(word):
        os.kill(pid, 9)
