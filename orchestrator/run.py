# SPDX-License-Identifier: GPL-2.0-only
"""A run: carries a plan out through an engine and owns the run directory.

    <runs>/<id>/plan.json events.ndjson results.json junit.xml
                artifacts/<kernel>/…
                cells/<cell>/{result.json,console.log,qemu.json,config,reproduce.sh,suites/…}

Results are written as they arrive, by atomic rename: a run that is killed keeps what it had.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from orchestrator import arch as arches
from orchestrator import cell as cells
from orchestrator.analysis.compare import Comparison, compare_pair
from orchestrator.engine.local import LocalEngine
from orchestrator.errors import OrchestrateError, UserError
from orchestrator.events import Events, now
from orchestrator.kernel import build as kernels
from orchestrator.kernel import kconfig, toolchain
from orchestrator.plan import CellPlan, Choices, Plan, make
from orchestrator.results import junit
from orchestrator.results.model import SCHEMA_VERSION, CellResult, exit_code
from orchestrator.source.classify import classify, maps_uses_vma_locks
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.suites import catalog
from orchestrator.vm import accel, overlay, qemu

_WITH, _WITHOUT = "per-vma-lock", "mmap-lock"


class SuiteComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark's two variants on one arch."""

    label: str
    arch: str
    suite: str
    comparison: Comparison


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ``results.json`` holds."""

    schema_version: int
    id: str
    source: str
    tree_class: str
    maps_read_under_vma_locks: bool
    started_at: str
    finished_at: str = ""
    interrupted: bool = False
    cells: tuple[CellResult, ...] = ()
    comparisons: tuple[SuiteComparison, ...] = ()

    def exit_code(self) -> int:
        """The exit code of the run (design §5); only cases of suites can make it green."""
        own = [c for cell in self.cells for c in cell.cases if c.verdict.value != "PASS"]
        suites = [c for cell in self.cells for s in cell.suites for c in s.cases]
        return exit_code(own + suites, interrupted=self.interrupted)


class RunDirectory:
    """The folder of one run."""

    def __init__(self, runs: Path) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self.id = f"{stamp}-{secrets.token_hex(2)}"
        self.path = runs.absolute() / self.id

    def create(self) -> None:
        """Make the folder.

        :raises UserError: it cannot be written.
        """
        try:
            (self.path / "cells").mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.path.parent}: {error.strerror}",
                remedy="Name another folder with --out.",
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file by atomic rename."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(path)


def plan(choices: Choices, tree: Tree) -> Plan:
    """The plan of a run of one tree.

    :raises UserError: a choice that does not exist.
    """
    for variant in choices.variants:
        kconfig.own_fragments(choices.arches[0], variant)
    modes = {name: arches.load(name).vsyscall_modes for name in choices.arches}
    return make(choices, label=tree.version, vsyscall_modes=modes)


def context(choices: Choices, tree: Tree, store: Store, root: Path, engine: LocalEngine) -> cells.Context:
    """What all cells of a run share, read and checked once.

    :raises UserError: a fragment or base that cannot be used, or KVM that cannot be forced.
    :raises InfraError: a compiler or QEMU is not installed.
    """
    fragments = tuple(kconfig.user_fragment(spec) for spec in choices.kconfig)
    for name in choices.arches:
        kconfig.check_user_fragments(fragments, name)
    base = ""
    if choices.config:
        try:
            base = Path(choices.config).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(f"--config {choices.config}: {reason}") from error
    for name in choices.arches:
        arch = arches.load(name)
        toolchain.find(choices.toolchain, arch)
        if choices.suites:
            # better now than after a build of some minutes
            qemu.program(arch)
            accel.choose(arch, choices.accel, store.root)
    return cells.Context(
        tree=tree,
        tree_class=classify(tree.path),
        choices=choices,
        store=store,
        keys=overlay.make_keys(),
        root=root,
        fragments=fragments,
        base=base,
        cancelled=engine.cancelled,
    )


def carry_out(
    the_plan: Plan,
    shared: cells.Context,
    directory: RunDirectory,
    engine: LocalEngine,
    events: Events,
    *,
    junit_path: Path | None = None,
) -> RunResult:
    """Carry a plan out; results are on disk after every cell.

    When the engine is cancelled, guests and builds end at once; the result has what there is and says so.

    :raises UserError: a cell cannot be what was asked for.
    """
    tree = shared.tree
    result = RunResult(
        schema_version=SCHEMA_VERSION,
        id=directory.id,
        source=tree.describe,
        tree_class=shared.tree_class.value,
        maps_read_under_vma_locks=maps_uses_vma_locks(tree.path),
        started_at=now(),
    )
    directory.write("plan.json", msgspec.json.format(msgspec.json.encode(the_plan), indent=1))

    def work(cell: CellPlan) -> CellResult:
        script = cells.reproduce(cell, shared.choices, tree)
        directory.write(f"cells/{cell.id}/reproduce.sh", script.encode())
        (directory.path / f"cells/{cell.id}/reproduce.sh").chmod(0o755)
        return cells.carry_out(shared, cell, events.saying(cell.id))

    done: list[CellResult] = []
    for cell, outcome in engine.carry_out(the_plan.cells, work):
        done.append(outcome)
        _keep_artifacts(directory, outcome)
        if not outcome.interrupted:
            directory.write(f"cells/{cell.id}/result.json", msgspec.json.encode(outcome))
        result = _write(directory, result, done, junit_path, interrupted=engine.cancelled())
        events.emit(cell.id, "done", summary(outcome))
    result = msgspec.structs.replace(result, finished_at=now())
    return _write(directory, result, done, junit_path, interrupted=engine.cancelled())


def _write(
    directory: RunDirectory,
    result: RunResult,
    done: Sequence[CellResult],
    junit_path: Path | None,
    *,
    interrupted: bool,
) -> RunResult:
    result = msgspec.structs.replace(
        result, cells=tuple(done), comparisons=compare(done), interrupted=interrupted
    )
    directory.write("results.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    junit.write(directory.path / "junit.xml", result.cells, run_id=result.id)
    if junit_path is not None:
        try:
            junit_path.parent.mkdir(parents=True, exist_ok=True)
            junit.write(junit_path, result.cells, run_id=result.id)
        except OSError as error:
            raise UserError(f"--junit {junit_path}: {error.strerror}") from error
    return result


def _keep_artifacts(directory: RunDirectory, outcome: CellResult) -> None:
    """The kernel image beside its results, so that the run stands on its own; a hard link where it can be."""
    image = Path(outcome.properties.get("image", ""))
    if not image.is_file():
        return
    place = directory.path / "artifacts" / outcome.properties["kernel"]
    if (place / image.name).exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        for source in (image, image.parent / "vmlinux", image.parent / "config"):
            try:
                os.link(source, place / source.name)
            except OSError:
                shutil.copyfile(source, place / source.name)


def summary(outcome: CellResult) -> str:
    """A cell's result in words: ``maps 8 passed, 2 skipped``."""
    words = []
    for case in outcome.cases:
        if case.verdict.value not in ("PASS", "NA"):
            words.append(f"{case.id}: {case.verdict.value}: {case.reason}")
    for suite in outcome.suites:
        counts: dict[str, int] = {}
        for case in suite.cases:
            counts[case.verdict.value] = counts.get(case.verdict.value, 0) + 1
        words.append(f"{suite.suite}: " + (", ".join(f"{n} {v}" for v, n in counts.items()) or "nothing ran"))
    return "; ".join(words) or "built"


def compare(done: Sequence[CellResult]) -> tuple[SuiteComparison, ...]:
    """The benchmarks' variants side by side, for each kernel label, arch and suite that has both."""
    boots: dict[tuple[str, str, str], dict[str, list[dict[str, float]]]] = {}
    for cell in done:
        for suite in cell.suites:
            if suite.suite in catalog.names() and catalog.load(suite.suite).kind == "benchmark":
                pair = boots.setdefault((cell.label, cell.arch, suite.suite), {})
                pair.setdefault(cell.variant, []).append(suite.metrics)
    found = []
    for (label, arch, suite_name), pair in boots.items():
        if any(map(bool, pair.get(_WITH, []))) and any(map(bool, pair.get(_WITHOUT, []))):
            found.append(
                SuiteComparison(
                    label=label,
                    arch=arch,
                    suite=suite_name,
                    comparison=compare_pair(pair[_WITH], pair[_WITHOUT]),
                )
            )
    return tuple(found)


def build_all(
    choices: Choices,
    tree: Tree,
    store: Store,
    *,
    say: Callable[[str], None],
    configure_only: bool = False,
) -> Iterator[tuple[str, OrchestrateError | None]]:
    """Build every kernel of some choices; the path of each image, or what went wrong and the error.

    :param configure_only: stop after the configuration and give its path instead.
    :raises UserError: a choice that does not exist, or a request of the user's that is lost.
    """
    shared = context(choices, tree, store, Path(), LocalEngine())
    say(f"{tree.describe}: per-VMA locks are {shared.tree_class.value}")
    for arch in choices.arches:
        for variant in choices.variants:
            if moot := cells.not_applicable(shared.tree_class, variant):
                say(f"{arch} {variant}: not applicable: {moot}")
                continue
            spec = cells.kernel_spec(shared, arch, variant)
            try:
                differing = kernels.pair_difference(spec, store)
                if configure_only:
                    pair = ", ".join(differing) or "nothing: there is no pair"
                    say(f"{arch} {variant}: the variants differ in {pair}")
                    yield str(kernels.configure(spec, store).path), None
                    continue
                kernel = kernels.build(spec, store, say=say, jobs=choices.jobs)
            except UserError:
                raise
            except OrchestrateError as error:
                yield f"{arch} {variant}: {error}", error
            else:
                yield str(kernel.image), None
