# SPDX-License-Identifier: GPL-2.0-only
"""The additions of a run to the guest image: keys, suite binaries and the runner, as further archives.

The kernel unpacks concatenated archives one after the other, so a run costs no rebuild of the image and no
transfer through an emulated cipher.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from orchestrator.core import data
from orchestrator.core.arch import Arch
from orchestrator.core.compile import compile_static
from orchestrator.core.errors import UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store
from orchestrator.vm.rootfs import cpio

#: Where the guest's SSH server looks for its key (guest/inittab.j2 is rendered with it).
HOST_KEY = "/etc/orchestrate/host_key"
#: The only folder for a run's files.
PAYLOAD = PurePosixPath("/opt/orchestrate")
#: The in-guest runner (guest/orc-exec.c).
RUNNER = PAYLOAD / "orc-exec"
#: Likewise the program that shows the guest's state (guest/orc-look.c).
LOOKER = PAYLOAD / "orc-look"

_AUTHORIZED_KEYS = "root/.ssh/authorized_keys"
_KEY_TYPE = "ssh-ed25519"
_CFLAGS = ("-O2", "-Werror")


@dataclass(frozen=True)
class RunKeys:
    """The two key pairs of a run; no other run uses them.

    ``host_key`` is the guest's secret in dropbear's format, ``host_public`` what its clients pin;
    ``user`` is the clients' key, ``authorized_key`` its line for the guest.
    """

    host_key: bytes = field(repr=False)
    host_public: paramiko.Ed25519Key
    user: paramiko.Ed25519Key
    authorized_key: str


def make_keys() -> RunKeys:
    """Fresh Ed25519 keys for one run."""
    host, user = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    return RunKeys(
        host_key=dropbear_key(host),
        host_public=paramiko.Ed25519Key(data=_public_blob(host)),
        user=_paramiko_key(user),
        authorized_key=f"{_KEY_TYPE} {base64.b64encode(_public_blob(user)).decode()} orchestrate",
    )


def dropbear_key(key: Ed25519PrivateKey) -> bytes:
    """``key`` in dropbear's host-key format.

    Two SSH strings: the type, then 32 bytes of seed and 32 of public key (dropbear's ed25519.c,
    buf_put_ed25519_priv_key).
    """
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return _ssh_string(_KEY_TYPE.encode()) + _ssh_string(seed + _public_raw(key))


def build_overlay(
    dest: Path,
    *,
    host_key: bytes,
    authorized_key: str,
) -> Path:
    """Write the archive of a run's keys to ``dest``, readable by its owner only; returns ``dest``.

    :param host_key: as of ``dropbear_key``.
    :param authorized_key: one line of OpenSSH's ``authorized_keys``.
    :raises InfraError: the archive cannot be written.
    """
    if "\n" in authorized_key.strip():
        raise ValueError("authorized_key must be one line")
    # dropbear refuses the key if others may write to any of these
    entries = [
        cpio.directory("root", 0o700),
        cpio.directory("root/.ssh", 0o700),
        cpio.regular(_AUTHORIZED_KEYS, authorized_key.strip().encode() + b"\n", 0o600),
        cpio.regular(HOST_KEY.lstrip("/"), host_key, 0o600),
    ]
    write_atomically(dest, _archive(entries), mode=0o600)
    return dest


def payload(files: Mapping[str, Path], data: Mapping[str, Path]) -> bytes:
    """The archive of a run's files. Equal files give equal bytes.

    :param files: programs and empty folders of the host by their absolute guest paths below
        ``/opt/orchestrate``.
    :param data: likewise, files that are not executable.
    :raises UserError: a guest path is elsewhere, or a host file cannot be read.
    """
    return _archive(_entries(files, data))


def _entries(files: Mapping[str, Path], data: Mapping[str, Path]) -> list[cpio.Entry]:
    return [
        cpio.directory(guest_path(path))
        if source.is_dir()
        else cpio.regular(guest_path(path), _content(source), mode)
        for several, mode in ((files, 0o755), (data, 0o644))
        for path, source in sorted(several.items())
    ]


def _archive(entries: list[cpio.Entry]) -> bytes:
    try:
        return cpio.archive(entries)
    except ValueError as error:
        raise UserError(f"the files of this run conflict: {error}") from error


def guest_path(path: str) -> str:
    """``path`` as the archive names it, which must be below ``/opt/orchestrate``.

    :raises UserError: it is not.
    """
    pure = PurePosixPath(path)
    inside = pure.is_relative_to(PAYLOAD) and pure != PAYLOAD and ".." not in pure.parts
    if not inside or not path.isprintable():
        raise UserError(
            f"guest path {path!r} is not below {PAYLOAD}",
            remedy=f"choose a path such as {PAYLOAD}/NAME, without '..'",
        )
    return str(pure).lstrip("/")


def build_runner(arch: Arch, store: Store) -> Path:
    """The in-guest runner, compiled for ``arch``; goes to ``RUNNER`` in the guest.

    :raises InfraError: no compiler, or no static C library for it.
    """
    return compile_static("orc-exec", ["orc-exec.c"], _CFLAGS, folder=data.guest(), arch=arch, store=store)


def build_looker(arch: Arch, store: Store) -> Path:
    """The program that shows the guest's state, compiled for ``arch``; goes to ``LOOKER`` in the guest.

    :raises InfraError: as ``build_runner``.
    """
    return compile_static("orc-look", ["orc-look.c"], _CFLAGS, folder=data.guest(), arch=arch, store=store)


def _content(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise UserError(f"{source} is a file for the guest, but cannot be read: {error.strerror}") from error


def _paramiko_key(key: Ed25519PrivateKey) -> paramiko.Ed25519Key:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))


def _public_raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _public_blob(key: Ed25519PrivateKey) -> bytes:
    return _ssh_string(_KEY_TYPE.encode()) + _ssh_string(_public_raw(key))


def _ssh_string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
