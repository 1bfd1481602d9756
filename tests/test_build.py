# SPDX-License-Identifier: GPL-2.0-only
"""Configuring and building, with tuxmake and a made-up kernel tree that can be told to fail."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fakes.linux import make_linux
from fakes.processes import alive, until
from fakes.trees import snapshot

from orchestrator import arch, process
from orchestrator.errors import Inconclusive, InfraError, KernelError, UserError
from orchestrator.kernel import build as kernels
from orchestrator.kernel import toolchain
from orchestrator.kernel.kconfig import Fragment
from orchestrator.kernel.model import Kernel, KernelSpec
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.vm import elf

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
)


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_linux(tmp_path_factory.mktemp("tree") / "linux")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for all tests here, so that what many of them need is configured once."""
    return Store(tmp_path_factory.mktemp("store"))


def spec_of(tree: Tree, **changes: object) -> KernelSpec:
    host = arch.host()
    given = {
        "tree": tree,
        "tree_class": TreeClass.SELECTABLE,
        "arch": host,
        "variant": "per-vma-lock",
        "toolchain": toolchain.find("gcc", host),
    }
    return KernelSpec(**{**given, **changes})  # type: ignore[arg-type]


def build(spec: KernelSpec, store: Store, log: Path | None = None) -> Kernel:
    return kernels.build(spec, store, say=lambda _: None, log=log, jobs=1)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setenv("FAKE_LINUX", name)


def test_a_pair_is_built_once(linux: Tree, warm: Store) -> None:
    before = snapshot(linux.path)
    pair = {v: build(spec_of(linux, variant=v), warm) for v in ("per-vma-lock", "mmap-lock")}
    for variant, kernel in pair.items():
        assert kernel.release == "7.2.1"
        assert kernel.image.is_file()
        assert kernel.build_id == elf.build_id(kernel.vmlinux)
        assert ("CONFIG_PER_VMA_LOCK=y" in kernel.config.read_text()) == (variant == "per-vma-lock")
        assert "lock_vma_under_rcu" in (kernel.folder / "System.map").read_text()
        assert kernels.metadata(kernel)["results"]["status"] == "PASS"  # type: ignore[index]
        assert kernel.cpu_s > 0
        assert not kernel.cached
    assert pair["per-vma-lock"].build_id != pair["mmap-lock"].build_id
    assert snapshot(linux.path) == before, "the tree was written to"
    again = build(spec_of(linux), warm)
    assert again == msgspec.structs.replace(pair["per-vma-lock"], cached=True)
    assert list((warm.root / "builds").iterdir()) == []


def test_the_pair_differs_in_its_subject_only(linux: Tree, warm: Store) -> None:
    assert set(kernels.pair_difference(spec_of(linux), warm)) == {"PER_VMA_LOCK", "PER_VMA_LOCK_STATS"}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("error", KernelError, r"cannot build 7\.2\.1 \S+ per-vma-lock: mm/broken\.c:4:16: .undeclared. undeclared"),
        ("link", KernelError, r"mm/unlinked\.c:\S+: undefined reference to .nowhere"),
        ("odd", KernelError, r"something odd"),
        ("full", InfraError, r"the disk is full"),
        ("killed", InfraError, r"the compiler was killed"),
        ("oom", InfraError, r"killed"),
        ("missing", InfraError, r"nonexistent-flex is missing"),
        ("altered", Inconclusive, r"the build changed its own configuration: CHILD"),
        ("quiet", KernelError, r"make -"),
    ],
)
def test_a_build_that_fails(
    linux: Tree,
    warm: Store,
    tmp_path: Path,
    fault: Callable[[str], None],
    name: str,
    error: type[Exception],
    message: str,
) -> None:
    fault(name)
    # a kernel of its own: the good one is in the store
    spec = spec_of(linux, extra=(Fragment("f", "CONFIG_PARENT=y\n", ours=False),))
    log = tmp_path / "cell/build.log"
    with pytest.raises(error, match=message) as caught:
        build(spec, warm, log)
    assert type(caught.value) is error
    if name != "altered":
        assert log.stat().st_size
        assert str(log) in caught.value.remedy  # type: ignore[attr-defined]
    assert not any((warm.root / "builds").iterdir())
    kept = {path.name for path in (warm.root / "kernels").iterdir()}
    assert not any(name.startswith(".") for name in kept)
    assert not re.search(r"\bI: ", str(caught.value)), "tuxmake's summary says nothing of the cause"


def test_a_build_that_takes_too_long(
    linux: Tree, warm: Store, fault: Callable[[str], None], marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault("slow")
    monkeypatch.setenv("FAKE_LINUX_NAME", marker)
    monkeypatch.setattr(kernels, "_BUILD_LIMIT_S", 3.0)
    spec = spec_of(linux, extra=(Fragment("f", "CONFIG_PARENT=y\n", ours=False),))
    with pytest.raises(InfraError, match=r"cannot build 7\.2\.1 .*\(limit\)"):
        build(spec, warm)
    assert alive(marker) == []
