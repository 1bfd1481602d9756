# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a guest: one pinned key on each side, wall-clock limits, and a reliable exit status.

paramiko's own time-outs only know silence, its return code is -1 both for a signal and for a lost
connection, and reading one stream while the other fills deadlocks. So commands run under the guest's
``orc-exec``, which ends with a trailer that carries a nonce, and both streams are drained here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
import shlex
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
import paramiko

from orchestrator.core import codec
from orchestrator.vm import handshake
from orchestrator.vm.drain import Drain, send
from orchestrator.vm.handshake import TROUBLE, Lost, Refused
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.trailer import TRAILER_LIMIT, Trailer

# QEMU's port forward accepts before the guest listens; retries must not log tracebacks
logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)

__all__ = [
    "RUNNER",
    "Futile",
    "Futility",
    "Late",
    "Lost",
    "Mark",
    "Ran",
    "Refused",
    "Silent",
    "Ssh",
    "Trailer",
    "Unreported",
]

#: The in-guest runner that every command goes through.
RUNNER = str(overlay.RUNNER)
_GRACE_S = 20.0
#: Seconds for a guest to open a channel and to start a command on it.
_ANSWER_S = 30.0


class Silent(Lost):
    """Nothing came back in time, but the connection was not closed."""


class Futility(msgspec.Struct, frozen=True):
    """Why a command is not waited for any more; ``hangs``: its guest may be examined for a hang."""

    reason: str
    hangs: bool = False


class Futile(Lost):
    """Nothing that the command may still do can change its verdict; the guest still runs."""

    def __init__(self, why: Futility) -> None:
        super().__init__(why.reason)
        self.why = why


class Unreported(Lost):
    """The runner ended without a valid report, although the connection held."""


class Mark(msgspec.Struct, frozen=True):
    """How the guest's kernel log is to tell when a command ran: see guest/README.md.

    ``id`` names the command there; ``first`` and ``second`` are words that only who knows them can write.
    """

    id: str
    first: str
    second: str

    @classmethod
    def of(cls, name: str) -> Mark:
        """With words of its own."""
        return cls(name, secrets.token_hex(8), secrets.token_hex(8))


class Late(msgspec.Struct, frozen=True):
    """What is to be done once the limit of a command has passed, before it is killed.

    The guest waits up to ``limit_s`` seconds for ``look`` to return.
    """

    look: Callable[[], object]
    limit_s: float


class Ran(msgspec.Struct, frozen=True):
    """A command that ran in the guest: raw bytes of both streams, and the trailer's facts."""

    argv: tuple[str, ...]
    stdout: bytes
    stderr: bytes
    facts: Trailer

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.facts.exit == 0 and not self.facts.timeout


@contextlib.contextmanager
def _answered(channel: paramiko.Channel, limit_s: float) -> Iterator[None]:
    """A limit on paramiko's waiting for the answer to a request, which has none of its own.

    :raises TimeoutError: none came.
    """
    late = threading.Event()

    def give_up() -> None:
        late.set()
        with contextlib.suppress(*TROUBLE):
            channel.close()

    timer = threading.Timer(limit_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except paramiko.SSHException as error:
        if late.is_set():
            raise TimeoutError(f"no answer to a request within {limit_s:.0f} s") from error
        raise
    finally:
        timer.cancel()


class Ssh:
    """An SSH connection to the guest behind a loopback port."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    @classmethod
    def connect(
        cls,
        port: int,
        *,
        host_key: paramiko.PKey,
        user_key: paramiko.PKey,
        timeout_s: float,
        is_dead: Callable[[], bool] = lambda: False,
    ) -> Ssh:
        """Connect, trying again until the time is up.

        :param is_dead: says that the guest is dead, so that waiting is useless; asked by another thread, too.
        :raises Refused: the guest's server is another one, or does not accept the key.
        :raises Lost: no connection in time; the message has the last reason.
        """
        return cls(handshake.connect(port, host_key, user_key, time.monotonic() + timeout_s, is_dead))

    def run(
        self,
        argv: Sequence[str],
        *,
        limit_s: float,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        options: Sequence[str] = (),
        mark: Mark | None = None,
        late: Late | None = None,
        death: Callable[[], str] = lambda: "",
        futile: Callable[[], Futility | None] = lambda: None,
        patience: float = 1.0,
    ) -> Ran:
        """Run a command in the guest.

        :param limit_s: wall-clock limit in the guest, which kills the command and all its children.
        :param options: more options of ``orc-exec`` (``--cpus``, ``--nice``).
        :param mark: has the kernel log show when it ran.
        :param late: called once the limit has passed, before anything is killed.
        :param death: called while waiting; a reason ends the wait at once.
        :param futile: likewise, while the guest lives.
        :param patience: factor on the host's grace after the guest's limit.
        :raises Futile: ``futile`` gave a reason.
        :raises Unreported: the runner gave no valid report.
        :raises Lost: the connection or the guest went away, or nothing came back in time.
        """
        nonce = secrets.token_hex(8)
        command = [RUNNER, "--limit", f"{limit_s:.3f}", "--cwd", cwd, *options]
        for name, value in (env or {}).items():
            command += ["--env", f"{name}={value}"]
        words = [nonce]
        if mark is not None:
            command += ["--mark", mark.id]
            words += [mark.first, mark.second]
        if late is not None:
            command += ["--late", f"{late.limit_s:.3f}"]
        command += ["--", *argv]
        late_line = f"\n@orc {nonce} late\n".encode()
        out, err = self._exec(
            shlex.join(command),
            stdin="".join(f"{word}\n" for word in words).encode(),
            limit_s=limit_s + _GRACE_S * patience,
            death=death,
            futile=futile,
            late=(late_line, late.look) if late is not None else None,
        )
        body, trailer, tail = err.replace(late_line, b"", 1).rpartition(f"\n@orc {nonce} ".encode())
        if not trailer:
            raise _unreported(f"there is no report about {argv[0]}", out, err)
        try:
            facts = codec.decode_untrusted(tail, Trailer, limit=TRAILER_LIMIT)
        except ValueError as error:
            raise _unreported(f"the report about {argv[0]} is invalid: {error}", out, body) from None
        return Ran(tuple(argv), out, body, facts)

    def raw(
        self, command: str, *, limit_s: float, stdin: bytes = b"", death: Callable[[], str] = lambda: ""
    ) -> bytes:
        """Standard output of a shell command, run without ``orc-exec``.

        :raises Lost: as ``run``.
        """
        return self._exec(command, stdin=stdin, limit_s=limit_s, death=death)[0]

    def _exec(
        self,
        command: str,
        *,
        stdin: bytes,
        limit_s: float,
        death: Callable[[], str],
        futile: Callable[[], Futility | None] = lambda: None,
        late: tuple[bytes, Callable[[], object]] | None = None,
    ) -> tuple[bytes, bytes]:
        """Standard output and standard error of a command.

        :param late: a line on standard error, and an action to execute once when it arrives.
        """
        deadline = time.monotonic() + limit_s
        drain = Drain(late)
        channel: paramiko.Channel | None = None
        try:
            answer_s = min(limit_s, _ANSWER_S)
            channel = self._transport.open_session(timeout=answer_s)
            channel.settimeout(answer_s)
            with _answered(channel, answer_s):
                channel.exec_command(command)
            send(channel, stdin, close=late is None)
            self._wait(channel, drain, deadline, limit_s, death, futile)
        except TROUBLE as error:
            # paramiko has an error of its own for "Timeout opening channel."
            silent = isinstance(error, TimeoutError) or "timeout" in str(error).lower()
            reason = death()
            kind = Silent if silent and not reason else Lost
            lost = kind(reason or f"the SSH connection was lost: {error}")
            lost.stdout, lost.stderr = drain.output()
            raise lost from None
        except Lost as error:
            error.stdout, error.stderr = drain.output()
            raise
        finally:
            if channel is not None:
                with contextlib.suppress(*TROUBLE):
                    channel.close()
        return drain.output()

    def _wait(
        self,
        channel: paramiko.Channel,
        drain: Drain,
        deadline: float,
        limit_s: float,
        death: Callable[[], str],
        futile: Callable[[], Futility | None],
    ) -> None:
        """Drain a channel until its command has ended.

        :raises Lost: the connection or the guest is gone, or the deadline has passed.
        """
        quiet_since = time.monotonic()
        while True:
            has_read = drain.read(channel)
            deadline += drain.look_if_late(channel)
            if why := futile():
                raise Futile(why)
            if has_read and time.monotonic() <= deadline:
                quiet_since = time.monotonic()
            elif (channel.exit_status_ready() or channel.closed) and channel.eof_received:
                if not (channel.recv_ready() or channel.recv_stderr_ready()):
                    return
            elif reason := death():
                raise Lost(reason)
            elif not self._transport.is_active():
                raise Lost("the SSH connection was lost")
            elif time.monotonic() > deadline:
                raise Silent(f"the guest did not answer within {limit_s:.0f} s")
            else:
                # at most a tenth late, and little work while a benchmark runs
                time.sleep(min(0.001 + (time.monotonic() - quiet_since) / 10, 0.02))

    def shell(self, size: tuple[int, int] | None, folder: str = "") -> paramiko.Channel:
        """A login shell for a user.

        :param size: columns and lines of the terminal; without one the shell reads a script.
        :param folder: in which it starts; the first folder of its PATH.
        :raises Lost: as ``run``.
        """
        try:
            channel = self._transport.open_session(timeout=_ANSWER_S)
            place = shlex.quote(folder)
            there = f"cd {place} && PATH={place}:$PATH " if folder else ""
            with _answered(channel, _ANSWER_S):
                if size is not None:
                    channel.get_pty("xterm", *size)
                channel.exec_command(f"{there}exec /bin/sh -l")
        except TROUBLE as error:
            raise Lost(f"the guest did not start a shell: {error}") from None
        return channel

    def put(self, files: Mapping[str, Path], folder: str, *, limit_s: float = 60.0) -> None:
        """Copy host files to names below a guest folder, as one tar stream.

        :raises Lost: as ``run``.
        """
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, path in files.items():
                _inside(name)
                archive.add(path, arcname=name, recursive=False)
        place = shlex.quote(folder)
        output = self.raw(
            f"mkdir -p {place} && tar -xf - -C {place} && echo done", limit_s=limit_s, stdin=buffer.getvalue()
        )
        if output.strip() != b"done":
            raise Lost(f"could not copy {len(files)} files to {folder} in the guest")

    def get(
        self, folder: str, target: Path, *, limit_s: float = 60.0, limit_bytes: int = 64 << 20
    ) -> list[Path]:
        """Copy the regular files below a guest folder into a host folder.

        The guest is hostile: nothing leaves ``target``, no links or devices are made, and a stream
        larger than ``limit_bytes`` ends the copy.

        :raises Lost: as ``run``, or the stream is not a tar archive or too large.
        """
        stream = self.raw(
            f"tar -cf - -C {shlex.quote(folder)} . | head -c {limit_bytes + 1}", limit_s=limit_s
        )
        if len(stream) > limit_bytes:
            raise Lost(f"{folder} in the guest is larger than {limit_bytes >> 20} MiB")
        written = []
        try:
            # uncompressed and without holes: a small stream must not fill the disk
            with tarfile.open(fileobj=io.BytesIO(stream), mode="r:") as archive:
                for member in archive:
                    if not member.isfile() or member.issparse():
                        continue
                    path = target / _inside(member.name)
                    source = archive.extractfile(member)
                    if source is None:
                        continue
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(source.read(limit_bytes))
                    written.append(path)
        except (tarfile.TarError, ValueError, OSError) as error:
            raise Lost(f"the guest's copy of {folder} cannot be used: {error}") from None
        return written

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(*TROUBLE):
            self._transport.close()


def _unreported(message: str, stdout: bytes, stderr: bytes) -> Unreported:
    error = Unreported(message)
    error.stdout, error.stderr = stdout, stderr
    return error


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not name:
        raise ValueError(f"the path {name!r} would leave its folder")
    return path
