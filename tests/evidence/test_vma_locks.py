# SPDX-License-Identifier: GPL-2.0-only
"""Locks of address spaces, as counts tell them; drgn itself is tried on kernels in make test-long."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from orchestrator.core import arch
from orchestrator.core.errors import InfraError
from orchestrator.evidence import vma_locks
from orchestrator.evidence.vma_locks import Space, Vma

WAITED = Vma(0x7F0000001000, 0x7F0000002000, 1 << 30 | 2, False)


@pytest.mark.parametrize(
    ("refcnt", "readers", "waited_for"),
    [
        (0, 0, False),
        (1, 0, False),
        (3, 2, False),
        (1 << 30, 0, True),
        (1 << 30 | 1, 0, True),
        (1 << 30 | 4, 3, True),
    ],
)
def test_what_a_count_says(refcnt: int, readers: int, waited_for: bool) -> None:
    vma = Vma(0, 4096, refcnt, False)
    assert (vma.readers, vma.waited_for) == (readers, waited_for)


def test_the_vma_that_is_waited_for_is_named() -> None:
    found = (
        Space(1, "init", "", 0, (Vma(0, 4096, 1, False),)),
        Space(210, "holders", "holders/212", 0, (Vma(4096, 8192, 1, True), WAITED)),
    )
    assert vma_locks.explain(found) == (
        "the VMA 7f0000001000-7f0000002000 of holders/210 is waited for by a writer and locked by 1 reader "
        "(vm_refcnt 0x40000002); mmap_lock is held for writing by holders/212"
    )
    assert vma_locks.explain(found[:1]) == ""
    known = "mmap_lock is held for writing by holders/212, and waited for by ps/1"
    assert vma_locks.explain(found, known).endswith("(vm_refcnt 0x40000002)")
    said = vma_locks.table(found)
    assert "init, pid 1: mmap_lock: 0 readers; 1 VMAs" in said
    assert "7f0000001000-7f0000002000 vm_refcnt 0x40000002, 1 readers, a writer waits for them" in said


def test_without_drgn_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InfraError, match="drgn is not installed"):
        vma_locks.spaces(lambda at, size: b"", 1, Path("/x"), [1], arch=arch.load("x86_64"))
