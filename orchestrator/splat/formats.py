# SPDX-License-Identifier: GPL-2.0-only
"""What differs in reports between architectures: ``reports`` of each file in ``core/arch/``, put together.

A console is read without knowing which architecture it is from: what any of them prints is understood.
"""

from __future__ import annotations

from typing import Literal

from orchestrator.core import arch

Field = Literal[
    "pc",
    "link",
    "registers",
    "trace",
    "walker",
    "jump",
    "system_call",
    "entry",
    "irq_entry",
    "trap_entry",
    "bug_handler",
]
_BOOTED = tuple(arch.load(name).reports for name in arch.names())


def pattern(field: Field, *more: str) -> str:
    """A regular expression for what any architecture has as ``field``.

    :param more: what belongs to no architecture, or to one that is only read and never booted.
    """
    return "|".join(filter(None, (*(getattr(reports, field) for reports in _BOOTED), *more)))


def plumbing() -> tuple[str, ...]:
    """The architectures' own functions that are not blamed while there is another, as patterns."""
    return tuple(word for reports in _BOOTED for word in reports.plumbing)
