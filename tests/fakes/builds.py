# SPDX-License-Identifier: GPL-2.0-only
"""Building of a made-up tree for this host."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core import arch, toolchain
from orchestrator.core.store import Store
from orchestrator.kernel import build as kernels
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree


def spec_of(tree: Tree, **changes: object) -> KernelSpec:
    host = arch.host()
    given = {
        "tree": tree,
        "tree_class": TreeClass.SELECTABLE,
        "arch": host,
        "variant": "per-vma-lock",
        "toolchain": toolchain.find("gcc", host),
    }
    return KernelSpec(**{**given, **changes})  # type: ignore[arg-type]


def build(spec: KernelSpec, store: Store, log: Path | None = None) -> Kernel:
    return kernels.build(spec, store, say=lambda _: None, log=log, jobs=1)
