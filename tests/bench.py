# SPDX-License-Identifier: GPL-2.0-only
"""Speed of the tool itself: medians of several, boots and restores in turn, the host's load beside them.

    make bench [ARGS='--boots 7 --source SPEC']
    make bench ARGS=--cold

``--cold`` compares a cold build of both variants with two plain makes of the same configs, in half an hour.
Alone on the machine, or it measures the others.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from fakes.overlays import keys_and_files
from paths import DATA
from under_test import ORCHESTRATE, SOURCE

from orchestrator import source
from orchestrator.cell.guests import WAIT
from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.store import Store, default_cache
from orchestrator.evidence import host
from orchestrator.kernel import build as kernels
from orchestrator.kernel import kconfig
from orchestrator.kernel.spec import KernelSpec
from orchestrator.results.model import CellResult
from orchestrator.run import latest
from orchestrator.source.classify import classify
from orchestrator.source.model import Tree
from orchestrator.splat.scanner import Scanner
from orchestrator.vm import snapshot
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import image, overlay
from orchestrator.vm.ssh import RUNNER

BOOT = ("qemu", "banner", "init", "ssh", "command")
RESTORE = ("qemu", "restore", "ssh", "fresh", "save")
KEYS = overlay.make_keys()
Times = list[dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boots", type=int, default=7)
    parser.add_argument("--source", default=SOURCE)
    parser.add_argument("--cold", action="store_true", help="a cold build beside two plain makes, only")
    options = parser.parse_args()
    if options.cold:
        _cold(options.source)
        return

    store = Store(default_cache())
    tree = source.resolve(options.source, cache=store.root)
    boots: dict[str, Times] = {name: [] for name in arches.usual()}
    restores: dict[str, Times] = {name: [] for name in arches.usual()}
    with tempfile.TemporaryDirectory() as scratch:
        specs = {name: _spec(tree, name, store, Path(scratch)) for name in arches.usual()}
        before = host.host_sample()
        for _ in range(options.boots):
            for name, spec in specs.items():
                booted, restored = _both(spec, Path(scratch))
                boots[name].append(booted)
                restores[name].append(restored)
        after = host.host_sample()
    load = os.getloadavg()
    print(
        f"{tree.version}, tcg, {options.boots} boots and restores each in turn, load {load[0]:.2f}, "
        f"steal {host.steal_fraction(before, after):.1%}, {os.cpu_count()} CPUs"
    )
    _table("QEMU start to ...", BOOT, boots)
    _table("restore start to ...", RESTORE, restores)
    for name in arches.usual():
        ratio = _median(restores[name], "fresh") / _median(boots[name], "command")
        print(f"{name:<10}restore / boot, first command answered: {ratio:.2f}")
    for words in (["--help"], ["list"]):
        took = [_process(words) for _ in range(options.boots)]
        print(f"orchestrate {words[0]:<9} median {statistics.median(took):.2f} s, max {max(took):.2f} s")
    _consoles()
    _warm_run(options.source, {name: _median(boots[name], "command") for name in arches.usual()})


def _cold(spec: str) -> None:
    """A cold build of both variants between two plain makes of the same configs, for the host."""
    tree = source.resolve(spec, cache=default_cache())
    here = arches.host()
    makes, ours = [], []
    with tempfile.TemporaryDirectory(dir=default_cache()) as scratch:
        cache = Path(scratch) / "cache"
        for number, variant in enumerate(("per-vma-lock", "mmap-lock")):
            place = Path(scratch) / variant
            place.mkdir()
            config = kernels.configure(_kernel(tree, here, variant), Store(default_cache())).path
            (place / ".config").write_bytes(config.read_bytes())
            wrapper = kconfig.write_wrapper(tree.path, place)
            argv = ["make", "-C", str(tree.path), f"O={place}", f"ARCH={here.make_arch}"]
            argv += [f"KBUILD_KCONFIG={wrapper}", f"-j{os.cpu_count()}", Path(here.image).name]
            makes.append(_costs(argv, os.environ))
            if not number:
                words = ["build", "--source", str(tree.path), "--arch", here.name]
                argv = [*ORCHESTRATE, *words]
                ours.append(_costs(argv, os.environ | {"ORCHESTRATE_CACHE": str(cache)}))
    for number, what in enumerate(("wall", "CPU")):
        plain, cold = (sum(cost[number] for cost in costs) for costs in (makes, ours))
        print(
            f"{tree.version} {here.name}, both variants, {what} seconds: two plain makes {plain:.0f}, "
            f"a cold orchestrate build {cold:.0f}: {cold / plain:.3f} x"
        )
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs")


def _costs(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that a process takes, and the CPU seconds of all its children."""

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    since, before = time.monotonic(), cpu_s()
    subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - since, cpu_s() - before


def _consoles() -> None:
    """Reading 10 MB of console: one that is clean, one in which each line is a report's."""
    golden = sorted((DATA / "splat").glob("*.log"))
    kinds = {
        "clean": b"".join(b"[%5d.%06d] eth0: link is up, %d\n" % (n, n, n) for n in range(10_000)),
        "splats": b"".join((b"\n" + path.read_bytes()).partition(b"\n\n")[2] for path in golden),
    }
    for name, block in kinds.items():
        data = (block * (10_000_000 // len(block) + 1))[:10_000_000]
        took = []
        for _ in range(5):
            since = time.monotonic()
            scanner = Scanner()
            scanner.feed(data)
            scanner.finish()
            took.append(time.monotonic() - since)
        print(f"10 MB of console, {name:<7} median {statistics.median(took):.2f} s, max {max(took):.2f} s")


def _process(words: Sequence[str]) -> float:
    """Seconds of a process of the command."""
    since = time.monotonic()
    subprocess.run([*ORCHESTRATE, *words], stdout=subprocess.PIPE, check=True)
    return time.monotonic() - since


def _warm_run(spec: str, boot_s: Mapping[str, float]) -> None:
    """What a cell of a warm run takes beside the guest programs themselves; twice, the first to warm up.

    :param boot_s: by architecture, what a boot to the first command takes.
    """
    for _ in range(2):
        with tempfile.TemporaryDirectory() as out:
            words = [
                "run",
                "--source",
                spec,
                "--arch",
                "all",
                "--suite",
                "maps",
                "--accel",
                "tcg",
                "--out",
                out,
            ]
            wall = _process(words)
            cells = [
                msgspec.json.decode(path.read_bytes(), type=CellResult)
                for path in sorted(latest.folders(Path(out))[-1].glob("cells/*/result.json"))
            ]
    beside = [cell.duration_s - sum(suite.duration_s for suite in cell.suites) for cell in cells]
    each = ", ".join(f"{cell.arch} {cell.variant} {s:.1f}" for cell, s in zip(cells, beside, strict=True))
    print(f"warm run of maps, {len(cells)} cells, {wall:.0f} s; of a cell beside its programs: {each} s")
    for cell in (cell for cell in cells if WAIT in cell.properties):
        wait_s = float(cell.properties[WAIT])
        print(
            f"{cell.arch:<10}{cell.variant:<14}wait for a restored guest, the one before being gone: "
            f"{wait_s:.2f} s, {wait_s / boot_s[cell.arch]:.2f} of a boot"
        )


def _table(title: str, columns: Sequence[str], times: dict[str, Times]) -> None:
    print(f"{title:<21}" + "".join(f"{column:>9}" for column in columns) + "   seconds")
    for name, each in times.items():
        for word, pick in (("median", statistics.median), ("min", min), ("max", max)):
            row = "".join(f"{pick([t[column] for t in each]):9.2f}" for column in columns)
            print(f"{name:<13}{word:<8}{row}")


def _median(times: Times, column: str) -> float:
    return statistics.median(t[column] for t in times)


def _kernel(tree: Tree, arch: Arch, variant: str) -> KernelSpec:
    return KernelSpec(
        tree=tree,
        tree_class=classify(tree.path),
        arch=arch,
        variant=variant,
        toolchain=toolchain.find("gcc", arch),
    )


def _spec(tree: Tree, name: str, store: Store, scratch: Path) -> GuestSpec:
    known = arches.load(name)
    programs = {RUNNER: overlay.build_runner(known, store)}
    archive = keys_and_files(scratch / f"{name}.cpio", KEYS, programs)
    base = image.build_image(name, cache=store.root, say=print)
    kernel = kernels.build(_kernel(tree, known, "per-vma-lock"), store, say=print)
    return GuestSpec(arch=known, kernel=kernel.image, initrds=(base.path, archive))


def _both(spec: GuestSpec, scratch: Path) -> tuple[dict[str, float], dict[str, float]]:
    """A boot to its first command; then, the booted guest being saved and gone, a restore to its first."""
    guest = Guest.boot(spec, accel="tcg", keys=KEYS, log=scratch / "console.log")
    try:
        guest.run(["/bin/true"], limit_s=30)
        booted = {**guest.phases_s, "command": guest.elapsed_s()}
        saved = snapshot.save(guest)
    finally:
        guest.close()
    try:
        restored = snapshot.restore(saved, log=scratch / "console.log")
        restored.close()
    finally:
        saved.close()
    return booted, {**restored.phases_s, "save": saved.took_s}


if __name__ == "__main__":
    main()
