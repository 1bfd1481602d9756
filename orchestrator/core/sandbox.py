# SPDX-License-Identifier: GPL-2.0-only
"""Builds in a sandbox: bubblewrap, the only place that calls it.

Makefiles are programs. In the sandbox they see no network, no processes of the host, no home, and of the file
system the operating system's programs, the tree (read-only) and the folder that they build in.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.core.environment import environment
from orchestrator.core.errors import InfraError

#: The values of ``--sandbox``.
SETTINGS = ("auto", "on", "off")
PACKAGE = "bubblewrap"

#: Of /etc only what compilers, linkers and interpreters read.
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf")
_ETC_OF_TOOLS = ("localtime", "perl", "python3", "gcc", "clang", "ccache.conf", "ssl/openssl.cnf")
_ISOLATION = ("--unshare-all", "--die-with-parent", "--cap-drop", "ALL")
_PROBE_S = 20.0


@functools.cache
def missing() -> str:
    """Why there can be no sandbox on this host; empty if there can."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed"
    try:
        probe = subprocess.run(
            [program, *_ISOLATION, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}"
    if probe.returncode:
        lines = probe.stderr.decode(errors="replace").strip().splitlines()
        return f"bubblewrap does not work here: {lines[-1] if lines else probe.returncode}"
    return ""


def resolve(setting: str, *, untrusted: bool) -> bool:
    """Whether builds go into a sandbox; ``auto`` means: trees that are not trusted, where there can be one.

    :raises InfraError: it is demanded, and there can be none.
    """
    if setting == "on" and (why := missing()):
        raise InfraError(
            f"--sandbox on: {why}",
            remedy=f"apt-get install {PACKAGE}, or --sandbox off if you trust the tree.",
        )
    return setting == "on" or (setting == "auto" and untrusted and not missing())


def command(
    argv: Sequence[str], *, tree: Path, writable: Iterable[Path], readable: Iterable[Path] = ()
) -> list[str]:
    """The command line that runs ``argv`` in a sandbox, in the folder ``tree``.

    :param writable: folders that exist, and in which it may write.
    :param readable: further paths that it may read.
    :raises InfraError: there can be no sandbox.
    """
    if why := missing():
        raise InfraError(f"no sandbox for the build: {why}", remedy=f"apt-get install {PACKAGE}")
    words = ["bwrap", *_ISOLATION, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    words += ["--setenv", "TMPDIR", "/tmp", *_system()]
    for path in dict.fromkeys((*_installations(), *readable, tree)):
        words += ["--ro-bind-try", str(path), str(path)]
    for path in writable:
        words += ["--bind", str(path), str(path)]
    return [*words, "--chdir", str(tree), "--", *argv]


def _system() -> Iterator[str]:
    """Words for the operating system's programs and libraries."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    for name in (*_ETC, *_ETC_OF_TOOLS):
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


def _installations() -> Iterator[Path]:
    """Programs outside the operating system: folders of PATH, compilers there, and this Python."""
    home = os.environ.get("HOME")

    def may_be_seen(folder: Path) -> bool:
        # a folder that has the home in it would show what the sandbox is to hide
        hides = folder != Path("/") and not (home and Path(home).is_relative_to(folder))
        return hides and folder.is_absolute() and folder.is_dir()

    for folder in map(Path, os.get_exec_path(environment())):
        if folder.resolve().is_relative_to("/usr"):
            continue
        above = folder.parent
        is_compiler = any((above / name).is_dir() for name in ("lib/gcc", "lib/clang", "libexec/gcc"))
        # pyenv, asdf and the like have scripts there, which run programs of the folder above
        whole = is_compiler or folder.name == "shims"
        yield from filter(may_be_seen, (above, folder) if whole else (folder,))
    if rust := environment().get("RUSTUP_HOME"):
        yield Path(rust)
    for prefix in map(Path, (sys.prefix, sys.base_prefix)):
        if not prefix.is_relative_to("/usr"):
            yield prefix
