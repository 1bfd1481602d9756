# SPDX-License-Identifier: GPL-2.0-only
"""The splats of a console, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import msgspec

from orchestrator.core.text import one_line
from orchestrator.splat.file import Console
from orchestrator.splat.scanner import Splat

_WIDTH = 80
_MAX_NAME = 300


def as_json(splats: Iterable[Splat]) -> str:
    """One array with an object a splat; its fields are in ``docs/reference/consoles.md``."""
    return msgspec.json.format(msgspec.json.encode([_fields(splat) for splat in splats]), indent=2).decode()


def _fields(splat: Splat) -> dict[str, Any]:
    return {
        "class": splat.category.value,
        "title": splat.title,
        "function": splat.function,
        "access": splat.access,
        "fingerprint": splat.fingerprint,
        "corrupted": splat.corrupted,
        "fatal": splat.fatal,
        "first_line": splat.first_line,
        "last_line": splat.last_line,
        "user": splat.user,
        "count": splat.count,
    }


def as_text(console: Console) -> str:
    """Text for a terminal of 80 columns."""
    number = sum(splat.count for splat in console.splats) + console.dropped
    many = "no splat" if not number else f"{number} splat{'s' * (number > 1)}"
    lines = _wrapped(f"{one_line(console.name)}: {many}", "")
    for splat in console.splats:
        lines += ["", *_wrapped(splat.title, ""), *_wrapped(_about(splat), "    ")]
        # whole, on one line: it is copied
        lines += [f"    {splat.fingerprint}"]
    if console.dropped:
        lines += ["", f"and {console.dropped} more, beyond the limit of different ones"]
    if console.hidden:
        lines += ["", f"{console.hidden} hidden as known noise"]
    return "\n".join(lines)


def _about(splat: Splat) -> str:
    first, last = splat.first_line, splat.last_line
    parts = [splat.category.value, f"line {first}" if first == last else f"lines {first} to {last}"]
    parts += [splat.access] if splat.access else []
    parts += ["fatal"] if splat.fatal else []
    parts += ["corrupted: torn or cut, the function may be missing"] if splat.corrupted else []
    parts += ["written by a program, not by the kernel"] if splat.user else []
    parts += [f"{splat.count} times"] if splat.count > 1 else []
    return ", ".join(parts)


def _wrapped(text: str, indent: str) -> list[str]:
    text = one_line(text, limit=_MAX_NAME)
    return textwrap.wrap(text, _WIDTH - 1, initial_indent=indent, subsequent_indent=indent)
