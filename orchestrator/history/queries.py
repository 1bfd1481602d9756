# SPDX-License-Identifier: GPL-2.0-only
"""What the history shows of a case or a metric, and of runs."""

from __future__ import annotations

import statistics
import zlib

import msgspec
import sqlalchemy as sa

from orchestrator.core.errors import UserError, did_you_mean
from orchestrator.history.database import History
from orchestrator.history.models import CaseCount, Document, Kernel, Name, Run, Sample
from orchestrator.results.model import AT_FAULT, Verdict
from orchestrator.run.summary import RunResult

_FAILED = {verdict.value for verdict in (*AT_FAULT, Verdict.KNOWN)}
#: Names among which the nearest is looked for.
_MOST_NAMES = 20_000


class CaseRun(msgspec.Struct, frozen=True, kw_only=True):
    """The boots of a kernel in a run in which a case failed, passed, or was not judged."""

    run: str
    started_at: str
    kernel: str
    release: str
    failed: int
    passed: int
    unjudged: int
    reason: str


class MetricRun(msgspec.Struct, frozen=True, kw_only=True):
    """The boots of a kernel in a run: the median of a metric, its extremes, and the environment."""

    run: str
    started_at: str
    kernel: str
    release: str
    median: float
    low: float
    high: float
    boots: int
    environment: str


def case_runs(history: History, case: str, *, limit: int) -> list[CaseRun]:
    """The newest runs of a case, the newest first, a row for each kernel.

    :param limit: the most rows.
    """
    reason = sa.orm.aliased(Name)
    statement = (
        sa.select(Run.id, Run.started_at, Kernel, CaseCount.verdict, CaseCount.boots, reason.text)
        .select_from(CaseCount)
        .join(Name, Name.key == CaseCount.name)
        .join(Kernel, Kernel.key == CaseCount.kernel)
        .join(Run, Run.key == Kernel.run)
        .outerjoin(reason, reason.key == CaseCount.reason)
        .where(Name.text == case)
        .order_by(Run.started_at.desc(), Run.id.desc(), Kernel.key)
        # a kernel has few verdicts of one case
        .limit(limit * 4)
    )
    rows: dict[int, CaseRun] = {}
    with history.session() as session:
        for run, started_at, kernel, verdict, boots, text in session.execute(statement):
            row = rows.setdefault(
                kernel.key,
                CaseRun(
                    run=run,
                    started_at=started_at,
                    kernel=f"{kernel.label} {kernel.arch} {kernel.variant}",
                    release=kernel.release,
                    failed=0,
                    passed=0,
                    unjudged=0,
                    reason="",
                ),
            )
            field = "failed" if verdict in _FAILED else "passed" if verdict == "PASS" else "unjudged"
            changes = {field: getattr(row, field) + boots}
            if text and (field == "failed" or not row.reason):
                changes["reason"] = text
            rows[kernel.key] = msgspec.structs.replace(row, **changes)
    return list(rows.values())[:limit]


def metric_runs(history: History, metric: str, *, limit: int) -> list[MetricRun]:
    """The newest runs of ``suite/metric``, the newest first, a row for each kernel.

    :param limit: the most rows.
    """
    newest = (
        sa.select(Kernel.key, Run.id, Run.started_at)
        .join(Run, Run.key == Kernel.run)
        .join(Sample, Sample.kernel == Kernel.key)
        .join(Name, Name.key == Sample.name)
        .where(Name.text == metric)
        .group_by(Kernel.key, Run.id, Run.started_at)
        .order_by(Run.started_at.desc(), Run.id.desc(), Kernel.key)
        .limit(limit)
        .subquery()
    )
    statement = (
        sa.select(newest.c.id, newest.c.started_at, Kernel, Sample.value)
        .select_from(newest)
        .join(Kernel, Kernel.key == newest.c.key)
        .join(Sample, Sample.kernel == Kernel.key)
        .join(Name, Name.key == Sample.name)
        .where(Name.text == metric)
        .order_by(newest.c.started_at.desc(), newest.c.id.desc(), Kernel.key)
    )
    values: dict[int, list[float]] = {}
    kernels: dict[int, tuple[str, str, Kernel]] = {}
    with history.session() as session:
        for run, started_at, kernel, value in session.execute(statement):
            kernels[kernel.key] = (run, started_at, kernel)
            values.setdefault(kernel.key, []).append(value)
        session.expunge_all()
    return [
        MetricRun(
            run=run,
            started_at=started_at,
            kernel=f"{kernel.label} {kernel.arch} {kernel.variant}",
            release=kernel.release,
            median=statistics.median(values[key]),
            low=min(values[key]),
            high=max(values[key]),
            boots=len(values[key]),
            environment=kernel.environment,
        )
        for key, (run, started_at, kernel) in kernels.items()
    ]


def kind_of(history: History, name: str) -> str:
    """Whether a name is a ``case`` or a ``metric``.

    :raises UserError: it is neither; the nearest names are proposed.
    """
    with history.session() as session:
        key = session.execute(sa.select(Name.key).where(Name.text == name)).scalar_one_or_none()
        for kind, table in (("metric", Sample), ("case", CaseCount)):
            if (
                key is not None
                and session.execute(sa.select(table.name).where(table.name == key).limit(1)).first()
            ):
                return kind
        known = session.execute(
            sa.select(Name.text)
            .where(Name.key.in_(sa.select(CaseCount.name)) | Name.key.in_(sa.select(Sample.name)))
            .limit(_MOST_NAMES)
        ).scalars()
        names = list(known)
    raise UserError(
        f"the history has no case or metric {name!r}{did_you_mean(name, names)}",
        remedy="Name a case by its id (maps/proc-pid-vm), or a metric as SUITE/METRIC."
        if names
        else "It is empty: `orchestrate run` adds to it, `orchestrate history import DIR` adds older runs.",
    )


def last_good(history: History) -> RunResult:
    """The newest run that ended with exit code 0.

    :raises UserError: there is none.
    """
    statement = (
        sa.select(Document.content)
        .join(Run, Run.digest == Document.digest)
        .where(Run.exit_code == 0)
        .order_by(Run.started_at.desc(), Run.id.desc())
        .limit(1)
    )
    with history.session() as session:
        content = session.execute(statement).scalar_one_or_none()
    if content is None:
        raise UserError(
            "the history has no run that ended with exit code 0", remedy="Name a run to compare with."
        )
    return msgspec.json.decode(zlib.decompress(content), type=RunResult)
