# SPDX-License-Identifier: GPL-2.0-only
"""A suite's programs, built for one kernel's architecture."""

from __future__ import annotations

from pathlib import Path

from orchestrator.arch import Arch
from orchestrator.kernel import programs
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.suites.catalog import Suite

#: Where the guest finds the programs of a suite.
GUEST_FOLDER = "/opt/orchestrate/suites"


def build(suite: Suite, *, tree: Tree, arch: Arch, store: Store, log: Path) -> dict[str, Path]:
    """The suite's programs by name; one that the tree lacks or that does not compile is missing.

    :raises KernelError: the tree has none of them.
    :raises InfraError: a program of ours does not compile.
    """
    if suite.origin == "tree":
        found = programs.build_selftests(tree, suite.directory, arch=arch, store=store, log=log)
        if suite.all_programs:
            return found
        return {p.name: found[p.name] for p in suite.program if p.name in found}
    sources = [suite.folder / source for source in suite.build.sources]
    return {
        p.name: programs.compile_static(p.name, sources, suite.build.cflags, arch=arch, store=store)
        for p in suite.program
    }


def guest_path(suite: Suite, program: str) -> str:
    """Where a program lies in the guest."""
    return f"{GUEST_FOLDER}/{suite.name}/{program}"
