# SPDX-License-Identifier: GPL-2.0-only
"""``orchestrate run``: from a request to a plan, and from there to results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from orchestrator.core.errors import Inconclusive, UserError
from orchestrator.core.events import Events
from orchestrator.core.store import Store
from orchestrator.engine.protocol import Engine
from orchestrator.plan import inputs as run_inputs
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.notices import notices
from orchestrator.plan.plan import Plan
from orchestrator.results import junit
from orchestrator.run.directory import RunDirectory, check_unchanged
from orchestrator.run.estimate import Remaining
from orchestrator.run.execute import execute
from orchestrator.run.summary import RunResult
from orchestrator.source.model import Say


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a new run with ``choices``, or for an interrupted run by its name ``resume``.

    ``out`` is the folder of runs, ``junit`` another path for the JUnit document. ``bisecting``: the exit code
    is for ``git bisect run``. ``fail_fast``: no cell starts after one that is at fault.
    """

    out: Path
    choices: Choices | None = None
    resume: str = ""
    junit: Path | None = None
    bisecting: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class PreparedRun:
    """A run whose request is checked. Nothing is built or written yet."""

    request: RunRequest
    directory: RunDirectory
    plan: Plan
    inputs: Inputs

    def execute(self, engine: Engine, console: Console) -> RunResult:
        """Execute the run, or the rest of an interrupted one.

        :raises UserError: the folder cannot be written, or a cell cannot be what the user requested.
        """
        self.directory.create()
        with self.directory.lock():
            earlier = self.directory.results(self.plan) if self.request.resume else {}
            left = Remaining(self.plan, self.request.out, earlier)
            with Events(console, self.directory.path / "events.ndjson", left.progress) as events:
                events.emit("", "", self._first_line(len(earlier)))
                # what this commit lacks does not count against the next one
                with wrong_usage_is_inconclusive(self.request.bisecting):
                    return execute(
                        self.plan,
                        self.inputs,
                        self.directory,
                        engine,
                        events,
                        junit_path=self.request.junit,
                        earlier=earlier,
                        linked=True,
                        fail_fast=self.request.fail_fast,
                        on_finished=left.done,
                    )

    def _first_line(self, finished: int) -> str:
        kernels = "; ".join(
            kernel.describe
            if kernel.describe.startswith(kernel.label)
            else f"{kernel.label}: {kernel.describe}"
            for kernel in self.plan.kernels
        )
        count = len(self.plan.cells)
        cells = f"{count} cell{'s' if count > 1 else ''}" + (f", {finished} of them done" if finished else "")
        return f"{kernels}: {cells}, results in {self.directory.path}"


def prepare_run(request: RunRequest, store: Store, say: Say) -> PreparedRun:
    """Resolve the sources of a run, check its request, and plan its cells.

    :raises UserError: the request cannot be met, or an input has changed since the run began.
    :raises InfraError: network, mirror, disk or a missing program.
    """
    if request.choices is not None:
        directory, kept, choices = RunDirectory.fresh(request.out), None, request.choices
    else:
        directory = RunDirectory.existing(request.out, request.resume)
        kept = directory.plan()
        choices = kept.choices
    if request.junit is not None:
        junit.try_path(request.junit)
    directory.try_folder()
    for line in notices(choices):
        say(line)
    with wrong_usage_is_inconclusive(
        # patches that do not apply to this commit do not make it bad
        request.bisecting and any(source.patches for source in choices.sources)
    ):
        targets = prepare.targets(choices, store, say)
    suites = prepare.suites(choices)
    inputs = prepare.inputs(choices, targets, suites, store, say)
    digests = run_inputs.digests(inputs)
    if kept is not None:
        check_unchanged(kept, targets, digests)
    plan = kept or prepare.plan(prepare.pinned(choices, targets), targets, suites, digests)
    return PreparedRun(request=request, directory=directory, plan=plan, inputs=inputs)


@contextlib.contextmanager
def wrong_usage_is_inconclusive(bisecting: bool) -> Iterator[None]:
    """While bisecting, wrong usage means that this commit cannot be judged."""
    try:
        yield
    except UserError as error:
        if not bisecting:
            raise
        raise Inconclusive(error.message, remedy=error.remedy) from None
