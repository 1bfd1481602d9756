# SPDX-License-Identifier: GPL-2.0-only
"""The command that carries one cell out again (design rule 9)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.plan import CellPlan, Choices, Source
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite
from orchestrator.text import one_line


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
            argv += [word for path in choices.put for word in ("--put", path)]
        else:
            argv += ["--suite", name if name in catalog.names() else str(suites[name].folder)]
    if choices.selftests_from:
        argv += ["--selftests-from", choices.selftests_from]
    argv += ["--accel", choices.accel, "--smp", str(plan.smp), "--mem", str(plan.mem_mib)]
    argv += ["--toolchain", choices.toolchain]
    if plan.vsyscall:
        argv += ["--vsyscall", plan.vsyscall]
    if any(name in suites and suites[name].kind == "benchmark" for name in plan.suites):
        argv += ["--boots", "1"]
    if choices.cmdline:
        argv += ["--cmdline", " ".join(choices.cmdline)]
    for name in choices.flavors:
        argv += ["--flavor", name]
    if choices.strict:
        argv.append("--strict")
    if choices.config:
        argv += ["--config", choices.config]
    for fragment in choices.kconfig:
        argv += ["--kconfig", fragment]
    # what stands in an orchestrate.toml where it is run is not the cell's
    command = f'env ORCHESTRATE_CONFIG=/dev/null {shlex.join(argv)} "$@"'
    here = shlex.quote(str(Path(sys.executable).parent))
    return (
        f"#!/bin/sh\n# {one_line(f'{plan.id}: {describe}')}\n"
        f"command -v orchestrate >/dev/null || PATH={here}:$PATH\nexec {command}\n"
    )


def _source(source: Source) -> list[str]:
    label = f"{source.label}=" if source.label else ""
    if source.image:
        return ["--kernel", label + source.image]
    argv = ["--source", label + source.spec]
    if source.sha256:
        argv += ["--sha256", source.sha256]
    for patch in source.patches:
        argv += ["--patch", label + patch]
    return argv
