# SPDX-License-Identifier: GPL-2.0-only
"""Judge the report of ``map-latency``: a verdict, and numbers. The report comes from the guest.

Formats are described next to the programs: ``selftests/map-latency/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from orchestrator.core.errors import Inconclusive
from orchestrator.results.model import Blame, Case, Verdict

SCHEMA_VERSION = 1
#: A report of 64 scanners and full histograms is about 60 KiB.
MAX_STDOUT = 1 << 20
#: Fewer operations than this in a phase say nothing about a 99th percentile.
MIN_OPS = 100
#: Share of the calls of a phase that may fail.
MAX_ERROR_SHARE = 0.01
#: The clock must tell apart a fifth of a mean operation. Without a good clock source a guest counts in 4 ms.
STEPS_PER_OP = 5
#: No line of a maps file is shorter: addresses, permissions, offset, device and inode.
MIN_BYTES_PER_VMA = 40

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Small = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Duration = Annotated[float, msgspec.Meta(ge=0)]
PhaseName = Literal["alone", "scanned"]
#: Pairs of the largest value of a bucket in ns and a count, rising, without empty buckets.
Histogram = Annotated[tuple[tuple[Count, Count], ...], msgspec.Meta(max_length=1024)]
Cpus = Annotated[tuple[Small, ...], msgspec.Meta(max_length=1024)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Parameters(_Strict, frozen=True, kw_only=True):
    """The options as the program used them."""

    size_mib: Count
    seconds: Duration
    scanners: Count
    busy_ms: Duration
    mapper_cpu: Count
    scanner_cpus: Cpus
    nice: Small
    file: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,31}$")]
    pause_us: Count
    fragments: Count
    seed: Count
    phases: Annotated[tuple[PhaseName, ...], msgspec.Meta(max_length=2)]


class Placement(_Strict, frozen=True, kw_only=True):
    """Where a process was to run and where it did; ``None`` and empty if it could not be read back."""

    pid: Small
    cpu_requested: Small
    cpus_actual: Cpus
    nice_requested: Small
    nice_actual: Small | None


class Scanner(Placement, frozen=True, kw_only=True):
    """A process that reads the mapper's file. ``last_ended_ms_ago`` counts back from the end of the phase."""

    alive: bool
    scans: Count
    bytes: Count
    errors: Count
    last_errno: Small
    worst_scan_ms: Duration
    last_ended_ms_ago: Duration | None


class Busy(Placement, frozen=True, kw_only=True):
    """A spinning task beside a scanner."""

    alive: bool
    spins: Count
    last_ended_ms_ago: Duration | None


class VmaCount(_Strict, frozen=True, kw_only=True):
    """VMAs of the mapper before and after a phase."""

    before: Count
    after: Count


class Phase(_Strict, frozen=True, kw_only=True):
    """One phase. Latencies are ``None`` if nothing was done; ``ops`` succeeded, ``errors`` failed."""

    name: PhaseName
    seconds: Duration
    ops: Count
    maps: Count
    unmaps: Count
    errors: Count
    mean_us: Duration | None
    p50_us: Duration | None
    p90_us: Duration | None
    p99_us: Duration | None
    p999_us: Duration | None
    max_us: Duration | None
    vma_count: VmaCount
    histogram_ns: Histogram
    mapper: Placement
    scanners: Annotated[tuple[Scanner, ...], msgspec.Meta(max_length=64)]
    busy: Annotated[tuple[Busy, ...], msgspec.Meta(max_length=64)]


class Sample(_Strict, frozen=True, kw_only=True):
    """One run of ``map-latency`` in one boot."""

    schema_version: Literal[1]
    parameters: Parameters
    page_size: Count
    active_pages: Count
    cpus_online: Count
    clock_step_ns: Count
    phases: Annotated[tuple[Phase, ...], msgspec.Meta(max_length=2)]


def parse_map_latency(stdout: bytes) -> Sample:
    """Read what ``map-latency`` printed.

    :raises Inconclusive: nothing, too much, no such document, or one that contradicts itself.
    """
    remedy = "Look at the program's exit code and standard error in the log of this suite."
    if not stdout.strip():
        raise Inconclusive("map-latency printed nothing", remedy=remedy)
    if len(stdout) > MAX_STDOUT:
        raise Inconclusive(f"map-latency printed more than {MAX_STDOUT} bytes", remedy=remedy)
    try:
        sample = msgspec.json.decode(stdout, type=Sample)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The message may quote the guest: no control characters, no length of its choice.
        text = ascii(str(error))[1:-1][:200]
        raise Inconclusive(f"map-latency printed no valid report: {text}", remedy=remedy) from None
    for contradiction in _contradictions(sample):
        raise Inconclusive(
            f"map-latency printed a report that contradicts itself: {contradiction}", remedy=remedy
        )
    return sample


def judge(sample: Sample, case_id: str = "map-latency/map-latency") -> tuple[Case, dict[str, float]]:
    """The verdict on one run, and its numbers: none unless it passed, so that no one compares them.

    PASS means that what was to be measured did happen: there were enough operations, on a region as
    fragmented as asked for, and every scanner ran where and with the priority it should, read whole files and
    did so until the end. A good or bad latency is no matter of one run; see ``analysis.compare``.

    :return: metrics with the unit in the name: ``mean_us_alone``, ``p99_us_scanned``, ``interference`` (mean
        scanned over mean alone), ``scans`` …
    """
    faults = list(_faults(sample))
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        reason = "; ".join(faults[:3]) + more
        return Case(id=case_id, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason), {}
    duration_s = sum(phase.seconds for phase in sample.phases)
    return Case(id=case_id, verdict=Verdict.PASS, duration_s=duration_s), _metrics(sample)


#: Metrics that are compared, and which way is better. No maxima: emulated, they are the host's noise.
BETTER = dict.fromkeys(("mean_us_scanned", "p99_us_scanned", "mean_us_alone", "interference"), "lower")


def _phase(sample: Sample, name: PhaseName) -> Phase | None:
    return next((phase for phase in sample.phases if phase.name == name), None)


def _contradictions(sample: Sample) -> Iterator[str]:
    names = [phase.name for phase in sample.phases]
    if len(set(names)) != len(names) or tuple(names) != sample.parameters.phases:
        yield "its phases are not those of its parameters"
    for phase in sample.phases:
        uppers = [upper for upper, _ in phase.histogram_ns]
        if any(low >= high for low, high in pairwise(uppers)):
            yield f"phase {phase.name}: the histogram does not rise"
        if (
            sum(count for _, count in phase.histogram_ns) != phase.ops
            or phase.maps + phase.unmaps != phase.ops
        ):
            yield f"phase {phase.name}: histogram, kinds and number of operations differ"
        latencies = (phase.p50_us, phase.p90_us, phase.p99_us, phase.p999_us, phase.max_us)
        values = [latency for latency in (*latencies, phase.mean_us) if latency is not None]
        if len(values) != (6 if phase.ops else 0):
            yield f"phase {phase.name}: latencies without operations, or operations without latencies"
        elif values and (values[:-1] != sorted(values[:-1]) or values[-1] > values[-2]):
            yield f"phase {phase.name}: its quantiles do not rise"


def _faults(sample: Sample) -> Iterator[str]:
    """Every reason why a run proves nothing."""
    parameters = sample.parameters
    for name in ("alone", "scanned"):
        phase = _phase(sample, name)
        if phase is None:
            yield f"no phase '{name}'"
            continue
        yield from _phase_faults(phase, parameters)
        if phase.mean_us and sample.clock_step_ns * STEPS_PER_OP > phase.mean_us * 1000:
            step, mean = f"{sample.clock_step_ns / 1000:g} µs", f"{phase.mean_us:g} µs"
            yield f"steps of the clock are {step}, operations in phase '{name}' take {mean}"
    scanned = _phase(sample, "scanned")
    if scanned is None:
        return
    if not scanned.scanners or len(scanned.scanners) != parameters.scanners:
        yield f"{len(scanned.scanners)} scanners took part, {parameters.scanners} requested"
    for number, scanner in enumerate(scanned.scanners, start=1):
        yield from _scanner_faults(f"scanner {number}", scanner, scanned, parameters)


def _phase_faults(phase: Phase, parameters: Parameters) -> Iterator[str]:
    if phase.ops < MIN_OPS:
        yield f"{phase.ops} operations in phase '{phase.name}', at least {MIN_OPS} are needed"
    elif not phase.mean_us:
        yield f"phase '{phase.name}': the clock stood still"
    if phase.errors > MAX_ERROR_SHARE * (phase.ops + phase.errors):
        yield f"{phase.errors} mmap or munmap calls failed in phase '{phase.name}'"
    vmas = min(phase.vma_count.before, phase.vma_count.after)
    if vmas < parameters.fragments:
        yield f"{vmas} VMAs in phase '{phase.name}', {parameters.fragments} requested"
    yield from _placement_faults(f"mapper, phase '{phase.name}'", phase.mapper)
    if phase.name == "alone" and phase.scanners:
        yield "scanners took part in phase 'alone'"
    if len(phase.busy) != (parameters.scanners if parameters.busy_ms else 0):
        yield f"{len(phase.busy)} busy tasks took part in phase '{phase.name}'"
    for number, busy in enumerate(phase.busy, start=1):
        who = f"busy task {number}, phase '{phase.name}'"
        if not busy.alive:
            yield f"{who}: dead at the end"
            continue
        if not busy.spins:
            yield f"{who}: never ran"
        yield from _placement_faults(who, busy)


def _scanner_faults(who: str, scanner: Scanner, phase: Phase, parameters: Parameters) -> Iterator[str]:
    if not scanner.alive:
        yield f"{who}: dead at the end"
        return
    yield from _placement_faults(who, scanner)
    if scanner.nice_requested != parameters.nice:
        yield f"{who}: started with nice {scanner.nice_requested}, {parameters.nice} requested"
    if not scanner.scans:
        errno = f", errno {scanner.last_errno}" if scanner.errors else ""
        yield f"{who}: no scan of {parameters.file} ({scanner.errors} attempts failed{errno})"
        return
    if scanner.last_ended_ms_ago is None or scanner.last_ended_ms_ago > 500 * phase.seconds:
        yield f"{who}: no scan in the second half of the phase"
    if parameters.file in ("maps", "smaps") and scanner.bytes < (
        MIN_BYTES_PER_VMA * parameters.fragments * scanner.scans
    ):
        yield f"{who}: {scanner.bytes // scanner.scans} bytes a scan, too few for {parameters.fragments} VMAs"


def _placement_faults(who: str, placement: Placement) -> Iterator[str]:
    if placement.nice_actual != placement.nice_requested:
        yield f"{who}: nice {placement.nice_actual}, {placement.nice_requested} requested"
    if placement.cpus_actual != (placement.cpu_requested,):
        actual = ",".join(map(str, placement.cpus_actual[:8])) or "unknown"
        yield f"{who}: on CPU {actual}, {placement.cpu_requested} requested"


def _metrics(sample: Sample) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for phase in sample.phases:
        for name in ("mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"):
            metrics[f"{name}_{phase.name}"] = getattr(phase, name)
        metrics[f"ops_{phase.name}"] = float(phase.ops)
        metrics[f"errors_{phase.name}"] = float(phase.errors)
        metrics[f"vmas_{phase.name}"] = float(phase.vma_count.before)
        for scanner in phase.scanners:
            metrics["scans"] = metrics.get("scans", 0.0) + scanner.scans
            metrics["worst_scan_ms"] = max(metrics.get("worst_scan_ms", 0.0), scanner.worst_scan_ms)
    metrics["interference"] = metrics["mean_us_scanned"] / metrics["mean_us_alone"]
    return metrics
