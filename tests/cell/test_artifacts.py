# SPDX-License-Identifier: GPL-2.0-only
"""What a run keeps of its inputs: linked where it can be, never something that a user edits by mistake."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orchestrator.cell import artifacts
from orchestrator.core.errors import InfraError
from orchestrator.core.store import Store
from orchestrator.kernel.spec import Kernel


def _entry(store: Store) -> Path:
    def make(folder: Path) -> None:
        (folder / "bzImage").write_bytes(b"image")
        (folder / "vmlinux").write_bytes(b"symbols")
        (folder / "config").write_bytes(b"CONFIG_A=y\n")

    return store.entry("kernels", "k", make)


def _kernel(folder: Path) -> Kernel:
    return Kernel(
        key="k",
        folder=folder,
        image=folder / "bzImage",
        vmlinux=folder / "vmlinux",
        config=folder / "config",
        release="7.2",
        build_id="",
        toolchain="gcc",
        cpu_s=0,
        cached=True,
    )


def test_kernel_is_kept_and_costs_nothing(store: Store, tmp_path: Path) -> None:
    folder = _entry(store)
    assert artifacts.keep_kernel(tmp_path / "run", _kernel(folder)) == "artifacts/k/bzImage"
    kept = tmp_path / "run/artifacts/k"
    assert sorted(path.name for path in kept.iterdir()) == ["bzImage", "config", "vmlinux"]
    assert all(path.samefile(folder / path.name) for path in kept.iterdir())
    assert not any(path.stat().st_mode & 0o222 for path in kept.iterdir())
    assert store.find("kernels", "k") == folder


def test_one_who_writes_to_it_all_the_same_does_not_fool_the_cache(store: Store, tmp_path: Path) -> None:
    artifacts.keep_kernel(tmp_path / "run", _kernel(_entry(store)))
    config = tmp_path / "run/artifacts/k/config"
    config.chmod(0o644)
    config.write_bytes(b"CONFIG_A=n\n")
    assert store.find("kernels", "k") is None
    assert (_entry(store) / "config").read_bytes() == b"CONFIG_A=y\n"
    assert config.read_bytes() == b"CONFIG_A=n\n"


def test_another_file_system_gets_a_copy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, dest: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    folder = _entry(store)
    monkeypatch.setattr(os, "link", link)
    artifacts.keep_kernel(tmp_path / "run", _kernel(folder))
    kept = tmp_path / "run/artifacts/k/vmlinux"
    assert kept.read_bytes() == b"symbols"
    assert not kept.samefile(folder / "vmlinux")
    assert not kept.stat().st_mode & 0o222
    assert not list(kept.parent.glob(".*"))


def test_cells_side_by_side_keep_the_same_thing(store: Store, tmp_path: Path) -> None:
    folder = _entry(store)
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: said.append(artifacts.keep_kernel(tmp_path / "run", _kernel(folder))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["artifacts/k/bzImage"] * 8


def test_what_is_in_no_cache_goes_by_its_content(tmp_path: Path) -> None:
    first = artifacts.keep_bytes(tmp_path, "suites.cpio", b"one")
    assert (tmp_path / first).read_bytes() == b"one"
    assert artifacts.keep_bytes(tmp_path, "suites.cpio", b"one") == first
    assert artifacts.keep_bytes(tmp_path, "suites.cpio", b"two") != first


def test_run_that_cannot_be_written_is_the_hosts_fault(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InfraError, match="cannot be written"):
        artifacts.keep_kernel(tmp_path / "run", _kernel(_entry(store)))
    with pytest.raises(InfraError, match="cannot be written"):
        artifacts.keep_bytes(tmp_path / "run", "suites.cpio", b"one")
