# SPDX-License-Identifier: GPL-2.0-only
"""A series carried out: real repositories, real builds of the made-up kernel; guests are made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from fakes.linux import commit_file, make_linux_repository
from fakes.trees import git, snapshot
from rich.console import Console

from orchestrator.cell import lifecycle
from orchestrator.cell.state import CellState
from orchestrator.core import arch, data
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store
from orchestrator.engine.local import LocalEngine
from orchestrator.kernel import build
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices
from orchestrator.plan.options import Options
from orchestrator.results import junit
from orchestrator.results.model import Blame, Case, SuiteResult, Verdict
from orchestrator.run.directory import RunDirectory
from orchestrator.series import matrix, request, session
from orchestrator.series.model import Series
from orchestrator.vm import accel, qemu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
    ),
]

HOST = arch.host().name
OPTIONS = Options(variants=("mmap-lock",), jobs=1, suites=("maps-coherency",), accel="tcg")


class Guests:
    """Stands for booted guests: what a kernel does is read from the sources that it was built of."""

    def __init__(self) -> None:
        self.booted: list[str] = []
        self.interrupt_at = ""
        self.engine: LocalEngine | None = None
        self.figures: dict[str, list[float]] = {}
        self.noise = 0

    def run_suites(self, its: CellState, kernel: Kernel) -> None:
        self.booted.append(its.plan.id)
        if self.interrupt_at and self.interrupt_at in its.plan.id:
            assert self.engine is not None
            self.engine.cancel()
            return
        strings = kernel.image.read_bytes()
        its.properties |= {"accelerator": "tcg", "QEMU": "QEMU 7.2", "vCPUs": "2", "memory": "512 MiB"}
        its.put(Case(id="boot", verdict=Verdict.PASS))
        for name in its.plan.suites:
            if its.inputs.suites[name].kind == "benchmark":
                value = self.figures[its.plan.label][its.plan.boot - 1]
                noise = [f"noise_{number}" for number in range(self.noise)]
                its.suites.append(
                    SuiteResult(
                        suite=name, kind="benchmark",
                        metrics={"interference": value, "mean_us_alone": 2.0} | dict.fromkeys(noise, 1.0),
                        better=dict.fromkeys(("mean_us_alone", "interference", *noise), "lower"),
                        cases=(Case(id=f"{name}/{name}", verdict=Verdict.PASS),),
                    )
                )  # fmt: skip
                continue
            case = Case(id=f"{name}/race/reads", verdict=Verdict.PASS)
            if b"SPLAT" in strings:
                case = Case(
                    id=f"{name}/race", verdict=Verdict.CRASH, blame=Blame.KERNEL,
                    reason="possible circular locking dependency detected", fingerprint="lockdep:maps",
                )  # fmt: skip
            its.suites.append(SuiteResult(suite=name, cases=(case,)))


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Guests:
    made = Guests()
    monkeypatch.setattr(lifecycle, "run_suites", made.run_suites)
    monkeypatch.setattr(qemu, "program", lambda arch: "qemu")
    monkeypatch.setattr(accel, "choose", lambda *_: None)
    return made


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    repository = make_linux_repository(tmp_path / "linux")
    git(repository, "tag", "base")
    return repository


class Scene:
    """The verb, from its options to its files."""

    def __init__(self, tmp_path: Path, guests: Guests, configs: Path) -> None:
        self.out = tmp_path / "runs"
        self.store = Store(tmp_path / "cache")
        shutil.copytree(configs, self.store.root / configs.name)
        self.guests = guests
        self.said = ""
        self.engine = LocalEngine(self.store)
        guests.engine = self.engine

    def begin(self, series: str | Path, **changes: Any) -> int:
        self.place = RunDirectory.fresh(self.out, session.KIND)
        own = {name: changes.pop(name) for name in ("source", "also", "no_bench") if name in changes}
        options = msgspec.structs.replace(OPTIONS, **changes)
        asked = request.SeriesRequest(
            options=options, patches=str(series), **{"also": ("none",), "no_bench": True, **own}
        )
        return self._go(request.reader_of(asked, lambda _: None))

    def resume(self, name: str = "last") -> int:
        self.engine = self.guests.engine = LocalEngine(self.store)
        self.guests.interrupt_at = ""
        self.place = RunDirectory.existing(self.out, name, session.KIND)
        return self._go(session.load(self.place))

    def _go(self, what: request.Reader | Series) -> int:
        with (self.out.parent / "said").open("w") as stream:
            console = Console(file=stream, width=80, highlight=False, markup=False, emoji=False)
            code = session.execute(
                self.place, what, store=self.store, engine=self.engine, console=console, say=lambda _: None
            )
        self.said = (self.out.parent / "said").read_text()
        print(self.said)
        return code

    @property
    def series(self) -> Series:
        return session.load(self.place)

    @property
    def rows(self) -> dict[str, str]:
        found = matrix.judge(self.series)
        return {name: " ".join(entry.text for entry in entries) for name, entries in found.entries.items()}


@pytest.fixture
def scene(tmp_path: Path, guests: Guests, linux_configs: Path) -> Scene:
    return Scene(tmp_path, guests, linux_configs)


def row(check: str) -> str:
    return f"{check} {HOST} mmap-lock"


def test_each_patch_is_built_booted_and_named(linux: Path, scene: Scene) -> None:
    commit_file(linux, "Documentation/a.txt", "words\n", "docs: words")
    commit_file(linux, "fs/a.c", "int a;\n#warning careful\n", "fs: a warning")
    commit_file(linux, "fs/b.c", 'const char b[] = "SPLAT";\n', "fs: a splat")
    commit_file(linux, "fs/c.c", "int c = undeclared;\n", "fs: does not build")
    commit_file(linux, "fs/c.c", "int c = 5;\n", "fs: builds again")
    before = snapshot(linux)
    assert scene.begin("base..HEAD", source=str(linux)) == 1
    assert snapshot(linux) == before
    assert scene.rows["applies"] == "ok ok ok ok ok ok"
    assert scene.rows[row("build")] == "ok ok ok ok FAIL ok"
    assert scene.rows[row("warnings")] == "ok ok FAIL ok - ok"
    # the documentation changes no image; the splat stays
    assert scene.rows[row("maps-coherency")] == "ok = ok CRASH - ^3"
    named = matrix.judge(scene.series).culprits()
    assert [patch.number for patch in named] == [2, 3, 4]
    # nothing was booted whose image was known
    assert [name for name in scene.guests.booted if "patch-1" in name] == []
    assert len(scene.guests.booted) == 4
    assert "new: fs/a.c:2:2: warning: #warning careful" in scene.said
    assert "fs/c.c:1:9: ‘undeclared’ undeclared here" in scene.said
    assert "good again at patch 5" in scene.said
    assert max(map(len, scene.said.split("\n\n")[2].splitlines())) <= 80

    folder = scene.place.path
    assert {path.name for path in folder.iterdir()} >= {
        "series.json", "junit.xml", "series.html", "cover.txt", "events.ndjson", "patches",
    }  # fmt: skip
    root = ET.parse(folder / "junit.xml").getroot()
    assert junit.check(root) == []
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites)[:3] == ["base", "0001 docs: words", "0002 fs: a warning"]
    assert [suite.get("failures") for suite in suites.values()] == ["0", "0", "1", "1", "1", "0"]
    assert list((folder / "patches/0004-build/cells").glob("*/build.log"))
    # a run below it is one like any other
    assert RunDirectory(folder / "patches/0003-tests").plan().cells


def test_a_series_that_is_good(linux: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    assert scene.begin("base..", source=str(linux)) == 0
    assert "no patch introduced a failure" in scene.said
    assert all(set(row.split()) == {"ok"} for row in scene.rows.values())


def test_a_configuration_is_shared_by_patches_that_change_nothing_it_is_made_from(
    linux: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    make = build._make_config

    def counted(spec: KernelSpec, fresh: Path, name: str, arguments: Sequence[str]) -> str:
        if name == "final":
            made.append((spec.tree.commit, spec.variant))
        return make(spec, fresh, name, arguments)

    monkeypatch.setattr(build, "_make_config", counted)
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    other = commit_file(linux, "mm/Kconfig.more", "# words\n", "mm: another Kconfig")
    commit_file(linux, "fs/a.c", "int b;\n", "fs: b")
    assert scene.begin("base..", source=str(linux)) == 0
    # those of the base are there already
    assert made == [(other, "mmap-lock"), (other, "per-vma-lock")]


def test_an_mbox_makes_commits_of_ours_and_a_base_that_fails_is_not_its_fault(
    linux: Path, tmp_path: Path, scene: Scene
) -> None:
    commit_file(linux, "fs/b.c", 'const char b[] = "SPLAT";\n', "fs: broken before")
    git(linux, "tag", "-f", "base")
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    file = tmp_path / "s.mbox"
    file.write_text(git(linux, "format-patch", "--stdout", "--base=base", "base..HEAD"))
    git(linux, "reset", "-q", "--hard", "base")
    assert scene.begin(file, source=str(linux)) == 4
    assert scene.rows[row("maps-coherency")] == "CRASH ^0"
    assert "fails without the series" in scene.said
    assert "culprits:" not in scene.said
    assert [case.tag for case in ET.parse(scene.place.path / "junit.xml").iter("failure")] == []
    # each patch is kept as a mail of its own, which its cells name
    (script, *_) = (scene.place.path / "patches/0001-build/cells").glob("*/reproduce.sh")
    assert "input/0001.patch" in script.read_text()
    assert (scene.place.path / "input/0001.patch").read_text().count("Subject: ") == 1


def test_interrupted_and_resumed_repeats_nothing(linux: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    commit_file(linux, "fs/b.c", "int b;\n", "fs: b")
    scene.guests.interrupt_at = f"patch-1-{HOST}-mmap-lock"
    assert scene.begin("base..", source=str(linux), variants=()) == 130
    assert "series --resume" in scene.said
    assert [step.finished for step in scene.series.steps] == [True, False]
    booted = list(scene.guests.booted)
    assert scene.resume() == 0
    # what had ended is not repeated, what was broken off is
    assert scene.guests.booted[len(booted) :] == [
        f"patch-1-{HOST}-mmap-lock", f"patch-2-{HOST}-per-vma-lock", f"patch-2-{HOST}-mmap-lock",
    ]  # fmt: skip
    assert all(set(row.split()) == {"ok"} for row in scene.rows.values())
    # and once more there is nothing to do
    assert scene.resume(scene.place.id) == 0
    assert len(scene.guests.booted) == len(booted) + 3
    assert scene.resume(scene.place.id.removeprefix("series-")) == 0


def test_what_is_resumed_must_be_what_it_was(linux: Path, tmp_path: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    extra = tmp_path / "extra.config"
    extra.write_text("CONFIG_PARENT=y\n")
    assert scene.begin("base..", source=str(linux), kconfig=(str(extra),)) == 0
    extra.write_text("# CONFIG_PARENT is not set\n")
    with pytest.raises(UserError, match="--kconfig has changed"):
        scene.resume()
    with pytest.raises(UserError, match="there is no series 'x'") as caught:
        RunDirectory.existing(scene.out, "x", session.KIND)
    assert scene.place.id in caught.value.remedy
    state = json.loads((scene.place.path / "series.json").read_text())
    (scene.place.path / "series.json").write_text(json.dumps(state | {"version": 99}))
    with pytest.raises(UserError, match="written by a newer orchestrate"):
        session.load(scene.place)
    (scene.place.path / "series.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        session.load(scene.place)


QUICK, SLOW = [2.0, 2.1, 1.9, 2.02, 2.05], [3.0, 3.1, 2.9, 3.02, 3.05]


def measured(scene: Scene) -> list[str]:
    return [name.partition("-x86_64")[0] for name in scene.guests.booted if "map-latency" in name]


def test_base_and_tip_are_measured_in_turn_and_then_what_is_between(linux: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    commit_file(linux, "fs/b.c", "int b;\n", "fs: b")
    scene.guests.figures = {"base": QUICK, "patch-1": QUICK, "patch-2": SLOW}
    assert scene.begin("base..", source=str(linux), no_bench=False) == 1
    assert measured(scene) == ["base", "patch-2"] * 5 + ["base", "patch-1", "patch-2"] * 5
    assert scene.rows[row("bench")] == "- ok FAIL"
    changes = [(c.metric, c.says.value) for c in scene.series.changes]
    assert changes == [("interference", "worse"), ("mean_us_alone", "same within the effect that matters")]
    assert scene.series.changes[0].ratio.estimate == pytest.approx(1.5, abs=0.05)
    assert "culprits: patch 2 (" in scene.said
    assert "Performance, tip / base" in (scene.place.path / "cover.txt").read_text()
    assert scene.resume() == 1
    assert len(measured(scene)) == 25


def test_the_patch_that_made_it_slower_is_found_by_halves(linux: Path, scene: Scene) -> None:
    for number in range(1, 9):
        name = f"Documentation/{number}.txt" if number in (4, 6) else f"fs/c{number}.c"
        commit_file(linux, name, f"int c{number};\n", f"patch {number}")
    scene.guests.figures = {f"patch-{n}": SLOW if n >= 5 else QUICK for n in range(1, 9)} | {"base": QUICK}
    assert scene.begin("base..", source=str(linux), no_bench=False) == 1
    # patches 4 and 6 change no kernel: they share the results of those before them
    assert list(dict.fromkeys(measured(scene))) == ["base", "patch-8", "patch-3", "patch-7", "patch-5"]
    assert scene.rows[row("bench")] == "- - - ok = FAIL ^5 ^5 ^5"
    assert "culprits: patch 5 (" in scene.said


def test_the_first_of_equal_kernels_is_named(linux: Path, scene: Scene) -> None:
    for number in range(1, 5):
        name = f"fs/c{number}.c" if number == 2 else f"Documentation/{number}.txt"
        commit_file(linux, name, f"int c{number};\n", f"patch {number}")
    scene.guests.figures = {"base": QUICK, "patch-4": SLOW}
    assert scene.begin("base..", source=str(linux), no_bench=False) == 1
    assert scene.rows[row("bench")] == "- = FAIL ^2 ^2"
    assert "culprits: patch 2 (" in scene.said


def test_base_and_tip_boot_again_while_a_metric_is_perhaps_worse(linux: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    # 20 metrics of noise, and one that five boots cannot tell among them
    scene.guests.noise = 20
    scene.guests.figures = {"base": QUICK * 3, "patch-1": SLOW * 3}
    assert scene.begin("base..", source=str(linux), no_bench=False) == 1
    assert len(measured(scene)) == 2 * 6
    assert "a metric is perhaps worse: 6 boots of base and tip" in scene.said
    assert "culprits: patch 1 (" in scene.said


def test_a_search_that_was_interrupted_goes_on(linux: Path, scene: Scene) -> None:
    for number in range(1, 4):
        commit_file(linux, f"fs/c{number}.c", f"int c{number};\n", f"patch {number}")
    scene.guests.figures = {"base": QUICK, "patch-1": QUICK, "patch-2": SLOW, "patch-3": SLOW}
    scene.guests.interrupt_at = "patch-2-x86_64-mmap-lock-map-latency-3"
    assert scene.begin("base..", source=str(linux), no_bench=False) == 130
    before = len(measured(scene))
    scene.guests.interrupt_at = ""
    assert scene.resume() == 1
    assert "culprits: patch 2 (" in scene.said
    # the boot that was interrupted is repeated, no other one
    assert len(measured(scene)) == 10 + 15 + 15 + 1
    assert before == 10 + 8


def test_an_equal_tip_is_not_measured(linux: Path, scene: Scene) -> None:
    commit_file(linux, "Documentation/a.txt", "words\n", "docs: words")
    assert scene.begin("base..", source=str(linux), no_bench=False) == 0
    assert not [name for name in scene.guests.booted if "map-latency" in name]
    assert scene.rows[row("bench")] == "- ="


def test_options_that_do_not_fit(linux: Path, scene: Scene) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"also": ("nowhere",)}, "unknown configuration 'nowhere'"),
        ({"also": ("none", "x86_64-up")}, "excludes all others"),
        ({"suites": ("map-latency",)}, "is a benchmark, and --no-bench"),
        ({"arches": ("vax",)}, "unknown architecture"),
    ]
    for words, message in refused:
        with pytest.raises(UserError, match=message):
            scene.begin("base..", source=str(linux), **words)
    with pytest.raises(UserError, match="no series is given"):
        scene.begin("", source=str(linux))
    assert not scene.out.exists()


def test_what_is_refused_leaves_no_folder(linux: Path, tmp_path: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    (tmp_path / "mbox").write_text("words\n")
    refused: list[tuple[str | Path, dict[str, Any], str]] = [
        ("base..", {"kconfig": ("CONFIG_HALF",)}, "not a kconfig line"),
        ("base..", {"config": str(tmp_path / "nosuch")}, "--config"),
        ("base..nowhere", {}, "has no revision 'nowhere'"),
        (tmp_path / "mbox", {"source": f"{linux}@base"}, "mbox"),
    ]
    for series, words, message in refused:
        with pytest.raises(UserError, match=message):
            scene.begin(series, **{"source": str(linux), **words})
    git(linux, "rm", "-q", "Makefile")
    commit_file(linux, "fs/a.c", "int b;\n", "no tree of a kernel")
    commit_file(linux, "fs/a.c", "int c;\n", "nor is this")
    with pytest.raises(UserError, match="is not a kernel tree"):
        scene.begin("HEAD~1..", source=str(linux))
    assert not scene.out.exists()


@pytest.mark.parametrize(
    ("suites", "flavors", "measure", "functional", "bench"),
    [
        ((), (), True, True, ("map-latency",)),
        ((), (), False, True, ()),
        ((), ("lockdep",), True, True, ()),
        (("maps",), (), True, ("maps",), ("map-latency",)),
        (("maps", "fault-scaling"), (), True, ("maps",), ("fault-scaling",)),
        (("fault-scaling",), (), True, True, ("fault-scaling",)),
    ],
)
def test_suites_of_patches_and_benchmarks_of_the_ends(
    suites: tuple[str, ...],
    flavors: tuple[str, ...],
    measure: bool,
    functional: Any,
    bench: tuple[str, ...],
) -> None:
    chosen = suites or prepare.default_suites(flavors)
    choices = Choices(arches=(HOST,), variants=("mmap-lock",), suites=chosen, flavors=flavors)
    each, benchmarks, why = request.split_suites(choices, measure=measure)
    assert benchmarks == bench
    assert bool(why) == bool(flavors)
    if functional is not True:
        assert each.suites == functional
    assert each.suites
    assert "map-latency" not in each.suites


def test_a_configuration_that_is_only_compiled(
    linux: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "also"
    folder.mkdir()
    for name, prefix in (("here", ""), ("there", "nowhere-linux-gnu-")):
        (folder / f"{name}.toml").write_text(
            f'description = "a"\nmake_arch = "x"\nmachines = []\ncross_prefix = "{prefix}"\n'
            'package = "gcc-nowhere"\nconfig = "tinyconfig"\ntargets = ["fs/"]\n'
        )
    monkeypatch.setattr(data, "also", lambda: data.listing(folder, ".toml"))
    makefile = (linux / "Makefile").read_text()
    commit_file(linux, "Makefile", makefile + "\n.PHONY: fs/\nfs/: ; @bash scripts/dir.sh $(O) fs $(CC)\n")
    script = (
        'mkdir -p $1/$2; for c in $2/*.c; do echo "  CC      $c"; $3 -c -o $1/${c%.c}.o $c || exit 1; done\n'
    )
    commit_file(linux, "scripts/dir.sh", script)
    commit_file(linux, "fs/a.c", "int a;\n")
    git(linux, "tag", "-f", "base")
    commit_file(linux, "fs/b.c", "#warning odd\n", "warns")
    commit_file(linux, "fs/c.c", "int c = undeclared;\n", "does not compile")
    code = scene.begin("base..", source=str(linux), also=())
    assert code == 1
    assert scene.rows["compile here"] == "ok ok FAIL"
    assert scene.rows["warnings here"] == "ok FAIL -"
    assert scene.rows["compile there"] == "skip skip skip"
    assert "nowhere-linux-gnu-gcc is not installed: apt-get install gcc-nowhere" in scene.said
    assert "warnings there" not in scene.said
    step = scene.series.steps[2].rows["compile here"]
    assert "fs/c.c:1:9: ‘undeclared’ undeclared" in step.cases[0].reason
    assert (scene.place.path / step.cases[0].log).is_file()


def test_the_state_is_read_again_as_it_was_written(linux: Path, scene: Scene) -> None:
    commit_file(linux, "fs/a.c", "int a;\n", "fs: a")
    scene.begin("base..", source=str(linux))
    series = scene.series
    assert msgspec.json.decode(msgspec.json.encode(series), type=Series) == series
    assert series.digests
    assert series.finished_at
