# SPDX-License-Identifier: GPL-2.0-only
"""The report of the guest's runner about a command: see guest/README.md."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from orchestrator.core.text import clean_str

#: Bytes of a report, at most.
TRAILER_LIMIT = 8192

_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Text = Annotated[str, Meta(max_length=1024)]


class Trailer(msgspec.Struct, frozen=True):
    """The report of ``orc-exec`` about its command; times in ms, sizes in KiB.

    A program is root and may forge it, so every field is bounded.
    """

    exit: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, Meta(ge=0, le=127)] | None = None
    timeout: bool = False
    stuck: bool = False
    wall_ms: _Count = 0
    utime_ms: _Count = 0
    stime_ms: _Count = 0
    nvcsw: _Count = 0
    nivcsw: _Count = 0
    maxrss_kib: _Count = 0
    dropped_stdout: _Count = 0
    dropped_stderr: _Count = 0
    leftovers: _Count = 0
    cpus: _Text = ""
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    exec_error: _Text | None = None

    def __post_init__(self) -> None:
        # texts are safe to print from here on
        for name in ("cpus", "exec_error"):
            if text := getattr(self, name):
                msgspec.structs.force_setattr(self, name, clean_str(text))
