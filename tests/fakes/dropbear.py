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

import pytest

from orchestrator.core import arch, elf
from orchestrator.core.store import default_cache
from orchestrator.debian import apt, deb, mirror, tools
from orchestrator.vm.rootfs.overlay import RunKeys

_MOUNT = 'mount --bind "$0" /etc/passwd || exit 77; exec "$@"'


class Dropbear:
    """Listens on ``port`` until ``close``."""

    def __init__(self, program: Sequence[str], folder: Path, keys: RunKeys) -> None:
        home = folder / "root"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        home.chmod(0o700)
        (home / ".ssh/authorized_keys").write_text(f"{keys.authorized_key}\n")
        (home / ".ssh/authorized_keys").chmod(0o600)
        (folder / "host_key").write_bytes(keys.host_key)
        # dropbear looks for keys where /etc/passwd says: in a namespace of its own that says otherwise
        users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        users = [[*user[:5], str(home), *user[6:]] if user[0] == "root" else user for user in users]
        passwd = folder / "passwd"
        passwd.write_text("".join(f"{':'.join(user)}\n" for user in users))
        self._argv = ["unshare", "-m", "sh", "-c", _MOUNT, str(passwd), *program]
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
                    ours = connection.fileno()
                    self._children.append(
                        subprocess.Popen(self._argv, stdin=ours, stdout=ours, stderr=self._log)
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


def real_dropbear(folder: Path) -> list[str]:
    """argv of the dropbear of this host's architecture, out of Debian's packages; nothing is installed."""
    host = arch.host()
    suite = mirror.host_codename()
    if not tools.have_apt() or not suite:
        pytest.skip("the host is not Debian's")
    state = apt.AptState(default_cache() / "apt" / f"{suite}-{host.debian}", [suite], host.debian)
    state.update(max_age_s=86400)
    debs = state.download_all(state.closure(["dropbear-bin"]), folder / "debs")
    files = {path: member for members in deb.unpack(debs).values() for path, member in members.items()}
    program = deb.follow(files, "usr/sbin/dropbear")
    assert program
    libraries = elf.closure(program, "dropbear", lambda word: deb.library(files, word)[1])
    for word, content in {"dropbear": program, **libraries}.items():
        (folder / Path(word).name).write_bytes(content)
        (folder / Path(word).name).chmod(0o755)
    loader = Path(elf.read(program, "dropbear").interpreter).name
    return [str(folder / loader), "--library-path", str(folder), str(folder / "dropbear")]
