# SPDX-License-Identifier: GPL-2.0-only
"""Child processes: short tools run to their end, long ones under a supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.core.errors import InfraError

#: Everything that runs under a supervisor at this moment, so that an interrupt can end it at once.
_LIVE: weakref.WeakSet[Supervised] = weakref.WeakSet()

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
#: Seconds for a supervisor to start its child; a busy host needs some.
_START_S = 60.0


class Outcome(NamedTuple):
    """How a supervised process ended: ``exit`` or ``signal`` is set; ``reason`` is the supervisor's."""

    exit: int | None
    signal: int | None
    reason: str

    def __str__(self) -> str:
        how = f"exit status {self.exit}" if self.exit is not None else f"signal {self.signal}"
        return how if self.reason == "ended" else f"{how} ({self.reason})"


class Supervised:
    """A process that cannot outlive this one (see ``supervisor``).

    :param limit_s: wall-clock limit; the whole process tree is killed when it passes.
    :param grace_s: time between SIGTERM and SIGKILL when the tree is ended early; 0 kills at once.
    :param output: file that takes standard output and error, appended to.
    :param cleanup: folder to remove after the end, even if this process is dead by then.
    :param pass_fds: descriptors that the process inherits under the same numbers; they stay open here.
    :raises InfraError: the supervisor itself does not start.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        limit_s: float,
        output: Path,
        grace_s: float = 0.0,
        cleanup: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        command = [sys.executable, "-I", "-S", str(_SUPERVISOR), "--limit", str(limit_s)]
        command += ["--grace", str(grace_s), "--output", str(output)]
        if cleanup is not None:
            command += ["--cleanup", str(cleanup)]
        for descriptor in pass_fds:
            command += ["--pass", str(descriptor)]
        self.argv = tuple(argv)
        self.cpu_s = 0.0
        self._outcome: Outcome | None = None
        self._buffer = b""
        self._supervisor = subprocess.Popen(
            [*command, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=env,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        first = self._message(_START_S)
        if first is None or "pid" not in first:
            self.kill()
            raise InfraError(f"the supervisor of {argv[0]} did not start")
        self.pid = int(str(first["pid"]))
        _LIVE.add(self)

    def _message(self, timeout_s: float | None) -> dict[str, object] | None:
        """The next JSON line of the supervisor; ``None`` at its end or when the time is up."""
        assert self._supervisor.stdout is not None
        descriptor = self._supervisor.stdout.fileno()
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                return None
            data = os.read(descriptor, 4096)
            if not data:
                return {}
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def poll(self) -> Outcome | None:
        """The outcome, or ``None`` while it runs."""
        return self.wait(0.0)

    def wait(self, timeout_s: float | None = None) -> Outcome | None:
        """Wait for the end; ``None`` if it did not come within ``timeout_s`` seconds."""
        if self._outcome is not None:
            return self._outcome
        message = self._message(timeout_s)
        if message is not None and "pid" in message:
            # the start message of a slow supervisor
            message = self._message(timeout_s)
        if message is None:
            return None
        if message:
            code, number = message["exit"], message["signal"]
            self._outcome = Outcome(
                code if isinstance(code, int) else None,
                number if isinstance(number, int) else None,
                str(message["reason"]),
            )
            self.cpu_s = float(str(message["cpu_s"]))
        else:
            self._outcome = Outcome(None, 9, "supervisor died")
        self._close()
        return self._outcome

    def to_end(self) -> Outcome:
        """Wait for the end without a limit; if the wait is interrupted, the process tree is killed."""
        try:
            outcome = self.wait()
        finally:
            self.kill()
        assert outcome is not None
        return outcome

    def kill(self) -> None:
        """End the process tree and wait until it is gone."""
        if self._outcome is not None:
            return
        self.end()
        self.wait(30.0)
        if self._outcome is None:
            self._supervisor.kill()
            self._outcome = Outcome(None, 9, "supervisor hung")
            self._close()

    def end(self) -> None:
        """Tell the supervisor to end the tree, and return at once; safe from any thread."""
        if self._supervisor.stdin is not None:
            with contextlib.suppress(OSError):
                self._supervisor.stdin.close()

    def _close(self) -> None:
        for pipe in (self._supervisor.stdin, self._supervisor.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(5)


def end_all() -> None:
    """End every supervised process of this one; their waiters get the outcome."""
    for child in list(_LIVE):
        child.end()


def tool(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    remedy: str = "",
) -> str:
    """Run a short tool of the host; returns its standard output.

    :raises InfraError: it is missing, fails or does not end in time.
    """
    try:
        process = subprocess.run(
            list(argv), capture_output=True, timeout=timeout_s, cwd=cwd, env=env, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise InfraError(f"{argv[0]} is not installed", remedy=remedy or "Run `make deps`.") from None
    except subprocess.TimeoutExpired:
        raise InfraError(f"{' '.join(argv)} did not end within {timeout_s:.0f} s") from None
    if process.returncode:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or [str(process.returncode)]
        raise InfraError(f"{' '.join(argv)} failed: {lines[-1]}", remedy=remedy)
    return process.stdout.decode(errors="replace")


def require(program: str, *, remedy: str) -> str:
    """The path of a program of the host.

    :raises InfraError: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise InfraError(f"{program} is not installed", remedy=remedy)
    return path
