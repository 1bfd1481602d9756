# SPDX-License-Identifier: GPL-2.0-only
"""The archive writer against the real cpio(1)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from fakes.archives import parse
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.vm.rootfs import cpio

SOME = [
    cpio.regular("usr/bin/tool", b"#!/bin/sh\n", 0o755),
    cpio.directory("root", 0o700),
    cpio.regular("root/secret", b"x" * 4097, 0o600),
    cpio.symlink("bin", "usr/bin"),
    cpio.char_device("dev/null", 1, 3, 0o666),
    cpio.regular("empty", b""),
]

needs_cpio = pytest.mark.skipif(not shutil.which("cpio"), reason="cpio is not installed")


def run_cpio(content: bytes, *options: str, cwd: Path) -> str:
    done = subprocess.run(["cpio", *options], input=content, capture_output=True, cwd=cwd, check=True)
    noise = [line for line in done.stderr.splitlines() if not line.endswith((b"block", b"blocks"))]
    # as root only, cpio can make the device
    assert [line for line in noise if b"Operation not permitted" not in line] == []
    return done.stdout.decode()


@needs_cpio
def test_listing_is_sorted_and_complete(tmp_path: Path) -> None:
    names = run_cpio(cpio.archive(SOME), "-t", cwd=tmp_path).splitlines()
    assert names == [
        "bin", "dev", "dev/null", "empty", "root", "root/secret", "usr", "usr/bin", "usr/bin/tool",
    ]  # fmt: skip


@needs_cpio
def test_verbose_listing_shows_owner_mode_device_and_time(tmp_path: Path) -> None:
    listing = run_cpio(cpio.archive(SOME), "-tvn", cwd=tmp_path)
    rows = {line.split()[-1]: line.split() for line in listing.splitlines() if "->" not in line}
    assert rows["dev/null"][0] == "crw-rw-rw-"
    assert "1,   3" in listing
    assert rows["root"][0] == "drwx------"
    assert rows["usr"][0] == "drwxr-xr-x"
    assert rows["usr/bin/tool"][0] == "-rwxr-xr-x"
    assert {row[2] for row in rows.values()} == {row[3] for row in rows.values()} == {"0"}
    assert "bin -> usr/bin" in listing


@needs_cpio
def test_extraction_gives_back_what_went_in(tmp_path: Path) -> None:
    run_cpio(cpio.archive(SOME), "-i", "-m", "-d", "--no-preserve-owner", cwd=tmp_path)
    assert (tmp_path / "root/secret").read_bytes() == b"x" * 4097
    assert stat.S_IMODE((tmp_path / "root/secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "empty").stat().st_mtime == 0


def test_order_of_entries_does_not_matter() -> None:
    assert cpio.archive(SOME) == cpio.archive(reversed(SOME))


def test_archives_can_follow_one_another() -> None:
    """The kernel looks for the next header at a multiple of 4, after zeros."""
    first, second = cpio.archive(SOME), cpio.archive([cpio.regular("late", b"1")])
    assert len(first) % cpio.BLOCK == 0
    found = [entry[0] for entry in parse(first + second)]
    assert "late" in found
    assert found.count("TRAILER!!!") == 2


def test_files_are_no_hard_links() -> None:
    """The kernel joins regular files of equal inode number if their link count is above 1."""
    for _, mode, links, _ in parse(cpio.archive(SOME)):
        assert links == 1 or not stat.S_ISREG(mode)


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a\0b", ".", "TRAILER!!!", "n" * 4096])
def test_wrong_paths(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be a path"):
        cpio.archive([cpio.regular(path, b"")])


def test_equal_paths_clash_even_if_spelled_differently() -> None:
    with pytest.raises(ValueError, match="twice"):
        cpio.archive([cpio.regular("a/b", b"1"), cpio.regular("a//b", b"2")])


@pytest.mark.parametrize("above", [cpio.regular("bin", b""), cpio.symlink("bin", "usr/bin")])
def test_a_path_must_not_lead_through_a_file_or_link(above: cpio.Entry) -> None:
    with pytest.raises(ValueError, match="through"):
        cpio.archive([cpio.regular("bin/sh", b""), above])


names = st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,3}", fullmatch=True)


@given(st.dictionaries(names, st.binary(max_size=40)))
def test_any_tree_can_be_parsed_again(tree: dict[str, bytes]) -> None:
    wanted = {
        path: data for path, data in tree.items() if not any(other.startswith(f"{path}/") for other in tree)
    }
    content = cpio.archive(cpio.regular(path, data) for path, data in wanted.items())
    entries = parse(content)
    assert {path: data for path, mode, _, data in entries if stat.S_ISREG(mode)} == wanted
    seen = {""}
    for path, mode, _, _ in entries[:-1]:
        assert os.path.dirname(path) in seen  # noqa: PTH120
        if stat.S_ISDIR(mode):
            seen.add(path)
