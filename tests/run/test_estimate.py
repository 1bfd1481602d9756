# SPDX-License-Identifier: GPL-2.0-only
"""What a plan would cost, from what was built and run before."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from fakes.linux import make_linux
from under_test import image_head

from orchestrator.core import arch
from orchestrator.core.store import Store
from orchestrator.kernel import build
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.plan import Plan
from orchestrator.report import terminal
from orchestrator.results.model import Case, CellResult, SuiteResult, Verdict
from orchestrator.run import estimate

# they wait for processes and clocks
pytestmark = pytest.mark.slow


class Scene:
    def __init__(self, top: Path) -> None:
        self.store, self.runs = Store(top / "cache"), top / "runs"
        tree = str(make_linux(top / "linux").path)
        self.choices = Choices(
            arches=("x86_64",), variants=(WITH, WITHOUT), sources=(Source(spec=tree),), suites=("maps",)
        )

    def cost(self) -> tuple[Plan, estimate.Cost]:
        found, suites = prepare.targets(self.choices, self.store, print), prepare.suites(self.choices)
        the_plan = prepare.plan(self.choices, found, suites)
        inputs = prepare.inputs(self.choices, found, suites, self.store)
        return the_plan, estimate.cost(the_plan, inputs, self.store, self.runs)

    def ran(self, run: str, variant: str, seconds: float, build_s: float) -> None:
        folder = self.runs / run / "cells" / variant
        folder.mkdir(parents=True)
        cell = CellResult(
            cell=variant,
            arch="x86_64",
            variant=variant,
            duration_s=seconds + build_s,
            cases=(Case(id="build", verdict=Verdict.PASS, duration_s=build_s),),
            suites=(SuiteResult(suite="maps"),),
        )
        (folder / "result.json").write_bytes(msgspec.json.encode(cell))

    def built(self, name: str, cpu_s: float) -> None:
        folder = self.store.root / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "bzImage").write_bytes(image_head(arch.load("x86_64")))
        facts = {"release": "7.2", "build_id": "", "toolchain": "gcc", "cpu_s": cpu_s}
        (folder / "kernel.json").write_bytes(msgspec.json.encode(facts))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations of the tree, which is the same for each test."""
    first = Scene(tmp_path_factory.mktemp("first"))
    first.cost()
    return first.store.root / "configs"


@pytest.fixture
def scene(tmp_path: Path, configs: Path) -> Scene:
    made = Scene(tmp_path)
    shutil.copytree(configs, made.store.root / configs.name)
    return made


def test_nothing_is_known_on_a_fresh_host(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    the_plan, cost = scene.cost()
    assert [(k.state, k.cpu_s) for k in cost.kernels] == [("build", None)] * 2
    assert set(cost.cells.values()) == {None}
    terminal.print_plan(terminal.console(), the_plan, cost)
    said = capsys.readouterr().out
    assert "cost unknown" in said
    assert "2 cells, 2 kernels to build. Nothing was built or booted; make tinyconfig" in said
    assert not scene.runs.exists()


def test_medians_of_what_was_done_here_before(scene: Scene) -> None:
    for n, cpu_s in enumerate((100, 500, 540)):
        scene.built(f"k{n}", cpu_s)
    for run, seconds in (("1", 10.0), ("2", 12.0), ("3", 40.0)):
        scene.ran(run, WITH, seconds, build_s=300.0)
    (scene.runs / "4" / "cells" / "torn").mkdir(parents=True)
    (scene.runs / "4" / "cells" / "torn" / "result.json").write_text("{")
    _, cost = scene.cost()
    assert [k.cpu_s for k in cost.kernels] == [500, 500]
    assert cost.build_s(2) == 500
    assert sorted(cost.cells.values(), key=str) == [12.0, None]


def test_a_kernel_that_is_there_costs_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_built", lambda spec, store: spec.variant == WITH)
    _, cost = scene.cost()
    assert [k.state for k in cost.kernels] == ["cached", "build"]


def test_a_variant_that_the_tree_cannot_have(scene: Scene) -> None:
    tree = Path(scene.choices.sources[0].spec)
    for file in tree.rglob("*"):
        if file.is_file() and "lock_vma_under_rcu" in file.read_text():
            file.write_text(file.read_text().replace("lock_vma_under_rcu", "another"))
    _, cost = scene.cost()
    assert [k.state for k in cost.kernels] == ["NA", "build"]


def test_what_is_left_of_a_run(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    plan, _ = scene.cost()
    with_, without = (cell.id for cell in plan.cells)
    unknown = estimate.Remaining(plan, scene.runs)
    assert unknown.progress() == (0.0, "0 of 2 cells")
    scene.ran("1", WITH, 100, build_s=500)
    scene.ran("1", WITHOUT, 300, build_s=500)
    left = estimate.Remaining(plan, scene.runs)
    assert left.progress() == (0.0, "0 of 2 cells, guests for about 7 min left")
    left.done(with_)
    assert left.progress() == (0.25, "1 of 2 cells, guests for about 5 min left")
    assert estimate.Remaining(plan, scene.runs, [with_, without]).progress() == (1.0, "2 of 2 cells")
