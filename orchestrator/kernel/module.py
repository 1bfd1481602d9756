# SPDX-License-Identifier: GPL-2.0-only
"""A module of orchestrate, built against a kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.core.errors import Inconclusive
from orchestrator.kernel import build_log, make
from orchestrator.kernel.spec import KernelSpec

_LIMIT_S = 3600.0


def name(source: Path) -> str:
    """The file's name of the module with that source."""
    return f"{source.stem}.ko"


def build(spec: KernelSpec, place: Path, log: Path | None) -> Path:
    """Build a module of orchestrate against the kernel, while its object directory exists.

    :param place: the folder of the object directory.
    :param log: the file for a copy of the log if it fails.
    :raises Inconclusive: it does not compile against this tree.
    :raises InfraError: the host failed it.
    """
    source = spec.module
    assert source is not None
    objects, folder = place / "o", place / "module"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(source, folder / source.name)
    (folder / "Makefile").write_text(f"obj-m := {source.stem}.o\n")
    # `make modules` of the kernel itself would write this; an older one is of an earlier kernel
    symvers, of_vmlinux = objects / "Module.symvers", objects / "vmlinux.symvers"
    if of_vmlinux.is_file() and not (
        symvers.is_file() and symvers.stat().st_mtime >= of_vmlinux.stat().st_mtime
    ):
        shutil.copyfile(of_vmlinux, symvers)
    argv = ["make", "-C", str(spec.tree.path), f"O={objects}", f"ARCH={spec.arch.make_arch}"]
    argv += [f"CROSS_COMPILE={spec.arch.compiler_prefix}", f"CC={spec.toolchain.compiler}"]
    argv += ["LLVM=1"] if "clang" in spec.toolchain.tuxmake else []
    argv += [f"KBUILD_KCONFIG={place / 'Kconfig.wrapper'}"] if spec.wrapped else []
    for words in (["modules_prepare"], [f"M={folder}", "modules"]):
        outcome = make.start(
            [*argv, *words],
            tree=spec.tree.path,
            folder=place,
            log=folder / "log",
            limit_s=_LIMIT_S,
            sandboxed=spec.sandboxed,
        ).to_end()
        built = folder / name(source)
        if outcome.exit != 0:
            break
    else:
        if built.is_file():
            return built
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "log", log)
    error = build_log.first_error(folder / "log")
    build_log.raise_for_host(f"cannot build {source.name}", spec.tree.path, outcome, folder / "log", log)
    raise Inconclusive(
        f"{source.name} does not compile against {spec.tree.version}: {error or outcome}",
        remedy="Run without the flavor that needs it, and please report it.",
    )
