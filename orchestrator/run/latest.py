# SPDX-License-Identifier: GPL-2.0-only
"""The folders in a folder of runs, and the link ``latest`` to the newest run among them.

Completion imports it: no library at the top.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: The link's name, and a word for the newest run wherever an id is expected.
NAME = "latest"
#: What every run has from its beginning on.
PLAN = "plan.json"


def begun(runs: Path, mark: str = PLAN) -> list[Path]:
    """The folders below ``runs`` that hold ``mark``, oldest first; a link to one of them is not counted."""
    return sorted(path.parent for path in runs.glob(f"*/{mark}") if not _is_alias(path.parent))


def folder(path: Path) -> Path:
    """The folder of the run that ``path`` leads to, under its own name and not the link's."""
    return path.parent / path.readlink() if _is_alias(path) else path


def link(runs: Path) -> None:
    """Let ``latest`` lead to the newest run.

    A file, a folder or another link of that name stays, and a file system without links has none.
    """
    # another run may begin between a look and the link: whoever links last has looked again
    with contextlib.suppress(OSError):
        while (newest := begun(runs)) and not _stands(runs / NAME, newest[-1].name):
            _replace(runs / NAME, newest[-1].name)


def _is_alias(path: Path) -> bool:
    return path.is_symlink() and len(path.readlink().parts) == 1


def _stands(place: Path, name: str) -> bool:
    """Whether the link is right, or something else is there that is not ours."""
    if not os.path.lexists(place):
        return False
    ours = _is_alias(place) and ((place / PLAN).exists() or not place.exists())
    return not ours or place.readlink() == Path(name)


def _replace(place: Path, name: str) -> None:
    if not os.path.lexists(place):
        # fails where somebody was faster, and destroys nothing
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
