# SPDX-License-Identifier: GPL-2.0-only
"""Read the log of make: progress, compile errors, and who is to blame."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from orchestrator.core import host_faults
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
#: The end of a log, which has what ended the build; a hostile build may have written a long one.
_READ = 4 << 20


def objects(log: Path) -> int:
    """The number of objects that a build has made so far."""
    with contextlib.suppress(OSError):
        return len(_OBJECT.findall(log.read_bytes()))
    return 0


def _text(log: Path) -> str:
    """The end of a log."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _READ))
        return stream.read(_READ).decode(errors="replace")
    return ""


def first_error(log: Path) -> str:
    """The first line in which something does not compile or link; empty if there is none."""
    error = _COMPILE_ERROR.search(_text(log))
    return error[0] if error else ""


def is_compile_error(outcome: Outcome, log: Path, tree: Path) -> bool:
    """Whether a compile or link error, and nothing else, ended a build."""
    text = _text(log)
    has_error = outcome.reason == "ended" and _COMPILE_ERROR.search(text) is not None
    return has_error and host_faults.of_kernel(text, tree) is None


def raise_for_host(what: str, tree: Path, outcome: Outcome, log: Path, copy: Path | None = None) -> None:
    """Raise an error if the host failed a build, by its log; parameters as of ``raise_for``.

    :raises InfraError: it did; the remedy names the package or the limit.
    """
    text = _text(log)
    where = f" The log: {copy}" if copy else ""
    fault = host_faults.of_kernel(text, tree)
    if fault is None and not _COMPILE_ERROR.search(text):
        fault = host_faults.missing_tool(text)
    if fault is not None:
        raise InfraError(f"{what}: {fault.reason}", remedy=f"{fault.remedy}{where}")
    if outcome.reason != "ended":
        raise InfraError(f"{what}: {outcome}", remedy=f"Give it more time, or a faster host.{where}")


def raise_for(what: str, tree: Path, outcome: Outcome, log: Path, copy: Path | None = None) -> None:
    """Raise the error of a failed build, by its log.

    :param what: the beginning of the message: ``cannot build 7.2.1 arm64``.
    :param tree: the top of the tree.
    :param copy: the file in which the user finds the log.
    :raises KernelError: it does not compile, with the first error, its file and line.
    :raises InfraError: the host failed it.
    """
    raise_for_host(what, tree, outcome, log, copy)
    text = _text(log)
    where = f"The log: {copy}" if copy else ""
    if match := _COMPILE_ERROR.search(text):
        place = match["where"] or match["object"]
        error = match["what"] or match["link"] or match["modpost"] or match["ld"]
        # relative to the top of the tree, for a full path as well as for a relative one
        place = re.sub(r"^(?:\.\./)+", "", (place or "").removeprefix(f"{tree}/"))
        message = f"{place}: {error}" if place else error
        raise KernelError(f"{what}: {message}", remedy=where)
    # lines of tuxmake itself begin with "I:"
    last = [line for line in text.splitlines() if line.strip() and not line.startswith("I: ")][-3:]
    raise KernelError(f"{what}: {' | '.join(last) or outcome}", remedy=where)
