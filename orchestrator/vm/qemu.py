# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU command line of a guest: a pure function of the guest's spec and of the arch's data."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.process import require, tool

#: Network, randomness, and the device that reports a panic.
_DEVICES = (
    *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
    *("-device", "virtio-net-pci,netdev=net,romfile="),
    *("-device", "virtio-rng-pci"),
    *("-device", "pvpanic-pci"),
)


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine to boot. ``cmdline`` is appended to the words that the arch and the guest image need.

    ``slower``: by how much its kernel's flavor slows programs down, and its boot too.
    """

    arch: Arch
    kernel: Path
    initrds: tuple[Path, ...]
    smp: int = 2
    mem_mib: int = 512
    cmdline: tuple[str, ...] = ()
    slower: float = 1.0


#: The console shows everything, whatever a program sets the log level to, and each line's facility: that of a
#: program's line is not the kernel's.
_LOG = ("ignore_loglevel", "console_msg_format=syslog")
#: A boot under emulation on a busy host must not look like a stall of the guest's own.
_PATIENCE = (
    "rcupdate.rcu_cpu_stall_timeout=60",
    "watchdog_thresh=30",
    "workqueue.watchdog_thresh=120",
    "sysctl.kernel.hung_task_timeout_secs=45",
    # by default it looks once in that time, so that a hang may be reported after twice as long
    "sysctl.kernel.hung_task_check_interval_secs=5",
)


def program(arch: Arch) -> str:
    """The path of the QEMU that emulates an arch.

    :raises InfraError: it is not installed.
    """
    return require(arch.qemu, remedy=f"Install it: apt-get install {arch.packages.qemu}")


def version(arch: Arch) -> str:
    """The version QEMU gives itself, e.g. ``7.2.22``."""
    match = re.search(r"version (\S+)", tool([program(arch), "--version"]))
    return match[1] if match else "unknown"


def kernel_cmdline(spec: GuestSpec, *, nonce: str, epoch: int) -> str:
    """The kernel command line: console, what to do on a panic, patience, and the run's own words."""
    words = [f"console={spec.arch.console}", "panic=-1", "oops=panic", "reboot=t", "printk.time=1"]
    words += [*spec.arch.cmdline, *_LOG, *_PATIENCE, f"orc.nonce={nonce}", f"orc.epoch={epoch}"]
    return " ".join([*words, *spec.cmdline])


def argv(
    spec: GuestSpec,
    *,
    accel: str,
    folder: Path,
    initrd: Path | None = None,
    cmdline: str = "",
    incoming: int | None = None,
) -> list[str]:
    """The command that starts the guest, or with ``incoming`` the same machine for a saved one.

    QEMU connects to two sockets in ``folder`` that must be listening: ``qmp`` and ``console``. The SSH
    port is the kernel's choice; ``info usernet`` shows it.

    :param incoming: descriptor of the saved state. Kernel, image and command line are then left out: they are
        in the saved memory, and loading them again takes time.
    """
    loaded = ["-kernel", str(spec.kernel), "-initrd", str(initrd), "-append", cmdline]
    return [
        program(spec.arch),
        *machine(spec, accel),
        *(loaded if incoming is None else ["-incoming", f"fd:{incoming}"]),
        *("-chardev", f"socket,id=console,path={folder / 'console'}"),
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{folder / 'qmp'}"),
        *devices(spec.arch),
    ]


def devices(arch: Arch) -> tuple[str, ...]:
    """The words for network, randomness, the device that tells of a panic, and what the arch adds."""
    return (*_DEVICES, *arch.devices)


def machine(spec: GuestSpec, accel: str) -> list[str]:
    """The words for the machine itself: what neither depends on its kernel nor on where it runs."""
    arch = spec.arch
    kvm = accel == "kvm"
    return [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        # pvpanic fires before the whole panic is printed: the output of an NMI comes after it
        *("-action", "panic=none"),
        *("-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-name", "orchestrate"),
        *("-machine", arch.machine_kvm if kvm else arch.machine_tcg),
        *("-accel", "kvm" if kvm else "tcg,thread=multi"),
        *("-cpu", arch.cpu_kvm if kvm else arch.cpu_tcg),
        *("-smp", str(spec.smp)),
        *("-m", f"{spec.mem_mib}M"),
    ]
