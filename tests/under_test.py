# SPDX-License-Identifier: GPL-2.0-only
"""What tests with real kernels work on: the command, and the kernels that they give it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
from paths import DATA

from orchestrator.core.arch import HEADER_SIZE, Arch
from orchestrator.results.model import Case, CellResult, Verdict
from orchestrator.run import latest
from orchestrator.run.summary import RunResult

ORCHESTRATE = [sys.executable, "-m", "orchestrator.cli.main"]
#: What tests/broken, provoke.patch and the other changes of ours apply to.
LINUX_7_2 = "debian:trixie-backports/linux-source-7.2"
LINUX_6_12 = "debian:bookworm-backports/linux-source-6.12"
LINUX_6_1 = "debian:bookworm/linux-source-6.1"
#: The kernel of `make test`; one with per-VMA locks in /proc/PID/maps.
SOURCE = os.environ.get("ORCHESTRATE_TEST_SOURCE", LINUX_7_2)
#: Mends what unmodified 7.2 has of its own: finding 0001.
FIX_GAP = DATA / "fix-gap.patch"
#: What is known of this kernel, and only with per-VMA locks: see docs/findings and locking's README.
KNOWN = r"maps-coherency/maps-coherency\S*/gaps/.*|locking/locking-killed/.*"


def orchestrate(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Call the command; what it prints is shown where the test fails."""
    done = subprocess.run([*ORCHESTRATE, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(done.stdout, done.stderr)
    return done


def results(out: Path) -> RunResult:
    """What the only run in a folder came to."""
    (folder,) = latest.folders(out)
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=RunResult)


def run(out: Path, *words: str) -> tuple[int, RunResult]:
    """Exit code and result of a run of the kernel of `make test`, emulated: the same on every host."""
    argv: list[str | Path] = [*ORCHESTRATE, "run", "--source", SOURCE, "--accel", "tcg", "--out", out]
    done = subprocess.run([*argv, *words], stdin=subprocess.DEVNULL, check=False, timeout=3600)
    return done.returncode, results(out)


def known(cell: CellResult, case: Case) -> bool:
    """Whether it is a known failure, and one that this kernel is known for."""
    foretold = re.fullmatch(KNOWN, case.id) and cell.variant == "per-vma-lock"
    return case.verdict is Verdict.KNOWN and bool(foretold)


def image_head(known: Arch) -> bytes:
    """As much of a boot image as tells which architecture it is for."""
    head = bytearray(HEADER_SIZE)
    magic = known.header.magic.encode()
    head[known.header.at : known.header.at + len(magic)] = magic
    return bytes(head)
