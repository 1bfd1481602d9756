# SPDX-License-Identifier: GPL-2.0-only
"""A kernel under test, and its variants."""

from __future__ import annotations

import msgspec

from orchestrator.kernel.kconfig import WITH
from orchestrator.kernel.prebuilt import Prebuilt
from orchestrator.plan.choices import Source
from orchestrator.source.classify import TreeClass, classify, maps_uses_vma_locks
from orchestrator.source.model import Tree


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel under test: a tree to build, or a prebuilt image.

    ``maps_read_under_vma_locks``: whether its code reads maps that way; ``None`` if not known.
    """

    label: str
    tree: Tree | None = None
    tree_class: TreeClass | None = None
    maps_read_under_vma_locks: bool | None = None
    prebuilt: Prebuilt | None = None
    source: Source = Source()

    @property
    def describe(self) -> str:
        """The kernel in words."""
        if self.tree is not None:
            return self.tree.describe
        assert self.prebuilt is not None
        return f"{self.prebuilt.path.name} {self.prebuilt.release} (sha256 {self.prebuilt.digest[:12]})"

    @property
    def digest(self) -> str:
        """The digest that identifies the kernel."""
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


def target_of(label: str, tree: Tree, source: Source) -> Target:
    """The target for a tree in its current state."""
    return Target(
        label=label,
        tree=tree,
        tree_class=classify(tree.path),
        maps_read_under_vma_locks=maps_uses_vma_locks(tree.path),
        source=source,
    )


def lacks_variant(tree_class: TreeClass, variant: str) -> str:
    """The reason why a tree lacks a variant; empty if it has it.

    A tree without per-VMA locks lacks the variant with them; a tree that has them universally lacks the
    one without.
    """
    if tree_class is TreeClass.ABSENT and variant == WITH:
        return "this tree has no per-VMA locks (no lock_vma_under_rcu)"
    if tree_class is TreeClass.UNIVERSAL and variant != WITH:
        return "this tree has per-VMA locks universally: CONFIG_PER_VMA_LOCK is gone"
    return ""


def other_variant(variant: str) -> str:
    """The reason why a prebuilt kernel lacks the other variants."""
    which = "has" if variant == WITH else "lacks"
    return (
        f"this prebuilt kernel {which} per-VMA locks, according to its kallsyms: it is the {variant} variant"
    )
