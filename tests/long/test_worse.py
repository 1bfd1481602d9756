# SPDX-License-Identifier: GPL-2.0-only
"""Known failures hide nothing worse (make test-long TARGET=worse): the finding's kernel, and worse ones."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_tree import BrokenTree
from paths import DATA, RUNS, TESTS
from under_test import known, orchestrate, results

from orchestrator.results.model import AT_FAULT, Case, CellResult, Verdict

pytestmark = pytest.mark.long

SUITE = "maps-coherency"
QUIET_RUNS = 20
#: On top of what the finding describes each lacks a validation, or what makes it good; the first lacks both.
WORSE_KERNELS = (
    DATA / "no-validation.patch",
    TESTS / "broken/02-late-speculation.patch",
    TESTS / "broken/04-retry-goes-on.patch",
)


@pytest.fixture(scope="module")
def tree() -> Iterator[BrokenTree]:
    made = BrokenTree()
    yield made
    made.remove()


def run(tree: BrokenTree, name: str, *words: str) -> tuple[int, list[CellResult]]:
    out = RUNS / f"worse-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{name}"
    done = orchestrate(
        "run", "--source", tree.path, "--arch", "x86_64", "--variant", "per-vma-lock", "--accel", "tcg",
        "--suite", SUITE, "--out", out, *words,
    )  # fmt: skip
    return done.returncode, list(results(out).cells)


def test_the_findings_kernel_stays_known(tree: BrokenTree) -> None:
    tree.apply(())
    code, cells = run(tree, "quiet", "--times", str(QUIET_RUNS))
    assert len(cells) == QUIET_RUNS
    loud = [(c.id, c.verdict, c.reason) for cell in cells for c in cell.all_cases() if not quiet(cell, c)]
    assert loud == []
    assert code == 0


def quiet(cell: CellResult, case: Case) -> bool:
    return case.verdict in (Verdict.PASS, Verdict.SKIP, Verdict.NA) or known(cell, case)


@pytest.mark.parametrize("patch", WORSE_KERNELS, ids=lambda path: path.stem)
def test_a_worse_kernel_is_red(tree: BrokenTree, patch: Path) -> None:
    tree.apply([patch])
    # as often as it takes: one run of some seconds meets few of these windows
    code, cells = run(tree, patch.stem, "--until-fail", "--times", "5")
    red = [case for cell in cells for case in cell.all_cases() if case.verdict in AT_FAULT]
    print(*(f"{case.id}: {case.reason}" for case in red), sep="\n")
    assert code == 1
    assert red
