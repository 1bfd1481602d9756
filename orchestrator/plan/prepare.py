# SPDX-License-Identifier: GPL-2.0-only
"""From what the user chose to a plan and to what its cells share: all that can be wrong beforehand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator import source as sources
from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import Store, absolute
from orchestrator.kernel import flavor, kconfig, prebuilt
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import Plan, PlannedKernel, make
from orchestrator.plan.target import Target, target_of
from orchestrator.source import patches
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite
from orchestrator.verdict import known
from orchestrator.vm import accel, qemu
from orchestrator.vm.rootfs import image

Say = Callable[[str], None]

#: What the kernel's makefiles call, besides the compiler.
_BUILD_TOOLS = ("make", "bc", "bison", "flex")

#: Kernel parameters that keep the kernel's messages, or all of them, from the console.
_MUTES = re.compile(r"quiet|loglevel=[0-5]|console=.*|printk\.time=.*")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,47}")


def split_label(word: str) -> tuple[str, str]:
    """``name=SPEC`` as label and spec; the label is empty where there is none.

    What exists as a file, or has a slash, a colon or an @ before its first ``=``, is a spec as it stands.

    :raises UserError: a label that cannot be part of a file name.
    """
    label, equals, rest = word.partition("=")
    if not equals or any(c in label for c in "/:@~") or _exists(word):
        return "", word
    if not _LABEL.fullmatch(label):
        raise UserError(
            f"{word!r}: {label!r} cannot be a label",
            remedy="A label is made of letters, digits and . _ + - and begins with a letter or digit.",
        )
    return label, rest


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def check(choices: Choices, chosen: Sequence[Suite]) -> None:
    """Find the mistakes that can be found before a source is fetched.

    :raises UserError: a fragment or base that cannot be used, a machine too small, an unknown mode, no patch.
    :raises InfraError: programs of the host are missing; all are named at once.
    """
    for spec in choices.kconfig:
        kconfig.user_fragment(spec)
    flavor.combine(choices.flavors)
    if mute := [word for word in choices.cmdline if _MUTES.fullmatch(word)]:
        raise UserError(
            f"--cmdline {mute[0]}: a boot is followed, and a crash is read, on the console",
            remedy="Leave it out.",
        )
    for suite in chosen:
        if suite.races and (why := flavor.no_races(choices.flavors)):
            raise UserError(
                f"suite {suite.name!r} needs readers and writers at full speed; {why}",
                remedy="Leave one of the two out.",
            )
    for path in choices.known:
        _known(path)
    if choices.config:
        _base(choices.config)
    for patch in (patch for source in choices.sources for patch in source.patches):
        if not Path(patch).exists():
            raise UserError(f"--patch {patch}: there is no such file or folder")
    built = any(not source.image for source in choices.sources)
    make(
        choices,
        kernels=[PlannedKernel(label="kernel", arches=choices.arches)] if built else (),
        suites=chosen,
        vsyscall_modes=_vsyscall_modes(),
    )
    missing: list[InfraError] = []
    for arch in map(arches.load, choices.arches) if built else ():
        with _gathered(missing):
            flavor.check_compiler(choices.flavors, toolchain.find(choices.toolchain, arch))
        with _gathered(missing):
            qemu.program(arch) if chosen else None
    tools = [name for name in _BUILD_TOOLS if built and shutil.which(name) is None]
    if len(missing) == 1 and not tools:
        raise missing[0]
    if missing or tools:
        said = [error.message.removesuffix(" is not installed") for error in missing]
        raise InfraError(
            f"not installed: {', '.join(dict.fromkeys(said + tools))}",
            remedy="`orchestrate doctor` prints the one command that installs what is missing.",
        )


@contextlib.contextmanager
def _gathered(missing: list[InfraError]) -> Iterator[None]:
    try:
        yield
    except InfraError as error:
        missing.append(error)


def targets(choices: Choices, store: Store, say: Say) -> tuple[Target, ...]:
    """Make the sources real, each under a label of its own.

    :raises UserError: a source, patch or image that cannot be used, or two of one label.
    :raises InfraError: network, mirror, disk or a missing program.
    """
    found = [_target(source, store, say) for source in choices.sources]
    labels = [target.label for target in found]
    for number, target in enumerate(found):
        if labels.count(target.label) > 1:
            if target.source.label:
                raise UserError(
                    f"two kernels are called {target.label!r}", remedy="Give each its own: NAME=SPEC."
                )
            named = f"{target.label}-{target.digest[:8]}"
            found[number] = msgspec.structs.replace(target, label=named)
    if len({target.label for target in found}) < len(found):
        raise UserError(
            f"the same kernel is named twice: {', '.join(sorted(labels))}", remedy="Name it once."
        )
    return tuple(found)


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
    """The source as it is found again, whatever its branch or its suite has become meanwhile."""
    # a version is fetched from elsewhere, perhaps packed in another way
    digest = tree.archive_sha256 if tree.kind != "version" else ""
    return msgspec.structs.replace(
        source, spec=tree.base_spec or source.spec or tree.spec, sha256=source.sha256 or digest
    )


def _known(path: str) -> tuple[known.Entry, ...]:
    if not Path(path).exists():
        raise UserError(f"--known {path}: there is no such file")
    return known.load(Path(path))


def _as_label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:48] or "kernel"


def default_suites(flavors: Sequence[str]) -> tuple[str, ...]:
    """What is run when no suite is named: of a kernel made for diagnosis, what it can show."""
    if not flavors:
        return catalog.DEFAULT
    slow = flavor.no_races(flavors)
    found = map(catalog.load, (*catalog.DEFAULT, *catalog.DIAGNOSIS))
    return tuple(s.name for s in found if s.kind == "functional" and not (slow and s.races))


def suites(choices: Choices) -> tuple[Suite, ...]:
    """The suites of a run, the user's commands last.

    :raises UserError: one that does not exist, cannot be read, or has another's name.
    """
    wide = flavor.module(choices.flavors) is not None
    found = [catalog.load(spec) if wide else catalog.narrow(catalog.load(spec)) for spec in choices.suites]
    if choices.commands:
        found.append(catalog.command(choices.commands, [Path(p) for p in choices.put]))
    elif choices.put:
        raise UserError("--put is for --cmd, and there is none", remedy="Give the command with --cmd.")
    names = [suite.name for suite in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two suites are called {twice.pop()!r}", remedy="Rename one in its suite.toml.")
    return tuple(found)


def pinned(choices: Choices, found: Sequence[Target]) -> Choices:
    """The choices with each source as it is found again, wherever and whenever the run is resumed."""
    return msgspec.structs.replace(choices, sources=tuple(target.source for target in found))


def plan(
    choices: Choices,
    found: Sequence[Target],
    chosen: Sequence[Suite],
    digests: Mapping[str, str] | None = None,
) -> Plan:
    """Lay the run out.

    :param digests: as of ``plan.inputs.digests``.
    :raises UserError: choices that do not fit together.
    """
    kernels = []
    for target in found:
        names = choices.arches
        if target.prebuilt is not None:
            names = (target.prebuilt.arch,)
            from_tree = [suite.name for suite in chosen if suite.origin == "tree"]
            if from_tree and not choices.selftests_from:
                raise UserError(
                    f"suite {from_tree[0]!r} is built from a kernel tree, and --kernel names none",
                    remedy="Give the tree with --selftests-from, or other suites with --suite or --cmd.",
                )
        kernels.append(
            PlannedKernel(label=target.label, arches=names, describe=target.describe, digest=target.digest)
        )
    made = make(choices, kernels=kernels, suites=chosen, vsyscall_modes=_vsyscall_modes())
    return msgspec.structs.replace(made, inputs=dict(digests or {}))


def inputs(
    choices: Choices,
    targets: Sequence[Target],
    chosen: Sequence[Suite],
    store: Store,
    say: Say = lambda _: None,
) -> Inputs:
    """What the cells of a run are made from, read and checked once.

    :raises UserError: a fragment, base or tree that cannot be used, or KVM that cannot be forced.
    :raises InfraError: a compiler or QEMU is not installed.
    """
    # the user's come last: they may undo a part of a flavor
    fragments = (
        *(each.fragment for each in flavor.combine(choices.flavors)),
        *(kconfig.user_fragment(spec) for spec in choices.kconfig),
    )
    base = _base(choices.config) if choices.config else ""
    selftests = None
    if choices.selftests_from:
        selftests = sources.resolve(choices.selftests_from, cache=store.root, say=say)
    built = any(target.tree is not None for target in targets)
    for name in {a for t in targets for a in ((t.prebuilt.arch,) if t.prebuilt else choices.arches)}:
        arch = arches.load(name)
        if built:
            kconfig.check_user_fragments(fragments, name)
            toolchain.find(choices.toolchain, arch)
        if chosen:
            # before a build of some minutes, not after it
            qemu.program(arch)
            accel.choose(arch, choices.accel, store.root)
            _try_suites(chosen, arch, store, say)
    return Inputs(
        choices=choices,
        targets={target.label: target for target in targets},
        suites={suite.name: suite for suite in chosen},
        selftests=selftests,
        fragments=fragments,
        base=base,
        known=tuple(entry for path in choices.known for entry in _known(path)),
    )


def _try_suites(chosen: Sequence[Suite], arch: Arch, store: Store, say: Say) -> None:
    """Make what the user's own suites need, so that a mistake in them shows now."""
    if extra := catalog.packages(chosen):
        image.build_image(arch.name, cache=store.root, say=say, extra=extra)
    for suite in chosen:
        if suite.user and suite.origin == "own":
            suite_build.build(suite, tree=None, arch=arch, store=store, log=Path(os.devnull))


def _vsyscall_modes() -> dict[str, tuple[str, ...]]:
    return {name: arches.load(name).vsyscall_modes for name in arches.names()}


def _base(name: str) -> str:
    try:
        return absolute(Path(name)).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"--config {name}: {reason}") from error
