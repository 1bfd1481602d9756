# SPDX-License-Identifier: GPL-2.0-only
"""What of a user's shell reaches a build, and what the user is told of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.core import environment

#: The shell of somebody who builds kernels for boards all day, and of a CI system.
DIRTY = {
    "ARCH": "arm64",
    "CROSS_COMPILE": "aarch64-linux-gnu-",
    "LLVM": "1",
    "CC": "clang",
    "CFLAGS": "-O0",
    "KCFLAGS": "-DX",
    "KCPPFLAGS": "-DX",
    "HOSTCFLAGS": "-DX",
    "MAKEFLAGS": "-j8 -k",
    "GNUMAKEFLAGS": "-k",
    "MAKEFILES": "/tmp/other.mk",
    "KBUILD_OUTPUT": "/tmp/o",
    "KCONFIG_ALLCONFIG": "/tmp/x",
    "KERNELRELEASE": "9.9.9",
    "LOCALVERSION": "-mine",
    "INSTALL_MOD_PATH": "/tmp/m",
    "W": "1",
    "O": "/tmp/o",
    "CCACHE_PREFIX": "distcc",
    "CPATH": "/tmp/include",
    "C_INCLUDE_PATH": "/tmp/include",
    "LIBRARY_PATH": "/tmp/lib",
    "GCC_EXEC_PREFIX": "/tmp/",
    "LD_PRELOAD": "/tmp/none.so",
    "PYTHONPATH": "/tmp/python",
    "PERL5LIB": "/tmp/perl",
    "TUXMAKE": "--fail",
    "BASH_ENV": "/tmp/rc",
    "ENV": "/tmp/rc",
    "SHELLOPTS": "xtrace",
    "LC_ALL": "de_DE.UTF-8",
    "LANGUAGE": "de",
    "GITHUB_TOKEN": "secret",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "XDG_CONFIG_HOME": "/tmp/config",
    "HOME": "/home/somebody",
}


def test_a_build_sees_the_path_and_nothing_that_changes_it() -> None:
    bare = environment.environment({"PATH": "/bin", "HOME": "/home/somebody"})
    assert environment.environment(DIRTY | {"PATH": "/bin"}) == bare
    assert bare == {"PATH": "/bin", "HOME": "/proc/nonexistent", "LC_ALL": "C.UTF-8"}
    assert environment.environment({})["PATH"]


def test_no_program_of_the_tree_is_taken_for_one_of_the_host() -> None:
    assert environment.environment({"PATH": ".:/usr/bin::bin:~/bin:/bin"})["PATH"] == "/usr/bin:/bin"
    assert environment.environment({"PATH": "."})["PATH"] == os.defpath


def test_rustup_finds_its_compilers(tmp_path: Path) -> None:
    (tmp_path / ".rustup").mkdir()
    assert environment.environment({"HOME": str(tmp_path)})["RUSTUP_HOME"] == str(tmp_path / ".rustup")
    named = {"HOME": str(tmp_path), "RUSTUP_HOME": "/opt/rust"}
    assert environment.environment(named)["RUSTUP_HOME"] == "/opt/rust"


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ({"ARCH": "arm64"}, ("ARCH (use --arch)",)),
        (
            {"CROSS_COMPILE": "x-", "LLVM": "1", "ARCH": "arm64"},
            ("ARCH (use --arch)", "CROSS_COMPILE, LLVM (use --toolchain)"),
        ),
        ({"MAKEFLAGS": "-j8"}, ("MAKEFLAGS (use --jobs)",)),
        (
            {"KCONFIG_ALLCONFIG": "x", "KBUILD_OUTPUT": "y"},
            ("KBUILD_OUTPUT, KCONFIG_ALLCONFIG (use --kconfig",),
        ),
        ({"CFLAGS": "-O0", "ARCH": "arm"}, ("ARCH (use --arch)", "; CFLAGS")),
        ({"CCACHE_DIR": "/x"}, ("environment: CCACHE_DIR",)),
    ],
)
def test_the_user_is_told_in_a_line(shell: dict[str, str], words: tuple[str, ...]) -> None:
    line = environment.ignored(shell)
    assert all(word in line for word in words), line
    assert "\n" not in line


def test_an_ordinary_shell_needs_no_line() -> None:
    shell = {
        "PATH": "/bin",
        "HOME": "/root",
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
        "EDITOR": "vi",
        "ARCH": "",
    }
    assert environment.ignored(shell) == ""
