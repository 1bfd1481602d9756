# SPDX-License-Identifier: GPL-2.0-only
"""The state of a cell while it is executed, and what an error means for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.core import arch as arches
from orchestrator.core.errors import Inconclusive, KernelError, OrchestrateError
from orchestrator.evidence.health import State
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.plan import inputs as run_inputs
from orchestrator.plan.inputs import Inputs
from orchestrator.results.model import GRAVITY, Blame, Case, SuiteResult, Verdict

#: Takes phase and text.
Say = Callable[[str, str], None]


class NotApplicable(Exception):
    """The kernel has no such variant; the message has the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CellState:
    """A cell while it is executed.

    ``health`` is the state of its guest when it was last examined, ``proven_health`` that after its proof.
    ``prebuilt_variant`` is the variant of its prebuilt kernel, if it is known.
    """

    def __init__(self, job: CellJob, host: Host, say: Say) -> None:
        self.job = job
        self.host = host
        self.plan = job.plan
        self.say = say
        self.folder = host.root / "cells" / self.plan.id
        self.arch = arches.load(self.plan.arch)
        self.target = self.inputs.targets[self.plan.label]
        self.prebuilt_variant = job.prebuilt_variant
        self.cases: list[Case] = []
        self.suites: list[SuiteResult] = []
        self.properties: dict[str, str] = {}
        self.release = ""
        self.guests = 0
        self.dumps = 0
        self.health = State()
        self.proven_health = State()
        self.ends = debug_build.Ends(None)
        self.watch = ConsoleWatch()

    @property
    def inputs(self) -> Inputs:
        """The inputs of the cell."""
        return self.job.inputs

    def kernel_spec(self) -> KernelSpec:
        """The kernel spec of the cell.

        :raises InfraError: its compiler is not installed.
        """
        plan = self.plan
        return run_inputs.kernel_spec(
            self.inputs, plan.label, plan.arch, plan.variant, objects=self.job.objects
        )

    def watch_for(self, kernel: Kernel) -> ConsoleWatch:
        """A new watcher for the console of a guest."""
        if self.ends.vmlinux != kernel.vmlinux:
            self.ends = debug_build.Ends(kernel.vmlinux)
        return ConsoleWatch(self.ends)

    def renew_watch(self, kernel: Kernel) -> ConsoleWatch:
        """Make a new watcher for the console of the cell's next guest."""
        self.watch = self.watch_for(kernel)
        return self.watch

    def put(self, case: Case) -> None:
        """Record a case; if several guests have the same case, the gravest verdict stays."""
        old = next((c for c in self.cases if c.id == case.id), None)
        if old is not None and GRAVITY.index(old.verdict) < GRAVITY.index(case.verdict):
            return
        self.cases = [c for c in self.cases if c.id != case.id] + [case]

    def case(
        self,
        name: str,
        error: OrchestrateError | None = None,
        *,
        since: float,
        detail: str = "",
        log: str = "",
    ) -> None:
        """Record one of the cell's own cases: PASS, or what an error means for it."""
        duration_s = round(time.monotonic() - since, 3)
        if error is None:
            self.put(Case(id=name, verdict=Verdict.PASS, duration_s=duration_s, detail=detail, log=log))
            return
        verdict, blame = meaning(error)
        self.put(
            Case(
                id=name,
                verdict=verdict,
                blame=blame,
                reason=error.message,
                detail=error.remedy,
                duration_s=duration_s,
                log=log,
            )
        )


def meaning(error: OrchestrateError) -> tuple[Verdict, Blame]:
    """The verdict and the blame that an error leads to."""
    if isinstance(error, KernelError):
        return Verdict.FAIL, Blame.KERNEL
    if isinstance(error, Inconclusive):
        return Verdict.INCONCLUSIVE, Blame.INFRA
    return Verdict.ERROR, Blame.INFRA
