# SPDX-License-Identifier: GPL-2.0-only
"""A kernel, as requested and as built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.toolchain import Toolchain
from orchestrator.kernel.kconfig import Fragment
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree

#: Takes one line of progress.
Say = Callable[[str], None]


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """tree × arch × variant × flavor × user's fragments × toolchain.

    ``base`` is the text of the user's own ``--config`` file, empty for ``tinyconfig``; ``extra`` are the
    fragments of the flavors and the user's, merged last. ``module`` is the source of a module that is built
    against it. ``workplace`` is a folder in which kernels of this kind are built one after another, so that
    make finds what has not changed; nobody else may build there. It has no part in what the kernel is, and
    neither has ``sandboxed``: whether makefiles run in a sandbox.
    """

    tree: Tree
    tree_class: TreeClass
    arch: Arch
    variant: str
    toolchain: Toolchain
    base: str = ""
    extra: tuple[Fragment, ...] = ()
    module: Path | None = None
    workplace: Path | None = None
    sandboxed: bool = False

    @property
    def wrapped(self) -> bool:
        """Whether its Kconfig is read through a wrapper, which gives the variant's symbol a prompt."""
        return self.tree_class is TreeClass.SELECTABLE


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The final configuration of a spec: the file, its symbols and its digest."""

    path: Path
    symbols: dict[str, str]
    digest: str


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel that can be booted; nothing may write to its files.

    A prebuilt one has neither ``vmlinux`` nor ``config``, and its ``build_id`` is unknown before it runs.
    ``module`` is the module that was built against it, if any. ``cpu_s`` are the CPU seconds of its build;
    ``cached``: it was in the store.
    """

    key: str
    folder: Path
    image: Path
    vmlinux: Path | None
    config: Path | None
    release: str
    build_id: str
    toolchain: str
    cpu_s: float
    cached: bool
    module: Path | None = None
