# SPDX-License-Identifier: GPL-2.0-only
"""Reads a console that was kept, in a file or a pipe, as a cell reads one while it is printed."""

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
    """What a console says: its ``splats`` in order, how many were ``hidden`` by the list of known noise, and
    how many (``dropped``) came after so many different ones that they were not kept."""

    name: str
    splats: tuple[Splat, ...]
    hidden: int = 0
    dropped: int = 0


def read(log: str) -> Console:
    """The splats of the console kept in the file ``log``; ``-`` is standard input.

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
        raise UserError(f"{log}: {why}", remedy="Name the file of a console, or - for a pipe.") from None
    found = scanner.finish()
    shown = noise.loud(found, entries)
    hidden = sum(splat.count for splat in found) - sum(splat.count for splat in shown)
    return Console(name=name, splats=shown, hidden=hidden, dropped=scanner.dropped)


def _scan(stream: BinaryIO) -> Scanner:
    scanner = Scanner()
    # read1: a pipe's bytes as they come, without waiting for a whole chunk
    read = getattr(stream, "read1", stream.read)
    while data := read(CHUNK):
        scanner.feed(data)
    return scanner
