# SPDX-License-Identifier: GPL-2.0-only
"""Widen race windows while a program runs: the module ``guest/widen.c``, and the proof that it delayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.errors import Inconclusive
from orchestrator.core.text import clean, one_line
from orchestrator.kernel import probe_points as points
from orchestrator.kernel.spec import Kernel
from orchestrator.vm.machine import Guest

#: Where the guest has the module.
MODULE = "/opt/orchestrate/widen.ko"
_PARAMETERS = "/sys/module/widen/parameters"
#: The module's limit.
_MOST = 16
#: Characters of a program's name that the kernel keeps.
_COMM = 15


class Places(msgspec.Struct, frozen=True):
    """The points of a kernel by name, each with its address; ``missing`` are those that it lacks."""

    points: tuple[points.Point, ...]
    addresses: Mapping[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the points that this kernel lacks."""
        return tuple(point.name for point in self.points if point.name not in self.addresses)


def find(names: Sequence[str], kernel: Kernel, arch: Arch) -> Places:
    """The addresses of points in a kernel.

    :raises Inconclusive: an unknown name, too many, or this kernel has none of them.
    """
    catalogue = points.catalogue()
    if unknown := [name for name in names if name not in catalogue]:
        raise Inconclusive(f"unknown point {unknown[0]!r} in guest/widen.toml")
    if len(names) > _MOST:
        raise Inconclusive(f"{len(names)} points, {_MOST} at most")
    requested = tuple(catalogue[name] for name in names)
    addresses = points.locate(list(requested), kernel.vmlinux, arch) if kernel.vmlinux else {}
    if not addresses:
        raise Inconclusive(f"no window can be widened: this kernel has none of {', '.join(names)}")
    return Places(requested, addresses)


def begin(guest: Guest, places: Places, program: str, seed: int = 1) -> None:
    """Load the module: from now on tasks with the program's name are delayed at these points.

    :raises Inconclusive: it cannot be loaded.
    :raises Lost: the guest is gone.
    """
    available = [point for point in places.points if point.name in places.addresses]
    argv = ["/bin/busybox", "insmod", MODULE]
    argv.append("points=" + ",".join(f"{places.addresses[point.name]:#x}" for point in available))
    argv.append("spins=" + ",".join(str(point.spins) for point in available))
    argv.append("permille=" + ",".join(str(point.permille) for point in available))
    argv += [f"comm={program[:_COMM]}", f"seed={seed}"]
    result = guest.run(argv, limit_s=30 * guest.factor)
    if result.facts.exit != 0:
        raise Inconclusive(f"the module that widens windows was not loaded: {one_line(clean(result.stderr))}")


def summary(places: Places, delayed: Mapping[str, tuple[int, int]]) -> str:
    """The counts of each point, one line each."""
    lines = [
        f"{name} at {places.addresses[name]:#x}: passed {passed}, delayed {times}"
        for name, (passed, times) in delayed.items()
    ]
    return "\n".join([*lines, *(f"{name}: not in this kernel" for name in places.missing)]) + "\n"


def end(guest: Guest, places: Places) -> dict[str, tuple[int, int]]:
    """Unload the module; how often each point was passed and delayed.

    :raises Lost: the guest is gone.
    """
    counts = [
        [
            int(word)
            for word in clean(guest.read(f"{_PARAMETERS}/{name}")).strip().split(",")
            if word.isdigit()
        ]
        for name in ("passed", "delayed")
    ]
    guest.run(["/bin/busybox", "rmmod", "widen"], limit_s=30 * guest.factor)
    available = [point.name for point in places.points if point.name in places.addresses]
    return dict(zip(available, zip(*counts, strict=False), strict=False))
