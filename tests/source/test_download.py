# SPDX-License-Identifier: GPL-2.0-only
"""Servers that are slow on purpose, and ways that are not safe. test_archive.py has the ordinary ones."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import InfraError, UserError
from orchestrator.source import download
from orchestrator.source.download import fetch

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


class Dripping:
    """A server that sends a part at once, and then a byte now and then."""

    def __init__(self, at_once: bytes, drop: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x.tar"
        self._parts = at_once, drop
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            connection.sendall(self._parts[0])
            while True:
                connection.sendall(self._parts[1])
                time.sleep(0.02)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=["status", "header", "body"])
def dripping(request: pytest.FixtureRequest) -> Iterator[Dripping]:
    parts = {"status": (b"H", b"T"), "header": (b"HTTP/1.1 200 OK\r\nA: ", b"b"), "body": (HEAD, b"c")}
    server = Dripping(*parts[request.param])
    yield server
    server.close()


def test_a_server_that_drips_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dripping: Dripping
) -> None:
    monkeypatch.setattr(download, "_LIMIT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(InfraError, match="did not arrive within"):
        fetch(dripping.url, cache=tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["http://host.invalid/x.tar", "HTTP://127.0.0.1.host.invalid/x", "http:///x"])
def test_plain_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="plain http, which anybody on the way can change") as caught:
        fetch(url, cache=tmp_path)
    assert "--sha256" in caught.value.remedy


def test_with_a_digest_plain_http_will_do(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"host\.invalid"):
        fetch("http://host.invalid/x.tar", cache=tmp_path, sha256="ab" * 32)


def test_a_redirection_to_plain_http_is_refused(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://host.invalid/y.tar\r\nContent-Length: 0\r\n\r\n"
    server = Dripping(answer, b"")
    with pytest.raises(UserError, match=r"x\.tar leads to http://host\.invalid/y\.tar: plain http"):
        fetch(server.url, cache=tmp_path)
    server.close()
