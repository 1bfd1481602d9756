# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from orchestrator.core import arch, toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, UserError

#: As it is on every host but a native one.
PACKAGES = msgspec.structs.replace(arch.load("arm64").packages, gcc="gcc-weird-linux-gnu")
FOREIGN = msgspec.structs.replace(
    arch.load("arm64"), machines=("none",), cross_prefix="weird-linux-gnu-", packages=PACKAGES
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, script: str = "echo made up 1.2; echo more") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_hosts_own(host_arch: Arch) -> None:
    found = toolchain.find("gcc", host_arch)
    said = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    assert found == toolchain.Toolchain("gcc", "gcc", "gcc", said.splitlines()[0])


@pytest.mark.parametrize(
    ("name", "compiler", "tuxmake"),
    [
        ("gcc", "gcc", "gcc"),
        ("gcc-13", "gcc-13", "gcc-13"),
        ("llvm", "clang", "clang"),
        ("llvm-19", "clang-19", "clang-19"),
        ("clang", "clang", "clang"),
        ("clang-19", "clang-19", "clang-19"),
    ],
)
def test_names(tools: Path, host_arch: Arch, name: str, compiler: str, tuxmake: str) -> None:
    install(tools, compiler)
    found = toolchain.find(name, host_arch)
    assert (found.name, found.compiler, found.tuxmake, found.version) == (
        name,
        compiler,
        tuxmake,
        "made up 1.2",
    )


def test_a_cross_compiler(tools: Path) -> None:
    install(tools, "weird-linux-gnu-gcc-13")
    install(tools, "clang")
    assert toolchain.find("gcc-13", FOREIGN).compiler == "weird-linux-gnu-gcc-13"
    assert toolchain.find("llvm", FOREIGN).compiler == "clang"


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("gcc", "gcc-weird-linux-gnu"),
        ("gcc-13", "gcc-13-weird-linux-gnu"),
        ("llvm-19", "clang-19 lld-19"),
    ],
)
def test_what_is_not_installed_is_named(tools: Path, name: str, package: str) -> None:
    with pytest.raises(InfraError, match="is not installed") as caught:
        toolchain.find(name, FOREIGN)
    assert caught.value.remedy == f"Install it: apt-get install {package}"


@pytest.mark.parametrize("name", ["", "icc", "gcc-", "gcc-x", "gcc13", "gcc;true", "-gcc", "gcc\n"])
def test_a_name_that_is_no_toolchain(tools: Path, host_arch: Arch, name: str) -> None:
    with pytest.raises(UserError, match="unknown toolchain") as caught:
        toolchain.find(name, host_arch)
    assert "gcc-N" in caught.value.remedy


def test_a_compiler_that_does_not_answer(tools: Path, host_arch: Arch) -> None:
    install(tools, "gcc", "true")
    with pytest.raises(InfraError, match="gcc --version prints nothing"):
        toolchain.find("gcc", host_arch)
    install(tools, "gcc", "echo broken >&2; exit 1")
    with pytest.raises(InfraError, match="gcc --version failed: broken"):
        toolchain.find("gcc", host_arch)
