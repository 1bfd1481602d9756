# SPDX-License-Identifier: GPL-2.0-only
"""What several tests need: a store, the host's architecture, programs compiled once, marked processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import alive

from orchestrator import arch, data
from orchestrator.arch import Arch
from orchestrator.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty cache of the test's own."""
    return Store(tmp_path / "cache")


@pytest.fixture
def host_arch() -> Arch:
    """The architecture of this machine."""
    return arch.host()


@pytest.fixture(scope="session")
def orc_exec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's runner, compiled for this host."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    made = tmp_path_factory.mktemp("orc-exec") / "orc-exec"
    subprocess.run(["gcc", "-O1", "-o", str(made), str(data.guest() / "orc-exec.c")], check=True)
    return made


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A word for the command lines of a test's processes; what still has it at the end is killed."""
    word = f"orctest-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**8}"
    yield word
    for pid in alive(word):
        os.kill(pid, 9)
