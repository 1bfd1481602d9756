# SPDX-License-Identifier: GPL-2.0-only
"""Configuring and building, with tuxmake and a made-up kernel tree that can be told to fail."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from fakes.builds import build, spec_of
from fakes.linux import make_linux, path_with_fault
from fakes.processes import alive
from fakes.trees import snapshot

from orchestrator.core import arch, data, elf, toolchain
from orchestrator.core.errors import Inconclusive, InfraError, KernelError, OrchestrateError, UserError
from orchestrator.core.store import Store, file_digest
from orchestrator.kernel import build as kernels
from orchestrator.kernel import debug_build
from orchestrator.kernel.kconfig import Fragment
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
    ),
]


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_linux(tmp_path_factory.mktemp("tree") / "linux")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for all tests here, so that what many of them need is configured once."""
    return Store(tmp_path_factory.mktemp("store"))


def test_a_debug_build_that_is_not_there_is_not_configured(linux: Tree, store: Store) -> None:
    assert debug_build.find(spec_of(linux), store) is None
    assert not list(store.root.glob("configs/*/config"))
    configured = kernels.configure(debug_build.spec_of(spec_of(linux)), store)
    assert kernels.is_configured(debug_build.spec_of(spec_of(linux)), store)
    assert "CONFIG_DEBUG_INFO=y" in configured.path.read_text()
    assert debug_build.find(spec_of(linux), store) is None


def test_a_pair_is_built_once(linux: Tree, warm: Store) -> None:
    before = snapshot(linux.path)
    pair = {v: build(spec_of(linux, variant=v), warm) for v in ("per-vma-lock", "mmap-lock")}
    for variant, kernel in pair.items():
        assert kernel.release == "7.2.1"
        assert kernel.image.is_file()
        assert kernel.vmlinux
        assert kernel.config
        assert kernel.build_id == elf.build_id(kernel.vmlinux)
        assert ("CONFIG_PER_VMA_LOCK=y" in kernel.config.read_text()) == (variant == "per-vma-lock")
        assert "lock_vma_under_rcu" in (kernel.folder / "System.map").read_text()
        assert json.loads((kernel.folder / "tuxmake.json").read_text())["results"]["status"] == "PASS"
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
        (
            "error",
            KernelError,
            r"cannot build 7\.2\.1 \S+ per-vma-lock: mm/broken\.c:4:16: .undeclared. undeclared",
        ),
        ("full", InfraError, r"the disk is full"),
        ("killed", InfraError, r"the compiler was killed"),
        ("altered", Inconclusive, r"the build changed its own configuration: CHILD"),
        ("slow", InfraError, r"\(limit\)"),
    ],
)
def test_a_build_that_fails(
    linux: Tree,
    warm: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    marker: str,
    name: str,
    error: type[OrchestrateError],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", path_with_fault(tmp_path / "fault", name, marker))
    if name == "slow":
        monkeypatch.setattr(kernels, "_BUILD_LIMIT_S", 2.0)
    # a kernel of its own: the good one is in the store
    spec = spec_of(linux, extra=(Fragment("f", "CONFIG_PARENT=y\n", built_in=False),))
    log = tmp_path / "cell/build.log"
    with pytest.raises(error, match=message) as caught:
        build(spec, warm, log)
    assert type(caught.value) is error
    if name != "altered":
        assert log.stat().st_size
        assert str(log) in caught.value.remedy
    assert not any((warm.root / "builds").iterdir())
    assert not any(path.name.startswith(".") for path in (warm.root / "kernels").iterdir())
    assert alive(marker) == []


def test_the_banner_says_nothing_of_the_host(linux: Tree, warm: Store) -> None:
    kernel = build(spec_of(linux), warm)
    assert kernel.vmlinux
    assert b"(orchestrate@orchestrate)#1@0\0" in kernel.vmlinux.read_bytes()


def test_the_shell_of_a_kernel_developer_changes_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_linux(tmp_path / "linux")
    spy = f"\n.PHONY: spy\nspy:\n\t@env | sort >>{tmp_path}/spy\n\nall tinyconfig olddefconfig: spy\n"
    with (tree.path / "Makefile").open("a") as makefile:
        makefile.write(spy)
    # scratch files at the top of a tree shadow Python's own modules
    for name in ("platform", "json", "random", "tuxmake", "logging"):
        (tree.path / f"{name}.py").write_text("raise SystemExit('imported from the tree')\n")
    (tmp_path / "python/tuxmake").mkdir(parents=True)
    (tmp_path / "python/tuxmake/__init__.py").write_text("raise SystemExit('of PYTHONPATH')\n")
    (tmp_path / "python/sitecustomize.py").write_text("raise SystemExit('of PYTHONPATH')\n")
    dirty = {
        "ARCH": "arm64" if arch.host().name != "arm64" else "x86_64",
        "CROSS_COMPILE": "none-linux-gnu-",
        "LLVM": "1",
        "CFLAGS": "-DORC_LEAK",
        "KCFLAGS": "-DORC_LEAK",
        "HOSTCFLAGS": "-DORC_LEAK",
        "CPATH": "/orc-leak",
        "MAKEFLAGS": "-j8 ORC=leak",
        "MAKEFILES": "/orc-leak",
        "KCONFIG_CONFIG": "/orc-leak",
        "TUXMAKE": "--orc-leak",
        "GITHUB_TOKEN": "orc-leak",
        "PYTHONPATH": str(tmp_path / "python"),
        "LC_ALL": "de_DE.UTF-8",
    }
    with monkeypatch.context() as shell:
        for name, value in dirty.items():
            shell.setenv(name, value)
        of_dirty = build(spec_of(tree), store)
    seen = (tmp_path / "spy").read_text()
    assert "leak" not in seen.casefold()
    assert f"HOME={os.environ['HOME']}\n" not in seen
    assert not {"ARCH=", "CROSS_COMPILE=", "LLVM="} & {line.split("=")[0] + "=" for line in seen.splitlines()}
    # the same key, and the same kernel from an empty cache
    assert build(spec_of(tree), store) == msgspec.structs.replace(of_dirty, cached=True)
    bare = build(spec_of(tree), Store(tmp_path / "bare"))
    assert (bare.key, bare.build_id) == (of_dirty.key, of_dirty.build_id)
    assert file_digest(bare.image) == file_digest(of_dirty.image)


def test_another_linker_makes_another_configuration(
    linux: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH is let through; what it selects is in the key."""
    store = Store(tmp_path / "cache")
    kernels.configure(spec_of(linux), store)
    for program in ("ld", "pahole"):
        (tmp_path / program).write_text("#!/bin/sh\necho another one 99\n")
        (tmp_path / program).chmod(0o755)
        with monkeypatch.context() as shell:
            shell.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            assert not kernels.is_configured(spec_of(linux), store)
        (tmp_path / program).unlink()
    assert kernels.is_configured(spec_of(linux), store)


def test_a_compiler_of_some_version_is_the_one_that_compiles(
    linux: Tree, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gcc-99").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/log\nexec gcc "$@"\n')
    (tmp_path / "gcc-99").chmod(0o755)
    real = shutil.which("gcc")
    assert real
    (tmp_path / "gcc-99").write_text((tmp_path / "gcc-99").read_text().replace("exec gcc", f"exec {real}"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    build(spec_of(linux, toolchain=toolchain.find("gcc-99", arch.host())), store)
    assert "mmap_lock.c" in (tmp_path / "log").read_text()


def test_a_request_of_the_users_that_is_lost(linux: Tree, warm: Store) -> None:
    text = "# mine\nCONFIG_NOSUCH=y\nCONFIG_CHILD=y\n# CONFIG_MULTIUSER is not set\n"
    with pytest.raises(UserError) as caught:
        kernels.configure(spec_of(linux, extra=(Fragment("my.config", text, built_in=False),)), warm)
    assert caught.value.message == (
        "kconfig request lost: CONFIG_NOSUCH=y (my.config:2) became n; this tree has no such symbol; "
        "CONFIG_CHILD=y (my.config:3) became n; it depends on PARENT, and PARENT is not set (mm/Kconfig)"
    )


def test_a_request_of_ours_that_is_lost(store: Store, tmp_path: Path) -> None:
    tree = make_linux(tmp_path / "linux", without="EPOLL")
    with pytest.raises(Inconclusive, match=r"CONFIG_EPOLL=y \(kconfigs/base.config:\d+\).*no such symbol"):
        kernels.configure(spec_of(tree), store)


def test_a_pair_that_is_not_fair(store: Store, tmp_path: Path) -> None:
    more = 'config SURPLUS\n\tint "x"\n\tdefault 3\n\tdepends on PER_VMA_LOCK\n'
    tree = make_linux(tmp_path / "linux", more=more)
    with pytest.raises(Inconclusive, match=r"SURPLUS differs too \(3, n\)"):
        kernels.pair_difference(spec_of(tree), store)


def test_trees_without_a_choice_have_no_pair(linux: Tree, warm: Store) -> None:
    for age in (TreeClass.ABSENT, TreeClass.UNIVERSAL):
        assert kernels.pair_difference(spec_of(linux, tree_class=age), warm) == {}


def test_a_base_of_the_users(linux: Tree, warm: Store) -> None:
    base = "".join(f"{line}\n" for line in (data.kconfigs() / "base.config").read_text().splitlines())
    spec = spec_of(linux, base=base.replace("CONFIG_EPOLL=y", "# CONFIG_EPOLL is not set"))
    symbols = kernels.configure(spec, warm).symbols
    assert "EPOLL" not in symbols, "our choice overrode the user's base"
    assert symbols["IKCONFIG"] == symbols["PER_VMA_LOCK"] == "y"


def test_a_tree_that_cannot_be_configured(store: Store, tmp_path: Path) -> None:
    tree = make_linux(tmp_path / "linux")
    (tree.path / "scripts/kconfig/conf.py").write_text("raise SystemExit('conf: syntax error')\n")
    with pytest.raises(KernelError, match=r"cannot configure 7\.2\.1 .*conf: syntax error"):
        kernels.configure(spec_of(tree), store)


def test_a_torn_kernel_is_built_again(linux: Tree, warm: Store) -> None:
    kernel = build(spec_of(linux), warm)
    os.truncate(kernel.image, 10)
    again = build(spec_of(linux), warm)
    assert not again.cached
    assert again.image.stat().st_size > 10
