# SPDX-License-Identifier: GPL-2.0-only
"""Our own suites on unmodified Linux 7.2, on both architectures and with both variants: no false alarm."""

from __future__ import annotations

from pathlib import Path

import pytest
from under_test import known, run

from orchestrator.core import arch
from orchestrator.results.model import Verdict

FUNCTIONAL = ("maps-coherency", "procmap-query", "locking", "progress")
BENCHMARKS = ("fault-scaling", "query-throughput", "reader-latency", "app-start")


@pytest.mark.guest
@pytest.mark.parametrize("name", arch.usual())
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


@pytest.mark.long
@pytest.mark.parametrize("name", arch.usual())
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
