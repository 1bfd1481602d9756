# SPDX-License-Identifier: GPL-2.0-only
"""A real PostgreSQL server for tests: on a socket in a folder of its own, ended with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def binaries() -> Path | None:
    """The folder of the newest server's programs, as Debian has it, or of the one on the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if folders:
        return folders[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A running server; the URL of an empty database in it."""
    programs = binaries()
    assert programs is not None
    # a socket's path is short, and the server's user must reach it
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    # it refuses to run as root
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    data = folder / "data"

    def call(*argv: str) -> None:
        subprocess.run([*user, *argv], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        call(
            str(programs / "initdb"), "-D", str(data), "--username=test", "--auth=trust", "--no-sync",
            "--encoding=UTF8", "--locale=C",
        )  # fmt: skip
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        start = ("start", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", options)
        call(str(programs / "pg_ctl"), *start)
        try:
            yield f"postgresql://test@/postgres?host={folder}"
        finally:
            call(str(programs / "pg_ctl"), "stop", "-m", "immediate", "-D", str(data))
    finally:
        shutil.rmtree(folder)
