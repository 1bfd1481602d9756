# SPDX-License-Identifier: GPL-2.0-only
"""Read the log of make: progress, compile errors, and who is to blame."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from orchestrator.core.errors import InfraError, KernelError
from orchestrator.core.process import Outcome

#: Debian's packages for building kernels, without compilers for other architectures.
BASE_PACKAGES = "build-essential bc bison flex libelf-dev libssl-dev rsync xz-utils"

_OBJECT = re.compile(rb"^  (?:CC|AS)  ", re.M)
_COMPILE_ERROR = re.compile(
    r"^(?P<where>\S+?:\d+(?::\d+)?): (?:fatal )?error: (?P<what>.+)$"
    r"|^(?:\S*ld\S*: )?(?P<object>\S+?:\(?[^\s:]*\)?): (?P<link>undefined reference to .+)$"
    r"|^(?P<modpost>ERROR: modpost: .+)$"
    r"|^(?P<ld>ld\S*: error: .+)$",
    re.M,
)
_INFRA_TROUBLE = (
    ("No space left on device", "the disk is full", "Free some space, or set ORCHESTRATE_CACHE."),
    ("Killed signal terminated program", "the compiler was killed (out of memory?)", "Free some memory."),
    ("Error 137", "a build tool was killed (out of memory?)", "Free some memory."),
    ("] Killed", "a build tool was killed (out of memory?)", "Free some memory."),
    ("virtual memory exhausted", "the compiler ran out of memory", "Free some memory, or use fewer --jobs."),
    ("Cannot allocate memory", "the compiler ran out of memory", "Free some memory, or use fewer --jobs."),
    ("Disk quota exceeded", "the disk quota is used up", "Free some space, or set ORCHESTRATE_CACHE."),
    (
        "Read-only file system",
        "a file system is read-only",
        "Please report it, with the log.",
    ),
    ("Input/output error", "the disk fails", "Check the host's kernel log."),
)


def objects(log: Path) -> int:
    """The number of objects that a build has made so far."""
    with contextlib.suppress(OSError):
        return len(_OBJECT.findall(log.read_bytes()))
    return 0


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.is_file() else ""


def first_error(log: Path) -> str:
    """The first line in which something does not compile or link; empty if there is none."""
    error = _COMPILE_ERROR.search(_text(log))
    return error[0] if error else ""


def is_compile_error(outcome: Outcome, log: Path) -> bool:
    """Whether a compile or link error, and nothing else, ended a build."""
    text = _text(log)
    has_error = outcome.reason == "ended" and _COMPILE_ERROR.search(text) is not None
    return has_error and not any(mark in text for mark, _, _ in _INFRA_TROUBLE)


def raise_for(what: str, tree: Path, outcome: Outcome, log: Path, copy: Path | None = None) -> None:
    """Raise the error of a failed build, by its log.

    :param what: the beginning of the message: ``cannot build 7.2.1 arm64``.
    :param copy: the file in which the user finds the log.
    :raises KernelError: it does not compile, with the first error, its file and line.
    :raises InfraError: the host failed it.
    """
    text = _text(log)
    where = f" The log: {copy}" if copy else ""
    for mark, reason, remedy in _INFRA_TROUBLE:
        if mark in text:
            raise InfraError(f"{what}: {reason}", remedy=remedy + where)
    if outcome.reason != "ended":
        raise InfraError(f"{what}: {outcome}", remedy=f"Give it more time, or a faster host.{where}")
    if match := _COMPILE_ERROR.search(text):
        place = match["where"] or match["object"]
        error = match["what"] or match["link"] or match["modpost"] or match["ld"]
        # relative to the top of the tree, for a full path as well as for a relative one
        place = re.sub(r"^(?:\.\./)+", "", (place or "").removeprefix(f"{tree}/"))
        message = f"{place}: {error}" if place else error
        raise KernelError(f"{what}: {message}", remedy=where.strip())
    if tool := re.search(r"(\S+): (?:command )?not found", text):
        raise InfraError(
            f"{what}: {tool[1]} is missing",
            remedy=f"Install the build tools: apt-get install {BASE_PACKAGES}.{where}",
        )
    # lines of tuxmake itself begin with "I:"
    last = [line for line in text.splitlines() if line.strip() and not line.startswith("I: ")][-3:]
    raise KernelError(f"{what}: {' | '.join(last) or outcome}", remedy=where.strip())
