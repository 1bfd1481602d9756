# SPDX-License-Identifier: GPL-2.0-only
"""Markdown from text that a patch, a compiler or a guest may have written."""

from __future__ import annotations


def escape(text: str) -> str:
    """Text on one line that Markdown shows as it is, in a table too."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def code(text: str) -> str:
    """A word as code, in a table too."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`".replace("|", "\\|")


def row(*cells: str) -> str:
    """A row of a table; the cells are Markdown."""
    return f"| {' | '.join(cells)} |"
