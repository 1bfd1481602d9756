# SPDX-License-Identifier: GPL-2.0-only
"""Downloads: fetched once, and again only if the server has something newer."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store, file_digest
from orchestrator.source.model import Say, quiet

MAX_BYTES = 2 << 30

_CHUNK = 1 << 20
_STALL_S = 60


class BrokenDownload(InfraError):
    """A download is truncated or damaged; another attempt may help."""


def fetch(url: str, *, cache: Path, sha256: str | None = None, say: Say = quiet) -> Path:
    """A tarball from the web, cached below ``cache/downloads`` and fetched again only if it has changed.

    :param sha256: if the cached file has this digest, the server is not contacted.
    :raises InfraError: unreachable, refused, cut short or too large.
    """
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
            _download(url, headers, archive, validators)
        except InfraError as error:
            if not have:
                raise
            say(f"{error.message}; using the cached copy")
    return archive


def discard(downloaded: Path) -> None:
    """Delete a broken download, so that the next attempt fetches it anew."""
    downloaded.with_name("validators.json").unlink(missing_ok=True)
    downloaded.unlink(missing_ok=True)


def _download(url: str, conditions: dict[str, str], archive: Path, validators: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "orchestrate", **conditions})
    part = archive.with_name("part")
    remedy = "check the network and the proxy, or fetch the archive by other means and name the file"
    try:
        with urllib.request.urlopen(request, timeout=_STALL_S) as answer:
            expected = answer.headers.get("Content-Length")
            size = 0
            with part.open("wb") as stream:
                while chunk := answer.read(_CHUNK):
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise InfraError(f"{url}: larger than {MAX_BYTES >> 20} MiB, stopped")
                    stream.write(chunk)
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
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise InfraError(f"{url}: {getattr(error, 'reason', error)}", remedy=remedy) from error
    # in this order a kill in between costs a download, never a false 304
    validators.unlink(missing_ok=True)
    part.replace(archive)
    write_atomically(validators, msgspec.json.encode(next_conditions))
