# SPDX-License-Identifier: GPL-2.0-only
"""SSH against a real dropbear, with the guest's own runner: no answer may pass for another."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.dropbear import Dropbear
from fakes.processes import alive, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.vm import ssh
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.ssh import Lost, Ssh

# they wait for processes and clocks
pytestmark = pytest.mark.slow

KEYS = overlay.make_keys()


@pytest.fixture
def server(dropbear: list[str], tmp_path: Path) -> Iterator[Dropbear]:
    made = Dropbear(dropbear, tmp_path, KEYS)
    yield made
    made.close()


@pytest.fixture
def guest(server: Dropbear, orc_exec: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ssh]:
    monkeypatch.setattr(ssh, "RUNNER", str(orc_exec))
    monkeypatch.setattr(ssh, "_GRACE_S", 1.0)
    made = connect(server)
    yield made
    made.close()


def connect(server: Dropbear, keys: overlay.RunKeys = KEYS, timeout_s: float = 20.0) -> Ssh:
    return Ssh.connect(server.port, host_key=keys.host_public, user_key=keys.user, timeout_s=timeout_s)


def shell(guest: Ssh, script: str, limit_s: float = 60.0) -> ssh.Ran:
    return guest.run(["sh", "-c", script], limit_s=limit_s)


def test_exit_codes_and_signals(guest: Ssh) -> None:
    for code in (0, 1, 4, 127, 255):
        ran = shell(guest, f"exit {code}")
        assert (ran.facts.exit, ran.facts.signal, ran.ok) == (code, None, code == 0)
    for number in (9, 11, 15):
        ran = shell(guest, f"ulimit -c 0; kill -{number} $$")
        assert (ran.facts.exit, ran.facts.signal, ran.ok) == (None, number, False)
    ran = guest.run(["/nonexistent"], limit_s=60)
    assert ran.facts.exec_error
    assert ran.facts.exec_error.startswith("exec /nonexistent")


def test_words_arrive_as_they_are(guest: Ssh) -> None:
    words = ["a b", "$HOME", "'\"", "", "*", "--", "ü\n"]
    script = 'printf "%s|" "$@" "$PWD" "$A"; cat'
    ran = guest.run(["sh", "-c", script, "sh", *words], limit_s=60, env={"A": "x; y"}, cwd="/tmp")
    assert ran.stdout.decode() == "|".join([*words, "/tmp", "x; y", ""])
    assert ran.argv[-7:] == tuple(words)


def test_options_of_the_runner(guest: Ssh) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    ran = guest.run(["nice"], limit_s=60, options=["--cpus", cpu, "--nice", "7"])
    assert (ran.facts.cpus, ran.facts.nice, ran.stdout) == (cpu, 7, b"7\n")


def test_the_guests_own_limit(guest: Ssh, marker: str) -> None:
    ran = guest.run(["bash", "-c", f"echo begun; exec -a {marker} sleep 300"], limit_s=1)
    assert ran.facts.timeout
    assert not ran.ok
    assert ran.stdout == b"begun\n"
    assert alive(marker) == []


def test_somebody_looks_before_the_late_are_killed(guest: Ssh, marker: str) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(len(alive(marker)))

    script = f"echo before; echo why >&2; exec python3 -c 'import time; time.sleep(100)' {marker}"
    ran = guest.run(["sh", "-c", script], limit_s=1.0, late=ssh.Late(look, 30.0))
    assert seen[0]
    assert (ran.facts.timeout, ran.stdout, ran.stderr) == (True, b"before\n", b"why\n")
    assert not alive(marker)
    assert guest.run(["true"], limit_s=10, late=ssh.Late(look, 30.0)).ok
    assert len(seen) == 1


def test_who_forges_a_late_line_is_not_looked_at(guest: Ssh) -> None:
    seen: list[int] = []
    late = ssh.Late(lambda: seen.append(1), 30.0)
    ran = guest.run(["sh", "-c", "printf '\\n@orc 0123 late\\n' >&2"], limit_s=10, late=late)
    assert seen == []
    assert ran.stderr == b"\n@orc 0123 late\n"


def test_what_was_written_before_the_end_is_not_lost(guest: Ssh) -> None:
    with pytest.raises(Lost) as lost:
        guest.run(["sh", "-c", "echo out; echo err >&2; sleep 0.5; kill -9 $PPID; sleep 100"], limit_s=20)
    assert (lost.value.stdout, lost.value.stderr) == (b"out\n", b"err\n")


def test_much_on_both_streams(guest: Ssh) -> None:
    size = 8 << 20
    write = f"head -c {size} /dev/zero | tr '\\0'"
    ran = shell(guest, f"{write} o & {write} e >&2; wait", limit_s=120)
    assert ran.ok
    assert ran.stdout == b"o" * size
    assert ran.stderr == b"e" * size


def test_a_report_on_stderr_is_not_the_runners(guest: Ssh) -> None:
    ran = shell(guest, r"""printf '\n@orc 00 {"exit": 0}\n' >&2; exit 3""")
    assert ran.facts.exit == 3
    assert b'@orc 00 {"exit": 0}' in ran.stderr


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (r"""printf '\n@orc %s {"exit": 0' "$nonce" >&2""", "report about true is invalid"),
        (r"""printf '\n@orc %s {"exit": "0"}\n' "$nonce" >&2""", "report about true is invalid"),
        (r"""printf '\n@orc %s ' "$nonce" >&2""", "report about true is invalid"),
        (r"""printf '\n@orc %sx {"exit": 0}\n' "$nonce" >&2""", "no report about true"),
        ("exit 0", "no report about true"),
        ("kill -9 $$", "no report about true"),
    ],
)
def test_a_report_that_is_torn_or_absent(
    guest: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str, message: str
) -> None:
    runner = tmp_path / "runner"
    runner.write_text(f"#!/bin/sh\nread -r nonce\n{report}\n")
    runner.chmod(0o755)
    monkeypatch.setattr(ssh, "RUNNER", str(runner))
    with pytest.raises(ssh.Unreported, match=message):
        guest.run(["true"], limit_s=30)


FORGED = [
    {"exit": 10**400},
    {"exit": 256},
    {"exit": -1},
    {"wall_ms": 10**30},
    {"wall_ms": -1},
    {"nice": 10**9},
    {"exec_error": "x" * 5000},
    {"cpus": ["0"]},
    [],
]


@pytest.mark.parametrize(
    "report",
    [
        *(json.dumps(each).encode() for each in FORGED),
        b'{"exit": 0, "x": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"exit": 0, "x": ' + b"[" * 100_000,
        b'{"cpus": "\xff"}',
        b'{"exit": 1e400}',
        b"",
    ],
    ids=lambda report: repr(report[:24]),
)
def test_a_forged_report_is_no_report(report: bytes) -> None:
    """A program is root: it can read the runner's nonce."""
    with pytest.raises(ssh.Unreported) as lost:
        Scripted(report).run(["true"], limit_s=30)
    assert len(lost.value.message) < 400
    assert lost.value.stdout == b"out"


@given(
    st.binary(max_size=400)
    | st.recursive(st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_report_breaks_it(report: bytes) -> None:
    with contextlib.suppress(ssh.Lost):
        facts = Scripted(report).run(["true"], limit_s=30).facts
        assert facts.cpus.isprintable()


def test_texts_of_a_report_are_clean() -> None:
    facts = Scripted(b'{"exec_error": "\\u001b[31mred\\u202e"}').run(["true"], limit_s=30).facts
    assert facts.exec_error == "red\\u202e"


class Scripted(Ssh):
    """A connection to a runner that gives this report, with the right nonce."""

    def __init__(self, report: bytes) -> None:
        self._report = report

    def _exec(self, command: str, *, stdin: bytes, **_: Any) -> tuple[bytes, bytes]:
        nonce = stdin.split(b"\n")[0]
        return b"out", b"err\n@orc " + nonce + b" " + self._report + b"\n"


def test_a_runner_that_is_missing(guest: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "RUNNER", "/nonexistent/runner")
    with pytest.raises(Lost, match="no report about true"):
        guest.run(["true"], limit_s=30)


def test_another_host_key_is_refused(server: Dropbear) -> None:
    keys = overlay.make_keys()
    wrong = overlay.RunKeys(
        host_key=KEYS.host_key,
        host_public=keys.host_public,
        user=KEYS.user,
        authorized_key=KEYS.authorized_key,
    )
    with pytest.raises(ssh.Refused, match="Bad host key from server"):
        connect(server, wrong)


def test_another_user_key_is_refused(server: Dropbear) -> None:
    keys = overlay.make_keys()
    wrong = overlay.RunKeys(
        host_key=KEYS.host_key,
        host_public=KEYS.host_public,
        user=keys.user,
        authorized_key=keys.authorized_key,
    )
    with pytest.raises(ssh.Refused, match="the key was refused"):
        connect(server, wrong)


class Dripping:
    """A server that sends its banner byte by byte, for ever, as slowly as it is told."""

    def __init__(self, pause_s: float, first: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pause_s, self._first = pause_s, first
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(self._first)
            while True:
                connection.sendall(b"x")
                time.sleep(self._pause_s)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(
    ("pause_s", "first"), [(0.02, b""), (0.2, b"SSH-2.0-drip\r\n"), (0.2, b"hello\r\n" * 3)]
)
def test_a_server_that_drips_is_not_waited_for(pause_s: float, first: bytes) -> None:
    server = Dripping(pause_s, first)
    since = time.monotonic()
    try:
        with pytest.raises(Lost) as lost:
            Ssh.connect(server.port, host_key=KEYS.host_public, user_key=KEYS.user, timeout_s=0.4)
    finally:
        server.close()
    assert not isinstance(lost.value, ssh.Refused)
    assert time.monotonic() - since < 5


def test_a_guest_that_dies_during_the_handshake_is_not_waited_for() -> None:
    server = Dripping(0.05, b"")
    since = time.monotonic()
    try:
        with pytest.raises(Lost):
            Ssh.connect(
                server.port,
                host_key=KEYS.host_public,
                user_key=KEYS.user,
                timeout_s=60,
                is_dead=lambda: time.monotonic() - since > 0.3,
            )
    finally:
        server.close()
    assert time.monotonic() - since < 5


def test_nobody_there(server: Dropbear) -> None:
    server.close()
    with pytest.raises(Lost, match="no SSH connection within 0 s"):
        connect(server, timeout_s=0.3)
    with pytest.raises(Lost, match="no attempt was made"):
        Ssh.connect(
            server.port, host_key=KEYS.host_public, user_key=KEYS.user, timeout_s=600, is_dead=lambda: True
        )


def test_a_frozen_server_is_lost_when_the_time_is_up(guest: Ssh, server: Dropbear) -> None:
    assert shell(guest, "true").ok
    server.signal(signal.SIGSTOP)
    with pytest.raises(Lost):
        shell(guest, "true", limit_s=0.5)
    server.signal(signal.SIGCONT)


def test_a_server_that_freezes_before_it_starts_a_command(
    guest: Ssh, server: Dropbear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has opened the channel: a guest's CPU may be lost between any two packets."""
    really = guest._transport.open_session

    def open_session(**options: Any) -> object:
        channel = really(**options)
        server.signal(signal.SIGSTOP)
        return channel

    monkeypatch.setattr(guest._transport, "open_session", open_session)
    try:
        with pytest.raises(ssh.Silent, match="no answer to a request within 1 s"):
            guest.raw("true", limit_s=1)
    finally:
        server.signal(signal.SIGCONT)


def test_a_server_that_freezes_while_a_command_runs(guest: Ssh, server: Dropbear, marker: str) -> None:
    def freeze() -> None:
        until(lambda: alive(marker))
        server.signal(signal.SIGSTOP)

    thread = threading.Thread(target=freeze)
    thread.start()
    with pytest.raises(Lost, match="did not answer within 3 s"):
        guest.run(["bash", "-c", f"exec -a {marker} sleep 300"], limit_s=2)
    thread.join()


def test_a_server_that_is_killed_while_a_command_runs(guest: Ssh, server: Dropbear, marker: str) -> None:
    def kill() -> None:
        until(lambda: alive(marker))
        server.signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(Lost):
        guest.run(["bash", "-c", f"exec -a {marker} sleep 300"], limit_s=300)
    thread.join()
    # the guest's runner, whose reader has gone, ends what it started
    assert until(lambda: alive(marker) == [])


def test_the_reason_of_a_death_is_passed_on(guest: Ssh, marker: str) -> None:
    with pytest.raises(Lost, match="the guest panicked"):
        guest.run(
            ["bash", "-c", f"exec -a {marker} sleep 300"],
            limit_s=300,
            death=lambda: "the guest panicked" if alive(marker) else "",
        )


def test_files_go_in_and_come_out(guest: Ssh, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "guest folder", tmp_path / "back"
    source.write_bytes(os.urandom(1 << 20))
    guest.put({"a/b": source, "c": source}, str(there))
    assert (there / "a/b").read_bytes() == source.read_bytes()
    (there / "link").symlink_to("/etc/passwd")
    os.mkfifo(there / "fifo")
    written = guest.get(str(there), back)
    assert sorted(written) == [back / "a/b", back / "c"]
    assert sorted(p for p in back.rglob("*") if not p.is_dir()) == sorted(written)
    assert (back / "c").read_bytes() == source.read_bytes()
    with pytest.raises(Lost, match="is larger than 0 MiB"):
        guest.get(str(there), back, limit_bytes=1000)
    with pytest.raises(Lost, match="could not copy 1 files to /proc/nowhere"):
        guest.put({"a": source}, "/proc/nowhere")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\0b"])
def test_no_name_of_ours_leads_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would leave its folder"):
        Ssh(None).put({name: tmp_path}, "/tmp")  # type: ignore[arg-type]


class Sending(Ssh):
    """A guest that sends these bytes as its archive."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def raw(self, *_: object, **__: object) -> bytes:
        return self._stream


def archive(*members: tuple[str, bytes, bytes], mode: str = "w") -> bytes:
    """A tar archive of (name, type, content or link's target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:  # type: ignore[call-overload]
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.decode()
                made.addfile(info)
    return buffer.getvalue()


FILE, LINK, HARD, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "stream",
    [
        archive(("../escaped", FILE, b"x")),
        archive(("/tmp/orc-escaped", FILE, b"x")),
        archive(("a/../../escaped", FILE, b"x")),
        archive(("a", FILE, b"x"), ("a/b", FILE, b"x")),
        archive(("n" * 300, FILE, b"x")),
        archive(("a", FILE, b"x" * 2000))[:1000],
        archive(("a", FILE, b"x" * 2000), mode="w:gz"),
        b"no archive",
    ],
    ids=["parent", "absolute", "hidden parent", "file as folder", "name", "torn", "compressed", "text"],
)
def test_an_archive_that_cannot_be_used(tmp_path: Path, stream: bytes) -> None:
    (target := tmp_path / "target").mkdir()
    with pytest.raises(Lost, match="cannot be used"):
        Sending(stream).get("/x", target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert not Path("/tmp/orc-escaped").exists()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (target := tmp_path / "target").mkdir()
    stream = archive(
        ("up", LINK, b".."), ("up/escaped", FILE, b"x"), ("hard", HARD, b"/etc/passwd"), ("d", DIRECTORY, b"")
    )
    assert Sending(stream).get("/x", target) == [target / "up/escaped"]
    assert not (tmp_path / "escaped").exists()
    assert not (target / "up").is_symlink()


def test_a_sparse_member_does_not_fill_the_disk(tmp_path: Path) -> None:
    (source := tmp_path / "sparse").touch()
    os.truncate(source, 1 << 30)
    packed = tmp_path / "sparse.tar"
    assert os.system(f"tar -S -cf {packed} -C {tmp_path} sparse") == 0
    assert packed.stat().st_size < 100_000
    assert Sending(packed.read_bytes()).get("/x", tmp_path / "target") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.binary(max_size=600) | st.binary(max_size=100).map(lambda b: archive(("a", FILE, b"x"))[:-1100] + b)
)
def test_no_archive_breaks_it(tmp_path: Path, stream: bytes) -> None:
    with contextlib.suppress(Lost):
        Sending(stream).get("/x", tmp_path / "target")
