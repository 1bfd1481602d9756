# SPDX-License-Identifier: GPL-2.0-only
"""Facts about the host: space, memory, CPUs, and the output of its tools."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator.core.text import one_line

Status = Literal["ok", "note", "missing"]

_GIB = 1 << 30
_SOURCE_GIB = 1.5
_BUILD_GIB = 2.0
#: A first run: a tree, a build, guest images, and what ccache keeps of it.
_COMFORT_GIB = 8.0
#: Files: a kernel tree has close to 100,000.
_NEEDED_INODES = 150_000
#: Needed, comfortable: sockets and an initramfs a guest, what compilers write.
TEMPORARY_GIB = (0.25, 1.0)
#: A guest has 512 MiB by default, QEMU and a compiler need their own.
_MEMORY_GIB = (0.7, 2.0)
_WALK_S = 0.7
KVM = Path("/dev/kvm")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
TOOL_S = 5.0


class Output(msgspec.Struct, frozen=True):
    """The output of a program; ``code`` is ``None`` if it did not end in time or could not be started."""

    code: int | None
    out: str
    err: str

    @property
    def trouble(self) -> str:
        """Its error message, on one line."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        errors = [line for line in lines if "error" in line.lower()]
        return one_line((errors or lines)[-1 if not errors else 0], limit=120) if lines else "no output"


def ask(argv: Sequence[str], *, limit_s: float | None = None, env: Mapping[str, str] | None = None) -> Output:
    """Run a program of the host to its end, or kill it and its children when the time is up."""
    limit_s = TOOL_S if limit_s is None else limit_s
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Output(None, "", f"cannot be started: {error.strerror}")
    with child:
        try:
            out, err = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            return Output(None, "", f"does not end within {limit_s:.0f} s")
    return Output(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def first_number(text: str) -> str:
    """The version in the first lines of the output of ``--version``, or empty."""
    head = text[:2000]
    # gcc's distributor stands in brackets before its own version, perl's version stands in brackets alone
    for part in (re.sub(r"\([^)\n]*\)", "", head), head):
        if match := re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)(?!\w)", part):
            return match[1]
    return ""


def kvm_remedy() -> str:
    """The command that gives this user access to an existing /dev/kvm; empty if that is not the problem."""
    if not KVM.exists() or os.access(KVM, os.R_OK | os.W_OK):
        return ""
    facts = KVM.stat()
    group = me = None
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(facts.st_gid)
        me = pwd.getpwuid(os.getuid()).pw_name
    # users are not added to root's group, and not every host gives the group access
    if group is None or group.gr_name == "root" or facts.st_mode & 0o060 != 0o060:
        return f"{_as_root(f'chown $USER {KVM}')}   # until this host reboots"
    if me in group.gr_mem:
        return f"newgrp {group.gr_name}   # or log in again"
    add = (
        f"adduser $USER {group.gr_name}" if shutil.which("apt-get") else f"usermod -aG {group.gr_name} $USER"
    )
    return f"{_as_root(add)}   # then log in again"


def _as_root(command: str) -> str:
    # a login shell has root's PATH; double quotes, so that $USER is the caller
    return f"sudo {command}" if shutil.which("sudo") else f'su - -c "{command}"'


def existing(folder: Path) -> Path | None:
    """The folder, or the nearest one above it that exists; ``None`` if a file is in the way."""
    for each in (folder, *folder.absolute().parents):
        try:
            if each.is_dir():
                return each
            if each.exists():
                return None
        except OSError:
            return None
    return None


def unwritable(folder: Path) -> str:
    """Why nothing can be written there, by writing a file; empty if it can."""
    place = existing(folder)
    if place is None:
        return "is not a folder, or cannot be entered"
    try:
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(bytes(4096))
            trial.flush()
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return ""


def temporary() -> Path | None:
    """Where temporary files go; ``None`` if none of the usual places is writable."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def content(cache: Path) -> str:
    """The content of the cache and its approximate size; takes less than a second.

    Source trees are counted, not measured: each has close to 100,000 files.
    """
    try:
        kinds = [path for path in cache.iterdir() if path.is_dir() and path.name != "sources"]
    except OSError:
        return "empty"
    parts = []
    for kind, one, several in (
        ("sources", f"source tree (another {_SOURCE_GIB:g} GiB)", f"source trees ({_SOURCE_GIB:g} GiB each)"),
        ("kernels", "kernel", "kernels"),
        ("images", "guest image", "guest images"),
    ):
        number = _entries(cache / kind)
        parts += [f"{number} {one if number == 1 else several}"] if number else []
    size, whole = 0, True
    until = time.monotonic() + _WALK_S
    # ccache's many files last
    for folder in sorted(kinds, key=lambda path: (path.name == "ccache", path.name)):
        part, complete = _size(folder, until)
        size, whole = size + part, whole and complete
    text = f"{'' if whole else 'more than '}{_amount(size)}"
    return f"{text}; {', '.join(parts)}" if parts else text


def _entries(folder: Path) -> int:
    try:
        return sum(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return 0


def _size(folder: Path, until: float) -> tuple[int, bool]:
    """Bytes on disk below a folder, and whether that is complete."""
    total = 0
    for number, status in enumerate(_files(folder)):
        total += status.st_blocks * 512 // max(1, status.st_nlink)
        if number % 256 == 0 and time.monotonic() > until:
            return total, False
    return total, True


def _files(folder: Path) -> Iterator[os.stat_result]:
    queue = [str(folder)]
    while queue:
        with contextlib.suppress(OSError), os.scandir(queue.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False)


def space_needs(cache: Path) -> tuple[float, float]:
    """GiB that must be free for a build, and for a first run in comfort."""
    try:
        has_source = any((cache / "sources").iterdir())
    except OSError:
        has_source = False
    return _BUILD_GIB + (0.0 if has_source else _SOURCE_GIB), _COMFORT_GIB


def space(folder: Path, need_gib: float, comfort_gib: float) -> tuple[Status, str]:
    """Whether the disk of a folder, existing or not, has enough free space."""
    place = existing(folder)
    if place is None:
        return "missing", "is not a folder, or cannot be entered"
    facts = os.statvfs(place)
    free = facts.f_bavail * facts.f_frsize
    text = f"{_amount(free)} free"
    if free < need_gib * _GIB:
        return "missing", f"{text}, {_amount(need_gib * _GIB)} needed{_for(need_gib)}"
    # file systems without a fixed number of inodes report 0
    if facts.f_files and facts.f_favail < _NEEDED_INODES and need_gib > 1:
        return "missing", f"{text}, but room for {facts.f_favail} files only; a source tree has 100,000"
    if free < comfort_gib * _GIB:
        return "note", f"{text}, {_amount(comfort_gib * _GIB)} advised{_for(need_gib)}"
    return "ok", text


def _for(need_gib: float) -> str:
    if need_gib < 1:
        return ""
    return f" ({_BUILD_GIB:g} GiB a build, {_SOURCE_GIB:g} GiB a source tree)"


def memory() -> tuple[str, Status, str]:
    """Name, status and text about the available memory, with a container's limit."""
    import psutil

    available = psutil.virtual_memory().available
    limit = _cgroup("memory.max")
    used = _cgroup("memory.current")
    if limit is not None:
        # the page cache's share can be reclaimed
        available = min(available, limit - min(used or 0, limit) + (_reclaimable() if used else 0))
    text = f"{_amount(available)} available"
    least, comfort = _MEMORY_GIB
    if available < least * _GIB:
        return "memory", "missing", f"{text}; a guest and a compiler need {_amount(least * _GIB)} at least"
    if available < comfort * _GIB:
        return "memory", "note", f"{text}; use --jobs 1, and one guest at a time"
    return "memory", "ok", text


def _cgroup(name: str) -> int | None:
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):
        return None


def _reclaimable() -> int:
    try:
        text = Path("/sys/fs/cgroup/memory.stat").read_text()
    except OSError:
        return 0
    return sum(int(n) for n in re.findall(r"^(?:in)?active_file (\d+)$", text, re.M))


def cpus() -> tuple[str, Status, str]:
    """Name, status and text about the usable CPUs and their load."""
    number = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    text = f"{number}, load {load:.1f}"
    if load > number / 2:
        return "CPUs", "note", f"{text}; benchmarks want a quiet host{_no_yielding()}"
    if number < 2:
        return "CPUs", "note", f"{text}; guests have two CPUs, and races show less on one"
    return "CPUs", "ok", text


def _no_yielding() -> str:
    """Why nice has no effect on that work: autogroups give each session an equal share; empty otherwise."""
    with contextlib.suppress(OSError):
        if AUTOGROUP.read_text().strip() == "1":
            return (
                ", and work under nice does not yield to guests of another session while the host has"
                " kernel.sched_autogroup_enabled=1"
            )
    return ""


def _amount(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= 0.1 * _GIB else f"{size / (1 << 20):.0f} MiB"
