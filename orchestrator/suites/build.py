# SPDX-License-Identifier: GPL-2.0-only
"""What a suite brings into a guest: its programs, built for one architecture, and the files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.core import compile, data, elf
from orchestrator.core.arch import Arch
from orchestrator.core.errors import KernelError, UserError
from orchestrator.core.store import Store
from orchestrator.source.model import Tree
from orchestrator.suites import catalog, selftests
from orchestrator.suites import files as folder
from orchestrator.suites.catalog import Program, Suite

#: Where the guest finds the programs of a suite.
GUEST_FOLDER = "/opt/orchestrate/suites"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def build(
    suite: Suite, *, tree: Tree | None, arch: Arch, store: Store, log: Path, pinned: bool = False
) -> dict[str, Path]:
    """Everything that goes into the suite's folder in the guest, by its path there (see ``guest_path``).

    What is a program and not a file beside them is told by ``runnable``. A program that the tree lacks or
    that does not compile there is missing.

    :param tree: where a suite of the kernel's is compiled from.
    :param pinned: the user named that tree for its selftests: it is not the kernel under test.
    :raises UserError: a file of the user's is missing, or does not compile; a suite of the kernel's, and
        no tree; a pinned tree has none of its programs.
    :raises KernelError: the tree has none of them.
    :raises InfraError: a program of ours does not compile, or there is no compiler.
    """
    built = _programs(suite, tree, arch, store, log, pinned)
    beside = suite.files_beside()
    if clash := next((name for name in beside if name.partition("/")[0] in built), ""):
        raise UserError(
            f"suite {suite.name!r}: files: {clash!r} would lie where a program is", remedy="Rename the file."
        )
    return built | beside


def runnable(
    suite: Suite, built: Mapping[str, Path], *, version: str, arch: str, kernel: str = ""
) -> tuple[str, ...]:
    """The programs to run out of what ``build`` gave, in order.

    A suite of its own is not run where it says that it is for other kernels. What a tree has is run even
    if nobody expected it there.

    :param version: as for ``catalog.expected``, and so is ``kernel``.
    """
    beside = suite.files_beside() if suite.all_programs else {}
    names = [n for n in built if n not in beside] if suite.all_programs else [p.name for p in suite.program]
    away = catalog.too_new(suite, version, kernel)
    if suite.origin == "own":
        away |= catalog.elsewhere(suite, version, arch, kernel=kernel)
    return tuple(n for n in names if (n in built or suite.commands) and n not in away)


def guest_folder(suite: Suite) -> str:
    """Where what a suite brings lies in the guest."""
    return f"{GUEST_FOLDER}/{suite.name}"


def guest_path(suite: Suite, name: str) -> str:
    """Where a program, or a file beside it, lies in the guest."""
    return f"{guest_folder(suite)}/{name}"


def argv(suite: Suite, program: Program) -> list[str]:
    """What is executed in the guest."""
    return list(program.argv) if suite.commands else [guest_path(suite, program.name), *program.argv]


def working_folder(suite: Suite) -> str:
    """Where the guest runs it: a suite of the user's where its files lie, all else in /tmp."""
    return guest_folder(suite) if suite.user and (suite.put or not suite.commands) else "/tmp"


def environment(suite: Suite, program: Program) -> dict[str, str]:
    """The variables of a program; a suite of the user's finds what lies beside it without a path."""
    path = {"PATH": f"{guest_folder(suite)}:{_PATH}"} if suite.user else {}
    return path | program.env


def files_of(suite: Suite) -> dict[str, Path]:
    """The files on the host that a suite of the user's is made of, by a name of their own."""
    files = suite.files_beside()
    if suite.commands:
        return files
    words = {word for p in suite.program for word in ((p.script,) if p.script else suite.sources_of(p))}
    headers = {str(path.relative_to(suite.folder)) for path in suite.folder.rglob("*.h")}
    return files | {word: suite.folder / word for word in sorted({"suite.toml"} | words | headers)}


def _programs(
    suite: Suite, tree: Tree | None, arch: Arch, store: Store, log: Path, pinned: bool
) -> dict[str, Path]:
    if suite.commands:
        return {}
    if suite.origin == "tree":
        if tree is None:
            raise UserError(
                f"suite {suite.name!r} is compiled from a kernel tree, and there is none",
                remedy="Name one with --selftests-from.",
            )
        try:
            found = selftests.build_selftests(tree, suite.directory, arch=arch, store=store, log=log)
        except KernelError as error:
            if pinned:
                raise UserError(error.message, remedy="Name another tree with --selftests-from.") from None
            raise
        if suite.all_programs:
            return found
        return {p.name: found[p.name] for p in suite.program if p.name in found}
    return {p.name: _of_the_folder(suite, p, arch, store) for p in suite.program}


def _of_the_folder(suite: Suite, program: Program, arch: Arch, store: Store) -> Path:
    what = f"program {program.name!r} of suite {suite.name!r} ({suite.folder})"
    if program.script:
        path = folder.inside(suite.folder, program.script, what=what)
        _check_machine(path, arch, what)
        return path
    sources = suite.sources_of(program)
    for source in sources:
        folder.inside(suite.folder, source, what=what)
    flags = program.cflags or suite.build.cflags
    if suite.build.library:
        library = data.library()
        sources = (*sources, *(str(path) for path in sorted(library.glob("*.c"))))
        # of the library a program takes what it calls
        flags = (*flags, f"-I{library}", "-pthread", "-ffunction-sections", "-Wl,--gc-sections")
    return compile.compile_static(
        program.name,
        sources,
        flags,
        folder=suite.folder,
        arch=arch,
        store=store,
        whose=what if suite.user else "",
    )


def _check_machine(path: Path, arch: Arch, what: str) -> None:
    content = path.read_bytes()
    if content.startswith(b"\x7fELF") and (machine := elf.machine(content, str(path))) not in arch.machines:
        raise UserError(
            f"{what}: {path.name} is a program for {machine}, not for {arch.name}",
            remedy="Let orchestrate compile it from its sources, or choose the architecture with --arch.",
        )
