# SPDX-License-Identifier: GPL-2.0-only
"""Record a run at its end, import older ones, export all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, OrchestrateError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.history import ingest
from orchestrator.history.database import History, default_url
from orchestrator.run import latest, summary
from orchestrator.run.summary import RunResult


def record(result: RunResult, say: Callable[[str], None]) -> None:
    """Record a run. A history that cannot be written costs the run nothing but a line."""
    try:
        with History(default_url()) as history:
            ingest.put(history, result)
    except OrchestrateError as error:
        say(f"the run is not recorded: {error.message}")


def import_(history: History, paths: Iterable[Path]) -> Iterator[bool]:
    """Record run directories, folders of them, and exported files; whether each run was new.

    :raises UserError: a path has no results.
    """
    for path in paths:
        for result in _results(path):
            yield ingest.put(history, result)


def export(history: History, name: str) -> None:
    """Write the documents of all runs to a file, a line each.

    :param name: of the file; ``-`` is standard output.
    :raises InfraError: it cannot be written.
    """
    if name == "-":
        for line in ingest.documents(history):
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    else:
        write_atomically(Path(name).absolute(), b"".join(ingest.documents(history)))


def _results(path: Path) -> Iterator[RunResult]:
    if path.is_file():
        yield from _exported(path)
        return
    folders = [path] if (path / summary.FILE).is_file() else latest.folders(path, summary.FILE)
    if not folders:
        raise UserError(
            f"{path} has no {summary.FILE}",
            remedy="Name a run directory, a folder of them, or a file of `orchestrate history export`.",
        )
    for folder in folders:
        yield summary.read(folder)


def _exported(path: Path) -> Iterator[RunResult]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield msgspec.json.decode(line, type=RunResult)
                except msgspec.MsgspecError as error:
                    raise UserError(
                        f"{path}:{number}: not the results of a run: {error}",
                        remedy="Name a file that `orchestrate history export` wrote.",
                    ) from None
    except OSError as error:
        raise InfraError(f"{path} cannot be read: {error.strerror}") from None
