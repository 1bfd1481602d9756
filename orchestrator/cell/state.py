# SPDX-License-Identifier: GPL-2.0-only
"""What a cell has in hand while it is carried out, and what an error means for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from orchestrator.analysis.pairs import WITH
from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.errors import Inconclusive, KernelError, OrchestrateError
from orchestrator.core.store import Store
from orchestrator.evidence.health import State
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.kernel import debug_build, flavor, kconfig
from orchestrator.kernel.prebuilt import Prebuilt
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.plan.plan import CellPlan, Choices, Source
from orchestrator.results.model import GRAVITY, Blame, Case, SuiteResult, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.suites.catalog import Suite
from orchestrator.verdict.known import Entry
from orchestrator.vm.rootfs import overlay

#: Takes phase and text.
Say = Callable[[str, str], None]


class Moot(Exception):
    """The question does not arise for this kernel; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel under test by its label: a tree to build it from, or an image that is built already.

    ``maps_read_under_vma_locks``: whether its code reads maps so; ``None`` where that is not known.
    """

    label: str
    tree: Tree | None = None
    tree_class: TreeClass | None = None
    maps_read_under_vma_locks: bool | None = None
    prebuilt: Prebuilt | None = None
    source: Source = Source()

    @property
    def describe(self) -> str:
        """What it is, for people."""
        if self.tree is not None:
            return self.tree.describe
        assert self.prebuilt is not None
        return f"{self.prebuilt.path.name} {self.prebuilt.release} (sha256 {self.prebuilt.digest[:12]})"

    @property
    def digest(self) -> str:
        """What identifies it."""
        if self.tree is not None:
            return self.tree.digest
        assert self.prebuilt is not None
        return self.prebuilt.digest

    @property
    def version(self) -> str:
        """The kernel's version."""
        if self.tree is not None:
            return self.tree.version
        assert self.prebuilt is not None
        return self.prebuilt.release


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells of a run share.

    ``selftests`` is the tree that the kernel's own tests are taken from, where it is not the kernel's.
    ``known`` are the known failures that the user names, before those of the suites.
    ``broken`` has the kernels that do not build, by label, arch and variant: repeats need not find out again.
    ``variants_read`` holds by label what a prebuilt kernel was found to be when it first ran.
    ``workplace`` says by arch and variant where kernels are built one after another, if they are.
    ``swap_kernel`` is a test's hand: it has another image booted than was built.
    """

    targets: Mapping[str, Target]
    suites: Mapping[str, Suite]
    selftests: Tree | None = None
    choices: Choices
    store: Store
    keys: overlay.RunKeys
    root: Path
    fragments: tuple[kconfig.Fragment, ...] = ()
    base: str = ""
    known: tuple[Entry, ...] = ()
    cancelled: Callable[[], bool] = lambda: False
    variants_read: dict[str, str] = msgspec.field(default_factory=dict)
    broken: dict[tuple[str, str, str], KernelError] = msgspec.field(default_factory=dict)
    workplace: Callable[[str, str], Path | None] = lambda _arch, _variant: None
    swap_kernel: Callable[[Kernel], Path] = lambda kernel: kernel.image


class Cell:
    """The cell's state while it is carried out.

    ``state`` is what its guest was like when it was last looked at, ``proven_state`` after its proof.
    """

    def __init__(self, context: Context, plan: CellPlan, say: Say) -> None:
        self.context = context
        self.plan = plan
        self.say = say
        self.folder = context.root / "cells" / plan.id
        self.arch = arches.load(plan.arch)
        self.target = context.targets[plan.label]
        self.cases: list[Case] = []
        self.suites: list[SuiteResult] = []
        self.properties: dict[str, str] = {}
        self.release = ""
        self.guests = 0
        self.dumps = 0
        self.state = State()
        self.proven_state = State()
        self.ends = debug_build.Ends(None)
        self.watch = ConsoleWatch()

    def watch_for(self, kernel: Kernel) -> ConsoleWatch:
        """A watcher for the console of a guest that is to come."""
        if self.ends.vmlinux != kernel.vmlinux:
            self.ends = debug_build.Ends(kernel.vmlinux)
        return ConsoleWatch(self.ends)

    def watch_anew(self, kernel: Kernel) -> ConsoleWatch:
        """The watcher of the console of the cell's next guest, from now on the cell's."""
        self.watch = self.watch_for(kernel)
        return self.watch

    def put(self, case: Case) -> None:
        """Record a case; of several guests' words about the same thing the gravest stands."""
        old = next((c for c in self.cases if c.id == case.id), None)
        if old is not None and GRAVITY.index(old.verdict) < GRAVITY.index(case.verdict):
            return
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


def moot(context: Context, target: Target, variant: str) -> str:
    """Why there is no such variant of a kernel, as far as is known; empty where there is, or may be."""
    if target.tree_class is not None:
        old = flavor.too_old(context.choices.flavors, target.version)
        return not_applicable(target.tree_class, variant) or (
            f"{old}: this is {target.version}" if old else ""
        )
    read = context.variants_read.get(target.label, variant)
    return another_variant(read) if read != variant else ""


def another_variant(read: str) -> str:
    """Why a prebuilt kernel leaves no other variant than the one it was found to be."""
    which = "has" if read == WITH else "lacks"
    return f"this prebuilt kernel {which} per-VMA locks, as its kallsyms says: it is the {read} variant"


def kernel_spec(context: Context, label: str, arch: str, variant: str) -> KernelSpec:
    """The kernel that the run means by a label, an arch and a variant.

    :raises UserError: an unknown toolchain; InfraError: its compiler is not installed.
    """
    target = context.targets[label]
    assert target.tree is not None
    assert target.tree_class is not None
    return KernelSpec(
        tree=target.tree,
        tree_class=target.tree_class,
        arch=arches.load(arch),
        variant=variant,
        toolchain=toolchain.find(context.choices.toolchain, arches.load(arch)),
        base=context.base,
        extra=context.fragments,
        module=flavor.module(context.choices.flavors),
        workplace=context.workplace(arch, variant),
    )
