# SPDX-License-Identifier: GPL-2.0-only
"""Programs that fill a disk: run to their end, and told apart from a host that is at fault."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.core.errors import InfraError
from orchestrator.core.process import Supervised
from orchestrator.core.text import clean

#: Messages of programs that blame the host, not the input.
HOST_TROUBLE = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
)
SPACE = "check the disk of the cache directory: space, quota, permissions"
#: No file system on which kernels are built is slower than this.
_LIMIT_S = 3600.0


class ProgramError(Exception):
    """A program failed; ``output`` is its whole message, ``first`` the first line, for users."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output
        self.first = re.sub("^(?:error|fatal): ", "", output.partition("\n")[0])[:300]


def run_long(tmp: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a program that may take minutes and fills ``tmp``; it ends when this process does.

    :raises ProgramError: it failed.
    :raises InfraError: the disk is to blame, or it was killed.
    """
    # not in tmp: the message of a program that fills its disk would be lost
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        log = Path(folder) / "log"
        child = Supervised(argv, limit_s=_LIMIT_S, output=log, env=env)
        outcome = child.to_end()
        output = log.read_bytes() if log.exists() else b""
    if outcome.exit is None:
        raise InfraError(f"{argv[0]} was ended: {outcome}", remedy="try again")
    if outcome.exit:
        raise failure(argv[0], output, str(outcome), tmp)


def failure(program: str, stderr: bytes, how: str, place: Path) -> Exception:
    """The error of a program that failed: ``InfraError`` if the host is to blame, else ``ProgramError``.

    :param how: the message if the program printed none.
    :param place: where it writes.
    """
    message = clean(stderr).strip()
    lines = [line for line in message.splitlines() if not line.startswith("hint: ")]
    if (not message or re.search("writ|creat|space", message)) and _is_full(place):
        # git does not always print why it could not write, and on a full disk its message may be lost
        lines.append("No space left on device")
    # other lines may quote a patch
    complaints = [line for line in lines if re.match("error|fatal|warning|cp|No space", line)]
    trouble = [line for line in complaints if any(sign in line for sign in HOST_TROUBLE)]
    if trouble:
        return InfraError(f"{program}: {trouble[0]}", remedy=SPACE)
    return ProgramError("\n".join(lines) or how)


def _is_full(place: Path) -> bool:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize < 1 << 20 or bool(disk.f_files and disk.f_favail < 16)
