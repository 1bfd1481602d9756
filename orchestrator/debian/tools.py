# SPDX-License-Identifier: GPL-2.0-only
"""The programs of dpkg and apt on this host, and the one place that starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.errors import InfraError

NEEDED_TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb")

QUERY_S = 120


def have_apt() -> bool:
    """Whether this host has ``NEEDED_TOOLS``."""
    return all(shutil.which(tool) for tool in NEEDED_TOOLS)


def host_arch() -> str:
    """The host's own Debian architecture (``amd64``)."""
    return call(["dpkg", "--print-architecture"]).strip()


def call(
    argv: Sequence[str], *, timeout_s: float = QUERY_S, cwd: Path | None = None, config: Path | None = None
) -> str:
    """Run a program of apt; returns its standard output as text.

    :raises InfraError: not found, failed or too slow; the message has apt's own error lines.
    """
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    env.pop("APT_CONFIG", None)
    if config is not None:
        env["APT_CONFIG"] = str(config)
    what = " ".join(argv[:3])
    try:
        process = subprocess.run(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise InfraError(f"{argv[0]} is not installed", remedy="use a Debian host, or give a tree") from error
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"{what}: no end after {timeout_s:.0f} s", remedy="check the network") from error
    if process.returncode != 0:
        text = (process.stderr + b"\n" + process.stdout).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.startswith(("E: ", "Err:", " "))]
        reason = "; ".join(lines)[:600] or text.strip()[-300:]
        raise InfraError(
            f"{what} failed ({process.returncode}): {reason}",
            remedy="check the network and the host's apt sources",
        )
    return process.stdout.decode("utf-8", "replace")
