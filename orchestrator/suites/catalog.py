# SPDX-License-Identifier: GPL-2.0-only
"""Suites: those of orchestrate, folders of the user's, and single commands.

A suite is a folder with a ``suite.toml``. A loaded suite is complete: it has its absolute folder, and does
not depend on the working directory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator.core import codec, data
from orchestrator.core.errors import UserError, unknown
from orchestrator.core.store import absolute
from orchestrator.source.model import version_numbers, within
from orchestrator.suites.check import SEE, check
from orchestrator.suites.descriptor import FILE, Build, Descriptor, Expectation, Program, Suite

__all__ = [
    "COMMAND",
    "DEFAULT",
    "DIAGNOSIS",
    "Build",
    "Descriptor",
    "Expectation",
    "Program",
    "Suite",
    "command",
    "excluded",
    "expected",
    "load",
    "names",
    "narrow",
    "only",
    "packages",
    "too_new",
]

#: The suite that ``command`` makes.
COMMAND = "cmd"
#: Seconds for a command of the user's.
COMMAND_S = 60.0

#: The suites of `orchestrate run` if the user names none.
DEFAULT = ("maps", "maps-coherency", "procmap-query", "locking", "progress", "map-latency")
#: Suites that it adds, to the functional ones of those, on a kernel for diagnosis.
DIAGNOSIS = ("mm-stress",)


def names() -> tuple[str, ...]:
    """The suites that come with orchestrate."""
    return tuple(data.suites())


def load(word: str) -> Suite:
    """The suite of that name, or the user's suite in that folder.

    A word with a slash or a ``~`` is a path. Another word is a path if no suite has that name and there is
    such a folder with a ``suite.toml``. The path of the file itself works as well.

    :raises UserError: there is none, or it cannot be used; the message names file and field.
    """
    built_in = data.suites()
    if word in built_in:
        return _built_in(word)
    path = absolute(Path(word))
    if path.name == FILE:
        path = path.parent
    if "/" in word or word.startswith((".", "~")) or (path / FILE).is_file():
        return _user_suite(path)
    raise unknown("suite", word, built_in, otherwise=f"or name a folder with a {FILE}")


@functools.cache
def _built_in(name: str) -> Suite:
    path = data.choose("suite", name, data.suites())
    suite = _read(path)
    if suite.name != name:
        raise UserError(
            f"{path / FILE}: its name is {suite.name!r}, its folder's {name!r}", remedy="Make them equal."
        )
    return suite


def _user_suite(path: Path) -> Suite:
    if not path.is_dir():
        raise UserError(f"suite {path}: there is no such folder")
    suite = msgspec.structs.replace(_read(path), user=True)
    check(suite, (*names(), COMMAND))
    return suite


def _read(folder: Path) -> Suite:
    descriptor = codec.read_toml(folder / FILE, Descriptor, SEE)
    return Suite(**msgspec.structs.asdict(descriptor), folder=folder)


def command(commands: Sequence[str], put: Sequence[Path] = (), *, timeout_s: float = COMMAND_S) -> Suite:
    """The suite of the user's own commands: ``cmd/cmd``, or ``cmd/cmd-1`` and so on for several.

    :param commands: each for the guest's ``/bin/sh -c``; its exit status is the verdict.
    :param put: files and folders for the working folder of the commands.
    :raises UserError: no command, or a file that cannot be read.
    """
    if not commands or any(not word.strip() or "\0" in word for word in commands):
        raise UserError("--cmd: the command is empty", remedy="Write one, such as --cmd 'uname -a'.")
    titles = [COMMAND] if len(commands) == 1 else [f"{COMMAND}-{n}" for n in range(1, len(commands) + 1)]
    suite = Suite(
        name=COMMAND,
        description="commands given with --cmd",
        timeout_s=timeout_s,
        program=tuple(
            Program(name=title, argv=("/bin/sh", "-c", word))
            for title, word in zip(titles, commands, strict=True)
        ),
        user=True,
        commands=tuple(commands),
        put=tuple(absolute(path) for path in put),
    )
    suite.files_beside()
    return suite


def narrow(suite: Suite) -> Suite:
    """The suite without the programs that need a kernel with delays."""
    wide = {program.name for program in suite.program if program.widen}
    return _keeping(suite, lambda program: program not in wide)


def only(suite: Suite, pattern: str) -> Suite:
    """The suite with only those programs that can have a case of that pattern.

    :param pattern: of case ids, as for ``fnmatch``. If it fits no program, the suite is unchanged.
    """
    literal, *wild = re.split(r"[*?[]", pattern, maxsplit=1)

    def fits(program: str) -> bool:
        own = f"{suite.name}/{program}/"
        return f"{literal}/".startswith(own) or (bool(wild) and own.startswith(literal))

    if suite.all_programs or not any(fits(program.name) for program in suite.program):
        return suite
    return _keeping(suite, fits)


def _keeping(suite: Suite, keeps: Callable[[str], bool]) -> Suite:
    """The suite with some of its programs, by name, and their expectations."""
    return msgspec.structs.replace(
        suite,
        program=tuple(p for p in suite.program if keeps(p.name)),
        expect=tuple(e for e in suite.expect if keeps(e.program)),
    )


def packages(suites: Iterable[Suite]) -> tuple[str, ...]:
    """The Debian packages that a guest needs for all of some suites."""
    return tuple(sorted({name for suite in suites for name in suite.packages}))


def expected(suite: Suite, version: str, arch: str, *, kernel: str = "") -> dict[str, Expectation]:
    """The expectations of a suite, by program.

    Without an expectation, a program of a suite's own folder must pass; one of the user's may also skip.

    :param version: the version of the programs' source: the tree's for a suite of the kernel's, else the
        kernel's.
    :param kernel: the version of the running kernel, if the programs are from another tree.
    """
    defaults: dict[str, Expectation] = {}
    if suite.origin == "own" or not suite.expect:
        with_expectation = {e.program for e in suite.expect}
        default: Literal["pass", "any"] = "any" if suite.user else "pass"
        defaults = {
            p.name: Expectation(program=p.name, outcome=default)
            for p in suite.program
            if p.name not in with_expectation
        }
    expectations = defaults | {
        e.program: e
        for e in suite.expect
        if (not e.arch or arch in e.arch) and within(version, e.since, e.until)
    }
    lacking = too_new(suite, version, kernel)
    return {name: e for name, e in expectations.items() if name not in lacking}


def excluded(suite: Suite, version: str, arch: str, *, kernel: str = "") -> dict[str, str]:
    """Programs that that version or kernel excludes (see ``expected``), each with the reason."""
    here = expected(suite, version, arch, kernel=kernel)
    reasons = too_new(suite, version, kernel)
    for e in suite.expect:
        if e.program not in here:
            where = (
                f"since {e.since}"
                if e.since
                else f"until {e.until}"
                if e.until
                else f"on {', '.join(e.arch)}"
            )
            suite_reason = f"the suite has it for kernels {where}"
            tree_reason = f"not among this tree's selftests: it is there {where}"
            reasons.setdefault(e.program, suite_reason if suite.origin == "own" else tree_reason)
    return reasons


def too_new(suite: Suite, version: str, kernel: str) -> dict[str, str]:
    """Programs for features that the kernel does not have yet, each with the reason; see ``expected``."""
    at = version_numbers(kernel or (version if suite.origin == "own" else ""))
    return {
        p.name: f"about what kernels have since {p.kernel_since}"
        for p in suite.program
        if p.kernel_since and at and at < version_numbers(p.kernel_since)
    }
