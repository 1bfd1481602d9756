# SPDX-License-Identifier: GPL-2.0-only
"""What is in a folder. tests/source/test_identity.py has the digests of kernel trees."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fakes.trees import make_tree

from orchestrator.core import contents
from orchestrator.core.contents import digest

Describe = Callable[[Path, bytes], bytes]


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    real = contents.descriptions

    def record(top: Path, names: Sequence[bytes], describe: Describe | None = None) -> list[bytes]:
        read.extend(names)
        return real(top, names, describe)

    monkeypatch.setattr(contents, "descriptions", record)
    monkeypatch.setattr(contents, "_RACY_NS", -(10**12))
    tree = make_tree(tmp_path / "t")
    digest(tree, stat_cache=tmp_path / "stat")
    assert len(read) == len([path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()])
    read.clear()
    stat = (tree / "mm/memory.c").stat()
    (tree / "mm/memory.c").write_text("int memorz;\n")
    os.utime(tree / "mm/memory.c", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = digest(tree, stat_cache=tmp_path / "stat")
    assert read == [b"mm/memory.c"]
    assert after == digest(tree)


def test_a_file_that_changed_just_now_is_not_believed_later(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    digest(tree, stat_cache=tmp_path / "stat")
    assert contents._load(tmp_path / "stat") == {}


def test_without_a_place_for_time_stamps_it_only_takes_longer(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    (tmp_path / "file").touch()
    assert digest(tree, stat_cache=tmp_path / "file/stat") == digest(tree)
