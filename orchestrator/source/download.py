# SPDX-License-Identifier: GPL-2.0-only
"""Downloads: fetched once, and again only if the server has something newer."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store, file_digest
from orchestrator.source.model import Say, quiet

MAX_BYTES = 2 << 30

_NETWORK = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
_CHUNK = 1 << 20
_STALL_S = 60
#: For a whole download: a server that sends a byte a minute never stalls.
_LIMIT_S = 3600.0


class BrokenDownload(InfraError):
    """A download is truncated or damaged; another attempt may help."""


def fetch(url: str, *, cache: Path, sha256: str | None = None, say: Say = quiet) -> Path:
    """A tarball from the web, cached below ``cache/downloads`` and fetched again only if it has changed.

    :param sha256: if the cached file has this digest, the server is not contacted.
    :raises UserError: it is plain http, which anybody on the way can change, and there is no ``sha256``.
    :raises InfraError: unreachable, refused, cut short, too slow or too large.
    """
    if sha256 is None:
        _check_scheme(url)
    folder = cache / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    archive, validators = folder / "archive", folder / "validators.json"
    with Store(cache).lock(
        f"download-{folder.name}", waiting=lambda: say(f"waiting for another process that fetches {url}")
    ):
        have = archive.is_file() and validators.is_file()
        if have and sha256 is not None and file_digest(archive) == sha256.lower():
            return archive
        headers: dict[str, str] = {}
        if have:
            headers = msgspec.json.decode(validators.read_bytes(), type=dict[str, str])
        say(f"fetching {url}")
        try:
            _download(url, headers, archive, validators, safe=sha256 is not None)
        except InfraError as error:
            if not have:
                raise
            say(f"{error.message}; using the cached copy")
    return archive


def _too_slow(url: str) -> InfraError:
    return InfraError(
        f"{url}: did not arrive within {_LIMIT_S / 60:.0f} minutes",
        remedy="fetch the archive by other means and name the file",
    )


def discard(downloaded: Path) -> None:
    """Delete a broken download, so that the next attempt fetches it anew."""
    downloaded.with_name("validators.json").unlink(missing_ok=True)
    downloaded.unlink(missing_ok=True)


def _check_scheme(url: str, said: str = "") -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if parts.scheme != "https" and host != "localhost":
        raise UserError(
            f"{said or url}: plain http, which anybody on the way can change",
            remedy="write https, or give the SHA-256 of the archive with --sha256",
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection, but not from https to plain http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, f"{req.full_url} leads to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Limit:
    """A limit for all connections of a download, from their first byte on."""

    def __init__(self) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []

    def connect(self, *args: Any, **more: Any) -> socket.socket:
        """As ``socket.create_connection``."""
        connection = socket.create_connection(*args, **more)
        # a copy, because TLS takes the other one over
        self._sockets.append(connection.dup())
        return connection

    def _pass(self) -> None:
        self.passed = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        timer = threading.Timer(_LIMIT_S, self._pass)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for each in self._sockets:
                each.close()


class _Watched:
    """Makes connections that a limit ends; for a handler of urllib."""

    def __init__(self, limit: _Limit) -> None:
        super().__init__()
        self._limit = limit

    def do_open(self, http_class: Any, req: Any, **more: Any) -> Any:
        def make(*args: Any, **options: Any) -> Any:
            connection = http_class(*args, **options)
            connection._create_connection = self._limit.connect
            return connection

        return super().do_open(make, req, **more)  # type: ignore[misc]


class _Http(_Watched, urllib.request.HTTPHandler):
    pass


class _Https(_Watched, urllib.request.HTTPSHandler):
    pass


def _download(url: str, conditions: dict[str, str], archive: Path, validators: Path, *, safe: bool) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "orchestrate", **conditions})
    part = archive.with_name("part")
    remedy = "check the network and the proxy, or fetch the archive by other means and name the file"
    limit = _Limit()
    handlers = [_Http(limit), _Https(limit), *([] if safe else [_Redirects()])]
    opener = urllib.request.build_opener(*handlers)
    try:
        with limit.running(), opener.open(request, timeout=_STALL_S) as answer:
            expected = answer.headers.get("Content-Length")
            size = 0
            with part.open("wb") as stream:
                while chunk := answer.read1(_CHUNK):
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise InfraError(f"{url}: larger than {MAX_BYTES >> 20} MiB, stopped")
                    stream.write(chunk)
            if limit.passed:
                raise _too_slow(url)
            if expected is not None and expected.isdigit() and size != int(expected):
                raise InfraError(f"{url}: cut short, {size} of {expected} bytes arrived", remedy="try again")
            next_conditions = {
                ask: answer.headers[tell]
                for ask, tell in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
                if answer.headers[tell]
            }
    except urllib.error.HTTPError as error:
        if error.code == 304 and conditions:
            return
        raise InfraError(f"{url}: the server answered {error.code} {error.reason}", remedy=remedy) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if limit.passed:
            raise _too_slow(url) from error
        if not isinstance(error, _NETWORK):
            raise
        raise InfraError(f"{url}: {getattr(error, 'reason', error)}", remedy=remedy) from error
    # in this order a kill in between costs a download, never a false 304
    validators.unlink(missing_ok=True)
    part.replace(archive)
    write_atomically(validators, msgspec.json.encode(next_conditions))
