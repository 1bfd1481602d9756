# SPDX-License-Identifier: GPL-2.0-only
"""The small process that each QEMU and each build hangs on (design rule 5).

Run as a script by ``process.Supervised``; standard library only, single-threaded, so that
PR_SET_PDEATHSIG, which fires when the spawning *thread* ends, means the death of this process.

    supervisor.py --limit S [--grace S] [--cleanup DIR] [--output FILE] [--pass N]... -- ARGV...

Standard input is a pipe whose other end the parent holds: its end of file means that the parent is
gone, however it died. Standard output carries two JSON lines: ``{"pid": n}`` at the start,
``{"exit": n | null, "signal": n | null, "reason": "ended" | "limit" | "parent" | "terminated" | why there is
no log, "cpu_s": x}`` at the end, with the CPU seconds of the whole tree. The descriptors of ``--pass``
are inherited; the child keeps them, this process closes its own.

FILE takes the child's output, the first 64 MiB and the last MiB of it: a build may write without end.

PR_SET_PDEATHSIG is for one process: if this one is killed, make dies, and its compilers do not. So a guard,
forked at the start, waits for the end of this process, and then kills the session that the child leads.

Each guest and each build waits for this script to load: it imports little, and has no argparse.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_EXEC_FAILED = 127
_HANDLED = (signal.SIGCHLD, signal.SIGTERM)
_IGNORED = (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP)
#: Bytes of the output that are kept.
_HEAD, _TAIL = 64 << 20, 1 << 20
_CHUNK = 1 << 16
#: How long the guard tries to end what has stayed, in seconds.
_GUARD_S = 30.0


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _say(line: str) -> None:
    # the parent may be gone already
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


class _Log:
    """Takes the child's output from a pipe to a file: the head as it comes, the tail at the end."""

    def __init__(self, path: str) -> None:
        self.pipe, self.entrance = os.pipe()
        os.set_blocking(self.pipe, False)
        self.open = True
        self.trouble = ""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._room = _HEAD
        self._tail = bytearray()
        self._cut = 0

    def pump(self) -> None:
        """Take what is there; at most some chunks, so that the limit is kept."""
        for _ in range(64):
            try:
                data = os.read(self.pipe, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.open = False
                return
            self._write(data[: self._room])
            self._tail += data[self._room :]
            self._room -= min(len(data), self._room)
            if len(self._tail) > 2 * _TAIL:
                self._cut += len(self._tail) - _TAIL
                del self._tail[:-_TAIL]

    def close(self) -> None:
        """Take the rest, and write the tail."""
        self.pump()
        if self._cut:
            self._write(b"\n[... %d bytes cut ...]\n" % self._cut)
        self._write(bytes(self._tail))

    def _write(self, data: bytes | bytearray) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self.trouble = f"its log cannot be written: {error.strerror}"


def _guard(cleanup: str) -> tuple[int, int]:
    """Fork the guard; returns its number, and a descriptor for the child's number and then ``end``."""
    told, tell = os.pipe()
    guard = os.fork()
    if guard:
        os.close(told)
        return guard, tell
    try:
        os.setsid()
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor != told:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        for number in (*_IGNORED, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        words = b""
        while data := os.read(told, 64):
            words += data
        child = words.split()[:1]
        if child and not words.endswith(b"end"):
            _end_session(int(child[0]))
            if cleanup:
                _remove(cleanup)
    finally:
        os._exit(0)


def _end_session(leader: int) -> None:
    until = time.monotonic() + _GUARD_S
    while time.monotonic() < until:
        members = [
            pid for pid, fields in _processes() if fields[3] == str(leader).encode() and fields[0] != b"Z"
        ]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _spawn(argv: list[str], log: _Log) -> int:
    ready, ready_in = os.pipe()
    child = os.fork()
    if child:
        os.close(log.entrance)
        # at the end of file the child leads its own process group and has called exec; before that a kill of
        # the group would miss it
        os.close(ready_in)
        os.read(ready, 1)
        os.close(ready)
        return child
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log.entrance, 1)
        os.dup2(log.entrance, 2)
        signal.set_wakeup_fd(-1)
        # builds and QEMU would inherit ignored signals: ours, those of Python, and those that a shell ignores
        # for its background jobs
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
        os.execvp(argv[0], argv)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    """All processes, each with the fields of its stat after the name: state, parent, group, session …"""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if len(fields) > 3:
            yield int(name), fields


def _children(guard: int) -> Iterator[int]:
    """Our children without the guard, among them the orphans that a subreaper inherits."""
    me = str(os.getpid()).encode()
    return (pid for pid, fields in _processes() if fields[1] == me and pid != guard)


def _signal_group(child: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child, number)


def _end(child: int, grace: float, guard: int, log: _Log) -> int | None:
    """End the child and all that it left; its wait status, if it was not reaped before."""
    status = None
    if grace > 0:
        _signal_group(child, signal.SIGTERM)
        until = time.monotonic() + grace
        while status is None and time.monotonic() < until:
            pid, wait_status = os.waitpid(child, os.WNOHANG)
            if pid:
                status = wait_status
            else:
                log.pump()
                time.sleep(0.02)
    _signal_group(child, signal.SIGKILL)
    if status is None:
        status = os.waitpid(child, 0)[1]
    _reap_orphans(guard)
    return status


def _reap_orphans(guard: int) -> None:
    """Kill whatever the child left behind, generation after generation."""
    for _ in range(1000):
        orphans = list(_children(guard))
        if not orphans:
            return
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)


def _watch(child: int, limit: float, wake: int, log: _Log) -> tuple[str, int | None]:
    """Wait for the first of: the child's end, the limit, the parent's end, SIGTERM."""
    until = time.monotonic() + limit
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "ended", status
        remaining = until - time.monotonic()
        if remaining <= 0:
            return "limit", None
        ready, _, _ = select.select([0, wake, *([log.pipe] if log.open else [])], [], [], remaining)
        if log.pipe in ready:
            log.pump()
        if 0 in ready and not os.read(0, 64):
            return "parent", None
        if wake in ready and signal.SIGTERM in os.read(wake, 64):
            return "terminated", None


class _Options:
    """The command line; ``ValueError`` if it is wrong."""

    def __init__(self, words: Sequence[str]) -> None:
        end = list(words).index("--")
        self.argv = list(words[end + 1 :])
        self.grace = 0.0
        self.cleanup = ""
        self.output = os.devnull
        self.passed: list[int] = []
        limit = None
        for name, value in zip(words[:end:2], words[1:end:2], strict=True):
            if name == "--limit":
                limit = float(value)
            elif name == "--grace":
                self.grace = float(value)
            elif name == "--cleanup":
                self.cleanup = value
            elif name == "--output":
                self.output = value
            elif name == "--pass":
                self.passed.append(int(value))
            else:
                raise ValueError(f"unknown option {name}")
        if limit is None or not self.argv:
            raise ValueError("--limit and a command are needed")
        self.limit = limit


def _remove(folder: str) -> None:
    # rarely needed, and slow to import
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Supervise one child to its end; always 0, the outcome is on standard output."""
    options = _Options(sys.argv[1:])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    for number in _HANDLED:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)

    guard, tell = _guard(options.cleanup)
    log = _Log(options.output)
    child = _spawn(options.argv, log)
    os.write(tell, b"%d " % child)
    for descriptor in options.passed:
        os.close(descriptor)
    _say(f'{{"pid": {child}}}')
    reason, status = _watch(child, options.limit, wake, log)
    if status is None:
        status = _end(child, options.grace, guard, log)
    else:
        _signal_group(child, signal.SIGKILL)
        _reap_orphans(guard)
    log.close()
    if status and log.trouble:
        reason = log.trouble
    os.write(tell, b"end")
    os.close(tell)
    os.waitpid(guard, 0)
    if options.cleanup:
        _remove(options.cleanup)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
    ended = f'"exit": {code}, "signal": null' if code >= 0 else f'"exit": null, "signal": {-code}'
    _say(f'{{{ended}, "reason": "{reason}", "cpu_s": {usage.ru_utime + usage.ru_stime:.6f}}}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
