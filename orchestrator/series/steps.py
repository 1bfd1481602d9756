# SPDX-License-Identifier: GPL-2.0-only
"""One patch after another through the path of `orchestrate run`: built, compiled elsewhere, booted, tested.

    <out>/series-<id>/series.json  junit.xml  series.html  cover.txt  events.ndjson
                      patches/0002-build/  patches/0002-tests/   runs, as any other
                      patches/0002-also/   logs of what is only compiled
                      bench/               base and tip, interleaved

Only what a patch can have changed is run again: a kernel whose image is the same as the previous patch's
takes over its results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator.cell.job import ObjectFolder
from orchestrator.cell.state import meaning
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.core.events import Events
from orchestrator.core.store import Store, file_digest
from orchestrator.engine.protocol import Engine
from orchestrator.kernel import build, build_warnings, compile_only
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs, digests
from orchestrator.plan.target import Target
from orchestrator.plan.target import target_of as make_target
from orchestrator.results.model import Blame, Case, CellResult, Verdict
from orchestrator.run.directory import RunDirectory
from orchestrator.run.execute import execute as execute_run
from orchestrator.run.summary import RunResult
from orchestrator.series.model import (
    APPLIES,
    BENCH,
    BOOT,
    BUILD,
    COMPILE,
    WARNINGS,
    KernelId,
    Patch,
    PatchKernel,
    Row,
    RowResult,
    Series,
    Step,
)
from orchestrator.source.checkout import Checkout
from orchestrator.suites import catalog

#: Warnings that are named in a case; the ledger has all.
_NAMED = 5
_BUILT = ("config", "build")


@dataclass(frozen=True)
class Workspace:
    """The place of a series and the services that its steps use.

    ``selftests`` is where the kernel's own tests are taken from for all patches, empty where none is chosen.
    ``write`` keeps the state of the series.
    """

    folder: Path
    store: Store
    shop: Checkout
    engine: Engine
    events: Events
    selftests: str
    write: Callable[[Series], None]


def rows(choices: Choices, also: Sequence[str], bench: Sequence[str]) -> tuple[Row, ...]:
    """The checks of a series, in the order in which they are shown."""
    kernels = [(arch, variant) for arch in choices.arches for variant in choices.variants]
    found = [Row(check=APPLIES)]
    found += [Row(check=check, arch=a, variant=v) for check in (BUILD, WARNINGS) for a, v in kernels]
    found += [Row(check=check, arch=name) for name in also for check in (COMPILE, WARNINGS)]
    suites = [suite.name for suite in prepare.suites(choices)]
    found += [Row(check=check, arch=a, variant=v) for check in (BOOT, *suites) for a, v in kernels]
    return (*found, *(Row(check=BENCH, arch=a, variant=v) for a, v in kernels if bench))


def execute(series: Series, workspace: Workspace) -> Series:
    """Test each patch that has no result yet; the state of the series is on disk after each.

    :raises UserError: a patch makes a kernel impossible that was asked for.
    """
    for patch in series.patches:
        if any(step.number == patch.number and step.done for step in series.steps):
            continue
        if workspace.engine.cancelled():
            break
        workspace.events.emit("", "", f"{patch.number} of {len(series.patches) - 1}: {patch}")
        step = _step(series, patch, workspace)
        kept = tuple(each for each in series.steps if each.number != patch.number)
        series = msgspec.structs.replace(series, steps=(*kept, step))
        workspace.write(series)
    return msgspec.structs.replace(series, interrupted=workspace.engine.cancelled())


def _step(series: Series, patch: Patch, workspace: Workspace) -> Step:
    before = next((s for s in series.steps if s.number == patch.number - 1), Step(number=-1))
    target = target_of(series, patch, workspace)
    rows = {APPLIES: RowResult(cases=(Case(id=APPLIES, verdict=Verdict.PASS),))}
    built = _build(series, patch, target, workspace)
    kernels = {KernelId.of(cell): _kernel(cell) for cell in built.cells}
    for cell in built.cells:
        rows |= _build_rows(cell, built.id, patch, target, workspace)
    for name in series.scope.also:
        if not workspace.engine.cancelled():
            rows |= _also(name, series, patch, target, workspace)
    unchanged = _unchanged_kernels(before, kernels)
    rows |= _rows_of_before(series, before, unchanged)
    machines = dict(before.machines)
    changed = [kernel for kernel, built_ in kernels.items() if built_.image and kernel not in unchanged]
    if changed and not workspace.engine.cancelled():
        tested = run_of(
            msgspec.structs.replace(series.scope.choices, selftests_from=workspace.selftests),
            [target],
            workspace,
            f"patches/{patch.number:04}-tests",
            kernels=changed,
        )
        for cell in tested.cells:
            rows |= _tested(cell, tested.id, rows)
            machines |= _machine(cell)
    return Step(
        number=patch.number,
        rows=rows,
        kernels={kernel.key: built_ for kernel, built_ in kernels.items()},
        machines=machines,
        done=not workspace.engine.cancelled(),
    )


def _build(series: Series, patch: Patch, target: Target, workspace: Workspace) -> RunResult:
    choices = msgspec.structs.replace(series.scope.choices, suites=(), commands=(), selftests_from="")
    return run_of(choices, [target], workspace, f"patches/{patch.number:04}-build")


def _build_rows(
    cell: CellResult, run: str, patch: Patch, target: Target, workspace: Workspace
) -> dict[str, RowResult]:
    kernel = KernelId.of(cell)
    cases = tuple(case for case in cell.cases if case.id in _BUILT)
    rows = {kernel.row(BUILD).name: RowResult(cases=cases, run=run)}
    key = cell.properties.get("kernel", "") if cell.release else ""
    if key and (folder := workspace.store.find("kernels", key)):
        assert target.tree is not None
        row = kernel.row(WARNINGS)
        ledger = build.warnings_of(folder, target.tree.path)
        rows[row.name] = RowResult(cases=(_warned(row, patch, ledger, workspace.folder),))
    return rows


def _rows_of_before(series: Series, before: Step, unchanged: Sequence[KernelId]) -> dict[str, RowResult]:
    """The results of the patch before for kernels that are the same."""
    return {
        row.name: msgspec.structs.replace(before.rows[row.name], same=True)
        for row in series.rows
        if KernelId(row.arch, row.variant) in unchanged and not _of_build(row) and row.name in before.rows
    }


def _of_build(row: Row) -> bool:
    return row.check in (APPLIES, BUILD, WARNINGS, COMPILE, BENCH)


def target_of(series: Series, patch: Patch, workspace: Workspace) -> Target:
    """The target of a patch; the checkout has its tree until the next call."""
    tree = workspace.shop.check_out(patch.commit)
    source = Source(spec=f"{series.scope.folder}@{patch.commit}", label=label_of(patch))
    if series.scope.inputs:
        # its repository has no such commit: the mails stand for it
        below = [str(workspace.folder / patch_file(p)) for p in series.patches[1 : patch.number + 1]]
        base = series.patches[0].commit
        source = Source(spec=f"{series.scope.folder}@{base}", label=label_of(patch), patches=tuple(below))
    return make_target(label_of(patch), tree, source)


def label_of(patch: Patch) -> str:
    """What its kernels are called."""
    return f"patch-{patch.number}" if patch.number else "base"


def patch_file(patch: Patch) -> str:
    """Where a patch is kept as a mail of its own, relative to the series's folder."""
    return f"input/{patch.number:04}.patch"


def run_of(
    choices: Choices,
    targets: Sequence[Target],
    workspace: Workspace,
    name: str,
    *,
    kernels: Sequence[KernelId] | None = None,
) -> RunResult:
    """A run of its own below the series's folder, like any other; it continues where it was interrupted.

    :param kernels: those to test; all if left out.
    """
    directory = RunDirectory(workspace.folder / name)
    inputs = inputs_of(choices, targets, workspace)
    plan = prepare.plan(
        prepare.pinned(choices, targets), targets, tuple(inputs.suites.values()), digests(inputs)
    )
    cells = (cell for cell in plan.cells if kernels is None or KernelId.of(cell) in kernels)
    plan = msgspec.structs.replace(plan, cells=tuple(cells))
    directory.create()
    with directory.lock():
        result = execute_run(
            plan,
            inputs,
            directory,
            workspace.engine,
            workspace.events,
            earlier=directory.results(plan),
            objects=object_folders(choices, workspace.shop),
        )
    return msgspec.structs.replace(result, id=name)


def inputs_of(choices: Choices, targets: Sequence[Target], workspace: Workspace) -> Inputs:
    """The inputs of such a run."""
    return prepare.inputs(choices, targets, prepare.suites(choices), workspace.store)


def object_folders(choices: Choices, shop: Checkout) -> ObjectFolder:
    """Gives the folder in which the kernels of each kind are built, patch after patch."""
    kind = (choices.toolchain, choices.flavors, choices.kconfig, choices.config)
    return lambda arch, variant: shop.objects("kernel", arch, variant, *kind)


def _kernel(cell: CellResult) -> PatchKernel:
    image = Path(cell.properties.get("image", ""))
    return PatchKernel(
        image=file_digest(image) if image.is_file() else "",
        release=cell.release,
        toolchain=cell.properties.get("toolchain", ""),
    )


def _unchanged_kernels(before: Step, kernels: Mapping[KernelId, PatchKernel]) -> list[KernelId]:
    """The kernels that are byte for byte what the previous patch's were."""
    return [
        id_
        for id_, kernel in kernels.items()
        if kernel.image and id_.key in before.kernels and before.kernels[id_.key].image == kernel.image
    ]


def _warned(row: Row, patch: Patch, ledger: build_warnings.Ledger, folder: Path) -> Case:
    """Whether a build warns of what the last one before it that could be built did not."""
    kept = folder / "warnings" / row.name.replace(" ", "-")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / f"{patch.number:04}.json").write_bytes(build_warnings.dump(ledger))
    count = sum(map(len, ledger.values()))
    older = sorted(path for path in kept.glob("*.json") if int(path.stem) < patch.number)
    known = build_warnings.load(older[-1]) if older else None
    if known is None and patch.number:
        return Case(
            id=WARNINGS,
            verdict=Verdict.INCONCLUSIVE,
            blame=Blame.INFRA,
            reason="nothing before it was built: not compared",
        )
    if known is None:
        told = f"{count} {'warning' if count == 1 else 'warnings'} without the series" if count else ""
        return Case(id=WARNINGS, verdict=Verdict.PASS, reason=told)
    new = build_warnings.new(known, ledger)
    if not new:
        return Case(id=WARNINGS, verdict=Verdict.PASS)
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    return Case(
        id=WARNINGS,
        verdict=Verdict.FAIL,
        blame=Blame.KERNEL,
        reason=f"new: {new[0]}{more}",
        detail="\n".join(new[:_NAMED]),
    )


def _also(
    name: str, series: Series, patch: Patch, target: Target, workspace: Workspace
) -> dict[str, RowResult]:
    """What comes of a configuration that is only compiled."""
    config = compile_only.load(name)
    row = Row(check=COMPILE, arch=name)
    if config.missing:
        case = Case(id=COMPILE, verdict=Verdict.SKIP, reason=config.missing)
        return {row.name: RowResult(cases=(case,))}
    since = time.monotonic()
    log = f"patches/{patch.number:04}-also/{name}.log"
    assert target.tree is not None
    say = workspace.events.reporter(f"{label_of(patch)}-{name}")
    try:
        ledger = compile_only.compile_(
            config,
            target.tree,
            workspace.shop.objects(compile_only.place_name(config)),
            workspace.folder / log,
            say=lambda text: say("compile", text),
            jobs=series.scope.choices.jobs,
        )
    except UserError:
        raise
    except OrchestrateError as error:
        if workspace.engine.cancelled() or isinstance(error, Interrupted):
            return {}
        verdict, blame = meaning(error)
        took = round(time.monotonic() - since, 3)
        say("done", error.message)
        case = Case(id=COMPILE, verdict=verdict, blame=blame, reason=error.message, duration_s=took, log=log)
        return {row.name: RowResult(cases=(case,))}
    say("done", "compiled")
    took = round(time.monotonic() - since, 3)
    case = Case(id=COMPILE, verdict=Verdict.PASS, duration_s=took, log=log)
    warned = Row(check=WARNINGS, arch=name)
    return {
        row.name: RowResult(cases=(case,)),
        warned.name: RowResult(cases=(_warned(warned, patch, ledger, workspace.folder),)),
    }


def _tested(cell: CellResult, run: str, known: Mapping[str, RowResult]) -> dict[str, RowResult]:
    """The rows of a cell that was to be booted; with several modes of vsyscall it is more than one."""
    found: dict[str, RowResult] = {}

    def put(check: str, cases: Sequence[Case]) -> None:
        row = Row(check=check, arch=cell.arch, variant=cell.variant)
        here = [msgspec.structs.replace(c, log=f"{run}/{c.log}" if c.log else "") for c in cases]
        old = known.get(row.name)
        if old is not None and not old.same and here:
            here = [*old.cases, *here]
        if here:
            found[row.name] = RowResult(cases=tuple(here), run=run)

    put(BOOT, [case for case in cell.cases if case.id not in _BUILT])
    for suite in cell.suites:
        put(suite.suite, suite.cases)
    if any(case.id in _BUILT and case.verdict is not Verdict.PASS for case in cell.cases):
        # built a moment ago: the host, or the store, has failed it since
        put(BOOT, [case for case in cell.cases if case.verdict is not Verdict.PASS])
    return found


def _machine(cell: CellResult) -> dict[str, str]:
    """What a guest ran on, in words, by its arch."""
    said = cell.properties
    if "accelerator" not in said:
        return {}
    words = [said.get("QEMU", "QEMU"), said["accelerator"], f"{said.get('vCPUs', '?')} CPUs"]
    return {cell.arch: ", ".join([*words, said.get("memory", "")])}


def has_tree_suites(choices: Choices) -> bool:
    """Whether a suite of a series is one of the kernel's own selftests."""
    return any(catalog.load(name).origin == "tree" for name in choices.suites)
