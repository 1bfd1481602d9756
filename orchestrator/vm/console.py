# SPDX-License-Identifier: GPL-2.0-only
"""The guest's serial console: a bounded log file, a sink for every byte, and waits for a pattern."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from orchestrator.core.text import clean

#: Bytes of the log: a flood must fill neither the disk nor our memory.
LOG_LIMIT = 32 << 20
_WINDOW = 1 << 18


class Console:
    """One serial line. QEMU is the client, so none of its first output is lost.

    :param sink: gets every byte in order, from the reading thread.
    """

    def __init__(self, path: Path, log: Path, sink: Callable[[bytes], None] = lambda _: None) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(30.0)
        self._sink = sink
        self._log = log
        self._window = b""
        self.position = 0
        self._news = threading.Condition()
        self._ended = False
        self._spawn: SocketSpawn[bytes] | None = None
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        connection: socket.socket | None = None
        with self._log.open("wb", buffering=0) as log:
            try:
                connection, _ = self._listener.accept()
                self._spawn = SocketSpawn(connection, timeout=None)
                while True:
                    try:
                        data = self._spawn.read_nonblocking(65536, timeout=1.0)
                    except pexpect.TIMEOUT:
                        continue
                    self._take(data, log.write)
            except (OSError, pexpect.EOF, ValueError):
                pass
            finally:
                self._add_end(log.write)
                with self._news:
                    self._ended = True
                    self._news.notify_all()
                for end in (connection, self._listener):
                    if end is not None:
                        with contextlib.suppress(OSError):
                            end.close()

    def _take(self, data: bytes, write: Callable[[bytes], object]) -> None:
        room = LOG_LIMIT - self.position
        # a full disk must not end the listening: the guest would be blamed for its silence
        with contextlib.suppress(OSError):
            if room > 0:
                write(data[:room])
        self._sink(data)
        with self._news:
            self.position += len(data)
            self._window = (self._window + data)[-_WINDOW:]
            self._news.notify_all()

    def _add_end(self, write: Callable[[bytes], object]) -> None:
        """Add the last lines to a log that was full before them."""
        missing = self.position - LOG_LIMIT
        with contextlib.suppress(OSError):
            if missing > 0:
                end = self._window[-missing:]
                cut = missing - len(end)
                write(b"\n[orchestrate: the log is cut here: %d bytes are missing]\n" % cut + end)

    def wait_for(
        self, pattern: bytes, timeout_s: float, *, is_dead: Callable[[], bool] = lambda: False
    ) -> re.Match[bytes] | None:
        """The first match in the output so far or within ``timeout_s``; ``None`` if there is none.

        Returns early if the line has ended, or if ``is_dead()``.
        """
        regex = re.compile(pattern)
        until = time.monotonic() + timeout_s
        with self._news:
            while True:
                if match := regex.search(self._window):
                    return match
                remaining = until - time.monotonic()
                if remaining <= 0 or self._ended:
                    return None
                self._news.wait(min(remaining, 0.25))
                if is_dead() and not regex.search(self._window):
                    return None

    def settle(self, quiet_s: float = 0.05, limit_s: float = 1.0) -> None:
        """Wait until the console has been silent for a moment."""
        until = time.monotonic() + limit_s
        with self._news:
            while time.monotonic() < until and not self._ended:
                if not self._news.wait(quiet_s):
                    return

    def tail(self, lines: int = 12) -> list[str]:
        """The last lines, cleaned."""
        with self._news:
            window = self._window
        return [line for line in clean(window[-16384:]).splitlines() if line.strip()][-lines:]

    def since(self, position: int, limit: int) -> bytes:
        """The log from a position (an earlier value of ``position``), ``limit`` bytes at most."""
        try:
            with self._log.open("rb") as log:
                log.seek(position)
                return log.read(limit)
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """Type into the console."""
        if self._spawn is not None:
            self._spawn.send(data)

    def close(self) -> None:
        """End the reading; the thread is gone afterwards. QEMU must have ended, or its end be closed."""
        self._thread.join(5.0)
        with contextlib.suppress(OSError):
            self._listener.close()
        self._thread.join(1.0)
