# SPDX-License-Identifier: GPL-2.0-only
"""Short-lived QEMUs that show what this host's QEMU and KVM can do; for the doctor, not for tests."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.process import Supervised
from orchestrator.core.text import one_line
from orchestrator.vm import qemu
from orchestrator.vm.machine import BANNER
from orchestrator.vm.qemu import GuestSpec

_ANSWER_LIMIT = 1 << 16
_STEP_S = 0.05
_OF_A_KERNEL = ("-kernel", "-initrd", "-append")


class Started(msgspec.Struct, frozen=True):
    """The result of a trial: the ``version`` of QEMU, if it answered; ``trouble`` is empty on success."""

    version: str = ""
    trouble: str = ""


class Trial(msgspec.Struct, frozen=True):
    """Whether KVM works (``None``: unknown), and one line about it."""

    works: bool | None
    text: str


def paused(arch: Arch, accel: str, *, limit_s: float = 5.0) -> Started:
    """Start QEMU with every option and device of a guest, but stopped and without a kernel.

    It counts as started once it lists its virtual CPUs: it greets before it has made them.

    :raises InfraError: QEMU is not installed.
    :raises OSError: there is no room for its sockets.
    """
    with _started(arch, accel, None, limit_s) as (running, complaint, qmp, _):
        answers = _talk(qmp, running)
        if not answers.cpus:
            return Started(answers.version, complaint() or _no_answer(answers.junk, limit_s))
        return Started(answers.version)


def shows_banner(arch: Arch, accel: str, kernel: Path, *, limit_s: float) -> Started:
    """Boot a kernel without a root file system as far as its banner.

    :raises InfraError: QEMU is not installed.
    :raises OSError: there is no room for its sockets.
    """
    with _started(arch, accel, kernel, limit_s) as (running, complaint, _, console):
        output = b""
        for data in _read(console, running):
            output += data
            if re.search(BANNER, output):
                return Started()
        return Started(trouble=complaint() or f"no kernel banner within {limit_s:.0f} s")


def try_kvm(arch: Arch, cache: Path, *, limit_s: float = 5.0) -> Trial:
    """Whether KVM brings a kernel of the cache to its banner; without one, as far as QEMU gets.

    Nothing is remembered: a host counts as broken only once the same image comes up under emulation.

    :raises InfraError: QEMU is not installed.
    :raises OSError: there is no room for its sockets.
    """
    kernel = _a_kernel(arch, cache)
    if kernel is None:
        started = paused(arch, "kvm", limit_s=limit_s)
        if started.trouble:
            return Trial(False, started.trouble)
        return Trial(None, "makes virtual CPUs; whether a kernel comes up is found out at the first run")
    start = shows_banner(arch, "kvm", kernel, limit_s=limit_s)
    return Trial(False, start.trouble) if start.trouble else Trial(True, "a kernel came up now")


def _a_kernel(arch: Arch, cache: Path) -> Path | None:
    """A boot image of the cache; a half-made entry has no manifest."""
    try:
        images = sorted((cache / "kernels").glob(f"[!.]*/{Path(arch.image).name}"))
        made = (image for image in images if image.with_name("manifest.json").is_file())
        return next((image for image in made if arch.header.is_of(image)), None)
    except OSError:
        return None


Running = Callable[[], bool]


@contextlib.contextmanager
def _started(
    arch: Arch, accel: str, kernel: Path | None, limit_s: float
) -> Iterator[tuple[Running, Callable[[], str], socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orc-")))
        qmp, console = (stack.enter_context(_listening(folder / name)) for name in ("qmp", "console"))
        spec = GuestSpec(arch=arch, kernel=kernel or Path(), initrds=())
        argv = qemu.argv(spec, accel=accel, folder=folder, initrd=Path(), cmdline="")
        unwanted = ("-initrd", "-append") if kernel else _OF_A_KERNEL
        argv = [word for i, word in enumerate(argv) if word not in unwanted and argv[i - 1] not in unwanted]
        argv += ["-append", f"console={arch.console} panic=-1"] if kernel else ["-S"]
        output = folder / "output"
        child = Supervised(argv, limit_s=limit_s + 5, output=output)
        stack.callback(child.kill)
        until = time.monotonic() + limit_s

        def running() -> bool:
            return time.monotonic() < until and child.poll() is None

        def complaint() -> str:
            outcome = child.poll()
            return "" if outcome is None else _last_words(output) or f"it ended with {outcome}"

        yield running, complaint, qmp, console


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(_STEP_S)
        yield listener


def _read(listener: socket.socket, running: Running, first: bytes = b"") -> Iterator[bytes]:
    """What QEMU writes to a socket, chunk by chunk, until it ends, the time is up or it is too much."""
    connection = None
    total = 0
    try:
        while total < _ANSWER_LIMIT:
            try:
                if connection is None:
                    connection = listener.accept()[0]
                    connection.settimeout(_STEP_S)
                    connection.sendall(first)
                data = connection.recv(4096)
            except TimeoutError:
                if not running():
                    return
                continue
            except OSError:
                data = b""
            if not data:
                # closed, not ended: its complaint is complete once it is gone
                while running():
                    time.sleep(_STEP_S)
                return
            total += len(data)
            yield data
    finally:
        if connection is not None:
            connection.close()


class _Answers(msgspec.Struct):
    version: str = ""
    cpus: bool = False
    junk: str = ""


def _talk(qmp: socket.socket, running: Running) -> _Answers:
    request = b'{"execute": "qmp_capabilities"}\n{"execute": "query-cpus-fast", "id": "cpus"}\n'
    answers = _Answers()
    buffer = b""
    for data in _read(qmp, running, request):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                _take(json.loads(line), answers)
            except (ValueError, KeyError, TypeError, AttributeError):
                answers.junk = one_line(line.decode(errors="replace"), limit=60)
        if answers.cpus or answers.junk:
            break
    return answers


def _take(message: dict[str, object], answers: _Answers) -> None:
    if message.get("id") == "cpus" and message.get("return"):
        answers.cpus = True
    if "QMP" in message:
        numbers = message["QMP"]["version"]["qemu"]  # type: ignore[index]
        answers.version = f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"


def _no_answer(junk: str, limit_s: float) -> str:
    return f"its answer is not QMP: {junk}" if junk else f"no answer within {limit_s:.0f} s"


def _last_words(output: Path) -> str:
    """QEMU's last complaint; the prefix with its own name says nothing."""
    try:
        lines = output.read_text(errors="replace")[-4096:].strip().splitlines()
    except OSError:
        return ""
    return one_line(re.sub(r"^\S*qemu-system-\S+: ", "", lines[-1]), limit=160) if lines else ""
