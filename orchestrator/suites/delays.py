# SPDX-License-Identifier: GPL-2.0-only
"""Windows made wide while a program runs: the module ``guest/widen.c``, and the proof that it delayed."""

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
#: As many as the module takes.
_MOST = 16
#: What the kernel keeps of a program's name.
_COMM = 15


class Places(msgspec.Struct, frozen=True):
    """The points of a kernel by name, each with its address; ``missing`` are those that it does not have."""

    points: tuple[points.Point, ...]
    addresses: Mapping[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the points that this kernel does not have."""
        return tuple(point.name for point in self.points if point.name not in self.addresses)


def find(names: Sequence[str], kernel: Kernel, arch: Arch) -> Places:
    """Where points lie in a kernel.

    :raises Inconclusive: a name that the catalogue does not have, too many, or none is in this kernel.
    """
    known = points.catalogue()
    if unknown := [name for name in names if name not in known]:
        raise Inconclusive(f"there is no point {unknown[0]!r} in guest/widen.toml")
    if len(names) > _MOST:
        raise Inconclusive(f"{len(names)} points, {_MOST} at most")
    wanted = tuple(known[name] for name in names)
    found = points.locate(list(wanted), kernel.vmlinux, arch) if kernel.vmlinux else {}
    if not found:
        raise Inconclusive(f"no window can be made wide: this kernel has none of {', '.join(names)}")
    return Places(wanted, found)


def begin(guest: Guest, places: Places, program: str, seed: int = 1) -> None:
    """Load the module: from now on the tasks called like the program are delayed at these points.

    :raises Inconclusive: it cannot be loaded.
    :raises Lost: the guest is gone.
    """
    there = [point for point in places.points if point.name in places.addresses]
    argv = ["/bin/busybox", "insmod", MODULE]
    argv.append("points=" + ",".join(f"{places.addresses[point.name]:#x}" for point in there))
    argv.append("spins=" + ",".join(str(point.spins) for point in there))
    argv.append("permille=" + ",".join(str(point.permille) for point in there))
    argv += [f"comm={program[:_COMM]}", f"seed={seed}"]
    ran = guest.run(argv, limit_s=30 * guest.factor)
    if ran.facts.exit != 0:
        raise Inconclusive(
            f"the module that makes windows wide was not loaded: {one_line(clean(ran.stderr))}"
        )


def summary(places: Places, delayed: Mapping[str, tuple[int, int]]) -> str:
    """How often each point was passed and delayed, a line each."""
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
    there = [point.name for point in places.points if point.name in places.addresses]
    return dict(zip(there, zip(*counts, strict=False), strict=False))
