# SPDX-License-Identifier: GPL-2.0-only
"""Both streams of a command, and the line that says that it is late."""

from __future__ import annotations

from typing import cast

import paramiko
import pytest

from orchestrator.vm.drain import Drain

LATE = b"\n@orc 12 late\n"


class Channel:
    """Standard error in the chunks in which it arrives; nothing on standard output."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.is_shut = False

    def recv_ready(self) -> bool:
        return False

    def recv(self, _: int) -> bytes:
        return b""

    def recv_stderr_ready(self) -> bool:
        return bool(self.chunks)

    def recv_stderr(self, _: int) -> bytes:
        return self.chunks.pop(0)

    def shutdown_write(self) -> None:
        self.is_shut = True


@pytest.mark.parametrize(
    "chunks",
    [
        (LATE,),
        (b"text" + LATE[:5], LATE[5:] + b"text"),
        (LATE + b"a" * 99, b"b" * 99),
        tuple(LATE[at : at + 1] for at in range(len(LATE))),
    ],
)
def test_the_late_line_is_noticed_wherever_it_is_cut(chunks: tuple[bytes, ...]) -> None:
    looks: list[str] = []
    channel = Channel(*chunks)
    drain = Drain((LATE, lambda: looks.append("look")))
    for _ in range(2):
        drain.read(cast(paramiko.Channel, channel))
        drain.look_if_late(cast(paramiko.Channel, channel))
    assert looks == ["look"]
    assert channel.is_shut
    assert drain.output() == (b"", b"".join(chunks))


def test_without_the_line_nothing_is_done() -> None:
    looks: list[str] = []
    channel = Channel(LATE[1:], b"text")
    drain = Drain((LATE, lambda: looks.append("look")))
    assert drain.read(cast(paramiko.Channel, channel))
    assert drain.look_if_late(cast(paramiko.Channel, channel)) == 0
    assert (looks, channel.is_shut) == ([], False)
