# SPDX-License-Identifier: GPL-2.0-only
"""A cell of an earlier run: which one is meant, what is said where there is none, and the guest itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.records import record
from under_test import ORCHESTRATE, SOURCE

from orchestrator.cell import record as guest_record
from orchestrator.core.errors import UserError
from orchestrator.debug import reopen
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import CellPlan, Plan
from orchestrator.results.model import Blame, Case, CellResult, Verdict
from orchestrator.run import latest


def _run(runs: Path, name: str, *cells: str, failed: str = "") -> Path:
    plans = tuple(
        CellPlan(id=c, label="x", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512)
        for c in cells
    )
    choices = Choices(arches=("x86_64",), variants=("mmap-lock",))
    folder = runs / name
    (folder / "cells").mkdir(parents=True)
    plan = Plan(choices=choices, kernels=(), cells=plans)
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    for cell in cells:
        (folder / "cells" / cell).mkdir()
    if failed:
        case = Case(id="boot", verdict=Verdict.FAIL, blame=Blame.KERNEL)
        result = CellResult(cell=failed, cases=(case,))
        (folder / "cells" / failed / "result.json").write_bytes(msgspec.json.encode(result))
    return folder


@pytest.mark.parametrize("cell", ["../../../x", "/etc", "..", "link", "x\x1b[2J"])
def test_a_plan_of_somebody_else_names_no_folder_outside(tmp_path: Path, cell: str) -> None:
    run = _run(tmp_path, "20260101-000000-aaaa", "a")
    (run / "cells/link").symlink_to(tmp_path)
    plan = msgspec.json.decode((run / "plan.json").read_bytes())
    plan["cells"][0]["id"] = cell
    (run / "plan.json").write_bytes(msgspec.json.encode(plan))
    with pytest.raises(UserError, match="leads out of that folder"):
        reopen.find(tmp_path, "last")


def test_artifacts_that_are_elsewhere(tmp_path: Path) -> None:
    run = _run(tmp_path, "20260101-000000-aaaa", "a")
    (run / "artifacts").symlink_to("/etc")
    with pytest.raises(UserError, match="'artifacts' leads out of that folder"):
        reopen.find(tmp_path, "last")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernel", "/etc/shadow"),
        ("kernel", "../../../boot/vmlinuz"),
        ("vmlinux", "../../vmlinux"),
        ("vmlinux", "artifacts/link/vmlinux"),
        ("initrds", ("artifacts/i/image.cpio", "/etc/shadow")),
        ("cell", "other"),
        ("cell", "../../other"),
        ("release", "7.2\x1b[2J"),
        ("describe", "\x9b2J"),
    ],
)
def test_a_record_of_somebody_else_cannot_read_this_host(tmp_path: Path, field: str, value: Any) -> None:
    cell = _run(tmp_path, "20260101-000000-aaaa", "c") / "cells/c"
    (cell.parents[1] / "artifacts").mkdir()
    (cell.parents[1] / "artifacts/link").symlink_to("/boot")
    (cell / guest_record.FILE).write_bytes(msgspec.json.encode(record()))
    assert guest_record.load(cell) == record()
    (cell / guest_record.FILE).write_bytes(msgspec.json.encode(record(**{field: value})))
    with pytest.raises(UserError, match=r"leads out of that folder|not the record of this cell"):
        guest_record.load(cell)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    _run(tmp_path, "20260101-000000-aaaa", "a-x86_64", "b-arm64", failed="b-arm64")
    _run(tmp_path, "20260102-000000-bbbb", "only")
    latest.link(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "run", "cell"),
    [
        ("last", "20260102-000000-bbbb", "only"),
        ("last/only", "20260102-000000-bbbb", "only"),
        ("latest", "20260102-000000-bbbb", "only"),
        ("latest/only", "20260102-000000-bbbb", "only"),
        ("{runs}/latest", "20260102-000000-bbbb", "only"),
        ("{runs}/latest/only", "20260102-000000-bbbb", "only"),
        ("{runs}/latest/cells/only", "20260102-000000-bbbb", "only"),
        ("20260102-000000-bbbb/", "20260102-000000-bbbb", "only"),
        ("20260101-000000-aaaa/b-arm64", "20260101-000000-aaaa", "b-arm64"),
        ("{runs}/20260101-000000-aaaa/a-x86_64", "20260101-000000-aaaa", "a-x86_64"),
        ("{runs}/20260102-000000-bbbb", "20260102-000000-bbbb", "only"),
        ("{runs}/20260101-000000-aaaa/cells/b-arm64/", "20260101-000000-aaaa", "b-arm64"),
    ],
)
def test_what_a_cell_is_called(runs: Path, word: str, run: str, cell: str) -> None:
    found = reopen.find(runs, word.format(runs=runs))
    assert (found.root.name, found.name) == (run, cell)
    assert found.folder == runs / run / "cells" / cell


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("20260101-000000-aaaa", "has 2 cells"),
        ("20260101-000000-aaaa/c", "has no cell 'c'"),
        ("last/c", "has no cell 'c'"),
    ],
)
def test_cells_there_are_are_named_the_failed_ones_first(runs: Path, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        reopen.find(runs, word)
    if "aaaa" in word:
        assert "aaaa/CELL: b-arm64 (failed), a-x86_64." in error.value.remedy


@pytest.mark.parametrize("word", ["nowhere", "nowhere/a", "", "/", "a/b/c"])
def test_runs_there_are_are_named(runs: Path, word: str) -> None:
    with pytest.raises(UserError, match="there is no run") as error:
        reopen.find(runs, word)
    assert "20260102-000000-bbbb" in error.value.remedy


def test_cell_without_a_guest(runs: Path) -> None:
    found = reopen.find(runs, "last")
    with pytest.raises(UserError, match="booted no guest"):
        found.record()
    path = found.folder / guest_record.FILE
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        found.record()
    assert found.accelerator() == "tcg"
    (found.folder / "qemu.json").write_text('{"argv": [], "accelerator": "kvm"}')
    assert found.accelerator() == "kvm"


def test_record_of_a_newer_version_and_lost_artifacts(runs: Path) -> None:
    found = reopen.find(runs, "last")
    path = found.folder / guest_record.FILE
    path.write_bytes(msgspec.json.encode(record(version=99)))
    with pytest.raises(UserError, match="has version 99"):
        found.record()
    path.write_bytes(msgspec.json.encode(record(cell="only")))
    with pytest.raises(UserError, match=r"bzImage is gone"), reopen.machine(found):
        pass


# --- with real guests -------------------------------------------------------------------------------------


@pytest.mark.guest
def test_shell_in_the_guest_of_a_cell(tmp_path: Path) -> None:
    """It is that kernel, with the files of the suite where it starts."""
    brought = tmp_path / "brought"
    brought.write_text("#!/bin/sh\necho I am here\n")
    brought.chmod(0o755)
    words = ["--source", SOURCE, "--arch", "x86_64", "--variant", "per-vma-lock", "--cmd", "brought"]
    words += ["--put", str(brought), "--cmdline", "hallo=1", "--smp", "3"]
    done = subprocess.run([*ORCHESTRATE, "run", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    def shell(script: str, word: str = "last") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORCHESTRATE, "shell", word], input=script, cwd=tmp_path, capture_output=True, text=True
        )

    done = shell("brought; nproc; cat /proc/cmdline; exit 7\n")
    assert done.returncode == 7, done.stderr
    first, cpus, cmdline = done.stdout.splitlines()
    assert (first, cpus) == ("I am here", "3")
    assert cmdline.endswith(" hallo=1")
    assert "programs: cmd/cmd" in done.stderr
    assert shell("nproc\n", "latest").stdout == shell("nproc\n", "runs/latest").stdout == "3\n"
    # another kernel in its place is found out
    (record,) = tmp_path.glob("runs/latest/cells/*/guest.json")
    other = record.read_text().replace('"build_id": "', '"build_id": "00')
    record.write_text(other)
    done = shell("true\n")
    assert done.returncode == 3
    assert "the cell's had 00" in done.stderr
