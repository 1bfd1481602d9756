# SPDX-License-Identifier: GPL-2.0-only
"""Configurations that are compiled and never booted: a file each in ``kconfigs/also``.

Changes to mm have broken these before. Only some directories are compiled, in a permanent object directory,
so that the next commit compiles only its changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from orchestrator.core import data
from orchestrator.core.errors import Inconclusive, InfraError, UserError
from orchestrator.core.process import Outcome
from orchestrator.core.store import digest_of
from orchestrator.kernel import build_log, build_warnings, kconfig, make, objdir
from orchestrator.kernel.objdir import ObjectDirectory
from orchestrator.kernel.spec import Say
from orchestrator.source.model import Tree

#: allmodconfig has some hundred objects in these directories.
_LIMIT_S = 2 * 3600.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One configuration.

    ``config`` is the make target that writes it, ``symbols`` are lines put into it that must survive.
    ``package`` is Debian's name of the cross compiler ``<cross_prefix>gcc``.
    """

    name: str
    description: str
    make_arch: str
    machines: tuple[str, ...]
    cross_prefix: str
    package: str
    config: str
    targets: tuple[str, ...]
    symbols: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """The prefix of the compiler; empty on a host of that architecture."""
        return "" if os.uname().machine in self.machines else self.cross_prefix

    @property
    def compiler(self) -> str:
        """The program that compiles it."""
        return f"{self.prefix}gcc"

    @property
    def missing(self) -> str:
        """Why it cannot be compiled on this host, and the package to install; empty if it can."""
        if shutil.which(self.compiler):
            return ""
        return f"{self.compiler} is not installed: apt-get install {self.package}"


def names() -> tuple[str, ...]:
    """The names of all configurations, in alphabetical order."""
    return tuple(data.also())


def load(name: str) -> Config:
    """The configuration of that name.

    :raises UserError: there is none.
    """
    path = data.choose("configuration", name, data.also())
    return msgspec.convert(msgspec.toml.decode(path.read_bytes()) | {"name": name}, type=Config)


def compile_(
    config: Config,
    tree: Tree,
    folder: Path,
    log: Path,
    *,
    say: Say = lambda _: None,
    jobs: int = 0,
    sandboxed: bool = False,
) -> build_warnings.Ledger:
    """Configure, and compile the directories; returns the warnings of all their objects.

    :param folder: the object directory for this configuration of one repository, used again for each commit.
    :param log: the file for the build's log.
    :param sandboxed: whether makefiles run in a sandbox.
    :raises KernelError: it does not configure or compile.
    :raises InfraError: the host failed: no compiler, no space.
    :raises Inconclusive: a request was lost, or nothing was compiled.
    """
    if config.missing:
        raise InfraError(f"{config.compiler} is not installed", remedy=f"apt-get install {config.package}")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    what = f"cannot compile {tree.version} {config.name}"
    say(f"compiling {' '.join(config.targets)} of {tree.version} {config.name}")
    with objdir.opened(folder, folder, sandboxed=sandboxed) as place:

        def run(words: Sequence[str]) -> Outcome:
            return _make(config, tree, place, log, words, sandboxed=sandboxed)

        _configure(config, tree, place, log, what, run)
        outcome = run([*config.targets, f"-j{jobs or os.cpu_count() or 1}"])
        warnings = place.update_ledger(log, tree.path)
        if outcome.exit != 0:
            place.trust_after(outcome, log, tree.path)
            build_log.raise_for(what, tree.path, outcome, log, log)
        place.trust()
        if empty := [name for name in config.targets if not any((place.objects / name).rglob("*.o"))]:
            raise Inconclusive(f"{what}: make succeeded, but made nothing in {', '.join(empty)}")
    return warnings


def place_name(config: Config) -> str:
    """A name for the object directory of a configuration, the same for every commit."""
    version = ""
    if compiler := shutil.which(config.compiler):
        version = f"{compiler} {Path(compiler).resolve()}"
    return digest_of("compile only 2", config.name, config.config, config.symbols, version)


def _configure(
    config: Config,
    tree: Tree,
    place: ObjectDirectory,
    log: Path,
    what: str,
    run: Callable[[Sequence[str]], Outcome],
) -> None:
    """Write the configuration; make does not rebuild unchanged parts."""
    outcome = run([config.config])
    path = place.objects / ".config"
    if outcome.exit == 0 and config.symbols and path.is_file():
        fragment = kconfig.Fragment(f"kconfigs/also/{config.name}.toml", "\n".join(config.symbols))
        path.write_text(kconfig.merge(path.read_text(), [fragment]))
        outcome = run(["olddefconfig"])
        symbols = kconfig.parse_config(path.read_text())
        if outcome.exit == 0 and (losses := kconfig.lost([fragment], symbols)):
            place.trust()
            raise Inconclusive(
                f"{what}: request lost: {kconfig.listing(losses, tree.path, symbols)}",
                remedy="This tree does not have that configuration; leave it out with --also-build.",
            )
    if outcome.exit != 0 or not path.is_file():
        place.trust_after(outcome, log, tree.path)
        build_log.raise_for(what, tree.path, outcome, log, log)


def _make(
    config: Config, tree: Tree, place: ObjectDirectory, log: Path, words: Sequence[str], *, sandboxed: bool
) -> Outcome:
    argv = ["make", "-C", str(tree.path), f"O={place.objects}", f"ARCH={config.make_arch}"]
    argv += [f"CROSS_COMPILE={config.prefix}", *(f"{n}={v}" for n, v in make.BANNER.items())]
    child = make.start(
        [*argv, *words],
        tree=tree.path,
        folder=place.folder,
        log=log,
        limit_s=_LIMIT_S,
        sandboxed=sandboxed,
    )
    return child.to_end()


def check_names(selection: tuple[str, ...]) -> tuple[str, ...]:
    """The configurations of ``--also-build``: all by default, none for ``none``.

    :raises UserError: there is no such configuration, or ``none`` beside others.
    """
    if not selection:
        return names()
    if "none" in selection:
        if len(set(selection)) > 1:
            raise UserError("--also-build none excludes all others", remedy="Remove none, or the others.")
        return ()
    return tuple(load(name).name for name in dict.fromkeys(selection))
