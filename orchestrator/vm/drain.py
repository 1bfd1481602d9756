# SPDX-License-Identifier: GPL-2.0-only
"""Standard input and both output streams of a command on an SSH channel.

Both streams are drained together: reading one while the other fills deadlocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import paramiko

_STREAM_LIMIT = 20 << 20


class Drain:
    """Both streams of a channel, each up to ``_STREAM_LIMIT`` bytes."""

    def __init__(self, late: tuple[bytes, Callable[[], object]] | None) -> None:
        self._late = late
        self._is_late = False
        self._streams: tuple[list[bytes], list[bytes]] = ([], [])
        self._sizes = [0, 0]
        self._tail = b""

    def read(self, channel: paramiko.Channel) -> bool:
        """Read all that has arrived; whether anything had."""
        stdout = self._read(0, channel.recv_ready, channel.recv)
        stderr = self._read(1, channel.recv_stderr_ready, channel.recv_stderr)
        return stdout or stderr

    def _read(self, number: int, ready: Callable[[], bool], receive: Callable[[int], bytes]) -> bool:
        has_read = False
        while ready() and (data := receive(65536)):
            has_read = True
            if number and self._late is not None:
                line = self._late[0]
                self._tail = self._tail[-len(line) :] + data
                self._is_late = self._is_late or line in self._tail
            self._sizes[number] += len(data)
            if self._sizes[number] <= _STREAM_LIMIT:
                self._streams[number].append(data)
        return has_read

    def look_if_late(self, channel: paramiko.Channel) -> float:
        """Execute the action once the late line has arrived; the seconds that it took."""
        if self._late is None or not self._is_late:
            return 0.0
        since = time.monotonic()
        self._late[1]()
        self._late = None
        channel.shutdown_write()
        return time.monotonic() - since

    def output(self) -> tuple[bytes, bytes]:
        """Standard output and standard error so far."""
        return b"".join(self._streams[0]), b"".join(self._streams[1])


def send(channel: paramiko.Channel, stdin: bytes, *, close: bool) -> None:
    """Write standard input, and with ``close`` end it. A command may end before it reads everything."""
    try:
        if stdin:
            channel.sendall(stdin)
        if close:
            channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        # the command ended before it read everything; its own output explains why
        pass
