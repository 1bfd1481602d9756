# SPDX-License-Identifier: GPL-2.0-only
"""Killed anywhere, resumed, and nothing repeated: the tool as a process, with real guests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.processes import alive, kill_run, until
from under_test import ORCHESTRATE, SOURCE, results

from orchestrator.core.store import default_cache
from orchestrator.results.model import Verdict
from orchestrator.run import latest

pytestmark = pytest.mark.guest

RUN = ["run", "--source", SOURCE, "--arch", "x86_64", "--cmd", "true", "--cmd", "uname -r", "--accel", "tcg"]

#: What the second cell says when it is killed: each phase of a cell's way.
PHASES = (
    pytest.param("configuring", marks=pytest.mark.long),
    pytest.param("starting QEMU", marks=pytest.mark.long),
    "waiting for the kernel's banner",
    pytest.param("is starting", marks=pytest.mark.long),
    pytest.param("verifying the guest's identity", marks=pytest.mark.long),
    pytest.param("saving the booted guest", marks=pytest.mark.long),
    pytest.param("run: cmd/cmd-1", marks=pytest.mark.long),
    "restoring the booted guest",
    pytest.param("run: cmd/cmd-2", marks=pytest.mark.long),
    # the next one is being restored meanwhile
    pytest.param("shutting the guest down", marks=pytest.mark.long),
)


def _begin(words: list[str], out: Path, mark: str, **more: Any) -> subprocess.Popen[str]:
    """Start a run and wait until it says ``mark``."""
    running = subprocess.Popen(
        [*ORCHESTRATE, *words, "--out", str(out)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if re.search(mark, line):
            return running
    raise AssertionError(f"it ended without saying {mark!r}")


def _resume(out: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ORCHESTRATE, "run", "--resume", "last", "--out", str(out)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        **more,
    )


@pytest.mark.parametrize("mark", PHASES)
def test_killed_in_any_phase_and_resumed(tmp_path: Path, mark: str) -> None:
    kill_run(_begin(RUN, tmp_path, f"mmap-lock: .*{mark}"), tmp_path)
    (folder,) = latest.folders(tmp_path)
    (first,) = folder.glob("cells/*per-vma-lock/result.json")
    before = first.stat()
    assert not list(folder.glob("cells/*mmap-lock/result.json"))

    done = _resume(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cells, 1 of them done" in done.stdout
    # the first cell was neither repeated nor written again
    assert "per-vma-lock: boot" not in done.stdout
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    result = results(tmp_path)
    assert [c.variant for c in result.cells] == ["per-vma-lock", "mmap-lock"]
    assert {c.verdict for cell in result.cells for c in cell.all_cases()} == {Verdict.PASS}
    assert not result.interrupted
    # nothing is left to do, and that is quickly seen
    again = _resume(tmp_path)
    assert again.returncode == 0
    assert "2 cells, 2 of them done" in again.stdout
    assert "starting QEMU" not in again.stdout


@pytest.mark.parametrize("mark", ["run: cmd/cmd-1", "restoring the booted guest"])
def test_interrupted_with_ctrl_c_and_resumed(tmp_path: Path, mark: str) -> None:
    running = _begin(RUN, tmp_path, mark)
    running.send_signal(signal.SIGINT)
    assert running.stdout is not None
    rest = running.stdout.read()
    assert running.wait(30) == 130
    assert "orchestrate run --resume" in rest
    assert until(lambda: not alive(str(tmp_path)), 10)
    done = _resume(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_that_is_under_way_is_not_resumed_beside(tmp_path: Path) -> None:
    running = _begin(RUN, tmp_path, "starting QEMU")
    beside = _resume(tmp_path)
    assert beside.returncode == 2
    assert "is being executed by another process" in beside.stderr
    assert running.stdout is not None
    running.stdout.read()
    assert running.wait(60) == 0


@pytest.mark.long
def test_killed_while_it_builds_and_resumed(tmp_path: Path) -> None:
    """With a cache of its own, but the other's sources and compiled objects: it must not take minutes."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for shared in ("sources", "downloads", "apt", "debs", "images", "ccache", "programs"):
        if (default_cache() / shared).exists():
            (cache / shared).symlink_to(default_cache() / shared)
    out = tmp_path / "runs"
    environment = {**os.environ, "ORCHESTRATE_CACHE": str(cache)}
    running = _begin([*RUN, "--variant", "mmap-lock"], out, "building", env=environment)
    time.sleep(3)
    assert any(child.name() == "make" for child in psutil.Process(running.pid).children(recursive=True))
    kill_run(running, out)
    assert not list((cache / "kernels").glob("[!.]*"))
    done = _resume(out, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not results(out).interrupted
