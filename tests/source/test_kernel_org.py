# SPDX-License-Identifier: GPL-2.0-only
"""Whether a release is what kernel.org signed; with a key that is made here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import InfraError
from orchestrator.source import kernel_org
from orchestrator.source.download import BrokenDownload

TARBALL = kernel_org.url("7", "2", "1")
GOOD, OTHER = "ab" * 32, "cd" * 32
LIST = f"{OTHER}  linux-7.2.tar.xz\n{GOOD}  linux-7.2.1.tar.xz\n{OTHER}  linux-7.2.1.tar.gz\n"


class Signer:
    """A key, and the folder that has it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._gpg("--passphrase", "", "--quick-generate-key", "a@example.org", "ed25519")
        listing = self._gpg("--with-colons", "--fingerprint")
        (self.fingerprint, *_) = re.findall("^fpr:+([0-9A-F]{40}):", listing, re.M)

    def _gpg(self, *argv: str, data: str = "") -> str:
        command = ["gpg", "--homedir", str(self.home), "--batch", *argv]
        return subprocess.run(command, input=data, check=True, capture_output=True, text=True).stdout

    def sign(self, text: str) -> bytes:
        return self._gpg("--clearsign", data=text).encode()


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    if not (shutil.which("gpg") and shutil.which("gpgv")):
        pytest.skip("gpg is not installed")
    # gpg's agent needs a short path
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        yield Signer(Path(home))
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.fixture
def trusted(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Signer:
    monkeypatch.setenv("GNUPGHOME", str(signer.home))
    monkeypatch.setattr(kernel_org, "SIGNER", signer.fingerprint)
    return signer


def _verify(tmp_path: Path, listing: bytes, sha256: str = GOOD) -> list[str]:
    said: list[str] = []
    asked: list[str] = []

    def fetch(url: str) -> Path:
        asked.append(url)
        (tmp_path / "list").write_bytes(listing)
        return tmp_path / "list"

    kernel_org.verify(TARBALL, sha256, fetch, said.append)
    assert asked == ["https://cdn.kernel.org/pub/linux/kernel/v7.x/sha256sums.asc"]
    return said


def test_a_release_that_is_in_the_signed_list(tmp_path: Path, trusted: Signer) -> None:
    said = _verify(tmp_path, trusted.sign(LIST))
    assert said == ["linux-7.2.1.tar.xz is as kernel.org's signed sha256sums.asc has it"]


def test_another_digest_is_refused(tmp_path: Path, trusted: Signer) -> None:
    for listing in (trusted.sign(LIST), LIST.encode()):
        with pytest.raises(BrokenDownload, match=rf"SHA-256 is {OTHER}, and .* has {GOOD}"):
            _verify(tmp_path, listing, OTHER)


def test_a_changed_list_is_refused(tmp_path: Path, trusted: Signer) -> None:
    with pytest.raises(InfraError, match=r"the signature of .* is wrong"):
        _verify(tmp_path, trusted.sign(LIST).replace(GOOD.encode(), OTHER.encode()), OTHER)


def test_lines_beside_the_signed_part_do_not_count(tmp_path: Path, trusted: Signer) -> None:
    listing = f"{OTHER}  linux-7.2.1.tar.xz\n\n".encode() + trusted.sign("nothing\n")
    assert _verify(tmp_path, listing, OTHER) == [
        "linux-7.2.1.tar.xz is trusted by TLS alone: kernel.org's sha256sums.asc does not list it"
    ]


@pytest.mark.parametrize("without", ["gpgv", "keys", "signer", "signature"])
def test_what_cannot_be_verified_is_said(
    tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "none" if without == "keys" else signer.home))
    if without == "gpgv":
        monkeypatch.setenv("PATH", str(tmp_path))
        (said,) = _verify(tmp_path, LIST.encode())
        assert said.endswith("its signature is not verified: gpgv is not installed")
        return
    listing = LIST.encode() if without == "signature" else signer.sign(LIST)
    (said,) = _verify(tmp_path, listing)
    assert said.startswith(
        "linux-7.2.1.tar.xz is as kernel.org's sha256sums.asc has it; its signature is not ver"
    )
    assert "gpg --locate-keys autosigner@kernel.org" in said


def test_without_the_list_it_is_said(tmp_path: Path) -> None:
    def fetch(_: str) -> Path:
        raise InfraError("no network")

    said: list[str] = []
    kernel_org.verify(TARBALL, GOOD, fetch, said.append)
    assert said == ["linux-7.2.1.tar.xz is trusted by TLS alone: no network"]
