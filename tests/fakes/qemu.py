# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU whose guest panics: QMP and a console as QEMU has them, in the folder that it is started in.

    qemu.py SECONDS

It says that the guest panicked, a moment later prints the rest of the panic, and ends ``SECONDS`` after that.
"""

from __future__ import annotations

import json
import socket
import sys
import time


def main(ends_s: float) -> None:
    console, qmp = (socket.socket(socket.AF_UNIX) for _ in range(2))
    console.connect("console")
    qmp.connect("qmp")

    def say(**message: object) -> None:
        qmp.sendall(json.dumps(message).encode() + b"\n")

    def tell(event: str, **data: object) -> None:
        say(event=event, data=data, timestamp={"seconds": 1, "microseconds": 0})

    version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
    say(QMP={"version": version, "capabilities": []})
    # qmp_capabilities, which has no newline
    greeted = json.loads(qmp.recv(4096))
    say(**{"return": {}, "id": greeted.get("id")})
    tell("GUEST_PANICKED", action="run")
    time.sleep(0.5)
    console.sendall(b"[    1.000000] Kernel panic - not syncing: all of it\n")
    time.sleep(ends_s)
    tell("SHUTDOWN", guest=True, reason="guest-reset")


if __name__ == "__main__":
    main(float(sys.argv[1]))
