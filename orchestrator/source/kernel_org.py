# SPDX-License-Identifier: GPL-2.0-only
"""Releases on kernel.org, and the signed list of their checksums."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.errors import InfraError
from orchestrator.source.download import BrokenDownload
from orchestrator.source.model import Say

#: The key of the checksum autosigner, as https://www.kernel.org/signature.html has it.
SIGNER = "B8868C80BA62A1FFFAF5FDA9632D3A06589DA6B1"
_LIST = "sha256sums.asc"
_GET_KEY = "gpg --locate-keys autosigner@kernel.org"
_LIMIT_S = 60
_KEYRINGS = ("trustedkeys.kbx", "trustedkeys.gpg", "pubring.kbx", "pubring.gpg")

Fetch = Callable[[str], Path]


def url(major: str, minor: str, patch: str) -> str:
    """The release tarball on kernel.org's public CDN; X.Y.0 is called X.Y there."""
    name = f"{major}.{minor}" + (f".{patch}" if int(patch or 0) else "")
    return f"https://cdn.kernel.org/pub/linux/kernel/v{major}.x/linux-{name}.tar.xz"


def verify(tarball: str, sha256: str, fetch: Fetch, say: Say) -> None:
    """Compare the digest of a tarball with kernel.org's list, and verify the signature of the list.

    What could not be verified is said: then the tarball is trusted by TLS alone.

    :param tarball: its URL. ``fetch`` gets the file of a URL.
    :raises BrokenDownload: the list has another digest.
    :raises InfraError: the signature is wrong.
    """
    folder, _, name = tarball.rpartition("/")
    try:
        listing = fetch(f"{folder}/{_LIST}").read_bytes()
    except InfraError as error:
        say(f"{name} is trusted by TLS alone: {error.message}")
        return
    signed, doubt = _signed(listing)
    digests = re.findall(rf"^([0-9a-f]{{64}})  {re.escape(name)}$", signed.decode(errors="replace"), re.M)
    if not digests:
        say(f"{name} is trusted by TLS alone: kernel.org's {_LIST} does not list it")
    elif sha256 not in digests:
        raise BrokenDownload(
            f"{tarball}: SHA-256 is {sha256}, and kernel.org's {_LIST} has {digests[0]}", remedy="try again"
        )
    elif doubt:
        say(f"{name} is as kernel.org's {_LIST} has it; its signature is not verified: {doubt}")
    else:
        say(f"{name} is as kernel.org's signed {_LIST} has it")


def _signed(listing: bytes) -> tuple[bytes, str]:
    """The signed part of the list, or all of it and why the signature cannot be verified.

    :raises InfraError: the signature is wrong.
    """
    if not shutil.which("gpgv"):
        return listing, "gpgv is not installed"
    keyrings = [path for name in _KEYRINGS if (path := _gnupg() / name).is_file()]
    if not keyrings:
        return listing, f"there is no key of it here ({_GET_KEY})"
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        place = Path(folder)
        (place / "list").write_bytes(listing)
        argv = ["gpgv", "--homedir", folder, "--status-fd", "1", "--output", str(place / "signed")]
        argv += [word for path in keyrings for word in ("--keyring", str(path))]
        process = subprocess.run(
            [*argv, str(place / "list")], capture_output=True, timeout=_LIMIT_S, check=False
        )
        status = process.stdout.decode(errors="replace")
        if re.search(rf"^\[GNUPG:\] VALIDSIG .*\b{SIGNER}$", status, re.M):
            return (place / "signed").read_bytes(), ""
    if "[GNUPG:] BADSIG" in status:
        raise InfraError(
            f"the signature of kernel.org's {_LIST} is wrong",
            remedy="try again; if it stays, fetch the tarball by other means and name it with its SHA-256",
        )
    return listing, f"the key of its signer is not in {keyrings[0].parent} ({_GET_KEY})"


def _gnupg() -> Path:
    return Path(os.environ.get("GNUPGHOME") or os.path.expanduser("~/.gnupg"))  # noqa: PTH111  (no home)
