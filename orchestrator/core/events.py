# SPDX-License-Identifier: GPL-2.0-only
"""The events of a run, as they happen: in ``events.ndjson``, and on the terminal.

A terminal has one live line for each cell: phase, elapsed time, last event. Elsewhere (a pipe, CI) each event
is a plain line.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.core.text import clean_str


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Event(msgspec.Struct, frozen=True):
    """One event: its cell (empty: the run itself), its phase, and a sentence. Its text is safe to show."""

    time: str
    cell: str
    phase: str
    text: str

    def __post_init__(self) -> None:
        """Make the text safe."""
        for field, text in (("cell", self.cell), ("phase", self.phase), ("text", self.text)):
            msgspec.structs.force_setattr(self, field, clean_str(text))


class _Line:
    def __init__(self) -> None:
        self.since = time.monotonic()
        self.phase = ""
        self.text = ""


class Events:
    """Takes events from any thread; a context manager around the run.

    ``progress`` returns the finished share of the work, and a word about the rest; a terminal shows both
    below the live lines.
    """

    def __init__(
        self,
        console: Console,
        log: Path | None = None,
        progress: Callable[[], tuple[float, str]] | None = None,
    ) -> None:
        self._console = console
        self._progress = progress
        self._log: IO[bytes] | None = log.open("ab", buffering=0) if log else None
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        plain = not console.is_terminal or bool(os.environ.get("CI"))
        self._live = None if plain else Live(console=console, get_renderable=self._view, refresh_per_second=4)

    def __enter__(self) -> Events:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._log:
            self._log.close()

    def emit(self, cell: str, phase: str, text: str) -> None:
        """Record an event that happens now."""
        self.record(Event(now(), cell, phase, text))

    def record(self, event: Event) -> None:
        """Record one event."""
        cell, phase, text = event.cell, event.phase, event.text
        with self._lock:
            if (log := self._log) and not log.closed:
                log.write(msgspec.json.encode(event) + b"\n")
            line = self._lines.setdefault(cell, _Line()) if cell else None
            if line:
                line.phase, line.text = phase, text
        if self._live is None:
            self._console.print(
                Text(f"{cell}: " if cell else "") + Text(f"{phase}: {text}" if phase else text),
                soft_wrap=True,
            )
        elif not cell or phase == "testing":
            # the line that says what is tested must not disappear with the live lines
            self._live.console.print(Text(text), soft_wrap=True)
        elif phase == "done":
            with self._lock:
                self._lines.pop(cell, None)
            assert line is not None
            elapsed = time.monotonic() - line.since
            self._live.console.print(Text(f"{cell}  {elapsed:.0f} s  {text}"))

    def reporter(self, cell: str) -> Callable[[str, str], None]:
        """``emit`` for one cell: takes phase and text."""
        return lambda phase, text: self.emit(cell, phase, text)

    def _view(self) -> RenderableType:
        table = self._table()
        if self._progress is None or not table.row_count:
            return table
        share, rest = self._progress()
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=share, width=24), Text(rest))
        return Group(table, line)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        with self._lock:
            for cell, line in self._lines.items():
                elapsed = f"{time.monotonic() - line.since:4.0f} s"
                table.add_row(
                    Text(cell, style="bold"),
                    elapsed,
                    Text(line.phase, style="cyan"),
                    Text(line.text, overflow="ellipsis", no_wrap=True),
                )
        return table
