# SPDX-License-Identifier: GPL-2.0-only
"""The order of the rooms, as `make lint` enforces it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package and its configuration, to be changed."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "orchestrator", tmp_path / "orchestrator", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    """The exit status and the output of the check."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_wrong_import_fails_with_both_rooms_names(checkout: Path) -> None:
    path = checkout / "orchestrator/kernel/objdir.py"
    path.write_text(
        f"{path.read_text()}\n\ndef late() -> None:\n    from orchestrator.vm import ssh\n\n    ssh\n"
    )
    code, output = lint(checkout)
    assert code == 1
    assert "orchestrator.kernel is not allowed to import orchestrator.vm" in output
    assert "orchestrator.kernel.objdir -> orchestrator.vm.ssh" in output


def test_a_room_that_is_not_in_the_order_fails(checkout: Path) -> None:
    (checkout / "orchestrator/attic").mkdir()
    (checkout / "orchestrator/attic/__init__.py").write_text("")
    code, output = lint(checkout)
    assert code == 1
    assert "attic" in output


def test_only_rooms_lie_at_the_top_of_the_package() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "orchestrator"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    loose = {path.removeprefix("orchestrator/") for path in tracked if path.count("/") == 1}
    assert loose in ({"__init__.py"}, set()), "set(): this is no git checkout"
