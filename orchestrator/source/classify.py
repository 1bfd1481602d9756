# SPDX-License-Identifier: GPL-2.0-only
"""Per-VMA locks in a tree, by its text: decides whether a with/without pair exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path

from orchestrator.core.errors import UserError


class TreeClass(StrEnum):
    """Three ages of per-VMA locks.

    ``ABSENT``: the tree is older. ``SELECTABLE``: behind ``CONFIG_PER_VMA_LOCK``, so that both legs can be
    built. ``UNIVERSAL``: without a symbol, so that there is no leg without them.
    """

    ABSENT = "absent"
    SELECTABLE = "selectable"
    UNIVERSAL = "universal"


#: The files of the lookup so far; read first, then everything beside them.
_LIKELY = ("mm/mmap_lock.c", "mm/memory.c", "include/linux/mmap_lock.h", "include/linux/mm.h")
_LOOKUP = re.compile(rb"\block_vma_under_rcu\s*\(")
_SYMBOL = re.compile(rb"^[ \t]*(?:menu)?config[ \t]+PER_VMA_LOCK[ \t]*$", re.M)
_READER = re.compile(rb"\block_next_vma\s*\(|\bCONFIG_PER_VMA_LOCK\b")
_COMMENT = re.compile(rb"/\*.*?\*/|//[^\n]*", re.S)


def classify(tree: Path) -> TreeClass:
    """Which of the three ages a kernel tree belongs to.

    :raises UserError: there is no ``mm/``.
    """
    if not (tree / "mm").is_dir():
        raise UserError(f"{tree}: no mm/ directory", remedy="name the top directory of a kernel tree")
    if not any(_mentions(path, _LOOKUP) for path in _lookup_files(tree)):
        return TreeClass.ABSENT
    if any(_SYMBOL.search(_read(path)) for path in _kconfig_files(tree)):
        return TreeClass.SELECTABLE
    return TreeClass.UNIVERSAL


def maps_uses_vma_locks(tree: Path) -> bool:
    """Whether /proc/PID/maps is read under per-VMA locks (6.17 and later).

    Where it is not, the with/without pair must show no difference in reading maps: a negative control.
    """
    return _mentions(tree / "fs/proc/task_mmu.c", _READER)


def _lookup_files(tree: Path) -> Iterator[Path]:
    likely = [tree / name for name in _LIKELY]
    others = chain(sorted((tree / "mm").glob("*.[ch]")), sorted((tree / "include/linux").glob("*.h")))
    return chain(likely, (path for path in others if path not in likely))


def _kconfig_files(tree: Path) -> Iterator[Path]:
    # the rest of the tree is read only if mm/ lacks the symbol
    yield tree / "mm/Kconfig"
    yield from sorted(tree.rglob("Kconfig*"))


def _mentions(path: Path, pattern: re.Pattern[bytes]) -> bool:
    data = _read(path)
    return bool(pattern.search(data)) and bool(pattern.search(_COMMENT.sub(b" ", data)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return b""
