# SPDX-License-Identifier: GPL-2.0-only
"""Configure a tree, check the configuration, build the kernel, cache it.

tuxmake runs as a child process: as a library it sets signal handlers and has no deadline. It runs twice,
because it does not stop between ``config`` and ``kernel`` for a check.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.arch import Arch
from orchestrator.core.elf import build_id
from orchestrator.core.errors import Inconclusive, KernelError, UserError
from orchestrator.core.process import Outcome
from orchestrator.core.store import Store, digest_of, file_digest
from orchestrator.kernel import build_log as makelog
from orchestrator.kernel import build_warnings, kconfig, make, module, objdir
from orchestrator.kernel.kconfig import Fragment, Lost
from orchestrator.kernel.objdir import ObjectDirectory
from orchestrator.kernel.spec import Configured, Kernel, KernelSpec, Say
from orchestrator.source.classify import TreeClass

_CONFIG_LIMIT_S = 600.0
_BUILD_LIMIT_S = 4 * 3600.0


class _Facts(msgspec.Struct, frozen=True):
    release: str
    build_id: str
    toolchain: str
    cpu_s: float
    objects: int = 0
    #: most objects existed already: not a measure of a kernel's cost
    warm: bool = False


def configure(spec: KernelSpec, store: Store, *, say: Say = lambda _: None) -> Configured:
    """Make the final ``.config`` of a kernel and compare it with every request.

    :param say: is told of a cached one that is wrong, and made again.
    :raises UserError: a request of the user was lost.
    :raises Inconclusive: a request of the project was lost.
    :raises KernelError: the tree cannot be configured at all.
    """
    fragments = _fragments(spec)
    key = _config_key(spec, fragments)
    cached = store.find("configs", key) is not None
    if store.is_damaged("configs", key):
        say("the configuration in the cache is damaged; configuring again")
    folder = store.entry("configs", key, lambda fresh: _configure(spec, fragments, fresh))
    path = folder / "config"
    text = path.read_text()
    symbols = kconfig.parse_config(text)
    losses = kconfig.lost(fragments, symbols)
    if cached and (why := _unfit(spec, text, losses, fragments)):
        say(f"the configuration in the cache {why}; configuring again")
        store.discard("configs", key)
        return configure(spec, store, say=say)
    _raise_for_losses(spec, losses, fragments, symbols)
    return Configured(path=path, symbols=symbols, digest=digest_of(text))


def _unfit(spec: KernelSpec, text: str, losses: Sequence[Lost], fragments: Sequence[Fragment]) -> str:
    """Why a cached configuration cannot be right; empty if it may be."""
    if other := kconfig.other_architecture(text, spec.arch):
        return f"is one for {other}"
    built_in = {fragment.name for fragment in fragments if fragment.built_in}
    lacking = [loss.request.symbol for loss in losses if loss.request.origin in built_in]
    return f"lacks {', '.join(lacking[:3])}" if lacking else ""


def is_configured(spec: KernelSpec, store: Store) -> bool:
    """Whether the configuration of a spec is cached, so that ``configure`` takes no time."""
    return store.find("configs", _config_key(spec, _fragments(spec))) is not None


def _config_key(spec: KernelSpec, fragments: Sequence[Fragment]) -> str:
    return digest_of(
        "config",
        spec.tree.configured_by or spec.tree.digest,
        spec.tree_class.value,
        spec.arch.name,
        spec.base,
        [(f.name, f.text) for f in fragments],
        spec.toolchain.version,
        make.tool_versions(spec),
    )


def _fragments(spec: KernelSpec) -> list[Fragment]:
    fragments = kconfig.own_fragments(spec.arch.name, spec.variant)
    if spec.tree_class is not TreeClass.SELECTABLE:
        # no such symbol: only the kernel's symbol table proves the variant
        fragments = fragments[:-1]
    if spec.base:
        # the user's base replaces tinyconfig and our choice of drivers; requests that the proofs and the
        # guest need remain, and are checked
        fragments = [f for f in fragments if f.name != "kconfigs/base.config"] + [_essentials()]
    return [*fragments, *spec.extra]


def _essentials() -> Fragment:
    text = (data.kconfigs() / "essential.config").read_text()
    return Fragment("kconfigs/essential.config", text)


def _raise_for_losses(
    spec: KernelSpec, losses: Sequence[Lost], fragments: Sequence[Fragment], symbols: Mapping[str, str]
) -> None:
    if not losses:
        return
    users = {fragment.name for fragment in fragments if not fragment.built_in}
    of_user = [loss for loss in losses if loss.request.origin in users]
    text = kconfig.listing(of_user or losses, spec.tree.path, symbols)
    if of_user:
        raise UserError(
            f"kconfig request lost: {text}", remedy="Add the symbols that it depends on, or drop the line."
        )
    raise Inconclusive(
        f"kconfig request of orchestrate lost: {text}",
        remedy="This tree cannot be configured as the variant needs; please report it.",
    )


def pair_difference(spec: KernelSpec, store: Store) -> dict[str, tuple[str, str]]:
    """The difference between the configurations of the two variants: the expected symbols and no others.

    Empty if the tree has no choice.

    :raises Inconclusive: another symbol differs, or PER_VMA_LOCK does not.
    """
    if spec.tree_class is not TreeClass.SELECTABLE:
        return {}
    first, *others = (
        configure(msgspec.structs.replace(spec, variant=variant), store).symbols
        for variant in kconfig.variants()
    )
    differing: dict[str, tuple[str, str]] = {}
    for other in others:
        differing |= kconfig.difference(first, other)
    expected = spec.arch.expected_config_difference
    surplus = sorted(set(differing) - expected)
    missing = sorted(expected - set(differing))
    if surplus or missing:
        problems = [f"{s} differs too ({differing[s][0]}, {differing[s][1]})" for s in surplus]
        problems += [f"{s} does not differ" for s in missing]
        raise Inconclusive(
            f"the two variants do not make a fair pair on {spec.arch.name}: {'; '.join(problems)}",
            remedy="Fix the surplus symbols to one value in both, with --kconfig.",
        )
    return differing


def build(spec: KernelSpec, store: Store, *, say: Say, log: Path | None = None, jobs: int = 0) -> Kernel:
    """The kernel of a spec, from the store or built now.

    :param log: the file for a copy of the build's log if it fails.
    :raises KernelError: the tree does not compile; the message has the first error, file and line.
    :raises InfraError: the host failed it: no compiler, no space, no memory, no time.
    """
    configured = configure(spec, store, say=say)
    key = _key(spec, configured)
    cached = store.find("kernels", key) is not None
    if store.is_damaged("kernels", key):
        say("the kernel in the cache is damaged; building again")
    folder = store.entry(
        "kernels",
        key,
        lambda fresh: _build(spec, configured, store, key, fresh, say, log, jobs),
        waiting=lambda: say("waiting for another process that builds the same kernel"),
    )
    if cached and not spec.arch.header.is_of(folder / Path(spec.arch.image).name):
        say(f"the kernel in the cache is none for {spec.arch.name}; building again")
        store.discard("kernels", key)
        return build(spec, store, say=say, log=log, jobs=jobs)
    facts = msgspec.json.decode((folder / "kernel.json").read_bytes(), type=_Facts)
    return Kernel(
        key=key,
        folder=folder,
        image=folder / Path(spec.arch.image).name,
        vmlinux=folder / "vmlinux",
        config=folder / "config",
        release=facts.release,
        build_id=facts.build_id,
        toolchain=facts.toolchain,
        cpu_s=facts.cpu_s,
        cached=cached,
        module=folder / module.name(spec.module) if spec.module else None,
    )


def _key(spec: KernelSpec, configured: Configured) -> str:
    return digest_of(
        "kernel",
        spec.tree.digest,
        spec.arch.name,
        configured.digest,
        spec.toolchain.version,
        spec.wrapped,
        # earlier versions had a "+" in their release, unless their commit was tagged
        *(["no scm"] if spec.tree.commit else []),
        *([file_digest(spec.module)] if spec.module else []),
    )


def warnings_of(folder: Path, tree: Path) -> build_warnings.Ledger:
    """All warnings of a kernel's build, including objects of earlier builds.

    :param folder: the kernel's entry in the store.
    :param tree: the top of its tree.
    """
    ledger = build_warnings.load(folder / build_warnings.NAME)
    if ledger is not None:
        return ledger
    # an older entry: it was built as a whole
    log = folder / "build.log"
    return build_warnings.merge({}, log.read_bytes() if log.is_file() else b"", tree)


def is_built(spec: KernelSpec, store: Store) -> bool:
    """Whether the kernel of a spec is in the store.

    :raises UserError: as ``configure``, which this needs.
    """
    return store.find("kernels", _key(spec, configure(spec, store))) is not None


def usual_cost_s(arch: Arch, store: Store, *, warm: bool = False) -> float | None:
    """The median cost of a kernel of that arch here, in CPU seconds; ``None`` if none was built.

    :param warm: of builds on existing objects (``KernelSpec.workplace``).
    """
    costs = [facts.cpu_s for facts in _earlier(arch, store, warm=warm)]
    return statistics.median(costs) if costs else None


def _earlier(arch: Arch, store: Store, *, warm: bool = False) -> Iterator[_Facts]:
    """The facts of the kernels of an arch that were built here."""
    for path in (store.root / "kernels").glob("*/kernel.json"):
        if arch.header.is_of(path.parent / Path(arch.image).name):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                facts = msgspec.json.decode(path.read_bytes(), type=_Facts)
                if facts.warm == warm:
                    yield facts


def _configure(spec: KernelSpec, fragments: Sequence[Fragment], fresh: Path) -> None:
    base = spec.base
    if not base:
        base = _make_config(spec, fresh, "tiny", ["-k", "tinyconfig"])
    # in the folder that a sandbox shows
    request = fresh / "final/request"
    request.parent.mkdir()
    request.write_text(kconfig.merge(base, fragments))
    # not tuxmake's own -K FILE: that has merge_config.sh write its temporary file into the tree
    final = _make_config(spec, fresh, "final", ["-k", str(request), "-K", "make:olddefconfig"])
    for rest in fresh.iterdir():
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    (fresh / "config").write_text(final)


def _make_config(spec: KernelSpec, fresh: Path, name: str, arguments: Sequence[str]) -> str:
    place = fresh / name
    objects, log = place / "o", place / "log"
    objects.mkdir(parents=True)
    outcome, _ = make.tuxmake(
        spec, objects, place / "out", [*arguments, "config"], log, _CONFIG_LIMIT_S, wrap=place
    )
    if not (objects / ".config").is_file() or outcome.exit != 0:
        _fail(spec, "configure", outcome, log)
    return (objects / ".config").read_text()


def _build(
    spec: KernelSpec,
    configured: Configured,
    store: Store,
    key: str,
    fresh: Path,
    say: Say,
    log: Path | None,
    jobs: int,
) -> None:
    # one folder for each key: a repeated build has the same paths, for ccache and __FILE__
    with objdir.opened(spec.workplace, store.root / "builds" / key, sandboxed=spec.sandboxed) as place:
        warm = place.warm
        try:
            cpu_s = _make(spec, configured, store, place, fresh / "build.log", say, log, jobs)
        except (KernelError, Inconclusive):
            if not warm:
                raise
            say("it does not build on the objects of earlier kernels; building from scratch")
            place.restart()
            (fresh / "build.log").unlink()
            warm = False
            cpu_s = _make(spec, configured, store, place, fresh / "build.log", say, log, jobs)
        objects = place.objects
        image = objects / spec.arch.image
        for source, name in ((image, image.name), (objects / "vmlinux", "vmlinux")):
            shutil.copyfile(source, fresh / name)
        if spec.module is not None:
            say(f"building {module.name(spec.module)} for it")
            shutil.copyfile(module.build(spec, place.folder, log), fresh / module.name(spec.module))
        shutil.copyfile(objects / ".config", fresh / "config")
        shutil.copyfile(objects / "System.map", fresh / "System.map")
        shutil.copyfile(place.folder / build_warnings.NAME, fresh / build_warnings.NAME)
        metadata = place.folder / "out" / "metadata.json"
        if metadata.is_file():
            shutil.copyfile(metadata, fresh / "tuxmake.json")
        facts = _Facts(
            release=(objects / "include/config/kernel.release").read_text().strip(),
            build_id=build_id(fresh / "vmlinux"),
            toolchain=spec.toolchain.version,
            cpu_s=round(cpu_s, 1),
            objects=makelog.objects(fresh / "build.log"),
            warm=warm,
        )
        (fresh / "kernel.json").write_bytes(msgspec.json.encode(facts))
        place.trust()


def _make(
    spec: KernelSpec,
    configured: Configured,
    store: Store,
    place: ObjectDirectory,
    build_log: Path,
    say: Say,
    log: Path | None,
    jobs: int,
) -> float:
    """Build the kernel with make, as configured; returns the CPU seconds."""
    place.configure(configured.path)
    what = f"building {spec.tree.version} {spec.arch.name} {spec.variant}"
    usual = [facts.objects for facts in _earlier(spec.arch, store) if facts.objects]
    of = f" of about {statistics.median_high(usual)}" if usual and not place.warm else ""
    say(what)
    outcome, cpu_s = make.tuxmake(
        spec,
        place.objects,
        place.folder / "out",
        ["-I", Path(spec.arch.image).name, "-j", str(jobs or os.cpu_count() or 1), "kernel"],
        build_log,
        _BUILD_LIMIT_S,
        wrap=place.folder,
        # what a hostile makefile puts there must not get into other kernels
        cache=store.root / ("ccache-sandboxed" if spec.sandboxed else "ccache"),
        progress=lambda objects: say(f"{what}: {objects}{of} objects"),
    )
    place.update_ledger(build_log, spec.tree.path)
    if outcome.exit != 0 or not (place.objects / spec.arch.image).is_file():
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build_log, log)
        place.trust_after(outcome, build_log, spec.tree.path)
        _fail(spec, "build", outcome, build_log, log)
    built = kconfig.parse_config((place.objects / ".config").read_text())
    if built != configured.symbols:
        changed = ", ".join(kconfig.difference(built, configured.symbols))
        raise Inconclusive(f"the build changed its own configuration: {changed}")
    return cpu_s


def _fail(spec: KernelSpec, what: str, outcome: Outcome, log: Path, copy: Path | None = None) -> None:
    which = f"{spec.tree.version} {spec.arch.name} {spec.variant}"
    makelog.raise_for(f"cannot {what} {which}", spec.tree.path, outcome, log, copy)
