# SPDX-License-Identifier: GPL-2.0-only
"""A file is replaced whole or not at all, and what cannot be written says so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import inside, replacing, write_atomically


def test_a_file_is_written_below_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a/b/file", b"content", mode=0o600)
    assert (tmp_path / "a/b/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a/b/file").stat().st_mode) == 0o600


def test_the_umask_of_the_user_holds(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        write_atomically(tmp_path / "file", b"", mode=0o755)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o700


def test_the_content_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[list[str]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        names.append([path.name for path in tmp_path.iterdir()])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(tmp_path / "file", b"content")
    assert len(names) == 1
    assert "file" not in names[0]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InfraError, match=f"{file} cannot be written: No space left") as caught:
        write_atomically(file, b"after", remedy="Make room.")
    assert caught.value.remedy == "Make room."
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "link", "link/x", "deep/up/x", "a\nb", "\x1b[2J"]
)
def test_a_path_of_somebody_else_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to("/etc")
    (folder / "deep/up").symlink_to("../..")
    with pytest.raises(UserError, match="leads out of that folder") as error:
        inside(folder, name)
    assert error.value.message.isprintable()


@pytest.mark.parametrize("name", ["a", "a/b", "deep/down/c", "here/x", ""])
def test_a_path_in_the_folder_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "run/deep").mkdir(parents=True)
    (tmp_path / "run/here").symlink_to("deep")
    (tmp_path / "latest").symlink_to("run")
    assert inside(tmp_path / "latest", name) == tmp_path / "latest" / name


def test_an_exception_in_the_block_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"before")

    def interrupted() -> None:
        with replacing(file) as stream:
            stream.write(b"after")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
