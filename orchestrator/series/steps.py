# SPDX-License-Identifier: GPL-2.0-only
"""Test one patch after another: build, compile other configurations, boot, run the suites.

    <out>/series-<id>/series.json  junit.xml  series.html  cover.txt  events.ndjson
                      patches/0002-build/  patches/0002-tests/   run directories
                      patches/0002-also/   logs of configurations that are only compiled
                      bench/               base and tip, interleaved

Only kernels that a patch changed are tested: one whose image equals that of the patch before shares its
results.
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

#: Warnings in the detail of a case; the ledger has all.
_MOST_WARNINGS = 5
_BUILD_CASES = ("config", "build")


@dataclass(frozen=True)
class Workspace:
    """The folder of a series, and the services that its steps use.

    ``selftests`` is the source of the kernel's selftests for all patches, empty if none are selected.
    ``write`` saves the state of the series.
    """

    folder: Path
    store: Store
    checkout: Checkout
    engine: Engine
    events: Events
    selftests: str
    write: Callable[[Series], None]


def rows(choices: Choices, also: Sequence[str], bench: Sequence[str]) -> tuple[Row, ...]:
    """The checks of a series, in the order of the report."""
    kernels = [(arch, variant) for arch in choices.arches for variant in choices.variants]
    result = [Row(check=APPLIES)]
    result += [Row(check=check, arch=a, variant=v) for check in (BUILD, WARNINGS) for a, v in kernels]
    result += [Row(check=check, arch=name) for name in also for check in (COMPILE, WARNINGS)]
    suites = [suite.name for suite in prepare.suites(choices)]
    result += [Row(check=check, arch=a, variant=v) for check in (BOOT, *suites) for a, v in kernels]
    return (*result, *(Row(check=BENCH, arch=a, variant=v) for a, v in kernels if bench))


def execute(series: Series, workspace: Workspace) -> Series:
    """Test each patch without a result. The state of the series is on disk after each.

    :raises UserError: a kernel of a patch cannot be what the user requested.
    """
    for patch in series.patches:
        if any(step.number == patch.number and step.finished for step in series.steps):
            continue
        if workspace.engine.cancelled():
            break
        workspace.events.emit("", "", f"{patch.number} of {len(series.patches) - 1}: {patch}")
        step = _step(series, patch, workspace)
        others = tuple(each for each in series.steps if each.number != patch.number)
        series = msgspec.structs.replace(series, steps=(*others, step))
        workspace.write(series)
    return msgspec.structs.replace(series, interrupted=workspace.engine.cancelled())


def _step(series: Series, patch: Patch, workspace: Workspace) -> Step:
    before = next((s for s in series.steps if s.number == patch.number - 1), Step(number=-1))
    target = target_of(series, patch, workspace)
    rows = {APPLIES: RowResult(cases=(Case(id=APPLIES, verdict=Verdict.PASS),))}
    build_run = _build(series, patch, target, workspace)
    kernels = {KernelId.of(cell): _kernel(cell) for cell in build_run.cells}
    for cell in build_run.cells:
        rows |= _build_rows(cell, build_run.id, patch, target, workspace)
    for name in series.scope.also:
        if not workspace.engine.cancelled():
            rows |= _compile_rows(name, series, patch, target, workspace)
    unchanged = _unchanged_kernels(before, kernels)
    rows |= _rows_of_previous(series, before, unchanged)
    machines = dict(before.machines)
    changed = [id_ for id_, kernel in kernels.items() if kernel.image and id_ not in unchanged]
    if changed and not workspace.engine.cancelled():
        test_run = run_of(
            msgspec.structs.replace(series.scope.choices, selftests_from=workspace.selftests),
            [target],
            workspace,
            f"patches/{patch.number:04}-tests",
            kernels=changed,
        )
        for cell in test_run.cells:
            rows |= _test_rows(cell, test_run.id, rows)
            machines |= _machine(cell)
    return Step(
        number=patch.number,
        rows=rows,
        kernels={id_.key: kernel for id_, kernel in kernels.items()},
        machines=machines,
        finished=not workspace.engine.cancelled(),
    )


def _build(series: Series, patch: Patch, target: Target, workspace: Workspace) -> RunResult:
    choices = msgspec.structs.replace(series.scope.choices, suites=(), commands=(), selftests_from="")
    return run_of(choices, [target], workspace, f"patches/{patch.number:04}-build")


def _build_rows(
    cell: CellResult, run: str, patch: Patch, target: Target, workspace: Workspace
) -> dict[str, RowResult]:
    kernel = KernelId.of(cell)
    cases = tuple(case for case in cell.cases if case.id in _BUILD_CASES)
    rows = {kernel.row(BUILD).name: RowResult(cases=cases, run=run)}
    key = cell.properties.get("kernel", "") if cell.release else ""
    if key and (folder := workspace.store.find("kernels", key)):
        assert target.tree is not None
        row = kernel.row(WARNINGS)
        ledger = build.warnings_of(folder, target.tree.path)
        rows[row.name] = RowResult(cases=(_warnings_case(row, patch, ledger, workspace.folder),))
    return rows


def _rows_of_previous(series: Series, before: Step, unchanged: Sequence[KernelId]) -> dict[str, RowResult]:
    """The results of the patch before, for unchanged kernels."""
    return {
        row.name: msgspec.structs.replace(before.rows[row.name], same=True)
        for row in series.rows
        if KernelId(row.arch, row.variant) in unchanged and not _of_build(row) and row.name in before.rows
    }


def _of_build(row: Row) -> bool:
    return row.check in (APPLIES, BUILD, WARNINGS, COMPILE, BENCH)


def target_of(series: Series, patch: Patch, workspace: Workspace) -> Target:
    """The target of a patch. The checkout has its tree until the next call."""
    tree = workspace.checkout.check_out(patch.commit)
    source = Source(spec=f"{series.scope.folder}@{patch.commit}", label=label_of(patch))
    if series.scope.inputs:
        # the repository does not have this commit: the mails represent it
        below = [str(workspace.folder / patch_file(p)) for p in series.patches[1 : patch.number + 1]]
        base = series.patches[0].commit
        source = Source(spec=f"{series.scope.folder}@{base}", label=label_of(patch), patches=tuple(below))
    return make_target(label_of(patch), tree, source)


def label_of(patch: Patch) -> str:
    """The label of a patch's kernels."""
    return f"patch-{patch.number}" if patch.number else "base"


def patch_file(patch: Patch) -> str:
    """The path of a patch as a mail, relative to the series's folder."""
    return f"input/{patch.number:04}.patch"


def run_of(
    choices: Choices,
    targets: Sequence[Target],
    workspace: Workspace,
    name: str,
    *,
    kernels: Sequence[KernelId] | None = None,
) -> RunResult:
    """Execute or resume a run below the series's folder.

    :param kernels: the kernels to test; by default all.
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
            objects=object_folders(choices, workspace.checkout),
        )
    return msgspec.structs.replace(result, id=name)


def inputs_of(choices: Choices, targets: Sequence[Target], workspace: Workspace) -> Inputs:
    """The inputs of a run of a series."""
    return prepare.inputs(choices, targets, prepare.suites(choices), workspace.store)


def object_folders(choices: Choices, checkout: Checkout) -> ObjectFolder:
    """A function that returns the folder of incremental builds for an arch and a variant."""
    kind = (choices.toolchain, choices.flavors, choices.kconfig, choices.config)
    return lambda arch, variant: checkout.objects("kernel", arch, variant, *kind)


def _kernel(cell: CellResult) -> PatchKernel:
    image = Path(cell.properties.get("image", ""))
    return PatchKernel(
        image=file_digest(image) if image.is_file() else "",
        release=cell.release,
        toolchain=cell.properties.get("toolchain", ""),
    )


def _unchanged_kernels(before: Step, kernels: Mapping[KernelId, PatchKernel]) -> list[KernelId]:
    """The kernels that equal those of the patch before byte for byte."""
    return [
        id_
        for id_, kernel in kernels.items()
        if kernel.image and id_.key in before.kernels and before.kernels[id_.key].image == kernel.image
    ]


def _warnings_case(row: Row, patch: Patch, ledger: build_warnings.Ledger, folder: Path) -> Case:
    """Whether a build has new warnings, compared with the last one before that succeeded."""
    ledgers = folder / "warnings" / row.name.replace(" ", "-")
    ledgers.mkdir(parents=True, exist_ok=True)
    (ledgers / f"{patch.number:04}.json").write_bytes(build_warnings.dump(ledger))
    count = sum(map(len, ledger.values()))
    older = sorted(path for path in ledgers.glob("*.json") if int(path.stem) < patch.number)
    earlier = build_warnings.load(older[-1]) if older else None
    if earlier is None and patch.number:
        return Case(
            id=WARNINGS,
            verdict=Verdict.INCONCLUSIVE,
            blame=Blame.INFRA,
            reason="no patch before was built: not compared",
        )
    if earlier is None:
        reason = f"{count} {'warning' if count == 1 else 'warnings'} without the series" if count else ""
        return Case(id=WARNINGS, verdict=Verdict.PASS, reason=reason)
    new = build_warnings.new(earlier, ledger)
    if not new:
        return Case(id=WARNINGS, verdict=Verdict.PASS)
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    return Case(
        id=WARNINGS,
        verdict=Verdict.FAIL,
        blame=Blame.KERNEL,
        reason=f"new: {new[0]}{more}",
        detail="\n".join(new[:_MOST_WARNINGS]),
    )


def _compile_rows(
    name: str, series: Series, patch: Patch, target: Target, workspace: Workspace
) -> dict[str, RowResult]:
    """The rows of a configuration that is only compiled."""
    config = compile_only.load(name)
    row = Row(check=COMPILE, arch=name)
    if config.missing:
        case = Case(id=COMPILE, verdict=Verdict.SKIP, reason=config.missing)
        return {row.name: RowResult(cases=(case,))}
    since = time.monotonic()
    log = f"patches/{patch.number:04}-also/{name}.log"
    say = workspace.events.reporter(f"{label_of(patch)}-{name}")
    try:
        ledger = _compile(config, target, workspace, log, choices=series.scope.choices, say=say)
    except UserError:
        raise
    except OrchestrateError as error:
        if workspace.engine.cancelled() or isinstance(error, Interrupted):
            return {}
        say("done", error.message)
        verdict, blame = meaning(error)
        case = Case(id=COMPILE, verdict=verdict, blame=blame, reason=error.message, log=log)
        return {row.name: RowResult(cases=(_timed(case, since),))}
    say("done", "compiled")
    case = Case(id=COMPILE, verdict=Verdict.PASS, log=log)
    warnings = Row(check=WARNINGS, arch=name)
    return {
        row.name: RowResult(cases=(_timed(case, since),)),
        warnings.name: RowResult(cases=(_warnings_case(warnings, patch, ledger, workspace.folder),)),
    }


def _compile(
    config: compile_only.Config,
    target: Target,
    workspace: Workspace,
    log: str,
    *,
    choices: Choices,
    say: Callable[[str, str], None],
) -> build_warnings.Ledger:
    assert target.tree is not None
    return compile_only.compile_(
        config,
        target.tree,
        workspace.checkout.objects(compile_only.place_name(config)),
        workspace.folder / log,
        say=lambda text: say("compile", text),
        jobs=choices.jobs,
        sandboxed=choices.sandboxed,
    )


def _timed(case: Case, since: float) -> Case:
    return msgspec.structs.replace(case, duration_s=round(time.monotonic() - since, 3))


def _test_rows(cell: CellResult, run: str, earlier: Mapping[str, RowResult]) -> dict[str, RowResult]:
    """The rows of a booted cell, added to those of its other vsyscall modes."""
    rows: dict[str, RowResult] = {}

    def put(check: str, cases: Sequence[Case]) -> None:
        row = Row(check=check, arch=cell.arch, variant=cell.variant)
        cases = [msgspec.structs.replace(c, log=f"{run}/{c.log}" if c.log else "") for c in cases]
        old = earlier.get(row.name)
        if old is not None and not old.same and cases:
            cases = [*old.cases, *cases]
        if cases:
            rows[row.name] = RowResult(cases=tuple(cases), run=run)

    put(BOOT, [case for case in cell.cases if case.id not in _BUILD_CASES])
    for suite in cell.suites:
        put(suite.suite, suite.cases)
    if any(case.id in _BUILD_CASES and case.verdict is not Verdict.PASS for case in cell.cases):
        # it was built a moment ago: the host or the cache failed it since
        put(BOOT, [case for case in cell.cases if case.verdict is not Verdict.PASS])
    return rows


def _machine(cell: CellResult) -> dict[str, str]:
    """The machine of a guest in words, by its arch."""
    properties = cell.properties
    if "accelerator" not in properties:
        return {}
    words = [properties.get("QEMU", "QEMU"), properties["accelerator"]]
    words += [f"{properties.get('vCPUs', '?')} CPUs", properties.get("memory", "")]
    return {cell.arch: ", ".join(words)}


def has_tree_suites(choices: Choices) -> bool:
    """Whether a suite of a series is built from the kernel's selftests."""
    return any(catalog.load(name).origin == "tree" for name in choices.suites)
