# SPDX-License-Identifier: GPL-2.0-only
"""From a tree to a kernel: configure, check what was configured, build, keep.

tuxmake does the work in a child process: as a library it sets signal handlers and knows no deadline.
It is run twice, because it will not stop between ``config`` and ``kernel`` for us to look.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.arch import Arch
from orchestrator.core.elf import build_id
from orchestrator.core.errors import Inconclusive, KernelError, UserError
from orchestrator.core.process import Outcome, Supervised
from orchestrator.core.store import Store, digest_of, file_digest
from orchestrator.kernel import build_log as makelog
from orchestrator.kernel import build_warnings, kconfig, make, objdir
from orchestrator.kernel.kconfig import Fragment, Lost
from orchestrator.kernel.objdir import Workplace
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
    #: most of it was there: no measure of what a kernel costs
    warm: bool = False


def configure(spec: KernelSpec, store: Store) -> Configured:
    """Make the final ``.config`` of a kernel and compare it with every request.

    :raises UserError: a symbol that the user asked for did not survive.
    :raises Inconclusive: one of the project's own did not.
    :raises KernelError: the tree cannot be configured at all.
    """
    fragments = _fragments(spec)
    key = _config_key(spec, fragments)
    folder = store.entry("configs", key, lambda fresh: _configure(spec, fragments, fresh))
    path = folder / "config"
    symbols = kconfig.parse_config(path.read_text())
    losses = [kconfig.explain(loss, spec.tree.path, symbols) for loss in kconfig.lost(fragments, symbols)]
    _complain(losses, fragments)
    return Configured(path=path, symbols=symbols, digest=digest_of(path.read_text()))


def is_configured(spec: KernelSpec, store: Store) -> bool:
    """Whether the configuration of a spec is in the store, so that ``configure`` takes no time."""
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
    )


def _fragments(spec: KernelSpec) -> list[Fragment]:
    fragments = kconfig.own_fragments(spec.arch.name, spec.variant)
    if spec.tree_class is not TreeClass.SELECTABLE:
        # no such symbol: the variant is proven by the kernel's symbol table alone
        fragments = fragments[:-1]
    if spec.base:
        # the user's own base stands for tinyconfig and our choice of drivers may not undo it; what the
        # proofs and the guest need is still asked for and still checked
        fragments = [f for f in fragments if f.name != "kconfigs/base.config"] + [_essentials()]
    return [*fragments, *spec.extra]


def _essentials() -> Fragment:
    text = (data.kconfigs() / "essential.config").read_text()
    return Fragment("kconfigs/essential.config", text)


def _complain(losses: Sequence[Lost], fragments: Sequence[Fragment]) -> None:
    if not losses:
        return
    users = {fragment.name for fragment in fragments if not fragment.ours}
    theirs = [loss for loss in losses if loss.request.origin in users]
    text = "; ".join(map(str, theirs or losses))
    if theirs:
        raise UserError(
            f"kconfig request lost: {text}", remedy="Ask for what it depends on too, or drop the line."
        )
    raise Inconclusive(
        f"kconfig request of ours lost: {text}",
        remedy="This tree cannot be configured as the variant needs; please report it.",
    )


def pair_difference(spec: KernelSpec, store: Store) -> dict[str, tuple[str, str]]:
    """How the configurations of the two variants differ; checked to be the expected symbols and no others.

    Empty where the tree leaves no choice.

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
        said = [f"{s} differs too ({differing[s][0]}, {differing[s][1]})" for s in surplus]
        said += [f"{s} does not differ" for s in missing]
        raise Inconclusive(
            f"the two variants do not make a fair pair on {spec.arch.name}: {'; '.join(said)}",
            remedy="Fix the surplus symbols to one value in both, with --kconfig.",
        )
    return differing


def build(spec: KernelSpec, store: Store, *, say: Say, log: Path | None = None, jobs: int = 0) -> Kernel:
    """The kernel of a spec, from the store or built now.

    :param log: where a copy of the build's log goes when it fails.
    :raises KernelError: the tree does not compile; the message has the first error, file and line.
    :raises InfraError: the host failed it: no compiler, no space, no memory, no time.
    """
    configured = configure(spec, store)
    key = _key(spec, configured)
    cached = store.find("kernels", key) is not None
    folder = store.entry(
        "kernels",
        key,
        lambda fresh: _build(spec, configured, store, key, fresh, say, log, jobs),
        waiting=lambda: say("waiting for another run that builds the same kernel"),
    )
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
        module=folder / _module_name(spec.module) if spec.module else None,
    )


def _key(spec: KernelSpec, configured: Configured) -> str:
    return digest_of(
        "kernel",
        spec.tree.digest,
        spec.arch.name,
        configured.digest,
        spec.toolchain.version,
        spec.wrapped,
        # those before had a "+" in their release, unless their commit was tagged
        *(["no scm"] if spec.tree.commit else []),
        *([file_digest(spec.module)] if spec.module else []),
    )


def warned(folder: Path, tree: Path) -> build_warnings.Ledger:
    """All that the build of a kernel warns of, also where most of it had been compiled before.

    :param folder: the kernel's entry in the store; ``tree``: the top of its tree.
    """
    known = build_warnings.load(folder / build_warnings.NAME)
    if known is not None:
        return known
    # an older entry: it was built as a whole
    log = folder / "build.log"
    return build_warnings.merged({}, log.read_bytes() if log.is_file() else b"", tree)


def is_built(spec: KernelSpec, store: Store) -> bool:
    """Whether the kernel of a spec is in the store.

    :raises UserError: as ``configure``, which this needs.
    """
    return store.find("kernels", _key(spec, configure(spec, store))) is not None


def usual_cost_s(arch: Arch, store: Store, *, warm: bool = False) -> float | None:
    """What a kernel of that arch has cost here, in CPU seconds: the median; ``None`` if none was built.

    :param warm: of those for which most was there already (``KernelSpec.workplace``).
    """
    costs = [facts.cpu_s for facts in _earlier(arch, store, warm=warm)]
    return statistics.median(costs) if costs else None


def _earlier(arch: Arch, store: Store, *, warm: bool = False) -> Iterator[_Facts]:
    """What is known of the kernels of an arch that were built here."""
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
    wanted = fresh / "wanted"
    wanted.write_text(kconfig.merge(base, fragments))
    # not tuxmake's own -K FILE: that has merge_config.sh write its temporary file into the tree
    final = _make_config(spec, fresh, "final", ["-k", str(wanted), "-K", "make:olddefconfig"])
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
    # one place a key: ccache and __FILE__ see the same paths again when a build is repeated
    with objdir.opened(spec.workplace, store.root / "builds" / key) as place:
        warm = place.warm
        try:
            cpu_s = _make(spec, configured, store, place, fresh / "build.log", say, log, jobs)
        except KernelError:
            if not warm:
                raise
            say("it does not build with what earlier ones have left; trying with nothing")
            place.restart()
            (fresh / "build.log").unlink()
            warm = False
            cpu_s = _make(spec, configured, store, place, fresh / "build.log", say, log, jobs)
        objects = place.objects
        built = kconfig.parse_config((objects / ".config").read_text())
        if built != configured.symbols:
            changed = ", ".join(kconfig.difference(built, configured.symbols))
            raise Inconclusive(f"the build changed its own configuration: {changed}")
        image = objects / spec.arch.image
        for source, name in ((image, image.name), (objects / "vmlinux", "vmlinux")):
            shutil.copyfile(source, fresh / name)
        if spec.module is not None:
            say(f"building {_module_name(spec.module)} for it")
            made = _build_module(spec, spec.module, place.folder, log)
            shutil.copyfile(made, fresh / _module_name(spec.module))
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
    place: Workplace,
    build_log: Path,
    say: Say,
    log: Path | None,
    jobs: int,
) -> float:
    """Have make build the kernel; the CPU seconds that it took."""
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
        cache=store.root / "ccache",
        progress=lambda objects: say(f"{what}: {objects}{of} objects"),
    )
    place.warned(build_log, spec.tree.path)
    if outcome.exit != 0 or not (place.objects / spec.arch.image).is_file():
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build_log, log)
        place.trust_after(outcome, build_log)
        _fail(spec, "build", outcome, build_log, log)
    return cpu_s


def _module_name(source: Path) -> str:
    return f"{source.stem}.ko"


def _build_module(spec: KernelSpec, source: Path, place: Path, log: Path | None) -> Path:
    """Build a module of ours against the kernel, while its build directory is there.

    :raises Inconclusive: it does not compile against this tree.
    """
    objects, folder = place / "o", place / "module"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(source, folder / source.name)
    (folder / "Makefile").write_text(f"obj-m := {source.stem}.o\n")
    # what `make modules` of the kernel itself would leave; an older one is of an earlier kernel
    ours, theirs = objects / "Module.symvers", objects / "vmlinux.symvers"
    if theirs.is_file() and not (ours.is_file() and ours.stat().st_mtime >= theirs.stat().st_mtime):
        shutil.copyfile(theirs, ours)
    argv = ["make", "-C", str(spec.tree.path), f"O={objects}", f"ARCH={spec.arch.make_arch}"]
    argv += [f"CROSS_COMPILE={spec.arch.compiler_prefix}", f"CC={spec.toolchain.compiler}"]
    argv += ["LLVM=1"] if "clang" in spec.toolchain.tuxmake else []
    argv += [f"KBUILD_KCONFIG={place / 'Kconfig.wrapper'}"] if spec.wrapped else []
    for words in (["modules_prepare"], [f"M={folder}", "modules"]):
        child = Supervised(
            [*argv, *words],
            limit_s=_BUILD_LIMIT_S,
            grace_s=1.0,
            output=folder / "log",
            env=make.environment(),
        )
        outcome = child.to_end()
        built = folder / _module_name(source)
        if outcome.exit != 0:
            break
    else:
        if built.is_file():
            return built
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "log", log)
    error = makelog.first_error(folder / "log")
    raise Inconclusive(
        f"{source.name} does not compile against {spec.tree.version}: {error or outcome}",
        remedy="Run without the flavor that needs it, and please report it.",
    )


def _fail(spec: KernelSpec, what: str, outcome: Outcome, log: Path, kept: Path | None = None) -> None:
    which = f"{spec.tree.version} {spec.arch.name} {spec.variant}"
    makelog.raise_for(f"cannot {what} {which}", spec.tree.path, outcome, log, kept)
