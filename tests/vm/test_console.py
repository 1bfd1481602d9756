# SPDX-License-Identifier: GPL-2.0-only
"""The serial console on real sockets: nothing lost, everything bounded."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import until

from orchestrator.vm import console as consoles
from orchestrator.vm.console import Console


class Line:
    """A console and the QEMU end of its line."""

    def __init__(self, folder: Path, log: Path | None = None) -> None:
        self.log = log or folder / "console.log"
        self.heard = bytearray()
        self.console = Console(folder / "console", self.log, self.heard.extend)
        self.qemu = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.qemu.connect(str(folder / "console"))

    def end(self) -> None:
        self.qemu.close()
        self.console.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.end()


def test_nothing_is_lost(line: Line) -> None:
    said = os.urandom(3 << 20)
    for at in range(0, len(said), 65537):
        line.qemu.sendall(said[at : at + 65537])
    line.end()
    assert line.log.read_bytes() == said
    assert bytes(line.heard) == said
    assert line.console.position == len(said)


def test_the_first_byte_may_come_before_anyone_reads(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.qemu.sendall(b"SeaBIOS\r\n")
    line.end()
    assert line.log.read_bytes() == b"SeaBIOS\r\n"


def test_a_word_in_pieces(line: Line) -> None:
    found = []
    thread = threading.Thread(
        target=lambda: found.append(line.console.wait_for(rb"Linux version (\S+) ", 30))
    )
    thread.start()
    for piece in (b"noise\r\nLin", b"ux ver", b"sion 7.", b"2.1"):
        line.qemu.sendall(piece)
        assert until(lambda: bytes(line.heard).endswith(piece))  # noqa: B023
        assert thread.is_alive()
    line.qemu.sendall(b" (gcc)")
    thread.join()
    assert found[0]
    assert found[0][1] == b"7.2.1"
    # what was said before the question counts too
    assert line.console.wait_for(rb"noise", 0)


def test_a_word_that_does_not_come(line: Line) -> None:
    line.qemu.sendall(b"something else\n")
    assert line.console.wait_for(rb"ready", 0.1) is None


def test_waiting_ends_with_the_line(line: Line) -> None:
    line.qemu.sendall(b"last words\n")
    line.qemu.close()
    assert line.console.wait_for(rb"ready", 600) is None
    assert line.console.wait_for(rb"last words", 600)


def test_waiting_ends_when_nothing_can_come(line: Line) -> None:
    assert line.console.wait_for(rb"ready", 600, is_dead=lambda: True) is None


def test_the_log_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "LOG_LIMIT", 1000)
    monkeypatch.setattr(consoles, "_WINDOW", 100)
    line = Line(tmp_path)
    line.qemu.sendall(b"x" * 5000 + b"ready\n")
    assert line.console.wait_for(rb"ready", 30), "what is not logged is still heard"
    line.end()
    cut = b"\n[orchestrate: the log is cut here: %d bytes are missing]\n"
    end = b"x" * 94 + b"ready\n"
    assert line.log.read_bytes() == b"x" * 1000 + cut % (4006 - 100) + end, "the last lines stay"
    assert len(line.heard) == 5006


def test_a_flood(tmp_path: Path) -> None:
    size = 40 << 20
    heard = hashlib.sha256()
    log = tmp_path / "console.log"
    console = Console(tmp_path / "console", log, heard.update)
    qemu = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    qemu.connect(str(tmp_path / "console"))
    block = b"[   12.345678] flood of a line that says nothing at all\r\n" * 1150
    sent = hashlib.sha256()
    total = 0
    while total < size:
        qemu.sendall(block)
        sent.update(block)
        total += len(block)
    qemu.close()
    console.close()
    assert console.position == total
    assert heard.digest() == sent.digest()
    assert log.stat().st_size < consoles.LOG_LIMIT + consoles._WINDOW + 100
    assert len(console._window) <= consoles._WINDOW
    assert len(console.tail(5)) == 5


def test_a_full_disk_does_not_end_the_listening(tmp_path: Path) -> None:
    """The guest is not to blame for it: its banner must still be seen."""
    line = Line(tmp_path, Path("/dev/full"))
    line.qemu.sendall(b"Linux version 7.2.1 \n")
    assert line.console.wait_for(rb"Linux version", 30)
    line.qemu.sendall(b"more\n")
    assert line.console.wait_for(rb"more", 30)
    line.end()
    assert bytes(line.heard) == b"Linux version 7.2.1 \nmore\n"


def test_the_tail_is_clean_text(line: Line) -> None:
    line.qemu.sendall(b"one\n\n\x1b[31mtwo\x1b[0m\r\n\xff\0three\r\n   \n")
    assert line.console.wait_for(rb"three\r\n   \n", 30)
    assert line.console.tail(2) == ["two", "\\xff\\x00three"]


def test_settling_waits_for_silence(line: Line) -> None:
    line.qemu.sendall(b"x" * 100_000)
    line.console.settle()
    assert len(line.heard) == 100_000


def test_typing(line: Line) -> None:
    line.qemu.sendall(b"login: ")
    assert line.console.wait_for(b"login: ", 30)
    line.console.send(b"root\n")
    assert line.qemu.recv(100) == b"root\n"


def test_the_thread_ends_with_the_line(tmp_path: Path) -> None:
    before = threading.active_count()
    line = Line(tmp_path)
    line.end()
    assert threading.active_count() == before
