# SPDX-License-Identifier: GPL-2.0-only
"""A worker: it takes a job and sends reports, as objects or as JSON, in any process."""

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

    ``wrong_usage``: the user made a mistake, else the host failed.
    """

    attempt: str
    wrong_usage: bool
    message: str
    remedy: str = ""

    def error(self) -> OrchestrateError:
        """The error for the caller of the engine."""
        kind = UserError if self.wrong_usage else InfraError
        return kind(self.message, remedy=self.remedy)


_DECODER = msgspec.json.Decoder(Progress | Finished | Refused)


def attempt(job: CellJob, host: Host, send: Callable[[Progress], None]) -> Finished:
    """Execute a job and report its progress.

    :raises UserError: the cell cannot be what the user requested.
    """

    def say(phase: str, text: str) -> None:
        send(Progress(job.attempt, Event(now(), job.plan.id, phase, text)))

    return Finished(job.attempt, execute(job, host, say))


def attempt_json(content: bytes, host: Host, send: Callable[[bytes], None]) -> None:
    """Execute a job in JSON, and send every report, including the last one, as a line of JSON."""
    job = CellJob.from_json(content)
    last: Report | Refused
    try:
        last = attempt(job, host, lambda progress: send(msgspec.json.encode(progress)))
    except OrchestrateError as error:
        wrong_usage = isinstance(error, UserError)
        last = Refused(job.attempt, wrong_usage, error.message, error.remedy)
    send(msgspec.json.encode(last))


def report_of(line: bytes) -> Report:
    """The report in a line of JSON.

    :raises OrchestrateError: the attempt ended in this error.
    """
    report: Report | Refused = _DECODER.decode(line)
    if isinstance(report, Refused):
        raise report.error()
    return report
