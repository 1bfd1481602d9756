# SPDX-License-Identifier: GPL-2.0-only
"""Was the host quiet while a benchmark ran? Two samples of its CPU time, and their difference."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil

from orchestrator.core.text import one_line

#: Share of all CPU time that a hypervisor below, or other work, may take before a boot is discarded.
MAX_STEAL = 0.05
MAX_OTHER = 0.10


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """The host at one moment. All times are seconds since boot, summed over its CPUs (``/proc/stat``).

    ``busy_s`` is user, nice, system and interrupts; waiting for a disk is idle.
    """

    at_s: float
    cpus: int
    busy_s: float
    steal_s: float
    total_s: float
    load_1min: float


def host_sample() -> HostSample:
    """A sample of the host now."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    return HostSample(
        at_s=time.monotonic(),
        cpus=psutil.cpu_count() or 1,
        busy_s=busy,
        steal_s=times.steal,
        total_s=busy + times.idle + times.iowait + times.steal,
        load_1min=psutil.getloadavg()[0],
    )


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """The model of the host's CPUs and their number: ``AMD EPYC 7B13, 2 CPUs``."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        if match := re.search(r"^(?:model name|Hardware|uarch)\s*:\s*(.+)$", text, re.MULTILINE):
            return f"{one_line(match[1])}, {psutil.cpu_count()} CPUs"
    return f"{platform.machine()}, {psutil.cpu_count()} CPUs"


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time so far in seconds of some processes and their reaped children; one that is gone counts 0."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def steal_fraction(before: HostSample, after: HostSample) -> float:
    """Share of the host's CPU time between two samples that a hypervisor below took away, 0 to 1."""
    total = after.total_s - before.total_s
    return min(max((after.steal_s - before.steal_s) / total, 0.0), 1.0) if total > 0 else 0.0


def other_fraction(before: HostSample, after: HostSample, own_cpu_s: float) -> float:
    """Share of the host's CPU time between two samples that went to work other than our own, 0 to 1."""
    total = after.total_s - before.total_s
    if total <= 0:
        return 0.0
    return min(max((after.busy_s - before.busy_s - own_cpu_s) / total, 0.0), 1.0)


def disturbed(
    before: HostSample,
    after: HostSample,
    own_cpu_s: float,
    *,
    max_steal: float = MAX_STEAL,
    max_other: float = MAX_OTHER,
) -> str:
    """Why numbers taken between two samples cannot be used; empty if they can.

    :param own_cpu_s: what our own processes (QEMU, the orchestrator) used in between, in seconds; see
        ``cpu_seconds``.
    :param max_steal: the largest acceptable share of the host's CPU time; likewise ``max_other``.
    """
    if after.total_s <= before.total_s:
        return "the host accounted for no CPU time meanwhile"
    if after.cpus != before.cpus:
        return f"the host went from {before.cpus} to {after.cpus} CPUs"
    reasons = []
    if (steal := steal_fraction(before, after)) > max_steal:
        reasons.append(f"steal {steal:.0%} of the host's CPU time")
    if (other := other_fraction(before, after, own_cpu_s)) > max_other:
        reasons.append(f"other work {other:.0%} of the host's CPU time")
    if not reasons:
        return ""
    return f"{', '.join(reasons)} (load {before.load_1min:.1f} before, {after.load_1min:.1f} after)"
