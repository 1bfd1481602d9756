# SPDX-License-Identifier: GPL-2.0-only
"""The run's own archive: keys in the formats that dropbear and paramiko read, and the payload."""

from __future__ import annotations

import base64
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fakes.archives import parse
from fakes.dropbear import real_dropbear

from orchestrator.core import arch, elf
from orchestrator.core.errors import UserError
from orchestrator.core.store import Store
from orchestrator.vm.rootfs import overlay

KEYS = overlay.make_keys()


def build(dest: Path, files: dict[str, Path] | None = None) -> dict[str, tuple[int, bytes]]:
    """Mode and content by path of an overlay with those files."""
    payload = overlay.payload(files or {}, {})
    path = overlay.build_overlay(dest, host_key=KEYS.host_key, authorized_key=KEYS.authorized_key)
    assert path == dest
    parts = (dest.read_bytes(), payload)
    return {name: (mode, content) for part in parts for name, mode, _, content in parse(part)}


def test_every_run_has_keys_of_its_own() -> None:
    other = overlay.make_keys()
    publics = {key.asbytes() for keys in (KEYS, other) for key in (keys.host_public, keys.user)}
    assert len(publics) == 4


def test_secrets_do_not_show_in_a_repr() -> None:
    assert KEYS.host_key.hex() not in repr(KEYS)
    assert "host_key=" not in repr(KEYS)


def test_the_authorized_line_is_the_users_public_key() -> None:
    kind, blob, _ = KEYS.authorized_key.split()
    assert kind == "ssh-ed25519"
    assert base64.b64decode(blob) == KEYS.user.asbytes()
    assert KEYS.user.can_sign()
    assert not KEYS.host_public.can_sign()


def test_dropbears_format_against_a_key_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    key = overlay.dropbear_key(Ed25519PrivateKey.from_private_bytes(seed))
    assert key == b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + seed + public


def test_modes_are_those_that_dropbear_insists_on(tmp_path: Path) -> None:
    files = build(tmp_path / "o.cpio")
    modes = {name: stat.S_IMODE(mode) for name, (mode, _) in files.items()}
    assert modes["root"] == modes["root/.ssh"] == 0o700
    assert modes["root/.ssh/authorized_keys"] == modes["etc/orchestrate/host_key"] == 0o600
    assert modes["etc"] == modes["etc/orchestrate"] == 0o755
    assert files["root/.ssh/authorized_keys"][1] == KEYS.authorized_key.encode() + b"\n"
    assert files["etc/orchestrate/host_key"][1] == KEYS.host_key


def test_only_the_owner_may_read_the_archive(tmp_path: Path) -> None:
    build(tmp_path / "o.cpio")
    assert stat.S_IMODE((tmp_path / "o.cpio").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["o.cpio"]


def test_files_go_in_as_programs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\x7fELF")
    files = build(tmp_path / "o.cpio", {"/opt/orchestrate/suites/maps/x": source})
    assert files["opt/orchestrate/suites/maps/x"] == (stat.S_IFREG | 0o755, b"\x7fELF")
    assert stat.S_ISDIR(files["opt/orchestrate/suites"][0])


def test_an_empty_folder_goes_in_as_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files = build(tmp_path / "o.cpio", {"/opt/orchestrate/cmd/deep/out": tmp_path / "empty"})
    assert files["opt/orchestrate/cmd/deep/out"] == (stat.S_IFDIR | 0o755, b"")


def test_equal_input_equal_bytes(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    one = overlay.payload({"/opt/orchestrate/b": b, "/opt/orchestrate/a": a}, {})
    assert one == overlay.payload({"/opt/orchestrate/a": a, "/opt/orchestrate/b": b}, {})
    build(tmp_path / "1")
    build(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/opt/orchestrate",
        "/opt/orchestrate/",
        "/opt/orchestrate/../../etc/passwd",
        "/opt/orchestrate/a/..",
        "/opt/orchestrate2/x",
        "opt/orchestrate/x",
        "/etc/passwd",
        "//opt/orchestrate/x",
        "/opt/orchestrate/a\nb",
        "/opt/orchestrate/a\0b",
        "",
    ],
)
def test_no_path_leads_out_of_the_payload(tmp_path: Path, path: str) -> None:
    source = tmp_path / "source"
    source.touch()
    with pytest.raises(UserError, match="is not below /opt/orchestrate"):
        build(tmp_path / "o.cpio", {path: source})
    assert not (tmp_path / "o.cpio").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        build(tmp_path / "o.cpio", {"/opt/orchestrate/x": tmp_path / "missing"})


def test_a_file_inside_a_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    with pytest.raises(UserError, match="conflict"):
        build(tmp_path / "o.cpio", {"/opt/orchestrate/x": source, "/opt/orchestrate/x/y": source})


def test_more_than_one_authorized_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        overlay.build_overlay(tmp_path / "o", host_key=b"", authorized_key="a\nssh-ed25519 evil")


@pytest.mark.parametrize("name", arch.names())
def test_the_runner_is_built_for_each_architecture(tmp_path: Path, name: str) -> None:
    known = arch.load(name)
    if not shutil.which(f"{known.compiler_prefix}gcc"):
        pytest.skip(f"{known.compiler_prefix}gcc is not installed")
    path = overlay.build_runner(known, Store(tmp_path))
    content = path.read_bytes()
    assert elf.machine(content, str(path)) == known.elf
    assert elf.read(content, str(path)).interpreter == ""
    assert overlay.build_runner(known, Store(tmp_path)).stat().st_mtime_ns == path.stat().st_mtime_ns


@pytest.mark.guest
def test_a_real_dropbear_proves_to_be_the_host_that_was_pinned(tmp_path: Path) -> None:
    server = real_dropbear(tmp_path)
    key = tmp_path / "host_key"
    key.write_bytes(KEYS.host_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    # -i: as a daemon it executes itself anew, which started through the loader it cannot
    argv = [*server, "-i", "-s", "-j", "-k", "-r", str(key)]
    end = theirs.fileno()
    with theirs, subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.DEVNULL) as process:
        theirs.close()
        transport = paramiko.Transport(ours)
        try:
            # verifies the server's signature over the exchange with its key
            transport.start_client(timeout=30)
            assert transport.get_remote_server_key().asbytes() == KEYS.host_public.asbytes()
        finally:
            transport.close()
            process.terminate()
