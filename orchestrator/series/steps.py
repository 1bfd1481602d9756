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

from orchestrator.cell.state import Context, Target, meaning
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.core.events import Events
from orchestrator.core.store import Store, file_digest
from orchestrator.engine import Engine
from orchestrator.kernel import build, build_warnings, compile_only
from orchestrator.plan import prepare
from orchestrator.plan.plan import CellPlan, Choices, Source
from orchestrator.results.model import Blame, Case, CellResult, Verdict
from orchestrator.run import execute as runs
from orchestrator.run.summary import RunResult
from orchestrator.series.model import (
    APPLIES,
    BENCH,
    BOOT,
    BUILD,
    COMPILE,
    WARNINGS,
    Kernel,
    Patch,
    Row,
    RowResult,
    Series,
    Step,
)
from orchestrator.source.checkout import Workshop
from orchestrator.suites import catalog

#: Warnings that are named in a case; the ledger has all.
_NAMED = 5
_BUILT = ("config", "build")


@dataclass(frozen=True)
class Hands:
    """What the steps are carried out with.

    ``selftests`` is where the kernel's own tests are taken from for all patches, empty where none is chosen.
    ``write`` keeps the state of the series.
    """

    folder: Path
    store: Store
    shop: Workshop
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


def carry_out(series: Series, hands: Hands) -> Series:
    """Carry out what a series has no result of yet; its state is on disk after each patch.

    :raises UserError: a patch makes a kernel impossible that was asked for.
    """
    for patch in series.patches:
        if any(step.number == patch.number and step.done for step in series.steps):
            continue
        if hands.engine.cancelled():
            break
        hands.events.emit("", "", f"{patch.number} of {len(series.patches) - 1}: {patch}")
        step = _step(series, patch, hands)
        kept = tuple(each for each in series.steps if each.number != patch.number)
        series = msgspec.structs.replace(series, steps=(*kept, step))
        hands.write(series)
    return msgspec.structs.replace(series, interrupted=hands.engine.cancelled())


def _step(series: Series, patch: Patch, hands: Hands) -> Step:
    before = next((s for s in series.steps if s.number == patch.number - 1), Step(number=-1))
    target = target_of(series, patch, hands)
    found = {APPLIES: RowResult(cases=(Case(id=APPLIES, verdict=Verdict.PASS),))}
    built = run_of(
        msgspec.structs.replace(series.asked.choices, suites=(), commands=(), selftests_from=""),
        [target],
        hands,
        f"patches/{patch.number:04}-build",
    )
    kernels = {f"{c.arch} {c.variant}": _kernel(c) for c in built.cells}
    for cell in built.cells:
        of = {"arch": cell.arch, "variant": cell.variant}
        found[Row(check=BUILD, **of).name] = RowResult(
            cases=tuple(case for case in cell.cases if case.id in _BUILT), run=built.id
        )
        key = cell.properties.get("kernel", "") if cell.release else ""
        if key and (folder := hands.store.find("kernels", key)):
            assert target.tree is not None
            ledger = build.warned(folder, target.tree.path)
            row = Row(check=WARNINGS, **of)
            found[row.name] = RowResult(cases=(_warned(row, patch, ledger, hands.folder),))
    for name in series.asked.also:
        if not hands.engine.cancelled():
            found |= _also(name, series, patch, target, hands)
    taken = _taken_over(before, kernels)
    for name in taken:
        arch, variant = name.split()
        for row in series.rows:
            old = before.rows.get(row.name)
            if (row.arch, row.variant) == (arch, variant) and not _of_build(row) and old is not None:
                found[row.name] = msgspec.structs.replace(old, same=True)
    machines = dict(before.machines)
    wanted = [name for name, kernel in kernels.items() if kernel.image and name not in taken]
    if wanted and not hands.engine.cancelled():
        tested = run_of(
            msgspec.structs.replace(series.asked.choices, selftests_from=hands.selftests),
            [target],
            hands,
            f"patches/{patch.number:04}-tests",
            wanted=lambda cell: f"{cell.arch} {cell.variant}" in wanted,
        )
        for cell in tested.cells:
            found |= _tested(cell, tested.id, found)
            machines |= _machine(cell)
    return Step(
        number=patch.number,
        rows=found,
        kernels=kernels,
        machines=machines,
        done=not hands.engine.cancelled(),
    )


def _of_build(row: Row) -> bool:
    return row.check in (APPLIES, BUILD, WARNINGS, COMPILE, BENCH)


def target_of(series: Series, patch: Patch, hands: Hands) -> Target:
    """The target that a patch is; the workshop has its tree until the next one is asked for."""
    tree = hands.shop.check_out(patch.commit)
    source = Source(spec=f"{series.asked.folder}@{patch.commit}", label=label_of(patch))
    if series.asked.inputs:
        # its repository has no such commit: the mails stand for it
        below = [str(hands.folder / patch_file(p)) for p in series.patches[1 : patch.number + 1]]
        base = series.patches[0].commit
        source = Source(spec=f"{series.asked.folder}@{base}", label=label_of(patch), patches=tuple(below))
    return prepare.target_of(label_of(patch), tree, source)


def label_of(patch: Patch) -> str:
    """What its kernels are called."""
    return f"patch-{patch.number}" if patch.number else "base"


def patch_file(patch: Patch) -> str:
    """Where a patch is kept as a mail of its own, relative to the series's folder."""
    return f"input/{patch.number:04}.patch"


def run_of(
    choices: Choices,
    targets: Sequence[Target],
    hands: Hands,
    name: str,
    *,
    wanted: Callable[[CellPlan], bool] = lambda _: True,
) -> RunResult:
    """A run of its own below the series's folder, by the same way as any other; goes on where it was."""
    directory = runs.RunDirectory(hands.folder / name)
    shared = context_of(choices, targets, hands, name)
    pinned = prepare.pinned(choices, targets)
    plan = prepare.plan(pinned, targets, tuple(shared.suites.values()), prepare.inputs(shared))
    plan = msgspec.structs.replace(plan, cells=tuple(filter(wanted, plan.cells)))
    directory.create()
    with directory.held():
        done = directory.done(plan)
        result = runs.carry_out(plan, shared, directory, hands.engine, hands.events, done=done)
    return msgspec.structs.replace(result, id=name)


def context_of(choices: Choices, targets: Sequence[Target], hands: Hands, name: str) -> Context:
    """What the cells of such a run share; their kernels are built in the workshop."""
    shared = prepare.context(
        choices,
        targets,
        prepare.suites(choices),
        hands.store,
        hands.folder / name,
        cancelled=hands.engine.cancelled,
    )
    return msgspec.structs.replace(shared, workplace=_workplaces(choices, hands.shop))


def _workplaces(choices: Choices, shop: Workshop) -> Callable[[str, str], Path]:
    """Where the kernels of each kind are built, patch after patch."""
    kind = (choices.toolchain, choices.flavors, choices.kconfig, choices.config)
    return lambda arch, variant: shop.objects("kernel", arch, variant, *kind)


def _kernel(cell: CellResult) -> Kernel:
    image = Path(cell.properties.get("image", ""))
    return Kernel(
        image=file_digest(image) if image.is_file() else "",
        release=cell.release,
        toolchain=cell.properties.get("toolchain", ""),
    )


def _taken_over(before: Step, kernels: Mapping[str, Kernel]) -> list[str]:
    """The kernels that are byte for byte what the previous patch's were."""
    return [
        name
        for name, kernel in kernels.items()
        if kernel.image and name in before.kernels and before.kernels[name].image == kernel.image
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


def _also(name: str, series: Series, patch: Patch, target: Target, hands: Hands) -> dict[str, RowResult]:
    """What comes of a configuration that is only compiled."""
    config = compile_only.load(name)
    row = Row(check=COMPILE, arch=name)
    if config.missing:
        case = Case(id=COMPILE, verdict=Verdict.SKIP, reason=config.missing)
        return {row.name: RowResult(cases=(case,))}
    since = time.monotonic()
    log = f"patches/{patch.number:04}-also/{name}.log"
    assert target.tree is not None
    say = hands.events.saying(f"{label_of(patch)}-{name}")
    try:
        ledger = compile_only.compile_(
            config,
            target.tree,
            hands.shop.objects(compile_only.place_name(config)),
            hands.folder / log,
            say=lambda text: say("compile", text),
            jobs=series.asked.choices.jobs,
        )
    except UserError:
        raise
    except OrchestrateError as error:
        if hands.engine.cancelled() or isinstance(error, Interrupted):
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
        warned.name: RowResult(cases=(_warned(warned, patch, ledger, hands.folder),)),
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
