# SPDX-License-Identifier: GPL-2.0-only
"""A real guest to restore others of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from under_test import SOURCE

from fakes.overlays import keys_and_files
from orchestrator import source
from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.store import Store, default_cache
from orchestrator.kernel import build as kernels
from orchestrator.kernel.spec import KernelSpec
from orchestrator.source.classify import classify
from orchestrator.vm import snapshot
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import image, overlay
from orchestrator.vm.snapshot import Saved
from orchestrator.vm.ssh import RUNNER

KEYS = overlay.make_keys()


class Origin:
    """A guest that was booted and saved; ``restore`` makes others of it, which are closed at the end."""

    def __init__(self, name: str, folder: Path, files: Mapping[str, Path] | None = None) -> None:
        self.spec, self.folder = _machine(name, folder, files or {}), folder
        self.guest = Guest.boot(self.spec, accel="tcg", keys=KEYS, log=folder / "origin.log")
        self.guests: list[Guest] = []
        self.saved: Saved | None = None

    def restore(self, state: Saved | None = None) -> Guest:
        if self.saved is None:
            self.saved = snapshot.save(self.guest)
        log = self.folder / f"restored-{len(self.guests)}.log"
        self.guests.append(snapshot.restore(state or self.saved, log=log))
        return self.guests[-1]

    def put_away(self) -> None:
        while self.guests:
            self.guests.pop().close()

    def close(self) -> None:
        self.put_away()
        self.guest.close()
        if self.saved is not None:
            self.saved.close()


def _machine(name: str, folder: Path, files: Mapping[str, Path]) -> GuestSpec:
    store, known = Store(default_cache()), arches.load(name)
    tree = source.resolve(SOURCE, cache=store.root)
    wanted = KernelSpec(
        tree=tree,
        tree_class=classify(tree.path),
        arch=known,
        variant="per-vma-lock",
        toolchain=toolchain.find("gcc", known),
    )
    kernel = kernels.build(wanted, store, say=print)
    programs = {RUNNER: overlay.build_runner(known, store), **files}
    archive = keys_and_files(folder / "overlay.cpio", KEYS, programs)
    base = image.build_image(name, cache=store.root, say=print)
    return GuestSpec(arch=known, kernel=kernel.image, initrds=(base.path, archive))
