# SPDX-License-Identifier: GPL-2.0-only
"""Speed of the tool itself: medians of several, the architectures in turn, the host's load beside them.

    make bench [ARGS='--boots 7 --source SPEC']

Alone on the machine, or it measures the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from orchestrator import arch as arches
from orchestrator import cell, source
from orchestrator import run as runs
from orchestrator.cell_state import Cell
from orchestrator.engine.local import LocalEngine
from orchestrator.evidence import host
from orchestrator.kernel import build as kernels
from orchestrator.plan import CellPlan, Choices
from orchestrator.store import Store, default_cache
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec

PHASES = ("qemu", "banner", "init", "ssh")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boots", type=int, default=7)
    parser.add_argument("--source", default="debian:trixie-backports/linux-source-7.2")
    options = parser.parse_args()

    store = Store(default_cache())
    tree = source.resolve(options.source, cache=store.root)
    with tempfile.TemporaryDirectory() as scratch:
        choices = Choices(arches=arches.names(), variants=("per-vma-lock",), accel="tcg")
        context = runs.context(choices, tree, store, Path(scratch), LocalEngine())
        specs = {name: _spec(context, name) for name in arches.names()}
        times: dict[str, list[dict[str, float]]] = {name: [] for name in specs}
        before = host.host_sample()
        for _ in range(options.boots):
            for name, spec in specs.items():
                times[name].append(_boot(context, spec, Path(scratch)))
        after = host.host_sample()
    load = os.getloadavg()
    print(
        f"{tree.version}, tcg, {options.boots} boots each in turn, load {load[0]:.2f}, "
        f"steal {host.steal_fraction(before, after):.1%}, {os.cpu_count()} CPUs"
    )
    print(
        f"{'QEMU start to ...':<18}" + "".join(f"{phase:>9}" for phase in (*PHASES, "command")) + "   seconds"
    )
    for name, each in times.items():
        for word, pick in (("median", statistics.median), ("min", min), ("max", max)):
            row = "".join(f"{pick(t[phase] for t in each):9.2f}" for phase in (*PHASES, "command"))
            print(f"{name:<10}{word:<8}{row}")


def _spec(context: cell.Context, name: str) -> GuestSpec:
    plan = CellPlan(id=name, label="bench", arch=name, variant="per-vma-lock", suites=(), smp=2, mem_mib=512)
    state = Cell(context, plan, lambda phase, text: print(f"{phase}: {text}"))
    state.folder.mkdir(parents=True)
    kernel = kernels.build(cell.kernel_spec(context, name, "per-vma-lock"), context.store, say=print)
    return cell.guest_spec(state, kernel, {})


def _boot(context: cell.Context, spec: GuestSpec, scratch: Path) -> dict[str, float]:
    guest = Guest.boot(spec, accel="tcg", keys=context.keys, log=scratch / "console.log")
    try:
        guest.run(["/bin/true"], limit_s=30)
        return {**guest.phases_s, "command": guest.elapsed_s()}
    finally:
        guest.close()


if __name__ == "__main__":
    main()
