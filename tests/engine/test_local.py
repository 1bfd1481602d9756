# SPDX-License-Identifier: GPL-2.0-only
"""The engine of this machine: order, cells that must be alone, cancelling, exceptions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from fakes.processes import until

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.cell.state import Say
from orchestrator.core.process import Supervised
from orchestrator.core.store import Store
from orchestrator.engine import worker
from orchestrator.engine.local import LocalEngine, Room
from orchestrator.engine.protocol import Finished, Progress
from orchestrator.plan.choices import Choices
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import CellResult


def jobs(*names: str) -> list[CellJob]:
    """Jobs of those names; ``!`` at the end marks one that must be alone."""
    choices = Choices(arches=("x86_64",), variants=("mmap-lock",))
    return [
        CellJob(
            plan=CellPlan(
                id=name,
                label="7.2",
                arch="x86_64",
                variant="mmap-lock",
                suites=(),
                smp=2,
                mem_mib=512,
                alone=name.endswith("!"),
            ),
            inputs=Inputs(choices=choices, targets={}),
            attempt=f"{name}.1",
        )
        for name in names
    ]


class Work:
    """Stands for the execution of cells, and counts how many are at work beside each."""

    def __init__(self, together: int = 1) -> None:
        self.started: list[str] = []
        self.beside: dict[str, int] = {}
        self._lock = threading.Lock()
        self._at_work: list[str] = []
        self._together = together
        self.failing = ""

    def __call__(self, job: CellJob, host: Host, say: Say) -> CellResult:
        cell = job.plan
        say("run", "at work")
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


class Scene:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, monkeypatch

    def engine(self, work: Work, parallel: int = 1, room: Room | None = None) -> LocalEngine:
        self._patch.setattr(worker, "execute", work)
        return LocalEngine(Store(self.folder / "cache"), room or Room(parallel))

    def run(self, engine: LocalEngine, those: Sequence[CellJob]) -> list[str]:
        reports = engine.run(those, self.folder)
        return [report.result.cell for report in reports if isinstance(report, Finished)]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_one_after_the_other_in_the_order_of_the_plan(scene: Scene) -> None:
    work = Work()
    names = [f"{n}" for n in range(6)]
    assert scene.run(scene.engine(work), jobs(*names)) == names
    assert work.started == names
    assert set(work.beside.values()) == {0}


def test_the_reports_of_an_attempt_come_in_order(scene: Scene) -> None:
    reports = list(scene.engine(Work()).run(jobs("a", "b"), scene.folder))
    assert [(type(report), report.attempt) for report in reports] == [
        (Progress, "a.1"), (Finished, "a.1"), (Progress, "b.1"), (Finished, "b.1"),
    ]  # fmt: skip


def test_some_at_once_but_not_those_that_must_be_alone(scene: Scene) -> None:
    work = Work(together=3)
    names = ["a", "b", "c", "d!", "e!", "f", "g", "h", "i!"]
    assert sorted(scene.run(scene.engine(work, 3), jobs(*names))) == names
    assert {name: n for name, n in work.beside.items() if name.endswith("!")} == {"d!": 0, "e!": 0, "i!": 0}
    assert {work.beside[name] for name in "abcfgh"} == {2}
    assert [name for name in work.started if name.endswith("!")] == ["d!", "e!", "i!"]


def test_a_cancelled_engine_starts_nothing_more(scene: Scene, tmp_path: Path) -> None:
    work = Work()
    engine = scene.engine(work)
    child = Supervised(["sleep", "300"], limit_s=300, output=tmp_path / "output")
    done = []
    for report in engine.run(jobs("a", "b", "c"), tmp_path):
        if isinstance(report, Finished):
            done.append(report.result.cell)
            assert not engine.cancelled()
            engine.cancel()
    assert done == ["a"]
    assert work.started == done
    assert engine.cancelled()
    outcome = child.wait(30)
    assert outcome
    assert outcome.reason == "parent"


def test_an_exception_comes_out_and_ends_the_rest(scene: Scene) -> None:
    work = Work()
    work.failing = "b"
    reports = scene.engine(work).run(jobs("a", "b", "c"), scene.folder)
    finished = (report for report in reports if isinstance(report, Finished))
    assert next(finished).result.cell == "a"
    with pytest.raises(KeyError, match="b"):
        next(finished)
    assert work.started == ["a", "b"]


def test_no_thread_is_left(scene: Scene) -> None:
    scene.run(scene.engine(Work(), 2), jobs("a", "b"))
    assert not [t for t in threading.enumerate() if t.name.startswith("cell")]


def guests(count: int, *, smp: int, mem_mib: int) -> list[CellJob]:
    return [
        msgspec.structs.replace(job, plan=msgspec.structs.replace(job.plan, smp=smp, mem_mib=mem_mib))
        for job in jobs(*(f"{n}" for n in range(count)))
    ]


@pytest.mark.parametrize(
    ("room", "smp", "mem_mib", "most"),
    [
        (Room(16, 16, 1 << 20), 2, 512, 8),
        (Room(2, 2, 1 << 20), 2, 512, 1),
        (Room(2, 2, 1 << 20), 4, 512, 1),
        (Room(64, 64, 6000), 2, 512, 4),
        (Room(3), 8, 4096, 3),
    ],
)
def test_guests_have_cpus_and_memory_of_their_own(
    scene: Scene, room: Room, smp: int, mem_mib: int, most: int
) -> None:
    work = Work(together=most)
    engine = scene.engine(work, room=room)
    assert len(scene.run(engine, guests(2 * most, smp=smp, mem_mib=mem_mib))) == 2 * most
    assert max(work.beside.values()) == most - 1
    assert room.most(smp, mem_mib) == most


def test_the_room_of_this_host() -> None:
    cpus = len(os.sched_getaffinity(0))
    assert (Room.of_host().cells, Room.of_host().cpus) == (cpus, cpus)
    assert Room.of_host(64).cells == 64
    # a number that the user names is not more than the memory holds
    assert Room.of_host(10**6).most(1, 512) < 10**6


def test_a_job_is_taken_when_the_one_before_has_reported(scene: Scene) -> None:
    """On two CPUs ``--until-fail`` starts no second boot beside the first."""
    work = Work()
    engine = scene.engine(work, room=Room(2, 2, 1 << 20))
    finished: list[str] = []
    taken: list[list[str]] = []

    def lazily() -> Iterator[CellJob]:
        for job in guests(3, smp=2, mem_mib=512):
            taken.append(list(finished))
            yield job

    for report in engine.run(lazily(), scene.folder):
        if isinstance(report, Finished):
            finished.append(report.result.cell)
    assert taken == [[], ["0"], ["0", "1"]]
