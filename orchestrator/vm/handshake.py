# SPDX-License-Identifier: GPL-2.0-only
"""The beginning of an SSH connection: within its time on the clock, whatever the guest sends."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import paramiko

from orchestrator.core.errors import InfraError
from orchestrator.core.text import one_line

#: What paramiko raises if a connection fails.
TROUBLE = (paramiko.SSHException, OSError, EOFError)
#: Seconds between two looks at a guest while a connection is being made.
_EYE_S = 0.1
#: paramiko's message, which has no type of its own.
_BAD_HOST_KEY = "Bad host key"
#: In paramiko's message about an authentication that had no answer.
_BROKEN_OFF = re.compile(r"time-?out|EOF|shut down", re.I)


class Lost(InfraError):
    """The connection is gone, or the guest no longer answers.

    ``stdout`` and ``stderr`` are the output of the command until then.
    """

    stdout: bytes = b""
    stderr: bytes = b""


class Refused(Lost):
    """The guest's SSH server answered as it should, but it has another key or does not accept ours."""


def connect(
    port: int, host_key: paramiko.PKey, user_key: paramiko.PKey, until: float, is_dead: Callable[[], bool]
) -> paramiko.Transport:
    """Connect as root to the server behind a loopback port, trying again until the time is up.

    :param until: the end of the time, of ``time.monotonic``.
    :param is_dead: as of ``Ssh.connect``; errors, too.
    """
    timeout_s = until - time.monotonic()
    reason = "no attempt was made"
    while time.monotonic() < until and not is_dead():
        remaining = max(1.0, until - time.monotonic())
        transport = None
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=remaining)
            # a command is many small packets: without this each waits for the one before
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = remaining
            with _limited(transport, until, is_dead):
                transport.connect(hostkey=host_key, username="root", pkey=user_key)
            return transport
        except TROUBLE as error:
            reason = one_line(str(error)) or type(error).__name__
            if transport is not None:
                transport.close()
            if _BAD_HOST_KEY in reason:
                raise Refused(f"no SSH connection: {reason}") from None
            if isinstance(error, paramiko.AuthenticationException) and not _BROKEN_OFF.search(reason):
                raise Refused(f"no SSH connection: the key was refused: {reason}") from None
        time.sleep(0.05)
    raise Lost(f"no SSH connection within {timeout_s:.0f} s: {reason}")


@contextlib.contextmanager
def _limited(transport: paramiko.Transport, until: float, is_dead: Callable[[], bool]) -> Iterator[None]:
    """A wall-clock limit on a handshake: paramiko's own limits begin anew with each byte of a banner."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EYE_S):
            if time.monotonic() > until or is_dead():
                with contextlib.suppress(*TROUBLE):
                    transport.close()
                return

    eye = threading.Thread(target=watch, name="handshake", daemon=True)
    eye.start()
    try:
        yield
    finally:
        done.set()
        eye.join()
