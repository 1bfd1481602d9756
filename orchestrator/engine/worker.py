# SPDX-License-Identifier: GPL-2.0-only
"""A job from JSON to reports in JSON: what a worker of any engine does, in whatever process it lives."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.cell.lifecycle import execute
from orchestrator.core.errors import InfraError, OrchestrateError, UserError
from orchestrator.core.events import Event, now
from orchestrator.engine.protocol import Finished, Progress, Report


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """An attempt that ended in an error instead of a result.

    ``wrong_usage``: it is the user's mistake, else the host's.
    """

    attempt: str
    wrong_usage: bool
    message: str
    remedy: str = ""

    def error(self) -> OrchestrateError:
        """The error to raise where the engine was asked."""
        kind = UserError if self.wrong_usage else InfraError
        return kind(self.message, remedy=self.remedy)


_DECODER = msgspec.json.Decoder(Progress | Finished | Refused)


def attempt(job: CellJob, host: Host, tell: Callable[[Progress], None]) -> Finished:
    """Execute a job and report its progress.

    :raises UserError: the cell cannot be what the user asked for.
    """

    def say(phase: str, text: str) -> None:
        tell(Progress(job.attempt, Event(now(), job.plan.id, phase, text)))

    return Finished(job.attempt, execute(job, host, say))


def attempt_json(content: bytes, host: Host, tell: Callable[[bytes], None]) -> None:
    """Execute a job given as JSON; every report, the last one too, is told as one line of JSON."""
    job = CellJob.from_json(content)
    last: Report | Refused
    try:
        last = attempt(job, host, lambda progress: tell(msgspec.json.encode(progress)))
    except OrchestrateError as error:
        wrong_usage = isinstance(error, UserError)
        last = Refused(job.attempt, wrong_usage, error.message, error.remedy)
    tell(msgspec.json.encode(last))


def report_of(line: bytes) -> Report:
    """The report that a line of JSON holds.

    :raises OrchestrateError: the attempt ended in this error.
    """
    report: Report | Refused = _DECODER.decode(line)
    if isinstance(report, Refused):
        raise report.error()
    return report
