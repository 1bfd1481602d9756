# SPDX-License-Identifier: GPL-2.0-only
"""The run: what is on disk after each cell, what is compared, what the exit code says."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paths import ROOT
from rich.console import Console

from orchestrator.analysis.pairs import pairs, rates
from orchestrator.cell import lifecycle
from orchestrator.cell.state import CellState
from orchestrator.core.errors import UserError
from orchestrator.core.events import Events
from orchestrator.core.store import Store
from orchestrator.engine.local import LocalEngine
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import PLAN_VERSION, CellPlan, Plan, PlannedKernel
from orchestrator.plan.target import Target
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.run import summary
from orchestrator.run.directory import RunDirectory, check_unchanged
from orchestrator.run.execute import Pace, _has_failed, execute
from orchestrator.run.summary import RunResult
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.suites import catalog


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
        suites=(
            SuiteResult(
                suite=suite,
                kind="functional" if metrics is None else "benchmark",
                cases=(case,),
                metrics=metrics or {},
                better={"mean_us_scanned": "lower", "interference": "lower"} if metrics else {},
            ),
        ),
    )


class Scene:
    """A run whose cells are made up, so that the run's own part is seen alone."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
        self.store = Store(tmp_path / "cache")
        self.engine = LocalEngine(self.store)
        self.executed: list[str] = []
        self.tree = _tree(tmp_path / "tree")
        self.directory = RunDirectory.fresh(tmp_path / "runs")
        self.directory.create()

    def target(self) -> Target:
        source = Source(spec="debian:x")
        return Target(label="7.2.1", tree=self.tree, tree_class=TreeClass.SELECTABLE, source=source)

    def plan(self, outcomes: Mapping[str, CellResult], **choices: object) -> Plan:
        both = {"arches": ("x86_64",), "variants": ("per-vma-lock", "mmap-lock")}
        kernel = PlannedKernel(label="7.2.1", arches=("x86_64",), describe=self.tree.describe, digest="d")
        return Plan(
            choices=Choices(**{**both, **choices}),  # type: ignore[arg-type]
            kernels=(kernel,),
            cells=tuple(
                CellPlan(
                    id=n,
                    label="7.2.1",
                    arch="x86_64",
                    variant=r.variant,
                    suites=("maps",),
                    smp=2,
                    mem_mib=512,
                    boot=r.boot,
                )
                for n, r in outcomes.items()
            ),
        )

    def execute(
        self,
        outcomes: Mapping[str, CellResult],
        junit: Path | None = None,
        *,
        fail_fast: bool = False,
        **choices: object,
    ) -> RunResult:
        the_plan = self.plan(outcomes, **choices)
        inputs = Inputs(
            targets={"7.2.1": self.target()},
            suites={"maps": catalog.load("maps")},
            choices=the_plan.choices,
        )
        earlier = self.directory.results(the_plan)

        def result(cell: CellState) -> CellResult:
            self.executed.append(cell.plan.id)
            return outcomes[cell.plan.id]

        self.monkeypatch.setattr(lifecycle, "_result", result)
        with (
            self.directory.lock(),
            Events(Console(quiet=True), self.directory.path / "events.ndjson") as events,
        ):
            return execute(
                the_plan,
                inputs,
                self.directory,
                self.engine,
                events,
                junit_path=junit,
                earlier=earlier,
                fail_fast=fail_fast,
            )


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_everything_is_on_disk(scene: Scene, tmp_path: Path) -> None:
    junit = tmp_path / "elsewhere" / "all.xml"
    result = scene.execute({"a": _result("a", "per-vma-lock", Verdict.PASS)}, junit)
    folder = scene.directory.path
    for name in ("plan.json", "events.ndjson", "results.json", "junit.xml", "cells/a/result.json"):
        assert (folder / name).stat().st_size, name
    assert junit.read_bytes() == (folder / "junit.xml").read_bytes()
    assert msgspec.json.decode((folder / "results.json").read_bytes(), type=RunResult) == result
    script = folder / "cells/a/reproduce.sh"
    assert script.stat().st_mode & 0o100
    assert "orchestrate run --source debian:x --arch x86_64 --variant per-vma-lock" in script.read_text()
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


def test_results_are_there_after_each_cell(scene: Scene) -> None:
    """The second cell breaks the run; the first one's result is kept."""

    class Broken(dict[str, CellResult]):
        def __getitem__(self, name: str) -> CellResult:
            if name == "b":
                raise RuntimeError("a fault of our own")
            return super().__getitem__(name)

    outcomes = Broken(a=_result("a", "per-vma-lock", Verdict.PASS), b=_result("b", "mmap-lock", Verdict.PASS))
    with pytest.raises(RuntimeError):
        scene.execute(outcomes)
    kept = json.loads((scene.directory.path / "results.json").read_bytes())
    assert [c["cell"] for c in kept["cells"]] == ["a"]
    assert scene.engine.cancelled()


@pytest.mark.parametrize("cost_s", [0.001, 0.4, 2.0])
def test_writing_results_takes_a_tenth_of_a_run_at_most(
    cost_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of a second each; a rewrite costs as much as there are cells, however many there will be."""
    clock = [0.0]
    pace, writes, cost, cells = Pace(lambda: clock[0]), 0, 0.0, 400
    for n in range(1, cells + 1):
        clock[0] += 1.0
        if pace.is_due():
            writes += 1
            with pace.measured():
                clock[0] += n * cost_s
                cost += n * cost_s
    if cost_s == 0.001:
        assert writes == cells
    else:
        # the last rewrite may be at the very end
        assert cost <= clock[0] / 10 + 2 * cost_s * cells
        assert writes < cells / 10


def test_the_end_writes_what_was_not_due(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "is_due", lambda _: False)
    scene.execute({n: _result(n, "per-vma-lock", Verdict.PASS) for n in "abc"})
    kept = json.loads((scene.directory.path / "results.json").read_bytes())
    assert [c["cell"] for c in kept["cells"]] == ["a", "b", "c"]
    assert 'classname="c/maps"' in (scene.directory.path / "junit.xml").read_text()


def test_interrupted_cell_is_shown_but_not_kept_for_resuming(scene: Scene) -> None:
    half = msgspec.structs.replace(_result("a", "per-vma-lock", Verdict.PASS), interrupted=True)
    result = scene.execute({"a": half})
    assert [c.cell for c in result.cells] == ["a"]
    assert not (scene.directory.path / "cells/a/result.json").exists()


def test_cancelled_run_is_130(scene: Scene) -> None:
    scene.engine.cancel()
    result = scene.execute({"a": _result("a", "per-vma-lock", Verdict.FAIL)})
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
    assert scene.execute(cells).exit_code() == code


def test_a_cell_of_which_only_its_build_passed_is_not_green(scene: Scene) -> None:
    bare = msgspec.structs.replace(_result("a", "per-vma-lock", Verdict.PASS), suites=())
    assert scene.execute({"a": bare}).exit_code() == 4


def test_benchmark_variants_are_compared() -> None:
    def boots(variant: str, *means: float) -> list[CellResult]:
        return [
            _result(f"{variant}-{n}", variant, Verdict.PASS, {"mean_us_scanned": m, "interference": m / 50})
            for n, m in enumerate(means)
        ]

    done = boots("per-vma-lock", 50, 51, 52) + boots("mmap-lock", 500, 510, 520)
    (found,) = summary.compare(done)
    ratio = next(r.ratio for r in found.comparison.ratios if r.metric == "mean_us_scanned")
    assert ratio.estimate == pytest.approx(10, rel=0.05)
    assert (found.comparison.boots_with, found.comparison.boots_without) == (3, 3)
    # a boot that was discarded has no numbers and is no boot of the comparison
    done[0] = msgspec.structs.replace(done[0], suites=(SuiteResult(suite="map-latency"),))
    (found,) = summary.compare(done)
    assert found.comparison.boots_with == 2
    assert summary.compare(boots("per-vma-lock", 50, 51, 52)) == ()


def test_unwritable_folder_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        RunDirectory.fresh(tmp_path / "file" / "runs").create()


def test_published_schema_is_that_of_the_results() -> None:
    """docs/results.schema.json: a change of the results is a change of what others read."""
    published = json.loads((ROOT / "docs/results.schema.json").read_bytes())
    for heading in ("$schema", "title"):
        published.pop(heading)
    # through JSON: the one has lists where the other has tuples
    assert published == _tidy(json.loads(json.dumps(msgspec.json.schema(RunResult))))


def _tidy(schema: Any) -> Any:
    """With docstrings as Python 3.13 has them, which takes their indentation away."""
    if isinstance(schema, list):
        return [_tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: inspect.cleandoc(part) if name == "description" and isinstance(part, str) else _tidy(part)
        for name, part in schema.items()
    }


# --- resume ----------------------------------------------------------------------------------------------


def test_a_resumed_run_repeats_only_what_has_no_result(scene: Scene) -> None:
    cells = {n: _result(n, "per-vma-lock", Verdict.PASS) for n in ("a", "b", "c")}

    class Killed(dict[str, CellResult]):
        def __getitem__(self, name: str) -> CellResult:
            if name == "b":
                raise RuntimeError("kill -9")
            return super().__getitem__(name)

    with pytest.raises(RuntimeError):
        scene.execute(Killed(cells))
    left = scene.directory.path / "cells/b/console.log"
    left.write_text("of the first attempt")
    scene.engine = LocalEngine(scene.store)
    again = scene.execute(cells)
    assert scene.executed == ["a", "b", "b", "c"]
    assert [c.cell for c in again.cells] == ["a", "b", "c"]
    assert again.exit_code() == 0
    assert not left.exists()


def test_the_plan_of_a_run_is_what_it_was_begun_with(scene: Scene) -> None:
    cells = {"a": _result("a", "per-vma-lock", Verdict.PASS)}
    scene.execute(cells)
    runs = scene.directory.path.parent
    assert scene.directory.plan() == scene.plan(cells)
    for name in (scene.directory.id, str(scene.directory.path), "last"):
        assert RunDirectory.existing(runs, name).path == scene.directory.path
    with pytest.raises(UserError, match="no run 'nosuch'") as caught:
        RunDirectory.existing(runs, "nosuch")
    assert scene.directory.id in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe"])
def test_a_plan_that_cannot_be_read(scene: Scene, content: bytes) -> None:
    (scene.directory.path / "plan.json").write_bytes(content)
    with pytest.raises(UserError, match=r"plan\.json cannot be read"):
        scene.directory.plan()


def test_a_plan_of_a_newer_version_is_not_touched(scene: Scene) -> None:
    newer = {"version": PLAN_VERSION + 1, "cells": "in another form"}
    (scene.directory.path / "plan.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match="newer orchestrate"):
        scene.directory.plan()


def test_a_source_that_has_changed_stops_a_resume(scene: Scene) -> None:
    the_plan = scene.plan({})
    check_unchanged(the_plan, [scene.target()], {})
    tree = msgspec.structs.replace(scene.tree, digest="other", describe="7.2.1 (dirty)")
    for found in ([], [msgspec.structs.replace(scene.target(), tree=tree)]):
        with pytest.raises(UserError, match="when the run began"):
            check_unchanged(the_plan, found, {})
    for then, now in (
        ({"suite 'x'": "1"}, {}),
        ({}, {"suite 'x'": "1"}),
        ({"--config": "1"}, {"--config": "2"}),
    ):
        with pytest.raises(UserError, match="has changed since the run began"):
            check_unchanged(msgspec.structs.replace(the_plan, inputs=then), [scene.target()], now)


def test_two_processes_in_one_run(scene: Scene) -> None:
    script = (
        "import pathlib, sys; from orchestrator.run.execute import RunDirectory\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, scene.directory.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process"), scene.directory.lock():
            pass
        # a lock ends with its holder, however it dies
        other.kill()
    with scene.directory.lock():
        pass


# --- repeats, and what the pair says ---------------------------------------------------------------------


def _boots(variant: str, *verdicts: Verdict) -> dict[str, CellResult]:
    return {
        f"{variant}-{n}": msgspec.structs.replace(_result(f"{variant}-{n}", variant, v), boot=n)
        for n, v in enumerate(verdicts, 1)
    }


def test_until_fail_ends_the_repeats_of_the_kernel_that_failed(scene: Scene) -> None:
    good, bad = Verdict.PASS, Verdict.CRASH
    cells = _boots("per-vma-lock", good, bad, good, good) | _boots("mmap-lock", good, good, good)
    scene.execute(cells, until_fail=True)
    assert [n for n in scene.executed if n.startswith("per")] == ["per-vma-lock-1", "per-vma-lock-2"]
    assert len([n for n in scene.executed if n.startswith("mmap")]) == 3


def test_repeats_give_a_rate_with_its_interval(scene: Scene) -> None:
    good, bad, unjudged = Verdict.PASS, Verdict.FAIL, Verdict.ERROR
    result = scene.execute(_boots("per-vma-lock", good, bad, good, unjudged, good, bad))
    (rate,) = result.rates
    assert (rate.case, rate.failures, rate.boots) == ("maps/x", 2, 5)
    assert 0.1 < rate.low < 0.4 < rate.high < 0.8
    assert summary.rate_text(rate) == "2 of 5 boots failed: 40.0 %, 95 % interval 11.8 .. 76.9 %"
    (annotated, *_) = summary.annotated_cells(result)
    assert annotated.properties["rate: maps/x"] == summary.rate_text(rate)


@pytest.mark.parametrize(
    ("with_locks", "without", "legs"),
    [
        ([Verdict.PASS], [Verdict.PASS], None),
        ([Verdict.FAIL], [Verdict.PASS], "with"),
        ([Verdict.PASS], [Verdict.CRASH], "without"),
        ([Verdict.TIMEOUT], [Verdict.FAIL], "both"),
        ([Verdict.FAIL], [Verdict.INCONCLUSIVE], "with, unjudged"),
        ([Verdict.SKIP], [Verdict.FAIL], "without, unjudged"),
        ([Verdict.PASS, Verdict.FAIL], [Verdict.PASS, Verdict.PASS], "with"),
        ([Verdict.ERROR], [Verdict.PASS], None),
    ],
)
def test_what_the_pair_says(
    scene: Scene, with_locks: list[Verdict], without: list[Verdict], legs: str | None
) -> None:
    result = scene.execute(_boots("per-vma-lock", *with_locks) | _boots("mmap-lock", *without))
    assert [p.legs for p in result.pairs] == ([legs] if legs else [])
    if legs:
        (pair,) = result.pairs
        assert pair.case == "maps/x"
        document = (scene.directory.path / "junit.xml").read_text()
        assert f'name="pair: maps/x" value="{pair.says}"' in document


def _program(variant: str, boot: int, *, crashed: bool) -> CellResult:
    """A KTAP program: its cases where it is good, itself where it crashed."""
    bad, good = (
        (Case(id="maps/race", verdict=Verdict.CRASH),),
        (
            Case(id="maps/race/one", verdict=Verdict.PASS),
            Case(id="maps/race/two", verdict=Verdict.PASS),
        ),
    )
    made = _result(f"{variant}-{boot}", variant, Verdict.PASS)
    suite = SuiteResult(suite="maps", cases=bad if crashed else good)
    return msgspec.structs.replace(made, boot=boot, suites=(suite,))


def test_a_program_that_crashes_now_and_then_has_its_true_rate() -> None:
    cells = [_program("per-vma-lock", boot, crashed=boot in (7, 90)) for boot in range(1, 201)]
    found = {rate.case: (rate.failures, rate.boots) for rate in rates(cells)}
    assert found["maps/race"] == (2, 200)
    assert found["maps/race/one"] == (0, 198)


def test_a_program_that_crashes_on_one_leg_and_is_good_on_the_other() -> None:
    cells = [_program("per-vma-lock", 0, crashed=True), _program("mmap-lock", 0, crashed=False)]
    assert [(p.case, p.legs) for p in pairs(cells)] == [("maps/race", "with")]


def test_a_prebuilt_kernel_is_no_pair_with_itself() -> None:
    cells = [
        msgspec.structs.replace(
            _result(v, v, Verdict.INCONCLUSIVE),
            properties={"build": "prebuilt"},
            cases=(Case(id="boot", verdict=Verdict.FAIL),),
        )
        for v in ("per-vma-lock", "mmap-lock")
    ]
    assert pairs(cells) == ()


def test_until_fail_leaves_other_boots_alone(scene: Scene) -> None:
    """A failure under vsyscall=none says nothing of vsyscall=xonly, nor of a benchmark."""
    cells = _boots("per-vma-lock", Verdict.FAIL, Verdict.PASS)
    the_plan = scene.plan(cells, until_fail=True)
    other = msgspec.structs.replace(the_plan.cells[1], vsyscall="xonly")
    the_plan = msgspec.structs.replace(the_plan, cells=(the_plan.cells[0], other))
    inputs = Inputs(targets={}, suites={"maps": catalog.load("maps")}, choices=the_plan.choices)
    found = {the_plan.cells[0].id: cells[the_plan.cells[0].id]}
    assert not _has_failed(other, the_plan, inputs, found)
    assert _has_failed(the_plan.cells[0], the_plan, inputs, found)


def test_one_leg_alone_says_nothing_of_a_pair(scene: Scene) -> None:
    assert scene.execute(_boots("per-vma-lock", Verdict.FAIL)).pairs == ()


@pytest.mark.parametrize(
    ("own", "suite", "code"),
    [
        (Verdict.PASS, Verdict.PASS, 0),
        (Verdict.PASS, Verdict.FAIL, 1),
        (Verdict.PASS, Verdict.CRASH, 1),
        (Verdict.PASS, Verdict.INCONCLUSIVE, 125),
        (Verdict.PASS, Verdict.ERROR, 125),
        (Verdict.PASS, Verdict.SKIP, 125),
        (Verdict.FAIL, Verdict.INCONCLUSIVE, 125),
        (Verdict.ERROR, Verdict.INCONCLUSIVE, 125),
        # a leg that this tree cannot have is no failure to build
        (Verdict.NA, Verdict.PASS, 0),
        (Verdict.NA, Verdict.FAIL, 1),
    ],
)
def test_exit_code_for_git_bisect(scene: Scene, own: Verdict, suite: Verdict, code: int) -> None:
    made = _result("a", "per-vma-lock", suite)
    made = msgspec.structs.replace(made, cases=(Case(id="build", verdict=own),))
    assert scene.execute({"a": made}).exit_code(bisect=True) == code


def test_a_kernel_that_does_not_boot_is_bad_for_git_bisect(scene: Scene) -> None:
    made = msgspec.structs.replace(
        _result("a", "per-vma-lock", Verdict.INCONCLUSIVE), cases=(Case(id="boot", verdict=Verdict.FAIL),)
    )
    assert scene.execute({"a": made}).exit_code(bisect=True) == 1


def test_interrupted_stops_git_bisect(scene: Scene) -> None:
    scene.engine.cancel()
    assert scene.execute({"a": _result("a", "per-vma-lock", Verdict.PASS)}).exit_code(bisect=True) >= 128


def test_fail_fast_starts_nothing_after_a_failure_and_resume_runs_the_rest(scene: Scene) -> None:
    outcomes = {
        "a": _result("a", "per-vma-lock", Verdict.INCONCLUSIVE),
        "b": _result("b", "per-vma-lock", Verdict.FAIL),
        "c": _result("c", "mmap-lock", Verdict.PASS),
    }
    result = scene.execute(outcomes, fail_fast=True)
    assert scene.executed == ["a", "b"]
    assert [cell.cell for cell in result.cells] == ["a", "b"]
    assert result.exit_code() == 1
    assert b"--fail-fast" in (scene.directory.path / "events.ndjson").read_bytes()
    scene.execute(outcomes)
    assert scene.executed == ["a", "b", "c"]
