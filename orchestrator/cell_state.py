# SPDX-License-Identifier: GPL-2.0-only
"""What a cell has in hand while it is carried out, and what an error means for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator import arch as arches
from orchestrator.errors import Inconclusive, KernelError, OrchestrateError
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.kernel import kconfig, toolchain
from orchestrator.kernel.model import Kernel, KernelSpec
from orchestrator.plan import CellPlan, Choices
from orchestrator.results.model import Blame, Case, SuiteResult, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.vm import overlay

#: Takes phase and text.
Say = Callable[[str, str], None]
#: The variant that has the feature.
WITH = "per-vma-lock"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells of a run share.

    ``swap_kernel`` is a test's hand: it has another image booted than was built.
    """

    tree: Tree
    tree_class: TreeClass
    choices: Choices
    store: Store
    keys: overlay.RunKeys
    root: Path
    fragments: tuple[kconfig.Fragment, ...] = ()
    base: str = ""
    cancelled: Callable[[], bool] = lambda: False
    swap_kernel: Callable[[Kernel], Path] = lambda kernel: kernel.image


class Cell:
    """The cell's state while it is carried out."""

    def __init__(self, context: Context, plan: CellPlan, say: Say) -> None:
        self.context = context
        self.plan = plan
        self.say = say
        self.folder = context.root / "cells" / plan.id
        self.arch = arches.load(plan.arch)
        self.cases: list[Case] = []
        self.suites: list[SuiteResult] = []
        self.properties: dict[str, str] = {}
        self.release = ""
        self.boots = 0
        self.tainted = 0
        self.watch = ConsoleWatch()

    def put(self, case: Case) -> None:
        """Record a case in place of one with the same id: the last guest's word counts."""
        self.cases = [c for c in self.cases if c.id != case.id] + [case]

    def case(
        self,
        name: str,
        error: OrchestrateError | None = None,
        *,
        since: float,
        detail: str = "",
        log: str = "",
    ) -> None:
        """Record one of the cell's own cases: PASS, or what an error means for it."""
        took = round(time.monotonic() - since, 3)
        if error is None:
            self.put(Case(id=name, verdict=Verdict.PASS, duration_s=took, detail=detail, log=log))
            return
        verdict, blame = meaning(error)
        self.put(
            Case(
                id=name,
                verdict=verdict,
                blame=blame,
                reason=error.message,
                detail=error.remedy,
                duration_s=took,
                log=log,
            )
        )


def meaning(error: OrchestrateError) -> tuple[Verdict, Blame]:
    if isinstance(error, KernelError):
        return Verdict.FAIL, Blame.KERNEL
    if isinstance(error, Inconclusive):
        return Verdict.INCONCLUSIVE, Blame.INFRA
    return Verdict.ERROR, Blame.INFRA


def not_applicable(tree_class: TreeClass, variant: str) -> str:
    """Why a tree leaves no such variant; empty where it does.

    The variant with the locks is moot on a tree without them, the one without where they are universal.
    """
    if tree_class is TreeClass.ABSENT and variant == WITH:
        return "this tree has no per-VMA locks (no lock_vma_under_rcu)"
    if tree_class is TreeClass.UNIVERSAL and variant != WITH:
        return "this tree has per-VMA locks universally: CONFIG_PER_VMA_LOCK is gone"
    return ""


def kernel_spec(context: Context, arch: str, variant: str) -> KernelSpec:
    """The kernel that the run means by an arch and a variant.

    :raises UserError: an unknown toolchain; InfraError: its compiler is not installed.
    """
    return KernelSpec(
        tree=context.tree,
        tree_class=context.tree_class,
        arch=arches.load(arch),
        variant=variant,
        toolchain=toolchain.find(context.choices.toolchain, arches.load(arch)),
        base=context.base,
        extra=context.fragments,
    )
