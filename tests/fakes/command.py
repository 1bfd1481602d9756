# SPDX-License-Identifier: GPL-2.0-only
"""The command as a shell would run it, but in the test's process: starting one takes a second each time."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.cli import main


class Said(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class Command:
    """``orchestrate``, called with its words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Said:
        with self._patch.context() as patch, _signals():
            patch.setattr(sys, "argv", ["orchestrate", *map(str, words)])
            # as in its script; click would name this one after `python -m pytest`
            patch.setattr(sys.modules["__main__"], "__package__", "")
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            try:
                main.main()
                code: Any = 0
            except SystemExit as stop:
                code = stop.code or 0
        return Said(code, *self._capsys.readouterr())


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Put back what is done at signals."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
