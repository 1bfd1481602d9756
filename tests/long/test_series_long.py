# SPDX-License-Identifier: GPL-2.0-only
"""A real series on Linux 7.2 (make test-long TARGET=series_long): of five patches two break something."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from fakes.trees import git
from under_test import LINUX_7_2, orchestrate

from orchestrator import source
from orchestrator.core import arch
from orchestrator.core.store import default_cache
from orchestrator.results.model import Verdict
from orchestrator.series import matrix
from orchestrator.series.model import Series

pytestmark = pytest.mark.long

#: The patch that sleeps while atomic in each read of maps, and the one that arm64 does not build with.
SPLAT, BROKEN = 2, 4

_SLEEPS = """
static DEFINE_SPINLOCK(shown_lock);

static void count_shown(void)
{
	spin_lock(&shown_lock);
	might_sleep();
	spin_unlock(&shown_lock);
}

"""
_COUNTS = """
unsigned long proc_shown_total(unsigned long more);
unsigned long proc_shown_total(unsigned long more)
{
	static unsigned long total;

	return total += more;
}
"""
#: The field is there only with per-VMA locks.
_GENERATION = """
unsigned int fault_generation(const struct vm_area_struct *vma);
unsigned int fault_generation(const struct vm_area_struct *vma)
{
	return vma->vm_lock_seq;
}
"""


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """Linux 7.2 as a repository: the tag ``base`` and five commits."""
    tree = source.resolve(LINUX_7_2, cache=default_cache())
    copy = tmp_path / "linux"
    subprocess.run(["cp", "-a", "--reflink=auto", tree.path, copy], check=True)
    git(copy, "init", "-q", "-b", "main")
    git(copy, "config", "gc.auto", "0")
    # all of it: the kernel's own .gitignore passes over some files of Debian's
    git(copy, "add", "-A", "-f")
    git(copy, "commit", "-q", "-m", "Linux 7.2")
    git(copy, "tag", "base")

    def appended(name: str, text: str, subject: str) -> None:
        with (copy / name).open("a") as stream:
            stream.write(text)
        git(copy, "commit", "-q", "-a", "-m", subject)

    appended("Documentation/mm/process_addrs.rst", "\nMaps are read without mmap_lock.\n", "docs: say how")
    path = copy / "fs/proc/task_mmu.c"
    text, count = re.subn(
        r"^(static int show_map\(struct seq_file \*m, void \*v\)\n\{\n)",
        lambda found: f"{_SLEEPS.lstrip()}{found[1]}\tcount_shown();\n",
        path.read_text(),
        flags=re.M,
    )
    assert count == 1, "the patch does not fit this tree"
    path.write_text(text)
    git(copy, "commit", "-q", "-a", "-m", "proc: count what is shown")
    appended("fs/proc/util.c", _COUNTS, "proc: add up what is shown")
    appended("arch/arm64/mm/fault.c", _GENERATION, "arm64: tell a fault's generation")
    appended("fs/proc/util.c", "\n/* The sum is approximate. */\n", "proc: say that it is approximate")
    return copy


@pytest.mark.parametrize("arches", [("arm64",), tuple(arch.usual())], ids=["arm64", "all"])
def test_the_matrix_names_exactly_the_two(linux: Path, tmp_path: Path, arches: tuple[str, ...]) -> None:
    """As an mbox, under lockdep, on the architecture that one of them breaks, and on both."""
    mbox = tmp_path / "series.mbox"
    mbox.write_text(git(linux, "format-patch", "--stdout", "--cover-letter", "--base=base", "base..HEAD"))
    git(linux, "reset", "-q", "--hard", "base")
    out = tmp_path / "runs"
    done = orchestrate(
        *("series", "--source", linux, mbox, "--flavor", "lockdep", "--suite", "maps", "--out", out),
        *(word for name in arches for word in ("--arch", name)),
    )
    assert done.returncode == 1, done.stderr
    (folder,) = out.iterdir()
    check(folder, arches)


def check(folder: Path, arches: tuple[str, ...]) -> None:
    """What a folder of that series must hold."""
    series = msgspec.json.decode((folder / "series.json").read_bytes(), type=Series)
    found = matrix.judge(series)

    assert [patch.number for patch in found.culprits()] == [SPLAT, BROKEN]
    assert all(fault.exact for fault in found.of_series)
    assert not found.unattributed
    texts = {name: [entry.text for entry in entries] for name, entries in found.entries.items()}

    # what does not build: one variant of one architecture, from its patch on
    broken = {name for name, row in texts.items() if name.startswith("build ") and set(row) != {"ok"}}
    assert broken == {"build arm64 mmap-lock"}
    assert texts["build arm64 mmap-lock"] == ["ok", "ok", "ok", "ok", "FAIL", f"^{BROKEN}"]
    (fault,) = (fault for fault in found.of_series if fault.patch == BROKEN)
    assert "arch/arm64/mm/fault.c" in fault.case.reason
    assert "vm_lock_seq" in fault.case.reason

    # the splat: on every kernel, wherever maps are read first; where that is under RCU, that is said first
    splats = [
        fault
        for fault in found.of_series
        if fault.patch == SPLAT and fault.case.verdict is Verdict.CRASH
        if fault.case.reason.partition(" (and ")[0]
        == {
            "mmap-lock": "BUG: sleeping function called from invalid context in show_map",
            "per-vma-lock": "WARNING: suspicious RCU usage in show_map",
        }[fault.row.variant]
    ]
    kernels = {(a, v) for a in arches for v in ("per-vma-lock", "mmap-lock")}
    assert {(fault.row.arch, fault.row.variant) for fault in splats} == kernels

    # words and comments change no image, and what is compiled elsewhere is compiled without a new warning
    for a, v in kernels:
        assert texts[f"boot {a} {v}"][1] == "="
        assert texts[f"maps {a} {v}"][1] == "="
        assert set(texts[f"warnings {a} {v}"]) <= {"ok", "-"}
    for name in series.scope.also:
        assert set(texts[f"compile {name}"]) <= {"ok", "skip"}
        assert set(texts[f"warnings {name}"]) <= {"ok", "-"}

    # JUnit: red in these two patches alone
    suites = {suite.get("name"): suite for suite in ET.parse(folder / "junit.xml").getroot()}
    red = [name for name, suite in suites.items() if suite.get("failures") != "0"]
    assert red == ["0002 proc: count what is shown", "0004 arm64: tell a fault's generation"]
    assert "^2" in (folder / "cover.txt").read_text()
    print((folder / "cover.txt").read_text())
