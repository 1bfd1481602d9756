# SPDX-License-Identifier: GPL-2.0-only
"""One cell, start to end: configure, build, boot, prove, run the suites, look back, shut down.

Whatever goes wrong ends in a case with a verdict and a blame; only a mistake of the user's leaves as an
error. Each stage knows the one before it and nothing after it.
"""

from __future__ import annotations

import contextlib
import time

from orchestrator.cell import artifacts
from orchestrator.cell.state import Cell, Context, Moot, Say, kernel_spec, moot
from orchestrator.cell.suites import moot_suite, run_suites
from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError, UserError
from orchestrator.core.events import now
from orchestrator.kernel import build as kernels
from orchestrator.kernel import flavor
from orchestrator.kernel.spec import Kernel
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import Case, CellResult, Verdict


def carry_out(context: Context, plan: CellPlan, say: Say) -> CellResult:
    """Carry a cell out. Its folder below the run directory holds the evidence.

    When the run is cancelled it ends soon and has what was found until then.

    :raises UserError: the cell cannot be what the user asked for.
    """
    started, at = now(), time.monotonic()
    cell = Cell(context, plan, say)
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        if reason := moot(context, cell.target, plan.variant):
            raise Moot(reason)
        kernel = make_kernel(cell)
        if kernel is not None:
            _keep(cell, kernel)
        if kernel is not None and plan.suites:
            run_suites(cell, kernel)
    except Moot as error:
        cell.cases = [Case(id="config", verdict=Verdict.NA, reason=error.message)]
        cell.suites = [moot_suite(context.suites[name], error.message) for name in plan.suites]
    except Interrupted:
        cell.say("interrupted", "ended early")
    return CellResult(
        cell=plan.id,
        label=plan.label,
        arch=plan.arch,
        variant=plan.variant,
        release=cell.release,
        boot=plan.boot,
        started_at=started,
        duration_s=round(time.monotonic() - at, 3),
        interrupted=context.cancelled(),
        properties=cell.properties,
        cases=tuple(cell.cases),
        suites=tuple(cell.suites),
    )


def _keep(cell: Cell, kernel: Kernel) -> None:
    """The kernel beside its results, so that the run stands on its own."""
    # a full disk shows where results are written
    with contextlib.suppress(InfraError):
        artifacts.keep_kernel(cell.context.root, kernel)


def make_kernel(cell: Cell) -> Kernel | None:
    """The cell's kernel, out of the store, built now, or as the user gave it; else a case that says why not.

    :raises UserError: it cannot be what the user asked for.
    """
    cell.properties |= {"source": cell.target.describe, "source digest": cell.target.digest}
    if cell.target.prebuilt is not None:
        kernel = cell.target.prebuilt.kernel()
        cell.release = kernel.release
        cell.properties |= {"kernel": kernel.key, "build": "prebuilt", "image": str(kernel.image)}
        return kernel
    return _build(cell)


def _build(cell: Cell) -> Kernel | None:
    context, choices, tree = cell.context, cell.context.choices, cell.target.tree
    assert tree is not None
    assert cell.target.tree_class is not None
    since = time.monotonic()
    which = (cell.plan.label, cell.plan.arch, cell.plan.variant)
    cell.properties |= {
        **({"commit": tree.commit} if tree.commit else {}),
        **({"dirty": tree.dirty} if tree.dirty else {}),
        **({"flavor": flavors} if (flavors := flavor.word(context.choices.flavors)) else {}),
        "per-VMA locks in this tree": cell.target.tree_class.value,
    }
    try:
        if which in context.broken:
            raise context.broken[which]
        spec = kernel_spec(context, cell.plan.label, cell.plan.arch, cell.plan.variant)
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
        if isinstance(error, KernelError):
            context.broken[which] = error
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
    if kernel.config is not None:
        (cell.folder / "config").write_bytes(kernel.config.read_bytes())
    cell.case("build", since=since)
    return kernel
