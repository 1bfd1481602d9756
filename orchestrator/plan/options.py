# SPDX-License-Identifier: GPL-2.0-only
"""The user's options for kernels and tests, and the choices that they lead to."""

from __future__ import annotations

from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core import sandbox
from orchestrator.core.errors import UserError, did_you_mean
from orchestrator.core.store import absolute
from orchestrator.kernel import flavor, kconfig, prebuilt
from orchestrator.plan import UNTIL_FAIL_TIMES, prepare
from orchestrator.plan.check import check
from orchestrator.plan.choices import Choices, Source
from orchestrator.source import clone
from orchestrator.suites import catalog

#: Default memory of a guest in MiB.
_MEM_MIB = 512


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options that several verbs share, unchecked; 0 and empty mean "not set".

    The names are those of the command line, in the plural where an option may be repeated.
    """

    arches: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    kconfig: tuple[str, ...] = ()
    config: str = ""
    flavors: tuple[str, ...] = ()
    toolchain: str = "gcc"
    jobs: int = 0
    suites: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    put: tuple[str, ...] = ()
    selftests_from: str = ""
    known: tuple[str, ...] = ()
    strict: bool = False
    decode: bool = False
    times: int = 0
    until_fail: bool = False
    boots: int = 0
    vsyscall: str = ""
    smp: int = 2
    mem: int = 0
    cmdline: str = ""
    accel: str = "auto"
    sandbox: str = "auto"


def choose(options: Options, *, tests: bool = False) -> Choices:
    """The choices that options lead to.

    :param tests: whether the verb runs suites, by default those of the catalogue.
    :raises UserError: a name that does not exist, before a kernel is fetched for it.
    """
    names = _arches(options)
    flavors = tuple(each.name for each in flavor.combine(options.flavors))
    suites: tuple[str, ...] = ()
    if tests:
        suites = options.suites or (() if options.commands else prepare.default_suites(flavors))
    choices = Choices(
        arches=names,
        variants=tuple(dict.fromkeys(options.variants)) or kconfig.variants(),
        sources=sources(options),
        suites=tuple(dict.fromkeys(str(s.folder) if s.user else s.name for s in map(catalog.load, suites))),
        commands=options.commands,
        put=tuple(map(_absolute, options.put)),
        selftests_from=_spec(options.selftests_from),
        times=options.times or (UNTIL_FAIL_TIMES if options.until_fail else 1),
        until_fail=options.until_fail,
        vsyscall=options.vsyscall,
        boots=options.boots,
        smp=options.smp,
        # a flavor that needs more gets it; a user who says how much gets that
        mem_mib=options.mem or max(_MEM_MIB, flavor.mem_mib(flavors)),
        cmdline=tuple(options.cmdline.split()),
        accel=options.accel,
        toolchain=options.toolchain,
        flavors=flavors,
        known=tuple(map(_absolute, options.known)),
        strict=options.strict,
        decode=options.decode,
        kconfig=tuple(
            word if word.startswith(("CONFIG_", "# CONFIG_")) else _absolute(word) for word in options.kconfig
        ),
        config=_absolute(options.config) if options.config else "",
        jobs=options.jobs,
        sandboxed=sandbox.resolve(options.sandbox, untrusted=bool(options.patches)),
    )
    _check_encoding(choices)
    _check_images(options, choices)
    check(choices, prepare.suites(choices) if tests else ())
    return choices


def _arches(options: Options) -> tuple[str, ...]:
    """The architectures; each exists, and so does each variant for it."""
    words = options.arches or (arches.host().name,)
    names = arches.expand(words)
    for name in names:
        arches.load(name)
        for variant in options.variants:
            kconfig.own_fragments(name, variant)
    return names


def _check_encoding(choices: Choices) -> None:
    try:
        msgspec.json.encode(choices)
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not UTF-8", remedy="Rename that file or folder.") from None


def _check_images(options: Options, choices: Choices) -> None:
    for image in (source.image for source in choices.sources if source.image):
        arch = prebuilt.inspect(image).arch
        if options.arches and arch not in choices.arches:
            raise UserError(
                f"--arch {' '.join(options.arches)}: {image} is a kernel of {arch}",
                remedy="Leave --arch out.",
            )


def sources(options: Options) -> tuple[Source, ...]:
    """The kernels that ``--source``, ``--patch``, ``--sha256`` and ``--kernel`` name together.

    :raises UserError: a label that no --source has.
    """
    labelled = map(prepare.split_label, options.sources)
    trees = [Source(label=label, spec=_spec(spec)) for label, spec in labelled]
    labelled = map(prepare.split_label, options.kernels)
    images = [Source(label=label, image=_absolute(path)) for label, path in labelled]
    if images and not trees:
        _refuse_build_options(options)
    if not trees and not images:
        trees = [Source(spec=current_tree())]
    for word in options.patches:
        number, value = _labelled_tree("--patch", word, trees)
        patches = (*trees[number].patches, _absolute(value))
        trees[number] = msgspec.structs.replace(trees[number], patches=patches)
    for word in options.digests:
        number, value = _labelled_tree("--sha256", word, trees)
        trees[number] = msgspec.structs.replace(trees[number], sha256=value)
    return (*trees, *images)


def _refuse_build_options(options: Options) -> None:
    default = Options()
    for field in ("kconfig", "flavors", "config", "toolchain"):
        if getattr(options, field) != getattr(default, field):
            option = f"--{field.removesuffix('s')}"
            raise UserError(
                f"{option} is for kernels that are built, --kernel is built already",
                remedy=f"Leave {option} out, or name a --source.",
            )


def _labelled_tree(option: str, word: str, trees: list[Source]) -> tuple[int, str]:
    """The number of the tree that a ``[NAME=]VALUE`` is for, and the value."""
    label, value = prepare.split_label(word)
    number = next((n for n, tree in enumerate(trees) if tree.label == label), None) if label else 0
    if number is None or not trees:
        labels = [tree.label for tree in trees if tree.label]
        raise UserError(
            f"{option} {word}: there is no --source called {label!r}{did_you_mean(label, labels)}",
            remedy=f"Name the source: --source {label or 'NAME'}=SPEC"
            f" ({', '.join(labels) or 'none has a name'}).",
        )
    return number, value


def _absolute(path: str) -> str:
    return str(absolute(Path(path)))


def _spec(spec: str) -> str:
    """A source's spec, independent of the working directory."""
    if spec and absolute(Path(spec)).exists():
        return _absolute(spec)
    split = clone.split(spec)
    return f"{_absolute(split[0])}@{split[1]}" if split else spec


def current_tree() -> str:
    """The kernel tree that the user is in, empty where it is none."""
    here = Path.cwd()
    return str(here) if (here / "scripts/kconfig").is_dir() and (here / "Kbuild").is_file() else ""
