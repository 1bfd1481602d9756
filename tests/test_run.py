# SPDX-License-Identifier: GPL-2.0-only
"""The run: what is on disk after each cell, what is compared, what the exit code says."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from orchestrator import cell, run
from orchestrator.engine.local import LocalEngine
from orchestrator.errors import UserError
from orchestrator.events import Events
from orchestrator.plan import CellPlan, Choices, make
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.vm.overlay import make_keys


def _tree(top: Path) -> Tree:
    (top / "mm").mkdir(parents=True)
    return Tree(
        path=top, spec="debian:x", kind="debian", digest="d", version="7.2.1", describe="7.2.1 (made up)"
    )


def _result(name: str, variant: str, verdict: Verdict, metrics: dict[str, float] | None = None) -> CellResult:
    suite = "map-latency" if metrics is not None else "maps"
    case = Case(id=f"{suite}/x", verdict=verdict, blame=Blame.NONE)
    return CellResult(
        cell=name,
        label="7.2.1",
        arch="x86_64",
        variant=variant,
        cases=(Case(id="build", verdict=Verdict.PASS),),
        suites=(SuiteResult(suite=suite, cases=(case,), metrics=metrics or {}),),
    )


class Scene:
    """A run whose cells are made up, so that the run's own part is seen alone."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
        self.engine = LocalEngine()
        self.tree = _tree(tmp_path / "tree")
        self.directory = run.RunDirectory(tmp_path / "runs")
        self.directory.create()

    def carry_out(self, outcomes: dict[str, CellResult], junit: Path | None = None) -> run.RunResult:
        choices = Choices(arches=("x86_64",), variants=("per-vma-lock", "mmap-lock"))
        the_plan = msgspec.structs.replace(
            make(choices, label="7.2.1", vsyscall_modes={}),
            cells=tuple(
                CellPlan(
                    id=n,
                    label="7.2.1",
                    arch="x86_64",
                    variant=r.variant,
                    suites=("maps",),
                    smp=2,
                    mem_mib=512,
                )
                for n, r in outcomes.items()
            ),
        )
        context = cell.Context(
            tree=self.tree,
            tree_class=TreeClass.SELECTABLE,
            choices=choices,
            store=Store(self.tmp_path / "cache"),
            keys=make_keys(),
            root=self.directory.path,
            cancelled=self.engine.cancelled,
        )
        self.monkeypatch.setattr(cell, "carry_out", lambda _context, plan, _say: outcomes[plan.id])
        with Events(Console(quiet=True), self.directory.path / "events.ndjson") as events:
            return run.carry_out(the_plan, context, self.directory, self.engine, events, junit_path=junit)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_everything_is_on_disk(scene: Scene, tmp_path: Path) -> None:
    junit = tmp_path / "elsewhere" / "all.xml"
    result = scene.carry_out({"a": _result("a", "per-vma-lock", Verdict.PASS)}, junit)
    folder = scene.directory.path
    for name in ("plan.json", "events.ndjson", "results.json", "junit.xml", "cells/a/result.json"):
        assert (folder / name).stat().st_size, name
    assert junit.read_bytes() == (folder / "junit.xml").read_bytes()
    assert msgspec.json.decode((folder / "results.json").read_bytes(), type=run.RunResult) == result
    script = folder / "cells/a/reproduce.sh"
    assert script.stat().st_mode & 0o100
    assert "orchestrate run --source debian:x --arch x86_64 --variant per-vma-lock" in script.read_text()
    assert not list(folder.rglob(".*"))


def test_results_are_there_after_each_cell(scene: Scene) -> None:
    """The second cell breaks the run; the first one's result is kept."""

    class Broken(dict[str, CellResult]):
        def __getitem__(self, name: str) -> CellResult:
            if name == "b":
                raise RuntimeError("a fault of our own")
            return super().__getitem__(name)

    outcomes = Broken(a=_result("a", "per-vma-lock", Verdict.PASS), b=_result("b", "mmap-lock", Verdict.PASS))
    with pytest.raises(RuntimeError):
        scene.carry_out(outcomes)
    kept = json.loads((scene.directory.path / "results.json").read_bytes())
    assert [c["cell"] for c in kept["cells"]] == ["a"]
    assert scene.engine.cancelled()


def test_interrupted_cell_is_shown_but_not_kept_for_resuming(scene: Scene) -> None:
    half = msgspec.structs.replace(_result("a", "per-vma-lock", Verdict.PASS), interrupted=True)
    result = scene.carry_out({"a": half})
    assert [c.cell for c in result.cells] == ["a"]
    assert not (scene.directory.path / "cells/a/result.json").exists()


def test_cancelled_run_is_130(scene: Scene) -> None:
    scene.engine.cancel()
    result = scene.carry_out({"a": _result("a", "per-vma-lock", Verdict.FAIL)})
    assert result.interrupted
    assert not result.cells
    assert result.exit_code() == 130


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.PASS, Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.SKIP], 0),
        ([Verdict.PASS, Verdict.NA], 0),
        ([Verdict.SKIP, Verdict.NA], 4),
        ([Verdict.PASS, Verdict.FAIL], 1),
        ([Verdict.ERROR, Verdict.CRASH], 1),
        ([Verdict.PASS, Verdict.ERROR], 3),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 4),
    ],
)
def test_exit_code(scene: Scene, verdicts: list[Verdict], code: int) -> None:
    cells = {f"c{n}": _result(f"c{n}", "per-vma-lock", v) for n, v in enumerate(verdicts)}
    assert scene.carry_out(cells).exit_code() == code


def test_a_cell_of_which_only_its_build_passed_is_not_green(scene: Scene) -> None:
    bare = msgspec.structs.replace(_result("a", "per-vma-lock", Verdict.PASS), suites=())
    assert scene.carry_out({"a": bare}).exit_code() == 4


def test_benchmark_variants_are_compared() -> None:
    def boots(variant: str, *means: float) -> list[CellResult]:
        return [
            _result(f"{variant}-{n}", variant, Verdict.PASS, {"mean_us_scanned": m, "interference": m / 50})
            for n, m in enumerate(means)
        ]

    done = boots("per-vma-lock", 50, 51, 52) + boots("mmap-lock", 500, 510, 520)
    (found,) = run.compare(done)
    ratio = next(r.ratio for r in found.comparison.ratios if r.metric == "mean_us_scanned")
    assert ratio.estimate == pytest.approx(10, rel=0.05)
    assert (found.comparison.boots_with, found.comparison.boots_without) == (3, 3)
    # a boot that was discarded has no numbers and is no boot of the comparison
    done[0] = msgspec.structs.replace(done[0], suites=(SuiteResult(suite="map-latency"),))
    (found,) = run.compare(done)
    assert found.comparison.boots_with == 2
    assert run.compare(boots("per-vma-lock", 50, 51, 52)) == ()


def test_unwritable_folder_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        run.RunDirectory(tmp_path / "file" / "runs").create()


def test_published_schema_is_that_of_the_results() -> None:
    """docs/results.schema.json: a change of the results is a change of what others read."""
    published = json.loads((Path(__file__).parents[1] / "docs/results.schema.json").read_bytes())
    for heading in ("$schema", "title"):
        published.pop(heading)
    # through JSON: the one has lists where the other has tuples
    assert published == json.loads(json.dumps(msgspec.json.schema(run.RunResult)))
