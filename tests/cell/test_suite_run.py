# SPDX-License-Identifier: GPL-2.0-only
"""The programs of a cell, one after the other: what a fault, a kill and an interrupt cost. No guest boots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cell import checkpoint, fault, health, suite_run
from orchestrator.cell.checkpoint import MOST_ATTEMPTS
from orchestrator.cell.program import ProgramResult
from orchestrator.cell.state import CellState
from orchestrator.cell.suite_run import SuiteRun
from orchestrator.core.errors import InfraError, Interrupted, UserError
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import Case, SuiteResult, Verdict
from orchestrator.suites.catalog import Program, Suite

NAMES = ("a", "b", "c")
SUITE = Suite(name="s", description="d", timeout_s=10, program=tuple(Program(name=name) for name in NAMES))
PASS, ERROR = Verdict.PASS, Verdict.ERROR


class Killed(BaseException):
    """What no handler sees: the process is gone."""


class Scene:
    """A cell whose programs do what ``acts`` says, by name; otherwise they pass."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = folder, monkeypatch
        self.acts: dict[str, Callable[[], Any]] = {}
        self.ran: list[str] = []
        self.stop = False
        queue = lambda *_: [(SUITE, name) for name in NAMES]  # noqa: E731
        monkeypatch.setattr(suite_run, "program_queue", queue)
        monkeypatch.setattr(suite_run, "shut_down", lambda cell, guest, after: None)
        monkeypatch.setattr(health, "check", lambda cell, guest, result, *_: result)
        monkeypatch.setattr(suite_run, "selftests_tree", lambda cell: None)
        monkeypatch.setattr(suite_run.SuiteRun, "_run_program", self._run_program)

    def _run_program(self, guest: object, suite: Suite, name: str) -> ProgramResult:
        self.ran.append(name)
        result = self.acts.get(name, lambda: None)()
        return result or ProgramResult(cases=(Case(id=f"s/{name}", verdict=PASS),))

    def cell(self) -> CellState:
        cell = CellState.__new__(CellState)
        choices = SimpleNamespace(strict=True, flavors=())
        inputs = SimpleNamespace(choices=choices, known=(), selftests=None)
        cell.job = SimpleNamespace(inputs=inputs)  # type: ignore[assignment]
        cell.plan = SimpleNamespace(  # type: ignore[assignment]
            id="cell", arch="x86_64", variant="per-vma-lock", only_vsyscall=False
        )
        cell.target = SimpleNamespace(version="7.2")  # type: ignore[assignment]
        cell.host = SimpleNamespace(root=self.root, cancelled=lambda: self.stop, store=None)  # type: ignore[assignment]
        cell.folder = self.root / "cells/cell"
        cell.say = lambda phase, text: None
        cell.cases, cell.suites, cell.properties, cell.release = [], [], {}, "7.2"
        cell.guests = cell.dumps = 0
        cell.watch = ConsoleWatch()
        return cell

    def run(self, key: str = "key") -> tuple[CellState, dict[str, Case]]:
        cell = self.cell()
        cell.folder.mkdir(parents=True, exist_ok=True)
        self.ran = []

        def guest(left: int) -> Any:
            cell.guests += 1
            return SimpleNamespace(close=lambda: None, pid=1, factor=1.0)

        guests: Any = SimpleNamespace(one_each=True, next=guest, ahead=lambda left: None, close=lambda: None)
        kernel: Any = None
        SuiteRun(cell, [SUITE], {}, kernel, checkpoint.load(cell.folder, key)).execute(guests)
        result: SuiteResult = cell.suites[0]
        return cell, {case.id: case for case in result.cases}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def raises(error: BaseException) -> Callable[[], Any]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("int too large to convert to float"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ZeroDivisionError(),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_costs_one_program(scene: Scene, error: Exception) -> None:
    scene.acts["b"] = raises(error)
    cell, cases = scene.run()
    assert {name: case.verdict for name, case in cases.items()} == {"s/a": PASS, "s/b": ERROR, "s/c": PASS}
    assert cases["s/b"].reason.startswith(f"internal error: {type(error).__name__}")
    assert "internal-error.txt" in cases["s/b"].detail
    assert type(error).__name__ in (cell.folder / fault.FILE).read_text()
    # and is not hit again
    scene.run()
    assert scene.ran == []


def test_a_full_disk_is_no_internal_error(scene: Scene) -> None:
    scene.acts["b"] = raises(OSError(28, "No space left on device", "/x"))
    assert scene.run()[1]["s/b"].reason == "/x: No space left on device"


def test_an_error_of_ours_keeps_its_words(scene: Scene) -> None:
    scene.acts["b"] = raises(InfraError("QEMU is gone", remedy="Look."))
    case = scene.run()[1]["s/b"]
    assert (case.verdict, case.reason, case.detail) == (ERROR, "QEMU is gone", "Look.")


def test_a_fault_of_the_look_afterwards_keeps_the_other_cases(scene: Scene) -> None:
    def check(cell: object, guest: object, result: ProgramResult, case_id: str, _: object) -> ProgramResult:
        if case_id == "s/b":
            raise KeyError("x")
        return result

    scene.acts["b"] = lambda: ProgramResult(cases=(Case(id="s/b/1", verdict=Verdict.FAIL),))
    scene.monkeypatch.setattr(health, "check", check)
    cases = scene.run()[1]
    assert {name: case.verdict for name, case in cases.items()} == {
        "s/a": PASS,
        "s/b/1": Verdict.FAIL,
        "s/b": ERROR,
        "s/c": PASS,
    }


def test_a_mistake_of_the_users_ends_the_run(scene: Scene) -> None:
    scene.acts["b"] = raises(UserError("no such point"))
    with pytest.raises(UserError):
        scene.run()


def test_a_killed_run_repeats_only_the_program_that_ran(scene: Scene) -> None:
    scene.acts["b"] = raises(Killed())
    with pytest.raises(Killed):
        scene.run()
    del scene.acts["b"]
    cell, cases = scene.run()
    assert scene.ran == ["b", "c"]
    assert {case.verdict for case in cases.values()} == {PASS}
    # its consoles do not overwrite those of the first attempt
    assert cell.guests == 4


def test_who_kills_the_run_again_and_again_is_left_out(scene: Scene) -> None:
    scene.acts["b"] = raises(Killed())
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(Killed):
            scene.run()
    cases = scene.run()[1]
    assert scene.ran == ["c"]
    assert cases["s/a"].verdict is PASS
    assert cases["s/b"].verdict is ERROR
    assert "was killed each of 3 times" in cases["s/b"].reason


def test_an_interrupt_is_no_fault_of_the_program(scene: Scene) -> None:
    def interrupt() -> None:
        scene.stop = True

    scene.acts["b"] = interrupt
    for _ in range(2 * MOST_ATTEMPTS):
        scene.stop = False
        scene.run()
    del scene.acts["b"]
    scene.stop = False
    cases = scene.run()[1]
    assert scene.ran == ["b", "c"]
    assert {case.verdict for case in cases.values()} == {PASS}


def test_the_cells_own_cases_are_kept(scene: Scene) -> None:
    crash = Case(id="shutdown", verdict=Verdict.CRASH, reason="late")
    scene.monkeypatch.setattr(suite_run, "shut_down", lambda cell, guest, after: cell.put(crash))
    scene.acts["c"] = raises(Killed())
    with pytest.raises(Killed):
        scene.run()
    scene.monkeypatch.setattr(suite_run, "shut_down", lambda cell, guest, after: None)
    del scene.acts["c"]
    assert scene.run()[0].cases == [crash]


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "key", "programs": 3}', b'{"key": "other"}'])
def test_a_progress_that_is_none_is_begun_anew(scene: Scene, content: bytes) -> None:
    scene.run()
    (scene.root / "cells/cell" / checkpoint.FILE).write_bytes(content)
    scene.run()
    assert scene.ran == list(NAMES)


def test_a_disk_that_is_full_costs_no_result(scene: Scene) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise InfraError("full")

    scene.monkeypatch.setattr(checkpoint, "write_atomically", no_room)
    assert {case.verdict for case in scene.run()[1].values()} == {PASS}


def test_interrupted_between_programs(scene: Scene) -> None:
    scene.acts["b"] = raises(Interrupted("x"))
    cases = scene.run()[1]
    assert cases["s/a"].verdict is PASS
    assert cases["s/c"].verdict is Verdict.INCONCLUSIVE


def fails_by(fault: str, name: str) -> Callable[[], ProgramResult]:
    crash = Case(id=f"s/{name}", verdict=Verdict.CRASH, reason="WARNING in m_start")
    return lambda: ProgramResult(cases=(crash,), lost=True, fault=fault)


def test_the_same_fault_takes_down_two_programs_and_no_more(scene: Scene) -> None:
    scene.acts |= {name: fails_by("warning-in-m_start", name) for name in NAMES}
    cases = scene.run()[1]
    assert scene.ran == ["a", "b"]
    assert cases["s/c"].verdict is Verdict.INCONCLUSIVE
    assert cases["s/c"].reason.startswith("not run: warning-in-m_start took down s/a and s/b")


@pytest.mark.parametrize("faults", [("f", "g"), ("f", ""), ("", "")])
def test_other_faults_leave_the_rest_its_turn(scene: Scene, faults: tuple[str, str]) -> None:
    scene.acts |= {name: fails_by(fault, name) for name, fault in zip("ab", faults, strict=True)}
    assert scene.run()[1]["s/c"].verdict is PASS


def test_a_killed_run_remembers_the_fault(scene: Scene) -> None:
    scene.acts |= {"a": fails_by("f", "a"), "b": raises(Killed())}
    with pytest.raises(Killed):
        scene.run()
    scene.acts["b"] = fails_by("f", "b")
    scene.run()
    assert scene.ran == ["b"]
