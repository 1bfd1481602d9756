# SPDX-License-Identifier: GPL-2.0-only
"""What every engine must do: the engine of this machine, and one in child processes that get only JSON.

Cells are real: their kernels are those of the made-up tree, configured and built. A new engine joins
``ENGINES``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from fakes.child_engine import ChildEngine
from fakes.linux import make_linux, path_with_fault

from orchestrator.cell.job import CellJob
from orchestrator.core import arch
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store
from orchestrator.engine.local import LocalEngine
from orchestrator.engine.protocol import Engine, Finished, Progress
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import Plan
from orchestrator.plan.target import target_of
from orchestrator.results.model import CellResult, Verdict
from orchestrator.source.model import Tree
from orchestrator.suites import catalog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
    ),
]

ENGINES: dict[str, Callable[[Store], Engine]] = {"local": LocalEngine, "child": ChildEngine}
VARIANTS = ("per-vma-lock", "mmap-lock")


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_linux(tmp_path_factory.mktemp("tree") / "linux")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all tests: a kernel that an engine has built is found by the others."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, store: Store) -> Engine:
    return ENGINES[request.param](store)


class Scene:
    """The plan and the inputs of a run that builds both variants."""

    def __init__(self, tree: Tree, store: Store, **changes: object) -> None:
        choices = Choices(**{"arches": (arch.host().name,), "variants": VARIANTS, "jobs": 1, **changes})  # type: ignore[arg-type]
        target = target_of("made-up", tree, Source(spec=str(tree.path)))
        self.plan: Plan = prepare.plan(choices, [target], ())
        self.inputs: Inputs = prepare.inputs(choices, [target], (), store)
        self.results: dict[str, CellResult] = {}
        self.asked: list[str] = []

    def jobs(self) -> Iterator[CellJob]:
        for cell in self.plan.cells:
            self.asked.append(cell.id)
            yield CellJob.of(cell, self.inputs, self.results, lambda _arch, _variant: None)

    def run(self, engine: Engine, root: Path, jobs: Sequence[CellJob] = ()) -> list[Progress | Finished]:
        reports = []
        for report in engine.run(jobs or self.jobs(), root):
            reports.append(report)
            if isinstance(report, Finished):
                self.results[report.result.cell] = report.result
        return reports


def same(result: CellResult) -> CellResult:
    """A result without what differs from one execution to the next."""
    cases = tuple(msgspec.structs.replace(case, duration_s=0.0) for case in result.cases)
    properties = {k: v for k, v in result.properties.items() if k != "build"}
    return msgspec.structs.replace(result, started_at="", duration_s=0.0, cases=cases, properties=properties)


def test_a_job_goes_to_json_and_back(linux: Tree, store: Store, tmp_path: Path) -> None:
    scene = Scene(linux, store)
    suites = {name: catalog.load(name) for name in ("maps", "locking")}
    inputs = msgspec.structs.replace(scene.inputs, suites=suites)
    cell = msgspec.structs.replace(scene.plan.cells[0], suites=tuple(suites))
    job = CellJob.of(cell, inputs, {}, lambda _arch, _variant: tmp_path)
    assert CellJob.from_json(job.to_json()) == job


def test_results_and_evidence(linux: Tree, store: Store, tmp_path: Path, engine: Engine) -> None:
    scene = Scene(linux, store)
    reports = scene.run(engine, tmp_path)
    ids = [cell.id for cell in scene.plan.cells]
    finished = [report for report in reports if isinstance(report, Finished)]
    assert [report.result.cell for report in finished] == ids
    assert len({report.attempt for report in finished}) == 2
    for report in finished:
        cases = {case.id: case.verdict for case in report.result.cases}
        assert cases == {"config": Verdict.PASS, "build": Verdict.PASS}
        own = [each for each in reports if each.attempt == report.attempt]
        assert own[-1] is report, "the result is the last report of an attempt"
        assert {each.event.cell for each in own[:-1] if isinstance(each, Progress)} == {report.result.cell}
        folder = tmp_path / "cells" / report.result.cell
        assert (folder / "config").is_file()
        assert (folder / "reproduce.sh").is_file()
        assert list((tmp_path / "artifacts").glob("*/vmlinux"))


def test_all_engines_give_the_same(linux: Tree, store: Store, tmp_path: Path) -> None:
    results = []
    for name, make in ENGINES.items():
        scene = Scene(linux, store)
        scene.run(make(store), tmp_path / name)
        results.append({cell: same(result) for cell, result in scene.results.items()})
    assert all(each == results[0] for each in results)


def test_the_next_job_is_asked_for_once_there_is_room(
    linux: Tree, store: Store, tmp_path: Path, engine: Engine
) -> None:
    scene = Scene(linux, store)
    for report in engine.run(scene.jobs(), tmp_path):
        if isinstance(report, Finished) and not scene.results:
            assert len(scene.asked) == 1
            scene.results[report.result.cell] = report.result
    assert len(scene.asked) == 2


def test_a_mistake_of_the_users_ends_it(linux: Tree, store: Store, tmp_path: Path, engine: Engine) -> None:
    scene = Scene(linux, store, kconfig=("CONFIG_NO_SUCH_SYMBOL=y",))
    with pytest.raises(UserError, match="CONFIG_NO_SUCH_SYMBOL"):
        scene.run(engine, tmp_path)
    assert len(scene.asked) == 1


def test_a_build_failure_is_not_found_out_twice(
    linux: Tree, store: Store, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path_with_fault(tmp_path / "fault", "error"))
    scene = Scene(linux, store, variants=VARIANTS[:1], kconfig=("CONFIG_PARENT=y",))
    cell = scene.plan.cells[0]
    again = msgspec.structs.replace(cell, id=f"{cell.id}-again")
    scene.plan = msgspec.structs.replace(scene.plan, cells=(cell, again))
    scene.run(engine, tmp_path)
    first, second = scene.results.values()
    (failure,) = (case for case in first.cases if case.verdict is Verdict.FAIL)
    assert second.cases == (failure,)


def test_a_cancelled_engine_yields_what_there_is(
    linux: Tree, store: Store, tmp_path: Path, engine: Engine
) -> None:
    scene = Scene(linux, Store(tmp_path / "cold"))
    finished = []
    for report in engine.run(scene.jobs(), tmp_path):
        if isinstance(report, Progress) and not engine.cancelled():
            engine.cancel()
        if isinstance(report, Finished):
            finished.append(report.result)
    assert engine.cancelled()
    assert len(scene.asked) == 1
    assert [result.interrupted for result in finished] in ([True], [])
