# SPDX-License-Identifier: GPL-2.0-only
"""What a cell decides without a guest; with one, see guest/test_main_job.py."""

from __future__ import annotations

import pytest

from orchestrator.cell.state import CellState, meaning
from orchestrator.core.errors import Inconclusive, InfraError, KernelError, OrchestrateError
from orchestrator.plan.target import lacks_variant
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.source.classify import TreeClass


@pytest.mark.parametrize(
    ("tree_class", "variant", "moot"),
    [
        (TreeClass.ABSENT, "per-vma-lock", "no per-VMA locks"),
        (TreeClass.ABSENT, "mmap-lock", ""),
        (TreeClass.SELECTABLE, "per-vma-lock", ""),
        (TreeClass.SELECTABLE, "mmap-lock", ""),
        (TreeClass.UNIVERSAL, "per-vma-lock", ""),
        (TreeClass.UNIVERSAL, "mmap-lock", "universally"),
    ],
)
def test_question_that_does_not_arise(tree_class: TreeClass, variant: str, moot: str) -> None:
    assert moot in lacks_variant(tree_class, variant)
    assert bool(lacks_variant(tree_class, variant)) == bool(moot)


@pytest.mark.parametrize(
    ("error", "verdict", "blame"),
    [
        (KernelError("x"), Verdict.FAIL, Blame.KERNEL),
        (Inconclusive("x"), Verdict.INCONCLUSIVE, Blame.INFRA),
        (InfraError("x"), Verdict.ERROR, Blame.INFRA),
    ],
)
def test_meaning_of_errors(error: OrchestrateError, verdict: Verdict, blame: Blame) -> None:
    assert meaning(error) == (verdict, blame)


def test_of_several_guests_words_the_gravest_stands() -> None:
    cell = CellState.__new__(CellState)
    for first, second, stands in (
        (Verdict.ERROR, Verdict.CRASH, Verdict.CRASH),
        (Verdict.CRASH, Verdict.ERROR, Verdict.CRASH),
        (Verdict.FAIL, Verdict.PASS, Verdict.FAIL),
        (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
    ):
        cell.cases = []
        for verdict in (first, second):
            cell.put(Case(id="shutdown", verdict=verdict))
        assert [case.verdict for case in cell.cases] == [stands]
