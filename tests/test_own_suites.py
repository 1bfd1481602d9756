# SPDX-License-Identifier: GPL-2.0-only
"""Our own suites on unmodified Linux 7.2, on both architectures and with both variants: no false alarm."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from under_test import ORCHESTRATE, SOURCE

from orchestrator.core import arch
from orchestrator.results.model import Case, CellResult, Verdict
from orchestrator.run.summary import RunResult

FUNCTIONAL = ("maps-coherency", "procmap-query", "locking", "progress")
BENCHMARKS = ("fault-scaling", "query-throughput", "reader-latency", "app-start")
#: What is known of this kernel, and only with per-VMA locks: see docs/findings and locking's README.
KNOWN = r"maps-coherency/maps-coherency\S*/gaps/.*|locking/locking-killed/.*"


def run(out: Path, *words: str) -> tuple[int, RunResult]:
    argv = [*ORCHESTRATE, "run", "--source", SOURCE, "--accel", "tcg", "--out", out]
    done = subprocess.run([*argv, *words], stdin=subprocess.DEVNULL, check=False, timeout=3600)
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return done.returncode, msgspec.json.decode((folder / "results.json").read_bytes(), type=RunResult)


@pytest.mark.guest
@pytest.mark.parametrize("name", arch.names())
def test_no_alarm_on_a_right_kernel(name: str, tmp_path: Path) -> None:
    words = [word for suite in FUNCTIONAL for word in ("--suite", suite)]
    code, result = run(tmp_path, "--arch", name, *words)
    assert [cell.variant for cell in result.cells] == ["per-vma-lock", "mmap-lock"]
    for cell in result.cells:
        assert {case.verdict for case in cell.cases} == {Verdict.PASS}
        assert [suite.suite for suite in cell.suites] == list(FUNCTIONAL)
        for suite in cell.suites:
            bad = [
                c for c in suite.cases if c.verdict not in (Verdict.PASS, Verdict.SKIP) and not known(cell, c)
            ]
            assert not bad, bad
            assert Verdict.PASS in {case.verdict for case in suite.cases}
        # that the kernel under test uses per-VMA locks at all, and the other one not
        locking = {
            c.id.removeprefix("locking/locking/"): c for c in cell.all_cases() if c.id.startswith("locking/")
        }
        for file in ("maps", "smaps", "numa_maps", "query", "smaps_rollup"):
            assert locking[f"{file}/quiet"].verdict is Verdict.PASS
    assert code == 0


def known(cell: CellResult, case: Case) -> bool:
    foretold = re.fullmatch(KNOWN, case.id) and cell.variant == "per-vma-lock"
    return case.verdict is Verdict.KNOWN and bool(foretold)


@pytest.mark.long
@pytest.mark.parametrize("name", arch.names())
def test_benchmarks_prove_their_work(name: str, tmp_path: Path) -> None:
    words = [word for suite in BENCHMARKS for word in ("--suite", suite)]
    _, result = run(tmp_path, "--arch", name, "--boots", "1", *words)
    for cell in result.cells:
        for suite in cell.suites:
            # a busy host is no fault of theirs
            assert {case.verdict for case in suite.cases} <= {Verdict.PASS, Verdict.INCONCLUSIVE}
            if "host" not in cell.properties:
                assert suite.metrics
                assert suite.better
