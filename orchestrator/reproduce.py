# SPDX-License-Identifier: GPL-2.0-only
"""The command that carries one cell out again (design rule 9)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from orchestrator.plan import CellPlan, Choices, Source
from orchestrator.source import clone
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite


def reproduce(
    plan: CellPlan, choices: Choices, source: Source, suites: Mapping[str, Suite], describe: str
) -> str:
    """The shell script that runs a cell again, from whatever folder.

    :param source: the cell's kernel, by the spec that it was found under.
    :param suites: the run's suites by name.
    :param describe: what the kernel is, for people.
    """
    argv = ["orchestrate", "run", *_source(source), "--arch", plan.arch, "--variant", plan.variant]
    for name in plan.suites:
        if name == catalog.COMMAND:
            argv += [word for command in choices.commands for word in ("--cmd", command)]
            argv += [word for path in choices.put for word in ("--put", _absolute(path))]
        else:
            argv += ["--suite", name if name in catalog.names() else str(suites[name].folder)]
    if choices.selftests_from:
        argv += ["--selftests-from", _absolute(choices.selftests_from)]
    argv += ["--accel", choices.accel, "--smp", str(plan.smp), "--mem", str(plan.mem_mib)]
    argv += ["--toolchain", choices.toolchain]
    if plan.vsyscall:
        argv += ["--vsyscall", plan.vsyscall]
    if any(name in suites and suites[name].kind == "benchmark" for name in plan.suites):
        argv += ["--boots", "1"]
    if choices.cmdline:
        argv += ["--cmdline", " ".join(choices.cmdline)]
    if choices.config:
        argv += ["--config", _absolute(choices.config)]
    for fragment in choices.kconfig:
        argv += ["--kconfig", _absolute(fragment)]
    return f'#!/bin/sh\n# {plan.id}: {describe}\nexec {shlex.join(argv)} "$@"\n'


def _source(source: Source) -> list[str]:
    label = f"{source.label}=" if source.label else ""
    if source.image:
        return ["--kernel", label + _absolute(source.image)]
    argv = ["--source", label + _absolute_spec(source.spec)]
    if source.sha256:
        argv += ["--sha256", source.sha256]
    for patch in source.patches:
        argv += ["--patch", label + _absolute(patch)]
    return argv


def _absolute_spec(spec: str) -> str:
    """A source's spec, a directory's with its revision, independent of the working directory."""
    if Path(spec).expanduser().exists():
        return _absolute(spec)
    split = clone.split(spec)
    return f"{_absolute(str(split[0]))}@{split[1]}" if split else spec


def _absolute(word: str) -> str:
    path = Path(word).expanduser()
    return str(path.absolute()) if path.exists() else word
