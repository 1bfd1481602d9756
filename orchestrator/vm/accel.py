# SPDX-License-Identifier: GPL-2.0-only
"""KVM or emulation: decided by a real boot, remembered, and recorded in every result.

That ``/dev/kvm`` exists and opens proves nothing: on some hosts QEMU starts, the firmware runs, and the
guest kernel never prints a character. So the first boot under KVM is the trial; a host is marked as
having broken KVM only if the very same image shows its banner under emulation.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.vm import qemu
from orchestrator.vm.machine import BootFailure, BootLost, Deadlines, Guest

_KVM = Path("/dev/kvm")
#: A kernel under working KVM shows its banner in a fraction of a second.
_KVM_BANNER_S = 20.0


class Accelerator(msgspec.Struct, frozen=True):
    """``kvm`` or ``tcg``, and why."""

    name: str
    reason: str


class _Mark(msgspec.Struct, frozen=True):
    boot_id: str
    qemu: str
    works: bool
    reason: str


def choose(arch: Arch, setting: str, cache: Path) -> Accelerator:
    """The accelerator to try first.

    :param setting: ``auto``, ``kvm`` or ``tcg``.
    :raises UserError: KVM is forced where it cannot be.
    """
    if setting == "tcg":
        return Accelerator("tcg", "requested with --accel tcg")
    hindrance = _hindrance(arch)
    if setting == "kvm":
        if hindrance:
            raise UserError(f"--accel kvm cannot be used: {hindrance}", remedy="Use --accel auto or tcg.")
        return Accelerator("kvm", "requested with --accel kvm")
    if hindrance:
        return Accelerator("tcg", hindrance)
    mark = _recall(arch, cache)
    if mark is not None and not mark.works:
        return Accelerator("tcg", mark.reason)
    if mark is not None:
        return Accelerator("kvm", mark.reason)
    return Accelerator("kvm", "/dev/kvm opens; to be tried")


def _hindrance(arch: Arch) -> str:
    if not arch.native:
        return f"an {arch.name} guest on an {os.uname().machine} host"
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def boot(
    arch: Arch,
    accelerator: Accelerator,
    forced: bool,
    cache: Path,
    start: Callable[[str, Deadlines], Guest],
    say: Callable[[str], None],
) -> tuple[Guest, Accelerator]:
    """Boot under the chosen accelerator; from KVM fall back to emulation when it brings nothing up.

    :param start: boots the one image under the accelerator of that name.
    :raises BootFailure: the kernel does not come up under emulation either.
    :raises InfraError: QEMU does not start, or forced KVM does not work.
    """
    if accelerator.name == "tcg":
        return start("tcg", Deadlines()), accelerator
    try:
        guest = start("kvm", Deadlines(banner=_KVM_BANNER_S))
    except (BootFailure, InfraError) as error:
        # a kernel that prints its banner shows that KVM works
        if isinstance(error, BootFailure | BootLost) and error.phase != "banner":
            raise
        what = (
            f"no kernel banner within {_KVM_BANNER_S:.0f} s"
            if isinstance(error, BootFailure)
            else error.message
        )
        if forced:
            raise InfraError(
                f"forced KVM brings no kernel up: {what}", remedy="Use --accel auto, which falls back to tcg."
            ) from None
        say(f"KVM: {what}; trying the same image under tcg")
        reason = f"KVM is broken on this host: {what}, but the same image boots under tcg"
        try:
            guest = start("tcg", Deadlines())
        except BootFailure as later:
            if later.phase in ("init", "ssh"):
                # it printed its banner, which KVM did not
                _remember(arch, cache, works=False, reason=reason)
            raise
        _remember(arch, cache, works=False, reason=reason)
        return guest, Accelerator("tcg", reason)
    reason = "a kernel has come up under /dev/kvm"
    _remember(arch, cache, works=True, reason=reason)
    return guest, Accelerator("kvm", reason)


def _mark_file(cache: Path) -> Path:
    return cache / "kvm.json"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _recall(arch: Arch, cache: Path) -> _Mark | None:
    try:
        mark = msgspec.json.decode(_mark_file(cache).read_bytes(), type=_Mark)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    current = mark.boot_id == _boot_id() and mark.qemu == qemu.version(arch)
    return mark if current else None


def _remember(arch: Arch, cache: Path, *, works: bool, reason: str) -> None:
    # without the mark the next run tries again
    with contextlib.suppress(OSError, InfraError):
        mark = _Mark(boot_id=_boot_id(), qemu=qemu.version(arch), works=works, reason=reason)
        write_atomically(_mark_file(cache), msgspec.json.encode(mark))
