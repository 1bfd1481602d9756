# SPDX-License-Identifier: GPL-2.0-only
"""Run make: its environment, and tuxmake under the supervisor."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.core.process import Outcome, Supervised, require
from orchestrator.kernel import build_log, kconfig
from orchestrator.kernel.spec import KernelSpec

#: Seconds between two progress lines of a build.
_PROGRESS_S = 30.0

#: Facts of the host in a kernel's banner, made the same on every host.
BANNER = {
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_USER": "orchestrate",
    "KBUILD_BUILD_HOST": "orchestrate",
    "KBUILD_BUILD_VERSION": "1",
}


def environment() -> dict[str, str]:
    """Our environment, without variables that would change a build."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "KBUILD", "KCONFIG", "CCACHE"))},
        "LC_ALL": "C.UTF-8",
        # set, even if empty, it keeps the state of the git repository out of the release and the image
        "LOCALVERSION": "",
    }


def tuxmake(
    spec: KernelSpec,
    objects: Path,
    output: Path,
    arguments: Sequence[str],
    log: Path,
    limit_s: float,
    *,
    wrap: Path,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Outcome, float]:
    """Run tuxmake under the supervisor; returns its outcome and the CPU seconds of the process tree."""
    require("make", remedy=f"Install the build tools: apt-get install {build_log.BASE_PACKAGES}")
    argv = [sys.executable, "-m", "tuxmake", "-C", str(spec.tree.path), "-b", str(objects), "-o", str(output)]
    argv += ["-r", "null", "-z", "none", "-v", "-F", "-t", spec.toolchain.tuxmake]
    if not spec.arch.native:
        argv += ["-a", spec.arch.make_arch]
    # as options: tuxmake's own values override the environment
    for name, value in BANNER.items():
        argv += ["-e", f"{name}={value}"]
    env = environment()
    plain = re.sub(r"-\d+$", "", spec.toolchain.compiler)
    if plain != spec.toolchain.compiler:
        # tuxmake drops the version in a native build, and runs the program with the plain name
        tools = wrap / "tools"
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir()
        (tools / plain).symlink_to(require(spec.toolchain.compiler, remedy=""))
        env["PATH"] = f"{tools}:{env['PATH']}"
    if cache is not None and shutil.which("ccache"):
        argv += ["-w", "ccache"]
        cache.mkdir(parents=True, exist_ok=True)
        # without depend mode a cold build through ccache costs a quarter more
        env |= {"CCACHE_DIR": str(cache), "CCACHE_DEPEND": "1", "CCACHE_MAXSIZE": "10G"}
    argv += list(arguments)
    if spec.wrapped:
        argv.append(f"KBUILD_KCONFIG={kconfig.write_wrapper(spec.tree.path, wrap)}")
    child = Supervised(argv, limit_s=limit_s, grace_s=1.0, output=log, env=env, cwd=spec.tree.path)
    try:
        while (outcome := child.wait(_PROGRESS_S if progress else None)) is None:
            if progress:
                progress(build_log.objects(log))
    finally:
        child.kill()
    return outcome, child.cpu_s
