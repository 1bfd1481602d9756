# SPDX-License-Identifier: GPL-2.0-only
"""One cell, start to end: configure, build, boot, prove, run the suites, look back, shut down.

Whatever goes wrong ends in a case with a verdict and a blame; only a mistake of the user's leaves as an
error. Each stage knows the one before it and nothing after it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchestrator.cell_boot import boot, shut_down
from orchestrator.cell_state import Cell, Context, Say, kernel_spec, not_applicable
from orchestrator.errors import Interrupted, OrchestrateError, UserError
from orchestrator.events import now
from orchestrator.evidence import host
from orchestrator.kernel import build as kernels
from orchestrator.kernel.model import Kernel
from orchestrator.plan import CellPlan, Choices
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog, runner
from orchestrator.suites.catalog import Suite
from orchestrator.vm import image, overlay
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import RUNNER

__all__ = ["Context", "carry_out", "guest_spec", "kernel_spec", "not_applicable", "reproduce"]

_DISTURBED_RETRIES = 2


def carry_out(context: Context, plan: CellPlan, say: Say) -> CellResult:
    """Carry a cell out. Its folder below the run directory holds the evidence.

    When the run is cancelled it ends soon and has what was found until then.

    :raises UserError: the cell cannot be what the user asked for.
    """
    started, at = now(), time.monotonic()
    cell = Cell(context, plan, say)
    cell.folder.mkdir(parents=True, exist_ok=True)
    moot = not_applicable(context.tree_class, plan.variant)
    if moot:
        cell.cases.append(Case(id="config", verdict=Verdict.NA, reason=moot))
        cell.suites += [
            SuiteResult(suite=s, cases=(Case(id=s, verdict=Verdict.NA, reason=moot),)) for s in plan.suites
        ]
    else:
        try:
            kernel = _kernel(cell)
            if kernel is not None and plan.suites:
                _guests(cell, kernel)
        except Interrupted:
            cell.say("interrupted", "ended early")
    return CellResult(
        cell=plan.id,
        label=plan.label,
        arch=plan.arch,
        variant=plan.variant,
        release=cell.release,
        started_at=started,
        duration_s=round(time.monotonic() - at, 3),
        interrupted=context.cancelled(),
        properties=cell.properties,
        cases=tuple(cell.cases),
        suites=tuple(cell.suites),
    )


def _kernel(cell: Cell) -> Kernel | None:
    context, choices = cell.context, cell.context.choices
    since = time.monotonic()
    cell.properties |= {
        "source": context.tree.describe,
        "source digest": context.tree.digest,
        **({"commit": context.tree.commit} if context.tree.commit else {}),
        **({"dirty": context.tree.dirty} if context.tree.dirty else {}),
        "per-VMA locks in this tree": context.tree_class.value,
    }
    try:
        spec = kernel_spec(context, cell.plan.arch, cell.plan.variant)
        cell.say("config", "configuring")
        kernels.configure(spec, context.store)
        differing = kernels.pair_difference(spec, context.store)
        cell.properties["config difference of the pair"] = ", ".join(differing) or "no pair"
        cell.case(
            "config", since=since, detail=f"the variants differ in: {', '.join(differing) or 'no pair'}"
        )
        since = time.monotonic()
        kernel = kernels.build(
            spec,
            context.store,
            say=lambda text: cell.say("build", text),
            log=cell.folder / "build.log",
            jobs=choices.jobs,
        )
    except UserError:
        raise
    except OrchestrateError as error:
        if context.cancelled():
            raise Interrupted("interrupted") from None
        cell.case("build" if cell.cases else "config", error, since=since)
        cell.say("build", error.message)
        return None
    cell.release = kernel.release
    cell.properties |= {
        "release": kernel.release,
        "toolchain": kernel.toolchain,
        "kernel": kernel.key,
        "build": f"{'cached' if kernel.cached else 'built'}, {kernel.cpu_s:.0f} CPU-seconds",
        "image": str(kernel.image),
    }
    (cell.folder / "config").write_bytes(kernel.config.read_bytes())
    cell.case("build", since=since)
    return kernel


def _guests(cell: Cell, kernel: Kernel) -> None:
    """Boot, prove and run; boot again for what is left when a guest is lost."""
    try:
        suites = [catalog.load(name) for name in cell.plan.suites]
        binaries = {
            s.name: suite_build.build(
                s,
                tree=cell.context.tree,
                arch=cell.arch,
                store=cell.context.store,
                log=cell.folder / f"{s.name}.build.log",
            )
            for s in suites
        }
        spec = guest_spec(cell, kernel, binaries)
    except OrchestrateError as error:
        cell.case("boot", error, since=time.monotonic())
        return
    if all(s.kind == "benchmark" for s in suites):
        for attempt in range(1 + _DISTURBED_RETRIES):
            before = len(cell.cases)
            trouble = _pass(cell, kernel, spec, suites, binaries)
            if not trouble or attempt == _DISTURBED_RETRIES:
                break
            # a disturbed boot is discarded, said so, and taken again
            cell.say("discarded", trouble)
            del cell.cases[before:]
            cell.suites.clear()
            cell.properties[f"discarded boot {attempt + 1}"] = trouble
        return
    _pass(cell, kernel, spec, suites, binaries)


def guest_spec(cell: Cell, kernel: Kernel, binaries: Mapping[str, Mapping[str, Path]]) -> GuestSpec:
    """The machine of a cell: the guest image, and an overlay with the run's keys and the suites' programs.

    :raises InfraError: the image or a program of ours cannot be made.
    """
    context = cell.context
    base = image.build_image(
        cell.plan.arch, cache=context.store.root, say=lambda text: cell.say("image", text)
    )
    cell.properties["guest image"] = base.digest
    files = {RUNNER: overlay.build_runner(cell.arch, context.store)}
    for suite, found in binaries.items():
        files |= {f"{suite_build.GUEST_FOLDER}/{suite}/{name}": path for name, path in found.items()}
    archive = overlay.build_overlay(
        cell.folder / "overlay.cpio",
        host_key=context.keys.host_key,
        authorized_key=context.keys.authorized_key,
        files=files,
    )
    return GuestSpec(
        arch=cell.arch,
        kernel=context.swap_kernel(kernel),
        initrds=(base.path, archive),
        smp=cell.plan.smp,
        mem_mib=cell.plan.mem_mib,
        cmdline=cell.plan.cmdline,
    )


def _pass(
    cell: Cell,
    kernel: Kernel,
    spec: GuestSpec,
    suites: list[Suite],
    binaries: Mapping[str, Mapping[str, Path]],
) -> str:
    """All programs of all suites, in as many guests as it takes; why the host disturbed it, or nothing."""
    queue = [(s, name) for s in suites for name in binaries[s.name] if _wanted(cell, s, name)]
    found: dict[str, dict[str, tuple[Case, ...]]] = {s.name: {} for s in suites}
    numbers: dict[str, dict[str, float]] = {s.name: {} for s in suites}
    took = dict.fromkeys(found, 0.0)
    before, cpu_before = host.host_sample(), 0.0
    disturbance = ""
    while queue:
        try:
            guest = boot(cell, kernel, spec)
        except Interrupted:
            break
        if guest is None:
            break
        try:
            before = host.host_sample()
            cpu_before = host.cpu_seconds([guest.pid])
            while queue:
                suite, name = queue.pop(0)
                cell.say("run", f"{suite.name}/{name}")
                at = time.monotonic()
                done = runner.run(
                    guest,
                    suite,
                    name,
                    folder=cell.folder / "suites" / suite.name,
                    root=cell.context.root,
                    watch=cell.watch,
                )
                took[suite.name] += time.monotonic() - at
                found[suite.name][name] = done.cases
                numbers[suite.name] |= done.metrics
                if cell.context.cancelled():
                    # its guest was taken away: the last program's verdict is the interrupt's, not its own
                    del found[suite.name][name]
                    queue.clear()
                    break
                if done.lost:
                    cell.say("lost", done.cases[-1].reason)
                    break
            else:
                own = host.cpu_seconds([guest.pid]) - cpu_before
                disturbance = host.disturbed(before, host.host_sample(), own)
                crashed = any(
                    c.verdict is Verdict.CRASH for f in found.values() for p in f.values() for c in p
                )
                shut_down(cell, guest, crashed=crashed)
        finally:
            guest.close()
    for suite in suites:
        cell.suites.append(
            _suite_result(cell, suite, found[suite.name], numbers[suite.name], took[suite.name])
        )
    return _discard(cell, suites, disturbance)


def _wanted(cell: Cell, suite: Suite, name: str) -> bool:
    return not cell.plan.only_vsyscall or suite.known(name).vsyscall


def _suite_result(
    cell: Cell,
    suite: Suite,
    found: Mapping[str, tuple[Case, ...]],
    numbers: dict[str, float],
    took: float,
) -> SuiteResult:
    version = cell.release or cell.context.tree.version
    expected = {
        name: e
        for name, e in catalog.expected(suite, version, cell.plan.arch).items()
        if _wanted(cell, suite, name)
    }
    away = {} if cell.plan.only_vsyscall else catalog.elsewhere(suite, version, cell.plan.arch)
    why_not = "interrupted" if cell.context.cancelled() else _why_not(cell)
    cases, unknown = runner.complete(suite, expected, away, found, why_not=why_not)
    return SuiteResult(
        suite=suite.name, cases=cases, metrics=numbers, unknown_programs=unknown, duration_s=round(took, 3)
    )


def _why_not(cell: Cell) -> str:
    """What stopped the cell before its programs could run."""
    stop = next((c for c in cell.cases if c.verdict is not Verdict.PASS), None)
    return f"not run: {stop.id}: {stop.reason}" if stop else ""


def _discard(cell: Cell, suites: list[Suite], disturbance: str) -> str:
    if not disturbance or not any(s.kind == "benchmark" for s in suites):
        return ""
    cell.properties["host"] = disturbance
    for number, result in enumerate(cell.suites):
        if catalog.load(result.suite).kind == "benchmark" and result.metrics:
            cases = tuple(
                msgspec.structs.replace(
                    c, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=disturbance
                )
                if c.verdict is Verdict.PASS
                else c
                for c in result.cases
            )
            cell.suites[number] = msgspec.structs.replace(result, cases=cases, metrics={})
    return disturbance


def reproduce(plan: CellPlan, choices: Choices, tree: Tree) -> str:
    """The shell script that runs this cell again, from whatever folder."""
    argv = ["orchestrate", "run", "--source", _absolute(tree.spec)]
    if tree.archive_sha256 and tree.kind != "version":
        argv += ["--sha256", tree.archive_sha256]
    argv += ["--arch", plan.arch, "--variant", plan.variant]
    for suite in plan.suites:
        argv += ["--suite", suite]
    argv += ["--accel", choices.accel, "--smp", str(plan.smp), "--mem", str(plan.mem_mib)]
    argv += ["--toolchain", choices.toolchain]
    if plan.vsyscall:
        argv += ["--vsyscall", plan.vsyscall]
    if plan.boot:
        argv += ["--boots", "1"]
    if choices.cmdline:
        argv += ["--cmdline", " ".join(choices.cmdline)]
    if choices.config:
        argv += ["--config", _absolute(choices.config)]
    for fragment in choices.kconfig:
        argv += ["--kconfig", _absolute(fragment)]
    return f'#!/bin/sh\n# {plan.id}: {tree.describe}\nexec {shlex.join(argv)} "$@"\n'


def _absolute(word: str) -> str:
    path = Path(word).expanduser()
    return str(path.absolute()) if path.exists() else word
