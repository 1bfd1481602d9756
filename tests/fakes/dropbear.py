# SPDX-License-Identifier: GPL-2.0-only
"""A real dropbear on loopback: one process a connection, with a home directory of the test's own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from orchestrator.vm.rootfs.overlay import RunKeys

_MOUNT = 'mount --bind "$0" /root || exit 77; exec "$@"'


class Dropbear:
    """Listens on ``port`` until ``close``."""

    def __init__(self, program: Sequence[str], folder: Path, keys: RunKeys) -> None:
        home = folder / "root"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        home.chmod(0o700)
        (home / ".ssh/authorized_keys").write_text(f"{keys.authorized_key}\n")
        (home / ".ssh/authorized_keys").chmod(0o600)
        (folder / "host_key").write_bytes(keys.host_key)
        # dropbear looks for keys where /etc/passwd says: the home is put there in a namespace of its own
        self._argv = ["unshare", "-m", "sh", "-c", _MOUNT, str(home), *program]
        self._argv += ["-i", "-s", "-j", "-k", "-r", str(folder / "host_key")]
        self._log = (folder / "dropbear.log").open("wb")
        self._children: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._children.append(
                        subprocess.Popen(self._argv, stdin=connection, stdout=connection, stderr=self._log)
                    )

    def signal(self, number: int) -> None:
        """Send a signal to every process that serves a connection."""
        for child in self._children:
            child.send_signal(number)

    def close(self) -> None:
        """Stop listening and end all."""
        # wakes the thread that waits in accept()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for child in self._children:
            child.send_signal(signal.SIGKILL)
            child.wait()
        self._log.close()
