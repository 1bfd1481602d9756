# SPDX-License-Identifier: GPL-2.0-only
"""Scan a saved console log, from a file or a pipe, with the scanner that cells use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.splat import noise
from orchestrator.splat.scanner import Scanner, Splat

CHUNK = 256 * 1024
"""Bytes read at once."""
STDIN = "-"


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """The splats of one console, in order.

    ``hidden`` counts those on the list of known noise. ``dropped`` counts those beyond
    `MAX_FINGERPRINTS` different ones, which were not stored.
    """

    name: str
    splats: tuple[Splat, ...]
    hidden: int = 0
    dropped: int = 0


def read(log: str) -> Console:
    """The splats of the console log in the file ``log``; ``-`` is standard input.

    :raises UserError: no such file, a directory, or not readable.
    """
    entries = noise.load()
    try:
        if log == STDIN:
            scanner, name = _scan(sys.stdin.buffer), "standard input"
        else:
            name = log
            with Path(log).open("rb") as stream:
                scanner = _scan(stream)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{log}: {why}", remedy="Name a console log, or - for standard input.") from None
    splats = scanner.finish()
    visible = noise.loud(splats, entries)
    hidden = sum(splat.count for splat in splats) - sum(splat.count for splat in visible)
    return Console(name=name, splats=visible, hidden=hidden, dropped=scanner.dropped)


def _scan(stream: BinaryIO) -> Scanner:
    scanner = Scanner()
    # read1 gives a pipe's bytes as they arrive; read would wait for a whole chunk
    read = getattr(stream, "read1", stream.read)
    while data := read(CHUNK):
        scanner.feed(data)
    return scanner
