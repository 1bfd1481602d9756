# SPDX-License-Identifier: GPL-2.0-only
"""Check the choices of a run before a source is fetched."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.core import arch as arches
from orchestrator.core import toolchain
from orchestrator.core.errors import InfraError, UserError
from orchestrator.kernel import flavor, kconfig
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import PlannedKernel, make
from orchestrator.suites.catalog import Suite
from orchestrator.verdict import known
from orchestrator.vm import qemu

#: The programs that the kernel's makefiles call, besides the compiler.
_BUILD_TOOLS = ("make", "bc", "bison", "flex")

#: Kernel parameters that suppress messages on the console.
_MUTES = re.compile(r"quiet|loglevel=[0-5]|console=.*|printk\.time=.*")


def check(choices: Choices, suites: Sequence[Suite]) -> None:
    """Check everything that needs no source.

    :raises UserError: a fragment or base is unusable, the machine is too small, a mode or patch does not
        exist.
    :raises InfraError: programs of the host are missing; all are named at once.
    """
    _check_configuration(choices)
    _check_cmdline(choices)
    _check_speed(choices, suites)
    _check_files(choices)
    _check_layout(choices, suites)
    _check_programs(choices, suites)


def builds_kernels(choices: Choices) -> bool:
    """Whether any kernel is built; prebuilt ones are not."""
    return any(not source.image for source in choices.sources)


def vsyscall_modes() -> dict[str, tuple[str, ...]]:
    """The values of the ``vsyscall=`` parameter by architecture."""
    return {name: arches.load(name).vsyscall_modes for name in arches.names()}


def known_failures(path: str) -> tuple[known.Entry, ...]:
    """The entries of a file of ``--known``.

    :raises UserError: there is no such file, or it cannot be read.
    """
    if not Path(path).exists():
        raise UserError(f"--known {path}: there is no such file")
    return known.load(Path(path))


def _check_configuration(choices: Choices) -> None:
    for spec in choices.kconfig:
        kconfig.user_fragment(spec)
    flavor.combine(choices.flavors)
    base = kconfig.user_base(choices.config)
    for name in choices.arches:
        kconfig.check_base(base, arches.load(name))


def _check_cmdline(choices: Choices) -> None:
    for word in choices.cmdline:
        if _MUTES.fullmatch(word):
            raise UserError(
                f"--cmdline {word}: boots and crashes are read from the console, which this silences",
                remedy="Omit it.",
            )


def _check_speed(choices: Choices, suites: Sequence[Suite]) -> None:
    reason = flavor.no_races(choices.flavors)
    for suite in suites:
        if suite.races and reason:
            raise UserError(
                f"suite {suite.name!r} needs readers and writers at full speed; {reason}",
                remedy="Omit one of them.",
            )


def _check_files(choices: Choices) -> None:
    for path in choices.known:
        known_failures(path)
    for patch in (patch for source in choices.sources for patch in source.patches):
        if not Path(patch).exists():
            raise UserError(f"--patch {patch}: there is no such file or folder")


def _check_layout(choices: Choices, suites: Sequence[Suite]) -> None:
    kernel = PlannedKernel(label="kernel", arches=choices.arches)
    kernels = [kernel] if builds_kernels(choices) else []
    make(choices, kernels=kernels, suites=suites, vsyscall_modes=vsyscall_modes())


def _check_programs(choices: Choices, suites: Sequence[Suite]) -> None:
    """Check that the host's programs are installed.

    :raises InfraError: one or several are missing.
    """
    if not builds_kernels(choices):
        return
    missing: list[InfraError] = []
    for arch in map(arches.load, choices.arches):
        with _collected(missing):
            flavor.check_compiler(choices.flavors, toolchain.find(choices.toolchain, arch))
        if suites:
            with _collected(missing):
                qemu.program(arch)
    tools = [name for name in _BUILD_TOOLS if shutil.which(name) is None]
    if len(missing) == 1 and not tools:
        raise missing[0]
    if missing or tools:
        programs = [error.message.removesuffix(" is not installed") for error in missing]
        raise InfraError(
            f"not installed: {', '.join(dict.fromkeys(programs + tools))}",
            remedy="`orchestrate doctor` prints the command that installs what is missing.",
        )


@contextlib.contextmanager
def _collected(errors: list[InfraError]) -> Iterator[None]:
    try:
        yield
    except InfraError as error:
        errors.append(error)
