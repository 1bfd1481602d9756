# SPDX-License-Identifier: GPL-2.0-only
"""Check a user's suite before anything is built for it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from orchestrator.core import arch as arches
from orchestrator.core.errors import UserError, unknown
from orchestrator.suites import cflags
from orchestrator.suites import files as folders
from orchestrator.suites.descriptor import FILE, Program, Suite

SEE = "docs/reference/suite-descriptor.md describes the format."
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check(suite: Suite, reserved: Collection[str]) -> None:
    """Check that a suite of the user's can be run.

    :param reserved: names that it must not have.
    :raises UserError: it cannot be run; the message names file and field.
    """
    place = suite.folder / FILE
    programs = [program.name for program in suite.program]
    if not _NAME.fullmatch(suite.name):
        raise UserError(
            f"{place}: {suite.name!r} cannot be a suite's name",
            remedy="Use small letters, digits and . _ - and begin with a letter or digit.",
        )
    if suite.name in reserved:
        raise UserError(f"{place}: orchestrate itself has a suite {suite.name!r}", remedy="Rename yours.")
    if twice := next((name for name in programs if programs.count(name) > 1), ""):
        raise UserError(f"{place}: two programs are called {twice!r}", remedy="Rename one.")
    if suite.kind == "benchmark" and all(p.parser != "benchmark" for p in suite.program):
        raise UserError(
            f"{place}: a benchmark whose programs report no numbers",
            remedy='Set parser = "benchmark" for one that prints them, or kind = "functional".',
        )
    if suite.origin == "tree":
        _check_of_tree(suite, place)
    elif not programs:
        raise UserError(f"{place}: it has no program", remedy=f"Add a [[program]]. {SEE}")
    cflags.check(suite.folder, suite.build.cflags, f"{place}: [build]")
    for program in suite.program:
        cflags.check(suite.folder, program.cflags, f"{place}: program {program.name!r}")
        _check_program(suite, program, place)
    for e in suite.expect:
        if e.program not in programs and not suite.all_programs:
            raise UserError(f"{place}: [[expect]] names {e.program!r}, which is not a program of the suite")
        if strange := set(e.arch) - set(arches.names()):
            where = f"{place}: [[expect]] of {e.program!r}"
            raise unknown("architecture", strange.pop(), arches.names(), where=where)
    for name in suite.files_beside():
        if name.partition("/")[0] in programs:
            raise UserError(
                f"{place}: files: {name!r} would lie where the program {name.partition('/')[0]!r} is",
                remedy="Give the program another name.",
            )


def _check_of_tree(suite: Suite, place: Path) -> None:
    directory = PurePosixPath(suite.directory)
    if not directory.parts or directory.is_absolute() or ".." in directory.parts:
        raise UserError(
            f"{place}: directory = {suite.directory!r} is not a directory of a kernel tree",
            remedy='Name one such as "tools/testing/selftests/mm".',
        )
    if not suite.program and not suite.all_programs:
        raise UserError(f"{place}: it has no program", remedy="Add a [[program]], or all_programs = true.")


def _check_program(suite: Suite, program: Program, place: Path) -> None:
    what = f"{place}: program {program.name!r}"
    for part in program.cpus.split(",") if program.cpus else ():
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise UserError(f"{what}: cpus: {part!r} ends before it begins")
    if suite.origin == "tree":
        if program.script or program.sources:
            raise UserError(f"{what}: a program of the kernel tree has no script or sources here")
    elif program.script:
        if program.sources:
            raise UserError(f"{what}: set either script or sources, not both")
        _check_script(folders.inside(suite.folder, program.script, what=f"{what}: script"), what)
    else:
        sources = program.sources or suite.build.sources
        if not sources and not (suite.folder / f"{program.name}.c").exists():
            raise UserError(
                f"{what}: there is no {program.name}.c beside it",
                remedy='Set sources = [...], or script = "...".',
            )
        for source in suite.sources_of(program):
            if not folders.inside(suite.folder, source, what=f"{what}: sources").is_file():
                raise UserError(f"{what}: sources: {source!r} is not a file")


def _check_script(path: Path, what: str) -> None:
    if not path.is_file():
        raise UserError(f"{what}: script: {path} is not a file")
    try:
        with path.open("rb") as stream:
            first = stream.readline(256)
    except OSError as error:
        raise UserError(f"{what}: {path}: {error.strerror}") from None
    if first.startswith(b"\x7fELF"):
        return
    if not re.match(rb"#! *+/", first):
        raise UserError(
            f"{what}: the first line of {path} names no interpreter",
            remedy="Begin it with #!/bin/sh or the like.",
        )
    if first.rstrip(b"\n").endswith(b"\r"):
        raise UserError(
            f"{what}: {path} has Windows line ends, which become part of the interpreter's name",
            remedy="Convert it, with dos2unix or an editor.",
        )
