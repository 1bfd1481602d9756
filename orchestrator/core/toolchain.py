# SPDX-License-Identifier: GPL-2.0-only
"""The compilers of this host."""

from __future__ import annotations

import re

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.environment import environment
from orchestrator.core.errors import InfraError, unknown
from orchestrator.core.process import require, tool


class Toolchain(msgspec.Struct, frozen=True):
    """``name`` as requested (``gcc``, ``gcc-13``, ``llvm``, ``clang-19``), ``version`` as printed."""

    name: str
    tuxmake: str
    compiler: str
    version: str

    @property
    def family(self) -> str:
        """``gcc`` or ``clang``."""
        return "gcc" if self.tuxmake.startswith("gcc") else "clang"

    @property
    def major(self) -> int:
        """The compiler's major version, 0 if it prints none."""
        # Debian's own version stands in parentheses before it
        match = re.search(r"(\d+)\.\d+", re.sub(r"\(.*?\)", "", self.version))
        return int(match[1]) if match else 0


def find(name: str, arch: Arch) -> Toolchain:
    """The toolchain of that name for an architecture.

    :raises UserError: the name is not a toolchain.
    :raises InfraError: its compiler is not installed.
    """
    match = re.fullmatch(r"(gcc|llvm|clang)(-\d+)?", name)
    if match is None:
        number = (re.findall(r"[0-9]+", name) or ["N"])[0]
        versions = {f"{each}-{number}": f"{each}-{number}" for each in ("gcc", "llvm", "clang")}
        raise unknown("toolchain", name, ("gcc", "gcc-N", "llvm", "llvm-N"), aliases=versions)
    family, version = match[1], match[2] or ""
    if family == "gcc":
        compiler = f"{arch.compiler_prefix}gcc{version}"
        package, tuxmake = arch.gcc_package(version), f"gcc{version}"
    else:
        compiler, package, tuxmake = f"clang{version}", f"clang{version} lld{version}", f"clang{version}"
    require(compiler, remedy=f"Install it: apt-get install {package}")
    lines = tool([compiler, "--version"], env=environment()).splitlines()
    if not lines:
        raise InfraError(f"{compiler} --version prints nothing")
    return Toolchain(name, tuxmake, compiler, lines[0])
