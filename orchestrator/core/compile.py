# SPDX-License-Identifier: GPL-2.0-only
"""Compile programs for the guest: statically linked for its architecture, cached in the store."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core import host_faults, toolchain
from orchestrator.core.arch import Arch
from orchestrator.core.environment import environment
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import Store, digest_of, file_digest
from orchestrator.core.text import one_line

_LIMIT_S = 900.0
#: A static C library that is missing.
_NO_LIBRARY = re.compile(r".*cannot find -l(?:c|gcc|gcc_eh|m|pthread|rt)\b.*")
#: The lines that show the user's mistake best, in this order.
_ERRORS = tuple(
    re.compile(pattern, re.M)
    for pattern in (
        r"^[^:\n]+:\d+(?::\d+)?: (?:fatal )?error: .*",
        r"^.*(?:undefined reference|multiple definition).*",
        r"^.*(?:cannot find|error:).*",
    )
)


def compile_static(
    name: str,
    sources: Sequence[str],
    cflags: Sequence[str],
    *,
    folder: Path,
    arch: Arch,
    store: Store,
    user_program: str = "",
) -> Path:
    """One static binary from C sources, compiled again when one of them or of their headers changes.

    :param sources: relative to ``folder``, which is the compiler's working directory, or absolute.
    :param cflags: ``-l…`` among them comes after the sources, where a static link needs it.
    :param user_program: describes a program of the user's, for the message; empty for one of orchestrate.
    :raises UserError: the user's program does not compile; the message has the compiler's first error.
    :raises InfraError: no compiler, no static C library, a compiler that fails by itself, or a program of
        orchestrate that does not compile.
    """
    what = user_program or f"orchestrate's own program {name!r}"
    compiler = toolchain.find("gcc", arch)
    flags = (*(f for f in cflags if not f.startswith("-l")), "-static", "-Wall", "-Wextra")
    libraries = [f for f in cflags if f.startswith("-l")]
    argv = [compiler.compiler, *flags]

    def make(fresh: Path) -> None:
        _gcc([*argv, "-o", str(fresh / name), *sources, *libraries], folder, what, arch)

    try:
        rules = _gcc([*argv, "-MM", "-MT", "x", *sources], folder, what, arch)
        parts = sorted(file_digest(folder / word) for word in _prerequisites(rules))
        plain = [os.path.relpath(folder / source, folder) for source in sources]
        key = digest_of("program", name, plain, parts, flags, libraries, arch.name, compiler.version)
        return store.entry("programs", key, make) / name
    except UserError as error:
        if user_program:
            raise
        raise InfraError(error.message, remedy=error.remedy) from None


def _gcc(argv: Sequence[str], folder: Path, what: str, arch: Arch) -> str:
    """The compiler's standard output; its error message decides between user and host."""
    try:
        process = subprocess.run(
            argv,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} is not compiled after {_LIMIT_S:.0f} s") from None
    if process.returncode == 0:
        return process.stdout.decode(errors="replace")
    output = process.stderr.decode(errors="replace")
    if missing := _NO_LIBRARY.search(output):
        raise InfraError(
            f"{what} was not compiled for {arch.name}: {one_line(missing[0])}",
            remedy=f"Install a static C library: apt-get install {arch.libc_package}",
        )
    if fault := host_faults.of_resources(output):
        raise InfraError(f"{what} was not compiled for {arch.name}: {fault.reason}", remedy=fault.remedy)
    match = next((m for m in (pattern.search(output) for pattern in _ERRORS) if m), None)
    last = next(reversed(output.strip().splitlines()), f"exit status {process.returncode}")
    raise UserError(
        f"{what} does not compile for {arch.name}: {one_line(match[0] if match else last)}",
        remedy=f"It was compiled in {folder} with: {shlex.join(argv)}",
    )


def _prerequisites(rules: str) -> list[str]:
    """The files in make rules for the target x, as ``gcc -MM`` writes them."""
    words: list[str] = []
    for rule in rules.replace("\\\n", " ").splitlines():
        # make escapes like the shell, but has no quotes
        plain = re.sub(r"(['\"])", r"\\\1", rule.removeprefix("x:").replace("$$", "$"))
        words += shlex.split(plain)
    return sorted(set(words))
