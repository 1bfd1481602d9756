# SPDX-License-Identifier: GPL-2.0-only
"""``orchestrate series --dry-run``: what was understood, and what it would cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import mails
from fakes.linux import commit_file
from fakes.trees import git, make_git_tree, snapshot

from orchestrator.cli.main import cli

pytestmark = pytest.mark.slow


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    repository = make_git_tree(tmp_path / "linux")
    git(repository, "tag", "base")
    commit_file(repository, "mm/memory.c", "int memory;\nint one;\n", "mm: one")
    commit_file(repository, "mm/memory.c", "int memory;\nint one;\nint two;\n", f"mm: two {'long ' * 20}")
    return repository


def dry_run(tmp_path: Path, *words: str | Path) -> tuple[int, str]:
    argv = ["series", "--dry-run", "--out", str(tmp_path / "runs"), *map(str, words)]
    done = CliRunner().invoke(cli, argv, env={"ORCHESTRATE_CACHE": str(tmp_path / "cache")})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert not (tmp_path / "runs").exists()
    return done.exit_code, " ".join(done.stdout.split())


def test_an_mbox(linux: Path, tmp_path: Path) -> None:
    series = mails.format_patch(linux, "-v2", "--thread", "--cover-letter", "--base=base")
    series[0] = series[0].replace(b"*** SUBJECT HERE ***", b"mm: both")
    old = [re.sub(rb"\.[0-9]{10}\.git", b".1.git", m) for m in mails.format_patch(linux, "-v1", "--thread")]
    file = tmp_path / "s.mbox"
    file.write_bytes(b"".join([*old, *series, mails.reply(series[1], "SV: ", body=mails.body_of(series[2]))]))
    before = snapshot(linux)
    code, text = dry_run(tmp_path, "--source", linux, file, "--also-build", "none", "--arch", "x86_64")
    assert snapshot(linux) == before
    assert code == 0
    assert "s.mbox: v2 'mm: both', 2 patches" in text
    base = git(linux, "rev-parse", "base")[:12]
    assert re.search(rf"base {base} one 1 [0-9a-f]{{12}} mm: one 2 [0-9a-f]{{12}} mm: two long long", text)
    assert "- s.mbox: v1 (2 patches) is left out: v2 is newer" in text
    assert "- s.mbox: 'SV: [PATCH v2 1/2] mm: one' is left out: a reply with a diff" in text
    assert "Prerequisites: the mails name none." in text
    assert "Builds on x86_64: 6 kernels, not known on this host yet." in text
    assert re.search(r"Boots with maps, .*: at most 6, time not known yet\.", text)
    assert "Boots with map-latency: 20, time not known yet." in text
    assert text.endswith("Nothing was built or booted.")


def test_a_range(linux: Path, tmp_path: Path) -> None:
    code, text = dry_run(tmp_path, "--source", linux, "base..", "--variant", "mmap-lock", "--no-bench")
    assert code == 0
    # as root there is a line about that before it
    assert "base..: 2 patches base " in text
    assert "3 kernels" in text
    assert "Only compiled: riscv-allmod" in text
    assert not {"Prerequisites", "map-latency"} & set(re.split(r"[\s:]", text))


def test_what_was_needed_is_listed(linux: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.mbox"
    file.write_bytes(b"".join(mails.format_patch(linux, "--base=base", which="HEAD~1..HEAD")))
    code, text = dry_run(tmp_path, "--source", f"{linux}@HEAD~1", file)
    assert code == 0
    assert re.search(r"Prerequisites: patch-id [0-9a-f]{40}\.", text)
