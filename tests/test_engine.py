# SPDX-License-Identifier: GPL-2.0-only
"""The engine of one machine: order, cells that must be alone, cancelling, exceptions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes.processes import until

from orchestrator.core.process import Supervised
from orchestrator.engine.local import LocalEngine
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import CellResult


def cells(*names: str) -> list[CellPlan]:
    """Cells of those names; ``!`` at the end marks one that must be alone."""
    return [
        CellPlan(
            id=name,
            label="7.2",
            arch="x86_64",
            variant="mmap-lock",
            suites=(),
            smp=2,
            mem_mib=512,
            alone=name.endswith("!"),
        )
        for name in names
    ]


class Work:
    """Carries cells out, and sees how many are at work beside each."""

    def __init__(self, together: int = 1) -> None:
        self.started: list[str] = []
        self.beside: dict[str, int] = {}
        self._lock = threading.Lock()
        self._at_work: list[str] = []
        self._together = together
        self.failing = ""

    def __call__(self, cell: CellPlan) -> CellResult:
        with self._lock:
            self.started.append(cell.id)
            self._at_work.append(cell.id)
            for name in self._at_work:
                self.beside[name] = max(self.beside.get(name, 0), len(self._at_work) - 1)
        # time enough for others to come, whom this one wants or must not have
        until(lambda: len(self._at_work) >= (2 if cell.alone else self._together), 0.2)
        with self._lock:
            self._at_work.remove(cell.id)
        if cell.id == self.failing:
            raise KeyError(cell.id)
        return CellResult(cell=cell.id)


def test_one_after_the_other_in_the_order_of_the_plan() -> None:
    work = Work()
    names = [f"{n}" for n in range(6)]
    done = list(LocalEngine().carry_out(cells(*names), work))
    assert [(cell.id, result.cell) for cell, result in done] == [(n, n) for n in names]
    assert work.started == names
    assert set(work.beside.values()) == {0}


def test_some_at_once_but_not_those_that_must_be_alone() -> None:
    work = Work(together=3)
    names = ["a", "b", "c", "d!", "e!", "f", "g", "h", "i!"]
    done = [cell.id for cell, _ in LocalEngine(3).carry_out(cells(*names), work)]
    assert sorted(done) == names
    assert {name: n for name, n in work.beside.items() if name.endswith("!")} == {"d!": 0, "e!": 0, "i!": 0}
    assert {work.beside[name] for name in "abcfgh"} == {2}
    assert [name for name in work.started if name.endswith("!")] == ["d!", "e!", "i!"]


def test_a_cancelled_engine_starts_nothing_more(tmp_path: Path) -> None:
    engine, work = LocalEngine(), Work()
    child = Supervised(["sleep", "300"], limit_s=300, output=tmp_path / "output")
    done = []
    for cell, _ in engine.carry_out(cells("a", "b", "c"), work):
        done.append(cell.id)
        assert not engine.cancelled()
        engine.cancel()
    # the next may have been started while the first one's result was on its way
    assert done in (["a"], ["a", "b"])
    assert work.started == done
    assert engine.cancelled()
    outcome = child.wait(30)
    assert outcome
    assert outcome.reason == "parent"


def test_an_exception_comes_out_and_ends_the_rest() -> None:
    work = Work()
    work.failing = "b"
    going = LocalEngine().carry_out(cells("a", "b", "c"), work)
    assert next(going)[0].id == "a"
    with pytest.raises(KeyError, match="b"):
        next(going)
    assert work.started == ["a", "b"]


def test_no_thread_is_left() -> None:
    list(LocalEngine(2).carry_out(cells("a", "b"), Work()))
    assert not [t for t in threading.enumerate() if t.name.startswith("cell")]
