# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import pytest
from fakes.trees import LOOKUP, SYMBOL, make_tree

from orchestrator.core.errors import UserError
from orchestrator.source.classify import TreeClass, classify, maps_uses_vma_locks


@pytest.mark.parametrize("age", list(TreeClass))
def test_three_ages(tmp_path: Path, age: TreeClass) -> None:
    assert classify(make_tree(tmp_path, age)) is age


@pytest.mark.parametrize("home", ["mm/vma_locks.c", "include/linux/vma_lock.h"])
def test_lookup_that_moved_is_found(tmp_path: Path, home: str) -> None:
    make_tree(tmp_path, "absent")
    (tmp_path / home).write_text(LOOKUP)
    assert classify(tmp_path) is TreeClass.UNIVERSAL


def test_symbol_that_moved_is_found(tmp_path: Path) -> None:
    make_tree(tmp_path, "universal")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/Kconfig.locks").write_text(SYMBOL)
    assert classify(tmp_path) is TreeClass.SELECTABLE


@pytest.mark.parametrize(
    "text", ["/* once lock_vma_under_rcu() */\n", "// lock_vma_under_rcu()\n", "int xlock_vma_under_rcu();\n"]
)
def test_a_mention_is_not_the_function(tmp_path: Path, text: str) -> None:
    make_tree(tmp_path, "absent")
    (tmp_path / "mm/memory.c").write_text(text)
    assert classify(tmp_path) is TreeClass.ABSENT


@pytest.mark.parametrize(
    "text", ["config PER_VMA_LOCK_STATS\n\tbool\n", "# config PER_VMA_LOCK\n", "\tdepends on PER_VMA_LOCK\n"]
)
def test_another_symbol_is_not_the_symbol(tmp_path: Path, text: str) -> None:
    make_tree(tmp_path, "universal")
    (tmp_path / "mm/Kconfig").write_text(text)
    assert classify(tmp_path) is TreeClass.UNIVERSAL


def test_no_tree_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no mm/"):
        classify(tmp_path)


def test_how_maps_is_read(tmp_path: Path) -> None:
    reader = make_tree(tmp_path) / "fs/proc/task_mmu.c"
    assert not maps_uses_vma_locks(tmp_path)
    reader.write_text("/* lock_next_vma() would be nice */\n")
    assert not maps_uses_vma_locks(tmp_path)
    reader.write_text("static void f(void)\n{\n\tvma = lock_next_vma(mm, iter, pos);\n}\n")
    assert maps_uses_vma_locks(tmp_path)
    reader.write_text("#ifdef CONFIG_PER_VMA_LOCK\n#endif\n")
    assert maps_uses_vma_locks(tmp_path)
    reader.unlink()
    assert not maps_uses_vma_locks(tmp_path)
