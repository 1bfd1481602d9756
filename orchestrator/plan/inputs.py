# SPDX-License-Identifier: GPL-2.0-only
"""The inputs of a run's cells, resolved and checked, as data that can go to another machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.store import digest_of, file_digest
from orchestrator.kernel import flavor
from orchestrator.kernel.kconfig import Fragment
from orchestrator.kernel.spec import KernelSpec
from orchestrator.plan.choices import Choices
from orchestrator.plan.target import Target, lacks_variant, other_variant
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites.catalog import Suite
from orchestrator.verdict.known import Entry


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a run's cells.

    ``targets`` and ``suites`` are by label and by name. ``selftests`` is the tree that the kernel's own
    tests are taken from, where it is not the kernel's. ``fragments`` are those of the flavors and the
    user's, ``base`` the text of the user's ``--config``. ``known`` are the known failures that the user
    names, before those of the suites.
    """

    choices: Choices
    targets: dict[str, Target]
    suites: dict[str, Suite] = {}
    selftests: Tree | None = None
    fragments: tuple[Fragment, ...] = ()
    base: str = ""
    known: tuple[Entry, ...] = ()

    def of_cell(self, label: str, suites: Iterable[str]) -> Inputs:
        """The part that one cell needs."""
        return msgspec.structs.replace(
            self,
            targets={label: self.targets[label]},
            suites={name: self.suites[name] for name in suites},
        )


def digests(inputs: Inputs) -> dict[str, str]:
    """Digests of a run's inputs besides its kernels, by option or suite."""
    result = {"--kconfig": digest_of([fragment.text for fragment in inputs.fragments])}
    result["--config"] = digest_of(inputs.base)
    result["--selftests-from"] = inputs.selftests.digest if inputs.selftests is not None else ""
    for suite in inputs.suites.values():
        if suite.user:
            files = suite_build.files_of(suite)
            result[f"suite {suite.name!r}"] = digest_of(
                {name: "" if path.is_dir() else file_digest(path) for name, path in files.items()}
            )
    return result


def not_applicable(inputs: Inputs, target: Target, variant: str, *, prebuilt_variant: str = "") -> str:
    """The reason why a target lacks a variant; empty if it has it, or if that is not known.

    :param prebuilt_variant: the variant of a prebuilt kernel, if it is known.
    """
    if target.tree_class is not None:
        if lacking := lacks_variant(target.tree_class, variant):
            return lacking
        old = flavor.too_old(inputs.choices.flavors, target.version)
        return f"{old}: this is {target.version}" if old else ""
    return other_variant(prebuilt_variant) if prebuilt_variant not in ("", variant) else ""


def kernel_spec(
    inputs: Inputs, label: str, arch: str, variant: str, *, objects: Path | None = None
) -> KernelSpec:
    """The kernel spec for a label, an arch and a variant.

    :param objects: the folder of incremental builds, if there is one.
    :raises UserError: an unknown toolchain.
    :raises InfraError: its compiler is not installed.
    """
    target = inputs.targets[label]
    assert target.tree is not None
    assert target.tree_class is not None
    return KernelSpec(
        tree=target.tree,
        tree_class=target.tree_class,
        arch=arches.load(arch),
        variant=variant,
        toolchain=toolchain.find(inputs.choices.toolchain, arches.load(arch)),
        base=inputs.base,
        extra=inputs.fragments,
        module=flavor.module(inputs.choices.flavors),
        workplace=objects,
        sandboxed=inputs.choices.sandboxed,
    )
