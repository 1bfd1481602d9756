# SPDX-License-Identifier: GPL-2.0-only
"""From choices to targets, suites, a plan and its inputs: all checks before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator import source as sources
from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store
from orchestrator.kernel import flavor, kconfig, prebuilt
from orchestrator.plan.check import known_failures, vsyscall_modes
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import Plan, PlannedKernel, make
from orchestrator.plan.target import Target, target_of
from orchestrator.source import patches
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite
from orchestrator.vm import accel, qemu
from orchestrator.vm.rootfs import image

Say = Callable[[str], None]

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,47}")


def split_label(word: str) -> tuple[str, str]:
    """Split ``name=SPEC`` into label and spec; the label may be empty.

    A word that exists as a file, or has a slash, a colon or an @ before its first ``=``, is a spec.

    :raises UserError: a label that cannot be part of a file name.
    """
    label, equals, rest = word.partition("=")
    if not equals or any(c in label for c in "/:@~") or _exists(word):
        return "", word
    if not _LABEL.fullmatch(label):
        raise UserError(
            f"{word!r}: {label!r} cannot be a label",
            remedy="A label consists of letters, digits and . _ + - and starts with a letter or digit.",
        )
    return label, rest


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def targets(choices: Choices, store: Store, say: Say) -> tuple[Target, ...]:
    """Resolve the sources, each with its own label.

    :raises UserError: a source, patch or image that cannot be used, or two of one label.
    :raises InfraError: network, mirror, disk or a missing program.
    """
    result = [_target(source, store, say) for source in choices.sources]
    labels = [target.label for target in result]
    for number, target in enumerate(result):
        if labels.count(target.label) > 1:
            if target.source.label:
                raise UserError(
                    f"two kernels are called {target.label!r}", remedy="Give each its own: NAME=SPEC."
                )
            label = f"{target.label}-{target.digest[:8]}"
            result[number] = msgspec.structs.replace(target, label=label)
    if len({target.label for target in result}) < len(result):
        raise UserError(
            f"the same kernel is named twice: {', '.join(sorted(labels))}", remedy="Name it once."
        )
    return tuple(result)


def _target(source: Source, store: Store, say: Say) -> Target:
    if source.image:
        image = prebuilt.keep(prebuilt.inspect(source.image), store)
        label = source.label or _as_label(image.release or image.path.name)
        return Target(label=label, prebuilt=image, source=source)
    tree = _tree(source, store, say)
    label = source.label or _as_label(tree.version + ("-patched" if source.patches else ""))
    return target_of(label, tree, _pinned(source, tree))


def _tree(source: Source, store: Store, say: Say) -> Tree:
    if source.spec:
        tree = sources.resolve(source.spec, cache=store.root, sha256=source.sha256 or None, say=say)
    else:
        tree = sources.default_source(cache=store.root, say=say)
    if source.patches:
        tree = patches.apply(tree, [Path(p) for p in source.patches], cache=store.root, say=say)
    return tree


def _pinned(source: Source, tree: Tree) -> Source:
    """The source pinned to the resolved tree; its branch or suite may move later."""
    # a version may be fetched from another place, packed in another way
    digest = tree.archive_sha256 if tree.kind != "version" else ""
    return msgspec.structs.replace(
        source, spec=tree.base_spec or source.spec or tree.spec, sha256=source.sha256 or digest
    )


def _as_label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:48] or "kernel"


def default_suites(flavors: Sequence[str]) -> tuple[str, ...]:
    """The suites to run when none is named; on a kernel made for diagnosis, those that can show something."""
    if not flavors:
        return catalog.DEFAULT
    slow = flavor.no_races(flavors)
    candidates = map(catalog.load, (*catalog.DEFAULT, *catalog.DIAGNOSIS))
    return tuple(s.name for s in candidates if s.kind == "functional" and not (slow and s.races))


def suites(choices: Choices) -> tuple[Suite, ...]:
    """The suites of a run, the user's commands last.

    :raises UserError: one that does not exist, cannot be read, or has another's name.
    """
    wide = flavor.module(choices.flavors) is not None
    result = [catalog.load(spec) if wide else catalog.narrow(catalog.load(spec)) for spec in choices.suites]
    if choices.commands:
        result.append(catalog.command(choices.commands, [Path(p) for p in choices.put]))
    elif choices.put:
        raise UserError("--put needs a --cmd", remedy="Give the command with --cmd.")
    names = [suite.name for suite in result]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two suites are called {repeated.pop()!r}", remedy="Rename one in its suite.toml.")
    return tuple(result)


def pinned(choices: Choices, targets: Sequence[Target]) -> Choices:
    """The choices with each source pinned, so that a resumed run uses the same."""
    return msgspec.structs.replace(choices, sources=tuple(target.source for target in targets))


def plan(
    choices: Choices,
    targets: Sequence[Target],
    suites: Sequence[Suite],
    digests: Mapping[str, str] | None = None,
) -> Plan:
    """Plan the cells of a run.

    :param digests: from ``plan.inputs.digests``.
    :raises UserError: choices do not fit together.
    """
    kernels = []
    for target in targets:
        names = choices.arches
        if target.prebuilt is not None:
            names = (target.prebuilt.arch,)
            from_tree = [suite.name for suite in suites if suite.origin == "tree"]
            if from_tree and not choices.selftests_from:
                raise UserError(
                    f"suite {from_tree[0]!r} is built from a kernel tree, and --kernel names none",
                    remedy="Give the tree with --selftests-from, or other suites with --suite or --cmd.",
                )
        kernels.append(
            PlannedKernel(label=target.label, arches=names, describe=target.describe, digest=target.digest)
        )
    layout = make(choices, kernels=kernels, suites=suites, vsyscall_modes=vsyscall_modes())
    return msgspec.structs.replace(layout, inputs=dict(digests or {}))


def inputs(
    choices: Choices,
    targets: Sequence[Target],
    suites: Sequence[Suite],
    store: Store,
    say: Say = lambda _: None,
) -> Inputs:
    """Read and check the inputs of a run's cells.

    :raises UserError: a fragment, base or tree that cannot be used, or KVM that cannot be forced.
    :raises InfraError: a compiler or QEMU is not installed.
    """
    # the user's fragments come last: they may override a flavor
    fragments = (
        *(each.fragment for each in flavor.combine(choices.flavors)),
        *(kconfig.user_fragment(spec) for spec in choices.kconfig),
    )
    base = kconfig.user_base(choices.config)
    selftests = None
    if choices.selftests_from:
        selftests = sources.resolve(choices.selftests_from, cache=store.root, say=say)
    built = any(target.tree is not None for target in targets)
    for name in {a for t in targets for a in ((t.prebuilt.arch,) if t.prebuilt else choices.arches)}:
        arch = arches.load(name)
        if built:
            kconfig.check_user_fragments(fragments, name)
            toolchain.find(choices.toolchain, arch)
        if suites:
            # before builds, which take minutes
            qemu.program(arch)
            accel.choose(arch, choices.accel, store.root)
            _try_suites(suites, arch, store, say)
    return Inputs(
        choices=choices,
        targets={target.label: target for target in targets},
        suites={suite.name: suite for suite in suites},
        selftests=selftests,
        fragments=fragments,
        base=base,
        known=tuple(entry for path in choices.known for entry in known_failures(path)),
    )


def _try_suites(suites: Sequence[Suite], arch: Arch, store: Store, say: Say) -> None:
    """Build the user's suites now, so that mistakes show early."""
    if extra := catalog.packages(suites):
        image.build_image(arch.name, cache=store.root, say=say, extra=extra)
    for suite in suites:
        if suite.user and suite.origin == "own":
            suite_build.build(suite, tree=None, arch=arch, store=store, log=Path(os.devnull))
