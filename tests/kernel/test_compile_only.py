# SPDX-License-Identifier: GPL-2.0-only
"""Configurations that are only compiled: a file each, and what make comes to with a made-up tree."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from orchestrator.core import data
from orchestrator.core.errors import Inconclusive, InfraError, KernelError, UserError
from orchestrator.kernel import build_warnings, compile_only
from orchestrator.kernel.compile_only import Config
from orchestrator.source.model import Tree

needs_make = pytest.mark.skipif(
    not all(map(shutil.which, ("make", "gcc"))), reason="make and gcc are not installed"
)

MAKEFILE = """\
defconfig:
	[ -f $(O)/.config ] || printf 'CONFIG_MMU=y\\nCONFIG_SMP=y\\n' >$(O)/.config
olddefconfig:
	sed -i s/CONFIG_STUBBORN=n/CONFIG_STUBBORN=y/ $(O)/.config
	[ "$(ARCH)" != stubborn ] || echo CONFIG_SMP=y >$(O)/.config
mm/: $(patsubst %.c,$(O)/%.o,$(wildcard mm/*.c))
	mkdir -p $(O)/mm
$(O)/%.o: %.c
	@mkdir -p $(dir $@)
	@echo '  CC      $*.o'
	@$(CROSS_COMPILE)gcc -c -o $@ $<
"""


@pytest.mark.parametrize("name", compile_only.names())
def test_each_file_is_whole_and_documented(name: str) -> None:
    config = compile_only.load(name)
    assert config.description
    assert config.cross_prefix.endswith("-")
    assert config.package == f"gcc-{config.cross_prefix.rstrip('-').replace('_', '-')}"
    assert all(target.endswith("/") for target in config.targets)
    docs = Path(data.kconfigs()).parent / "docs"
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (docs / "reference/series.md").read_text(), re.M)
    assert config.package in row
    assert f"`{name}`" in (docs / "reference/cli/series.md").read_text()


def test_what_such_series_have_broken_is_there() -> None:
    found = {name: compile_only.load(name) for name in compile_only.names()}
    assert "# CONFIG_SMP is not set" in found["x86_64-up"].symbols
    assert found["riscv-nommu"].config == "nommu_virt_defconfig"
    assert found["riscv-allmod"].config == "allmodconfig"
    assert {config.targets for config in found.values()} == {("mm/", "fs/proc/")}


def test_names_of_the_option() -> None:
    assert compile_only.check_names(()) == compile_only.names()
    assert compile_only.check_names(("none",)) == ()
    assert compile_only.check_names(("riscv-nommu", "riscv-nommu")) == ("riscv-nommu",)
    with pytest.raises(UserError, match="unknown configuration 'vax'") as caught:
        compile_only.check_names(("vax",))
    assert "riscv-nommu" in caught.value.remedy
    with pytest.raises(UserError, match="excludes all others"):
        compile_only.check_names(("none", "riscv-nommu"))


def config_of(**changes: object) -> Config:
    given = {
        "name": "made-up", "description": "", "make_arch": "x", "machines": (), "cross_prefix": "",
        "package": "gcc-x", "config": "defconfig", "targets": ("mm/",),
        "symbols": ("# CONFIG_SMP is not set",),
    }  # fmt: skip
    return Config(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    top = tmp_path / "linux"
    (top / "mm").mkdir(parents=True)
    (top / "Makefile").write_text(MAKEFILE)
    (top / "mm/a.c").write_text("int a;\n#warning odd\n")
    (top / "mm/b.c").write_text("int b;\n")
    return Tree(path=top, spec="", kind="directory", digest="d", version="7.2.1")


def test_no_compiler(tree: Tree, tmp_path: Path) -> None:
    config = config_of(cross_prefix="nowhere-")
    assert config.missing == "nowhere-gcc is not installed: apt-get install gcc-x"
    with pytest.raises(InfraError, match="nowhere-gcc is not installed"):
        compile_only.compile_(config, tree, tmp_path / "o", tmp_path / "log")


@needs_make
def test_only_what_changed_is_compiled_and_all_warnings_are_known(tree: Tree, tmp_path: Path) -> None:
    config, objects, log = config_of(), tmp_path / "o", tmp_path / "logs/log"

    def once() -> build_warnings.Ledger:
        return compile_only.compile_(config, tree, objects, log, jobs=1)

    first = once()
    assert [said.line for said in first["mm/a"]] == ["mm/a.c:2:2: warning: #warning odd [-Wcpp]"]
    (tree.path / "mm/b.c").write_text("int b = 2;\n#warning more\n")
    again = once()
    assert "CC      mm/a.o" not in log.read_text()
    assert again["mm/a"] == first["mm/a"]
    assert build_warnings.new(first, again) == ["mm/b.c:2:2: warning: #warning more [-Wcpp]"]


@needs_make
def test_what_does_not_compile(tree: Tree, tmp_path: Path) -> None:
    (tree.path / "mm/b.c").write_text("int b = undeclared;\n")
    with pytest.raises(KernelError, match=r"cannot compile 7\.2\.1 made-up: mm/b\.c:1:9: .undeclared."):
        compile_only.compile_(config_of(), tree, tmp_path / "o", tmp_path / "log", jobs=1)
    # what its other files warned of is not forgotten
    (tree.path / "mm/b.c").write_text("int b;\n")
    assert "mm/a" in compile_only.compile_(config_of(), tree, tmp_path / "o", tmp_path / "log", jobs=1)


@needs_make
def test_a_request_that_is_lost_and_a_target_that_is_empty(tree: Tree, tmp_path: Path) -> None:
    config = config_of(make_arch="stubborn")
    with pytest.raises(Inconclusive, match="request lost: CONFIG_SMP=n"):
        compile_only.compile_(config, tree, tmp_path / "o", tmp_path / "log")
    shutil.rmtree(tree.path / "mm")
    with pytest.raises(Inconclusive, match="made nothing in mm/"):
        compile_only.compile_(config_of(), tree, tmp_path / "p", tmp_path / "log")


@needs_make
@pytest.mark.parametrize("killed", ["the process", "the compiler"])
def test_what_was_killed_is_begun_anew(tree: Tree, tmp_path: Path, killed: str) -> None:
    config, place = config_of(), tmp_path / "o"
    first = compile_only.compile_(config, tree, place, tmp_path / "log", jobs=1)
    if killed == "the process":
        (place / "unfinished").touch()
    else:
        (tree.path / "mm/b.c").write_text("int b = undeclared;\n")
        with (tree.path / "Makefile").open("a") as makefile:
            makefile.write("$(info gcc: fatal error: Killed signal terminated program cc1)\n")
        with pytest.raises(InfraError, match="the compiler was killed"):
            compile_only.compile_(config, tree, place, tmp_path / "log", jobs=1)
        (tree.path / "mm/b.c").write_text("int b;\n")
        (tree.path / "Makefile").write_text(MAKEFILE)
    (place / "o/mm/a.o").write_bytes(b"torn")
    assert compile_only.compile_(config, tree, place, tmp_path / "log", jobs=1) == first
    assert (place / "o/mm/a.o").read_bytes() != b"torn"


@needs_make
def test_what_is_whole_is_not_compiled_again(tree: Tree, tmp_path: Path) -> None:
    config, place, log = config_of(), tmp_path / "o", tmp_path / "log"
    compile_only.compile_(config, tree, place, log, jobs=1)
    (tree.path / "mm/b.c").write_text("int b = undeclared;\n")
    with pytest.raises(KernelError):
        compile_only.compile_(config, tree, place, log, jobs=1)
    with pytest.raises(Inconclusive, match="request lost"):
        compile_only.compile_(config_of(make_arch="stubborn"), tree, place, log, jobs=1)
    (tree.path / "mm/b.c").write_text("int b;\n")
    compile_only.compile_(config, tree, place, log, jobs=1)
    assert "CC      mm/b.o" in log.read_text()
    assert "CC      mm/a.o" not in log.read_text()
