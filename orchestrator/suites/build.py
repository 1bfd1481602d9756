# SPDX-License-Identifier: GPL-2.0-only
"""Build a suite for a guest: its programs for one architecture, and the files beside them."""

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
    suite: Suite,
    *,
    tree: Tree | None,
    arch: Arch,
    store: Store,
    log: Path,
    pinned: bool = False,
    sandboxed: bool = False,
) -> dict[str, Path]:
    """Everything that goes into the suite's folder in the guest, by its path there (see ``guest_path``).

    ``runnable`` lists the programs among them. A program that the tree lacks, or that does not compile there,
    is missing.

    :param tree: the source of a suite of the kernel's.
    :param pinned: the user named that tree for its selftests; it is not the kernel under test.
    :param sandboxed: whether its makefiles run in a sandbox.
    :raises UserError: a file of the user's is missing, or does not compile; a suite of the kernel's, and
        no tree; a pinned tree has none of its programs.
    :raises KernelError: the tree has none of them.
    :raises InfraError: a program of orchestrate does not compile, or there is no compiler.
    """
    programs = _programs(suite, tree, arch, store, log, pinned, sandboxed)
    beside = suite.files_beside()
    if clash := next((name for name in beside if name.partition("/")[0] in programs), ""):
        raise UserError(
            f"suite {suite.name!r}: files: {clash!r} would lie where a program is", remedy="Rename the file."
        )
    return programs | beside


def runnable(
    suite: Suite, built: Mapping[str, Path], *, version: str, arch: str, kernel: str = ""
) -> tuple[str, ...]:
    """The programs to run among the result of ``build``, in order.

    Programs of a suite's own folder are not run on kernels that the suite excludes. Programs of a tree are
    run even if the suite does not expect them there.

    :param version: as for ``catalog.expected``, and so is ``kernel``.
    """
    beside = suite.files_beside() if suite.all_programs else {}
    names = [n for n in built if n not in beside] if suite.all_programs else [p.name for p in suite.program]
    away = catalog.too_new(suite, version, kernel)
    if suite.origin == "own":
        away |= catalog.excluded(suite, version, arch, kernel=kernel)
    return tuple(n for n in names if (n in built or suite.commands) and n not in away)


def guest_folder(suite: Suite) -> str:
    """The suite's folder in the guest."""
    return f"{GUEST_FOLDER}/{suite.name}"


def guest_path(suite: Suite, name: str) -> str:
    """The path of a program, or of a file beside it, in the guest."""
    return f"{guest_folder(suite)}/{name}"


def argv(suite: Suite, program: Program) -> list[str]:
    """The command line of a program in the guest."""
    return list(program.argv) if suite.commands else [guest_path(suite, program.name), *program.argv]


def working_folder(suite: Suite) -> str:
    """The working folder in the guest: of a user's suite that with its files, else /tmp."""
    return guest_folder(suite) if suite.user and (suite.put or not suite.commands) else "/tmp"


def environment(suite: Suite, program: Program) -> dict[str, str]:
    """The variables of a program; a user's suite finds its files without a path."""
    path = {"PATH": f"{guest_folder(suite)}:{_PATH}"} if suite.user else {}
    return path | program.env


def files_of(suite: Suite) -> dict[str, Path]:
    """The files of a user's suite on the host, by name."""
    files = suite.files_beside()
    if suite.commands:
        return files
    words = {word for p in suite.program for word in ((p.script,) if p.script else suite.sources_of(p))}
    headers = {str(path.relative_to(suite.folder)) for path in suite.folder.rglob("*.h")}
    return files | {word: suite.folder / word for word in sorted({"suite.toml"} | words | headers)}


def _programs(
    suite: Suite, tree: Tree | None, arch: Arch, store: Store, log: Path, pinned: bool, sandboxed: bool
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
            programs = selftests.build_selftests(
                tree, suite.directory, arch=arch, store=store, log=log, sandboxed=sandboxed
            )
        except KernelError as error:
            if pinned:
                raise UserError(error.message, remedy="Name another tree with --selftests-from.") from None
            raise
        if suite.all_programs:
            return programs
        return {p.name: programs[p.name] for p in suite.program if p.name in programs}
    return {p.name: _build_program(suite, p, arch, store) for p in suite.program}


def _build_program(suite: Suite, program: Program, arch: Arch, store: Store) -> Path:
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
        # the linker keeps only the library functions that a program calls
        flags = (*flags, f"-I{library}", "-pthread", "-ffunction-sections", "-Wl,--gc-sections")
    return compile.compile_static(
        program.name,
        sources,
        flags,
        folder=suite.folder,
        arch=arch,
        store=store,
        user_program=what if suite.user else "",
    )


def _check_machine(path: Path, arch: Arch, what: str) -> None:
    content = path.read_bytes()
    if content.startswith(b"\x7fELF") and (machine := elf.machine(content, str(path))) != arch.elf:
        raise UserError(
            f"{what}: {path.name} is a program for {machine}, not for {arch.name}",
            remedy="Let orchestrate compile it from its sources, or choose the architecture with --arch.",
        )
