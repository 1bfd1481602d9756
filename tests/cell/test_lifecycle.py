# SPDX-License-Identifier: GPL-2.0-only
"""What is raised inside a cell, wherever: an ERROR of that cell, and the run continues."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cell import fault, lifecycle, stack_traces
from orchestrator.cell.state import CellState
from orchestrator.core.errors import UserError
from orchestrator.results.model import Case, CellResult, Verdict, exit_code


@pytest.fixture
def cell(tmp_path: Path) -> CellState:
    made = CellState.__new__(CellState)
    made.plan = SimpleNamespace(id="c", label="l", arch="x86_64", variant="per-vma-lock", boot=0)  # type: ignore[assignment]
    made.host = SimpleNamespace(root=tmp_path, cancelled=lambda: False)  # type: ignore[assignment]
    made.folder = tmp_path / "cells/c"
    made.say = lambda phase, text: None
    made.cases, made.suites, made.properties = [Case(id="build", verdict=Verdict.PASS)], [], {}
    made.release = made.prebuilt_variant = ""
    return made


def execute(cell: CellState, monkeypatch: pytest.MonkeyPatch) -> CellResult:
    job: Any = None
    host: Any = None
    monkeypatch.setattr(lifecycle, "CellState", lambda *_: cell)
    monkeypatch.setattr(lifecycle, "_write_reproducer", lambda _: None)
    return lifecycle.execute(job, host, cell.say)


@pytest.mark.parametrize(
    "error", [OverflowError("too large"), RecursionError(), OSError(5, "Input/output error", "/x")]
)
@pytest.mark.parametrize("place", ["_execute", "add_to_result"])
def test_it_is_an_error_of_the_cell(
    cell: CellState, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(lifecycle, "_execute", lambda _: None)
    monkeypatch.setattr(stack_traces, "add_to_result", lambda _, result: result)
    monkeypatch.setattr(lifecycle if place == "_execute" else stack_traces, place, fails)
    result = execute(cell, monkeypatch)
    assert [(case.id, case.verdict) for case in result.cases] == [
        ("build", Verdict.PASS),
        ("cell", Verdict.ERROR),
    ]
    assert exit_code(result.cases) == 3
    assert type(error).__name__ in (cell.folder / fault.FILE).read_text()


def test_a_mistake_of_the_users_is_passed_on(cell: CellState, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise UserError("no such symbol")

    monkeypatch.setattr(lifecycle, "_execute", fails)
    with pytest.raises(UserError, match="no such symbol"):
        execute(cell, monkeypatch)
