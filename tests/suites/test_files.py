# SPDX-License-Identifier: GPL-2.0-only
"""Which files of the user's go into a guest: every kind of file that a folder may hold."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orchestrator.core.errors import UserError
from orchestrator.suites.files import LIMIT_FILES, LIMIT_MIB, files_of_suite, files_to_put


@pytest.fixture
def put(tmp_path: Path) -> Path:
    folder = tmp_path / "put"
    folder.mkdir()
    return folder


def both(folder: Path) -> dict[str, Path]:
    """What ``--put`` and ``files`` of a suite make of a folder, which is the same."""
    files = files_to_put([folder])
    assert files == files_of_suite(folder.parent, [folder.name], what="suite")
    return files


def test_empty_folders(put: Path) -> None:
    (put / "out").mkdir()
    (put / "deep/down/there").mkdir(parents=True)
    (put / "data").write_text("x")
    assert both(put) == {
        "put/data": put / "data",
        "put/deep/down/there": put / "deep/down/there",
        "put/out": put / "out",
    }


def test_a_folder_that_is_empty_itself(put: Path) -> None:
    assert both(put) == {"put": put}


def test_empty_folders_count(put: Path) -> None:
    for number in range(LIMIT_FILES + 1):
        (put / str(number)).mkdir()
    with pytest.raises(UserError, match=f"{LIMIT_FILES} files"):
        files_to_put([put])


def test_links_to_files_are_followed(put: Path) -> None:
    (put / "file").write_text("x")
    (put / "link").symlink_to("file")
    (put / "hard").hardlink_to(put / "file")
    (put / "absolute").symlink_to(put / "file")
    assert sorted(both(put)) == ["put/absolute", "put/file", "put/hard", "put/link"]


def dangling(place: Path) -> None:
    place.symlink_to("nosuch")


def loop(place: Path) -> None:
    place.symlink_to(place.name)


def to_a_folder(place: Path) -> None:
    place.symlink_to("/")


def unix_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))


def device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def huge(place: Path) -> None:
    with place.open("wb") as stream:
        stream.truncate((LIMIT_MIB << 20) + 1)


@pytest.mark.parametrize("make", [dangling, loop, to_a_folder, os.mkfifo, unix_socket, device, huge])
def test_what_cannot_be_copied_is_named(put: Path, make: object) -> None:
    assert callable(make)
    make(put / "odd")
    with pytest.raises(UserError) as error:
        files_to_put([put])
    assert str(put / "odd") in error.value.message or make is huge


@pytest.mark.parametrize("name", [b"a\nb", b"tab\there", b"caf\xe9", b"\x1b[31mred", "\u202egnp".encode()])
def test_names_that_a_guest_cannot_have(put: Path, name: bytes) -> None:
    """Told before anything is built."""
    (put / "deep").mkdir()
    Path(os.fsdecode(os.fsencode(put / "deep") + b"/" + name)).write_text("x")
    with pytest.raises(UserError, match="has no printable name") as error:
        files_to_put([put])
    assert error.value.message.isprintable()


@pytest.mark.parametrize("name", ["with space", "$(reboot)", "-rf", "ü", "線", "a" * 255])
def test_names_that_it_can(put: Path, name: str) -> None:
    (put / name).write_text("x")
    assert both(put) == {f"put/{name}": put / name}
