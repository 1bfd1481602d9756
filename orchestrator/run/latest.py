# SPDX-License-Identifier: GPL-2.0-only
"""The folders of runs, and the link ``latest`` to the newest one.

Completion imports this module, so it imports no library at the top.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: The link's name, and a word for the newest run wherever an id is expected.
NAME = "latest"
#: The file that every run starts with.
PLAN = "plan.json"


def folders(runs: Path, mark: str = PLAN) -> list[Path]:
    """The folders below ``runs`` that contain ``mark``, oldest first, without links to them."""
    return sorted(path.parent for path in runs.glob(f"*/{mark}") if not _is_alias(path.parent))


def folder(path: Path) -> Path:
    """The folder of a run under its own name, if ``path`` is the link."""
    return path.parent / path.readlink() if _is_alias(path) else path


def link(runs: Path) -> None:
    """Make ``latest`` point to the newest run.

    An existing file, folder or other link of that name is left alone. A file system without links gets none.
    """
    # another run may start meanwhile: look again until the link is right
    with contextlib.suppress(OSError):
        while (newest := folders(runs)) and not _is_settled(runs / NAME, newest[-1].name):
            _replace(runs / NAME, newest[-1].name)


def _is_alias(path: Path) -> bool:
    return path.is_symlink() and len(path.readlink().parts) == 1


def _is_settled(place: Path, name: str) -> bool:
    """Whether the link is right, or something else has its name."""
    if not os.path.lexists(place):
        return False
    is_link = _is_alias(place) and ((place / PLAN).exists() or not place.exists())
    return not is_link or place.readlink() == Path(name)


def _replace(place: Path, name: str) -> None:
    if not os.path.lexists(place):
        # fails if another process was faster, and overwrites nothing
        with contextlib.suppress(FileExistsError):
            place.symlink_to(name)
        return
    with _fresh(place, name) as fresh:
        fresh.replace(place)


@contextlib.contextmanager
def _fresh(place: Path, name: str) -> Iterator[Path]:
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    fresh.symlink_to(name)
    try:
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)
