# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own selftests, compiled from a tree that is only read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from orchestrator.core import host_faults, toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, KernelError
from orchestrator.core.store import Store, digest_of
from orchestrator.kernel import make
from orchestrator.source.model import Tree

_LIMIT_S = 900.0


def build_selftests(
    tree: Tree, directory: str, *, arch: Arch, store: Store, log: Path, sandboxed: bool = False
) -> dict[str, Path]:
    """The programs of one kselftest directory of a tree, by name; what does not compile is not among them.

    The tree is only read: ``OUTPUT`` is in the store. Headers come from the tree's tools/include/uapi.

    :param log: where a copy of make's output goes.
    :param sandboxed: whether makefiles run in a sandbox.
    :raises KernelError: the tree has no such directory, or nothing in it compiles.
    """
    place = tree.path / directory
    if not (place / "Makefile").is_file():
        raise KernelError(f"{tree.describe}: no {directory} in this tree")
    compiler = toolchain.find("gcc", arch)
    key = digest_of("selftests", tree.digest, directory, arch.name, compiler.version)

    def build(fresh: Path) -> None:
        output = fresh / "programs"
        output.mkdir()
        flags = "USERLDFLAGS=-static"
        if "USERLDFLAGS" not in (tree.path / "tools/testing/selftests/lib.mk").read_text(errors="replace"):
            flags = "LDFLAGS=-static -pthread"
        argv = ["make", "-k", "-C", str(place), f"OUTPUT={output}", f"ARCH={arch.make_arch}", flags]
        argv += [f"CROSS_COMPILE={arch.compiler_prefix}", f"-j{os.cpu_count() or 1}"]
        outcome = make.start(
            argv,
            tree=tree.path,
            folder=output,
            log=fresh / "log",
            limit_s=_LIMIT_S,
            sandboxed=sandboxed,
        ).to_end()
        if outcome.reason != "ended":
            raise InfraError(f"the build of {directory} ended with {outcome}")
        for path in output.iterdir():
            if path.suffix in (".o", ".d") or path.is_dir() or not os.access(path, os.X_OK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not any(output.iterdir()):
            shutil.copyfile(fresh / "log", log)
            text = (fresh / "log").read_text(errors="replace")
            if fault := host_faults.of_resources(text):
                raise InfraError(f"{directory} was not compiled: {fault.reason}", remedy=fault.remedy)
            lines = [line for line in text.splitlines() if "error" in line]
            first = lines[0] if lines else str(outcome)
            raise KernelError(
                f"{tree.describe}: nothing in {directory} compiles for {arch.name}: {first}",
                remedy=f"The log: {log}",
            )

    folder = store.entry("selftests", key, build)
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "log", log)
    return {path.name: path for path in sorted((folder / "programs").iterdir())}
