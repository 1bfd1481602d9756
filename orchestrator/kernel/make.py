# SPDX-License-Identifier: GPL-2.0-only
"""Run make: its environment, and tuxmake under the supervisor."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.core import environment as environments
from orchestrator.core import sandbox
from orchestrator.core.errors import InfraError
from orchestrator.core.process import Outcome, Supervised, require, tool
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


#: The variable by which the processes of a build are known: the folder that it writes to.
OWNER = "ORCHESTRATE_BUILD"

#: Started with -I, so that neither the tree, which is the working directory, nor PYTHONPATH or the user's own
#: packages have a say in what is imported; its first argument is where tuxmake is installed.
_TUXMAKE = "import sys; sys.path.append(sys.argv.pop(1)); from tuxmake.cli import main; main()"


def environment() -> dict[str, str]:
    """The environment of make."""
    # set, even if empty, it keeps the state of the git repository out of the release and the image
    return environments.environment() | {"LOCALVERSION": ""}


def start(
    argv: Sequence[str],
    *,
    tree: Path,
    folder: Path,
    log: Path,
    limit_s: float,
    sandboxed: bool,
    env: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> Supervised:
    """Start a command that builds: the one place from which makefiles of a tree run.

    :param tree: its working folder, which a sandbox makes read-only.
    :param folder: everything that it writes; one build at a time (``objdir``).
    :param log: the file that takes its output.
    :param env: variables besides ``environment``.
    :param cache: another folder that it writes to.
    :raises InfraError: make is not installed, or there can be no sandbox.
    """
    require("make", remedy=f"Install the build tools: apt-get install {build_log.BASE_PACKAGES}")
    if sandboxed:
        argv = sandbox.command(argv, tree=tree, writable=(folder, *([cache] if cache else [])))
    variables = {**environment(), OWNER: str(folder), **(env or {})}
    return Supervised(argv, limit_s=limit_s, grace_s=1.0, output=log, env=variables, cwd=tree)


def tool_versions(spec: KernelSpec) -> tuple[str, ...]:
    """What the programs that PATH selects say of themselves, as far as Kconfig records it: part of a key.

    They are asked where the build runs: a sandbox may lack one of them.
    """
    prefix = spec.arch.compiler_prefix
    linkers = ("ld.lld",) if spec.toolchain.family == "clang" else (f"{prefix}ld", f"{prefix}as")
    paths = (shutil.which(name) for name in (*linkers, "pahole", "rustc", "bindgen"))
    # rustc may be a proxy of rustup
    rust = environment().get("RUSTUP_HOME", "")
    return tuple(
        _version(path, Path(path).stat().st_mtime_ns, rust, spec.sandboxed) if path else "" for path in paths
    )


@functools.cache
def _version(path: str, _changed_ns: int, _rust: str, sandboxed: bool) -> str:
    argv = [path, "--version"]
    if sandboxed:
        argv = sandbox.command(argv, tree=Path("/usr"), writable=())
    try:
        text = tool(argv, env=environment())
    except InfraError:
        return "does not run"
    return next(iter(text.splitlines()), "")


@functools.cache
def _tuxmake() -> tuple[str, ...]:
    """The command that runs tuxmake, as the installed distribution has it."""
    place = importlib.metadata.distribution("tuxmake").locate_file("")
    return (sys.executable, "-I", "-c", _TUXMAKE, str(Path(str(place)).resolve()))


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
    """Run tuxmake under the supervisor; returns its outcome and the CPU seconds of the process tree.

    :param wrap: the folder that has ``objects``, ``output`` and what else the build writes.
    """
    # tuxmake's own copies of the log grow without limit
    output.mkdir(parents=True, exist_ok=True)
    for name in ("build.log", "build-debug.log"):
        (output / name).unlink(missing_ok=True)
        (output / name).symlink_to(os.devnull)
    argv = [*_tuxmake(), "-C", str(spec.tree.path), "-b", str(objects), "-o", str(output)]
    argv += ["-r", "null", "-z", "none", "-v", "-F", "-t", spec.toolchain.tuxmake]
    if not spec.arch.native:
        argv += ["-a", spec.arch.make_arch]
    # as options: tuxmake's own values override the environment
    for name, value in BANNER.items():
        argv += ["-e", f"{name}={value}"]
    env: dict[str, str] = {}
    plain = re.sub(r"-\d+$", "", spec.toolchain.compiler)
    if plain != spec.toolchain.compiler:
        # tuxmake drops the version in a native build, and runs the program with the plain name
        tools = wrap / "tools"
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir()
        (tools / plain).symlink_to(require(spec.toolchain.compiler, remedy=""))
        env["PATH"] = f"{tools}:{environment()['PATH']}"
    if not shutil.which("ccache"):
        cache = None
    if cache is not None:
        argv += ["-w", "ccache"]
        cache.mkdir(parents=True, exist_ok=True)
        # without depend mode a cold build through ccache costs a quarter more
        env |= {"CCACHE_DIR": str(cache), "CCACHE_DEPEND": "1", "CCACHE_MAXSIZE": "10G"}
    argv += list(arguments)
    if spec.wrapped:
        argv.append(f"KBUILD_KCONFIG={kconfig.write_wrapper(spec.tree.path, wrap)}")
    child = start(
        argv,
        tree=spec.tree.path,
        folder=wrap,
        log=log,
        limit_s=limit_s,
        sandboxed=spec.sandboxed,
        env=env,
        cache=cache,
    )
    try:
        while (outcome := child.wait(_PROGRESS_S if progress else None)) is None:
            if progress:
                progress(build_log.objects(log))
    finally:
        child.kill()
    return outcome, child.cpu_s
