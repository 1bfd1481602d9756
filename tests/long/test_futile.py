# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that flood or hang (make test-long TARGET=futile): a verdict within three minutes a cell."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_tree import BrokenTree
from paths import DATA, RUNS, TESTS
from under_test import orchestrate, results

from orchestrator.results.model import Blame, Verdict
from orchestrator.run import latest

pytestmark = pytest.mark.long

MOST_S = 180.0
MOST_CONSOLE = 8 << 20
#: One that prints without end, and two that leave a lock behind.
KERNELS = {
    "flood": DATA / "flood.patch",
    "rejected": TESTS / "broken/07-rejected-stays-locked.patch",
    "stop": TESTS / "broken/13-stop-stays-locked.patch",
}


@pytest.fixture(scope="module")
def tree() -> Iterator[BrokenTree]:
    made = BrokenTree()
    yield made
    made.remove()


@pytest.mark.parametrize("name", KERNELS)
def test_what_cannot_change_is_not_waited_for(tree: BrokenTree, name: str) -> None:
    tree.apply([KERNELS[name]])
    words: list[str | Path] = ["--source", tree.path, "--arch", "x86_64", "--variant", "per-vma-lock"]
    assert orchestrate("build", *words).returncode == 0
    out = RUNS / f"futile-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{name}"
    done = orchestrate("run", *words, "--accel", "tcg", "--out", out)
    assert done.returncode == 1
    (cell,) = [cell for cell in results(out).cells if not any(s.kind == "benchmark" for s in cell.suites)]
    assert cell.duration_s < MOST_S
    (folder,) = latest.folders(out)
    consoles = sum(path.stat().st_size for path in folder.glob(f"cells/{cell.cell}/console*.log"))
    assert consoles < MOST_CONSOLE
    cases = [case for suite in cell.suites for case in suite.cases]
    assert [case for case in cases if case.verdict is Verdict.CRASH and case.blame is Blame.KERNEL]
    left_out = [case for case in cases if case.reason.startswith("not run: ")]
    assert all(case.verdict is Verdict.INCONCLUSIVE for case in left_out)
