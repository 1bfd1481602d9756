# SPDX-License-Identifier: GPL-2.0-only
"""Kernels made for diagnosis, unmodified Linux 7.2 (make test-long TARGET=flavors_long): they stay silent.

Each is built, booted, worked hard and shut down; its suites are green, and the console that was kept is read
again by the verb. What can be one kernel is one, for builds are dear.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from under_test import known, orchestrate, run

from orchestrator.core import arch, data
from orchestrator.results.model import Verdict
from orchestrator.run import latest

#: Flavors of one kernel, and what keeps it busy.
KERNELS = (
    (("kasan", "lockdep"), "mm-stress"),
    (("fail", "kasan-recycle", "ubsan"), "mm-stress"),
    (("kcsan",), "mm-stress"),
    (("maple", "memleak"), "procmap-query"),
    (("wide",), "maps-coherency"),
)


@pytest.mark.long
@pytest.mark.parametrize("at", arch.usual())
@pytest.mark.parametrize(("flavors", "suite"), KERNELS, ids=["+".join(names) for names, _ in KERNELS])
def test_kernels_made_for_diagnosis_stay_silent(
    at: str, flavors: tuple[str, ...], suite: str, tmp_path: Path
) -> None:
    words = [word for name in flavors for word in ("--flavor", name)]
    code, result = run(tmp_path, "--arch", at, "--variant", "per-vma-lock", "--suite", suite, *words)
    (cell,) = result.cells
    # arm64 has no mapping outside all address spaces to ask for
    away = {"procmap-query/procmap-query/answers/gate"} if at == "arm64" else set()
    loud = [
        c
        for c in cell.all_cases()
        if c.verdict is not (Verdict.SKIP if c.id in away else Verdict.PASS) and not known(cell, c)
    ]
    assert not loud
    assert code == 0
    assert set(cell.properties["flavor"].split("+")) == set(flavors)
    (folder,) = latest.folders(tmp_path)
    assert silent(folder.glob("cells/*/console*.log")) > 0
    if "wide" in flavors:
        (told,) = folder.glob("cells/*/suites/*/*.widen.txt")
        # "…: passed 133742, delayed 13394"
        delayed = [int(line.rpartition(" ")[2]) for line in told.read_text().splitlines()]
        assert sum(map(bool, delayed)) > len(delayed) / 2


def silent(consoles: Iterable[Path]) -> int:
    """Bytes of consoles in which the verb finds nothing."""
    size = 0
    for path in consoles:
        done = orchestrate("console", "--json", path)
        assert json.loads(done.stdout) == [], path
        assert done.returncode == 0
        size += path.stat().st_size
    return size


def test_each_flavor_has_its_kernel() -> None:
    assert {name for names, _ in KERNELS for name in names} == set(data.flavors())
