# SPDX-License-Identifier: GPL-2.0-only
"""A cell's kernel: from the store, built now, or as the user gave it."""

from __future__ import annotations

import time

from orchestrator.cell.state import CellState
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.kernel import build as kernels
from orchestrator.kernel import flavor
from orchestrator.kernel.spec import Kernel, KernelSpec


def make_kernel(cell: CellState) -> Kernel | None:
    """Build or find the cell's kernel; ``None``: a case has the reason.

    :raises UserError: it cannot be what the user requested.
    """
    cell.properties |= {"source": cell.target.describe, "source digest": cell.target.digest}
    if cell.target.prebuilt is not None:
        kernel = cell.target.prebuilt.kernel()
        cell.release = kernel.release
        cell.properties |= {"kernel": kernel.key, "build": "prebuilt", "image": str(kernel.image)}
        return kernel
    _record_source(cell)
    if cell.job.build_failure is not None:
        cell.put(cell.job.build_failure)
        return None
    since = time.monotonic()
    try:
        spec = _configure(cell)
        since = time.monotonic()
        kernel = _build(cell, spec)
    except UserError:
        raise
    except OrchestrateError as error:
        if cell.host.cancelled():
            raise Interrupted("interrupted") from None
        cell.case("build" if cell.cases else "config", error, since=since)
        cell.say("build", error.message)
        return None
    _record_kernel(cell, kernel)
    cell.case("build", since=since)
    return kernel


def _record_source(cell: CellState) -> None:
    tree = cell.target.tree
    assert tree is not None
    assert cell.target.tree_class is not None
    flavors = flavor.word(cell.inputs.choices.flavors)
    cell.properties |= {
        **({"commit": tree.commit} if tree.commit else {}),
        **({"dirty": tree.dirty} if tree.dirty else {}),
        **({"flavor": flavors} if flavors else {}),
        "per-VMA locks in this tree": cell.target.tree_class.value,
    }


def _configure(cell: CellState) -> KernelSpec:
    since = time.monotonic()
    cell.say("config", "configuring")
    spec, store = cell.kernel_spec(), cell.host.store
    kernels.configure(spec, store)
    difference = ", ".join(kernels.pair_difference(spec, store)) or "no pair"
    cell.properties["config difference of the pair"] = difference
    cell.case("config", since=since, detail=f"the variants differ in: {difference}")
    return spec


def _build(cell: CellState, spec: KernelSpec) -> Kernel:
    return kernels.build(
        spec,
        cell.host.store,
        say=lambda text: cell.say("build", text),
        log=cell.folder / "build.log",
        jobs=cell.inputs.choices.jobs,
    )


def _record_kernel(cell: CellState, kernel: Kernel) -> None:
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
