# SPDX-License-Identifier: GPL-2.0-only
"""Hours-long proofs (make test-long): trees of other ages, and kernels broken on purpose."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from under_test import LINUX_6_1, LINUX_6_12, LINUX_7_2, orchestrate, results

from orchestrator import source
from orchestrator.core.store import default_cache
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.source.model import Tree

pytestmark = pytest.mark.long


@pytest.fixture
def mutated(tmp_path: Path) -> Callable[[str, Callable[[str], str]], Path]:
    """Linux 7.2 with one file changed."""

    def make(name: str, change: Callable[[str], str]) -> Path:
        tree: Tree = source.resolve(LINUX_7_2, cache=default_cache())
        copy = tmp_path / "linux"
        subprocess.run(["cp", "-a", tree.path, copy], check=True)
        text = (copy / name).read_text()
        changed = change(text)
        assert changed != text, "the mutation does not fit this tree"
        (copy / name).write_text(changed)
        return copy

    return make


def _without_symbol(text: str) -> str:
    return re.sub(r"^config PER_VMA_LOCK\n(?:[ \t].*\n|\n)+", "", text, count=1, flags=re.M)


def test_tree_without_per_vma_locks_is_absent() -> None:
    done = orchestrate("build", "--source", LINUX_6_1, "--arch", "all", "--configure-only")
    assert done.returncode == 0
    assert "per-VMA locks are absent" in done.stderr
    assert done.stderr.count("per-vma-lock: not applicable") == 2
    assert len(done.stdout.splitlines()) == 2


def test_tree_without_the_symbol_is_universal(
    mutated: Callable[[str, Callable[[str], str]], Path],
) -> None:
    done = orchestrate(
        "build", "--source", mutated("mm/Kconfig", _without_symbol), "--arch", "all", "--configure-only"
    )
    assert done.returncode == 0
    assert "per-VMA locks are universal" in done.stderr
    assert done.stderr.count("mmap-lock: not applicable") == 2


def test_negative_control(tmp_path: Path) -> None:
    """Linux 6.12 reads maps under mmap_lock in both variants: no difference with a scanner."""
    done = orchestrate(
        "run",
        "--source",
        LINUX_6_12,
        "--arch",
        "x86_64",
        "--suite",
        "maps",
        "--suite",
        "map-latency",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0
    result = results(tmp_path)
    assert [each.maps_read_under_vma_locks for each in result.sources] == [False]
    (found,) = result.comparisons
    ratio = next(r.ratio for r in found.comparison.ratios if r.metric == "mean_us_scanned")
    assert 0.7 <= ratio.estimate <= 1.4
    races = [c for cell in result.cells for c in cell.all_cases() if c.id == "maps/proc-maps-race"]
    assert races
    assert all(c.verdict is Verdict.NA for c in races)


def test_selftests_of_another_tree(tmp_path: Path) -> None:
    """Linux 6.12 has no proc-maps-race of its own; 7.2's runs on it, for it has PROCMAP_QUERY."""
    done = orchestrate(
        *("run", "--source", LINUX_6_12, "--selftests-from", LINUX_7_2, "--arch", "x86_64"),
        *("--variant", "per-vma-lock", "--suite", "maps", "--out", tmp_path),
    )
    assert done.returncode == 0
    cases = [c for cell in results(tmp_path).cells for c in cell.all_cases()]
    races = [c.verdict for c in cases if c.id.startswith("maps/proc-maps-race/")]
    assert len(races) >= 3
    assert set(races) == {Verdict.PASS}


def test_kernel_that_answers_a_query_wrongly_is_caught(
    mutated: Callable[[str, Callable[[str], str]], Path], tmp_path: Path
) -> None:
    """An exact PROCMAP_QUERY that gives the next VMA: only proc-pid-vm sees it, and only on x86_64."""
    tree = mutated("fs/proc/task_mmu.c", lambda text: text.replace("|| vma->vm_start <= addr)", "|| vma)", 1))
    out = tmp_path / "runs"
    done = orchestrate(
        "run",
        "--source",
        tree,
        "--arch",
        "x86_64",
        "--variant",
        "per-vma-lock",
        "--suite",
        "maps",
        "--out",
        out,
    )
    assert done.returncode == 1
    cases: dict[str, Case] = {c.id: c for cell in results(out).cells for c in cell.all_cases()}
    broken = cases["maps/proc-pid-vm"]
    assert (broken.verdict, broken.blame) == (Verdict.FAIL, Blame.KERNEL)
    assert "proc-pid-vm.c" in broken.reason
    assert all(c.verdict is Verdict.PASS for name, c in cases.items() if "proc-maps-race" in name)


def test_warning_on_every_read_of_maps_is_a_crash(
    mutated: Callable[[str, Callable[[str], str]], Path], tmp_path: Path
) -> None:
    """The tests pass, the console burns."""
    tree = mutated(
        "fs/proc/task_mmu.c",
        lambda text: text.replace(
            "static void *m_start(struct seq_file *m, loff_t *ppos)\n{\n",
            "static void *m_start(struct seq_file *m, loff_t *ppos)\n{\n\tWARN_ON_ONCE(*ppos == 0);\n",
            1,
        ),
    )
    out = tmp_path / "runs"
    done = orchestrate(
        "run",
        "--source",
        tree,
        "--arch",
        "arm64",
        "--variant",
        "per-vma-lock",
        "--suite",
        "maps",
        "--out",
        out,
    )
    assert done.returncode == 1
    cases = [c for cell in results(out).cells for c in cell.all_cases()]
    crashed = [c for c in cases if c.verdict is Verdict.CRASH]
    assert crashed
    assert all("m_start" in c.reason for c in crashed)
    assert json.loads(json.dumps([c.fingerprint for c in crashed]))
