# SPDX-License-Identifier: GPL-2.0-only
"""Put runs into the history, and take them out again."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from orchestrator.history.database import History
from orchestrator.history.models import CaseCount, Document, Kernel, Name, Run, Sample
from orchestrator.results.model import CellResult, Verdict
from orchestrator.run.summary import RunResult

#: Properties of a cell on which its times depend.
ENVIRONMENT = ("host CPU", "accelerator", "QEMU", "toolchain", "flavor", "vCPUs", "memory")
#: Rows in one statement.
_CHUNK = 400


def put(history: History, result: RunResult) -> bool:
    """Record a run, all of it or nothing. Returns whether it changed the history.

    A run that is recorded already is replaced, unless its document is the same.

    :raises InfraError: the database cannot be written.
    """
    content = msgspec.json.encode(result)
    digest = hashlib.sha256(content).hexdigest()
    with history.session() as session:
        old = session.execute(sa.select(Run).where(Run.id == result.id)).scalar_one_or_none()
        if old is not None and old.digest == digest:
            return False
        if old is not None:
            _remove(session, old)
        _insert(session, Document, {"digest": digest, "content": zlib.compress(content, 9)})
        run = Run(id=result.id, started_at=result.started_at, exit_code=result.exit_code(), digest=digest)
        session.add(run)
        session.flush()
        _put_kernels(session, run, result)
    return True


def documents(history: History) -> Iterator[bytes]:
    """The document of every run, one line each, in the order of their ids: the same for the same runs."""
    with history.session() as session:
        rows = session.execute(
            sa.select(Document.content).join(Run, Run.digest == Document.digest).order_by(Run.id)
        )
        for (content,) in rows:
            yield zlib.decompress(content) + b"\n"


def _remove(session: Session, run: Run) -> None:
    kernels = sa.select(Kernel.key).where(Kernel.run == run.key)
    for table in (CaseCount, Sample):
        session.execute(sa.delete(table).where(table.kernel.in_(kernels)))
    session.execute(sa.delete(Kernel).where(Kernel.run == run.key))
    digest = run.digest
    session.delete(run)
    session.flush()
    session.execute(sa.delete(Document).where(Document.digest == digest))


def _put_kernels(session: Session, run: Run, result: RunResult) -> None:
    groups: dict[tuple[str, str, str], list[CellResult]] = {}
    for cell in result.cells:
        groups.setdefault((cell.label, cell.arch, cell.variant), []).append(cell)
    names = _names(session, _texts(result.cells))
    for (label, arch, variant), cells in groups.items():
        kernel = Kernel(
            run=run.key,
            label=label,
            arch=arch,
            variant=variant,
            release=next((cell.release for cell in cells if cell.release), ""),
            environment=_environment(cells),
        )
        session.add(kernel)
        session.flush()
        _bulk(session, CaseCount, _counts(kernel.key, cells, names))
        _bulk(session, Sample, _samples(kernel.key, cells, names))


def _environment(cells: Iterable[CellResult]) -> str:
    properties = {name: value for cell in cells for name, value in cell.properties.items()}
    return "; ".join(f"{name} {properties[name]}" for name in ENVIRONMENT if name in properties)


def _texts(cells: Iterable[CellResult]) -> set[str]:
    texts = set()
    for cell in cells:
        for case in cell.all_cases():
            texts |= {case.id, case.reason}
        for suite in cell.suites:
            texts |= {f"{suite.suite}/{metric}" for metric in suite.metrics}
    return texts - {""}


def _names(session: Session, texts: set[str]) -> dict[str, int]:
    """The key of each text; new ones are added."""
    for chunk in _chunks(sorted(texts)):
        _insert(session, Name, [{"text": text} for text in chunk])
    names: dict[str, int] = {}
    for chunk in _chunks(sorted(texts)):
        rows = session.execute(sa.select(Name.text, Name.key).where(Name.text.in_(chunk)))
        names |= {row.text: row.key for row in rows}
    return names


def _counts(kernel: int, cells: Iterable[CellResult], names: Mapping[str, int]) -> list[dict[str, object]]:
    boots: Counter[tuple[str, Verdict]] = Counter()
    reasons: dict[tuple[str, Verdict], str] = {}
    for cell in cells:
        for case in cell.all_cases():
            boots[case.id, case.verdict] += 1
            reasons[case.id, case.verdict] = case.reason
    return [
        {
            "kernel": kernel,
            "name": names[case],
            "verdict": verdict.value,
            "boots": count,
            "reason": names.get(reasons[case, verdict]),
        }
        for (case, verdict), count in boots.items()
    ]


def _samples(kernel: int, cells: Iterable[CellResult], names: Mapping[str, int]) -> list[dict[str, object]]:
    numbers: Counter[str] = Counter()
    rows: list[dict[str, object]] = []
    for cell in cells:
        for suite in cell.suites:
            for metric, value in suite.metrics.items():
                name = f"{suite.suite}/{metric}"
                numbers[name] += 1
                rows.append({"kernel": kernel, "name": names[name], "number": numbers[name], "value": value})
    return rows


def _insert(session: Session, table: type[Document | Name], rows: object) -> None:
    """Insert rows that are not there yet; another writer may be as quick."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(table).values(rows).on_conflict_do_nothing())


def _bulk(session: Session, table: type[CaseCount | Sample], rows: list[dict[str, object]]) -> None:
    if rows:
        session.execute(sa.insert(table), rows)


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _CHUNK):
        yield texts[start : start + _CHUNK]
