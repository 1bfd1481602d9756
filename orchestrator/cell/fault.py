# SPDX-License-Identifier: GPL-2.0-only
"""An exception that nobody expected inside a cell: an ERROR of that cell, with the traceback in a file."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

from orchestrator.core.errors import InfraError, OrchestrateError
from orchestrator.core.text import one_line

FILE = "internal-error.txt"


def error_of(error: Exception, folder: Path, root: Path) -> OrchestrateError:
    """The error to record: the exception itself if it is one of orchestrate's, else an internal error.

    :param folder: for the traceback; its path is given relative to ``root``.
    """
    if isinstance(error, OrchestrateError):
        return error
    path = folder / FILE
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            traceback.print_exception(error, file=stream)
    if isinstance(error, OSError) and error.strerror:
        return InfraError(one_line(f"{error.filename or folder}: {error.strerror}"))
    return InfraError(
        one_line(f"internal error: {type(error).__name__}: {error}"),
        remedy=f"Please report it with {path.relative_to(root)}.",
    )
