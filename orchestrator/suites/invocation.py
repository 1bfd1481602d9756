# SPDX-License-Identifier: GPL-2.0-only
"""How a program of a suite is started in a guest, except for what belongs to that one guest."""

from __future__ import annotations

import msgspec

from orchestrator.suites import build as suite_build
from orchestrator.suites.catalog import Program, Suite


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """A program's command line and surroundings.

    ``limit_s`` is for a machine that boots in a second. ``options`` go to ``orc-exec``, the in-guest runner.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    options: tuple[str, ...]
    limit_s: float


def invocation(suite: Suite, program: Program) -> Invocation:
    """How a program of a suite is started."""
    return Invocation(
        argv=tuple(_argv(suite, program)),
        env=suite_build.environment(suite, program),
        cwd=suite_build.working_folder(suite),
        options=(
            *(("--cpus", program.cpus) if program.cpus else ()),
            *(("--nice", str(program.nice)) if program.nice else ()),
        ),
        limit_s=suite.limit_s(program),
    )


def _argv(suite: Suite, program: Program) -> list[str]:
    argv = suite_build.argv(suite, program)
    if program.parser == "ktap":
        # the kselftest harness writes its assertions to standard error; in one stream they stand beside
        # the case that they are about
        return ["/bin/sh", "-c", 'exec "$0" "$@" 2>&1', *argv]
    return argv
