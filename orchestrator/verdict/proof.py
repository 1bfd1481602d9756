# SPDX-License-Identifier: GPL-2.0-only
"""Prove which kernel the guest runs: build, configuration and variant.

There are independent sources, because a wrong image booted twice is the classic false "no difference":
the GNU build-id of /sys/kernel/notes, the configuration in /proc/config.gz, the functions in
/proc/kallsyms, the counters in /proc/vmstat.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import zlib
from collections.abc import Mapping

import msgspec

from orchestrator.core.elf import build_id_of_notes
from orchestrator.evidence.health import parse_vmstat
from orchestrator.kernel.kconfig import difference, parse_config
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.vm.machine import Guest

_LOOKUP = "lock_vma_under_rcu"
_SECTIONS = {
    "notes": "cat /sys/kernel/notes",
    "config": "cat /proc/config.gz",
    "kallsyms": "grep -E ' (lock_vma_under_rcu|lock_next_vma|schedule)$' /proc/kallsyms",
    "vmstat": "grep -E '^(vma_lock_|pgfault )' /proc/vmstat",
    "tainted": "cat /proc/sys/kernel/tainted",
    "cpus": "grep -c ^processor /proc/cpuinfo",
    "release": "uname -r",
}
_LIMIT = 4 << 20


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the proof.

    ``properties`` are for people, ``failures`` are contradictions, ``missing`` are facts that were not shown;
    ``tainted`` is the kernel's taint mask after the boot, ``cpus`` the number of CPUs online,
    ``has_locks`` whether there are per-VMA locks, ``None`` if that was not shown.
    """

    properties: dict[str, str]
    failures: tuple[str, ...]
    missing: tuple[str, ...]
    tainted: int
    cpus: int
    has_locks: bool | None = None

    def case(self) -> Case:
        """The cell's ``proof`` case: neither a contradiction nor a gap is green."""
        if self.failures or self.missing:
            reason = "; ".join((*self.failures, *(f"not shown: {m}" for m in self.missing)))
            return Case(id="proof", verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)
        facts = ", ".join(f"{name}: {value}" for name, value in self.properties.items())
        return Case(id="proof", verdict=Verdict.PASS, detail=facts)


def prove(
    guest: Guest,
    *,
    build_id: str,
    config: Mapping[str, str] | None,
    variant_on: bool | None,
    tree_class: TreeClass | None,
    smp: int,
) -> Proof:
    """Ask the guest which kernel it runs, and compare.

    Facts that are unknown beforehand, for a prebuilt kernel, are only recorded.

    :param build_id: of the vmlinux to boot; empty if unknown.
    :param config: its final configuration.
    :param variant_on: whether it should have per-VMA locks.
    :raises orchestrator.vm.ssh.Lost: the guest does not answer.
    """
    script = "; ".join(
        f"echo '@@{name}'; {command} 2>/dev/null | base64" for name, command in _SECTIONS.items()
    )
    answer = guest.ssh.raw(script, limit_s=30 * guest.factor, death=guest.death)
    return judge(
        _sections(answer),
        build_id=build_id,
        config=config,
        variant_on=variant_on,
        tree_class=tree_class,
        smp=smp,
    )


def _sections(answer: bytes) -> dict[str, bytes]:
    sections = {}
    for part in answer[:_LIMIT].split(b"@@")[1:]:
        name, _, body = part.partition(b"\n")
        try:
            sections[name.decode(errors="replace").strip()] = base64.b64decode(body, validate=False)
        except binascii.Error:
            continue
    return sections


def judge(
    answers: Mapping[str, bytes],
    *,
    build_id: str,
    config: Mapping[str, str] | None,
    variant_on: bool | None,
    tree_class: TreeClass | None,
    smp: int,
) -> Proof:
    """Compare the guest's answers with the kernel to boot; pure."""
    failures: list[str] = []
    missing: list[str] = []
    properties: dict[str, str] = {}

    _check_build_id(answers, build_id, properties, failures, missing)
    _check_config(answers, config, properties, failures, missing)
    has_locks = None
    symbols = set(re.findall(r"(\w+)$", answers.get("kallsyms", b"").decode(errors="replace"), re.M))
    if "schedule" not in symbols:
        missing.append("kallsyms names no function at all")
    elif variant_on is not None and (_LOOKUP in symbols) != variant_on:
        failures.append(f"kallsyms: {_LOOKUP} is {'absent' if variant_on else 'present'}")
    else:
        has_locks = _LOOKUP in symbols
        properties["kallsyms"] = f"{_LOOKUP} {'present' if has_locks else 'absent'}"
    if tree_class is TreeClass.SELECTABLE and config is not None and variant_on is not None:
        _check_vmstat(answers, config, variant_on, properties, failures, missing)
    tainted = _number(answers, "tainted")
    if tainted < 0:
        # without this mask, new taint during the suites would not be noticed
        missing.append("/proc/sys/kernel/tainted")
    cpus = _number(answers, "cpus")
    if cpus != smp:
        failures.append(f"{smp} CPUs requested, {cpus} online")
    properties["vCPUs online"] = str(cpus)
    return Proof(
        properties=properties,
        failures=tuple(failures),
        missing=tuple(missing),
        tainted=tainted,
        cpus=cpus,
        has_locks=has_locks,
    )


def _check_build_id(
    answers: Mapping[str, bytes],
    build_id: str,
    properties: dict[str, str],
    failures: list[str],
    missing: list[str],
) -> None:
    try:
        running = build_id_of_notes(answers.get("notes", b""))
    except Exception:  # a hostile guest may send any bytes; an exception shows nothing
        running = ""
    if not running:
        if build_id:
            missing.append("build-id of the running kernel")
    elif build_id and running != build_id:
        failures.append(f"another kernel is running: build-id {running[:12]}, built was {build_id[:12]}")
    else:
        properties["build-id"] = running


def _check_config(
    answers: Mapping[str, bytes],
    config: Mapping[str, str] | None,
    properties: dict[str, str],
    failures: list[str],
    missing: list[str],
) -> None:
    try:
        decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        running = parse_config(
            decompressor.decompress(answers.get("config", b""), _LIMIT).decode(errors="replace")
        )
    except (zlib.error, gzip.BadGzipFile):
        running = {}
    if config is None:
        if running:
            properties["config.gz"] = f"PER_VMA_LOCK={running.get('PER_VMA_LOCK', 'n')}"
        return
    if not running:
        missing.append("/proc/config.gz")
        return
    differing = difference(config, running)
    if differing:
        symbols = ", ".join(f"{s} ({a} built, {b} running)" for s, (a, b) in list(differing.items())[:5])
        failures.append(f"/proc/config.gz differs from the built .config: {symbols}")
    else:
        properties["config.gz"] = f"PER_VMA_LOCK={running.get('PER_VMA_LOCK', 'n')}, as built"


def _check_vmstat(
    answers: Mapping[str, bytes],
    config: Mapping[str, str],
    variant_on: bool,
    properties: dict[str, str],
    failures: list[str],
    missing: list[str],
) -> None:
    counters = parse_vmstat(answers.get("vmstat", b"").decode(errors="replace"))
    if "pgfault" not in counters:
        missing.append("/proc/vmstat")
        return
    has_counters = any(name.startswith("vma_lock_") for name in counters)
    if not variant_on and has_counters:
        failures.append("/proc/vmstat counts vma_lock_* without per-VMA locks")
    elif variant_on and config.get("PER_VMA_LOCK_STATS") == "y":
        if not counters.get("vma_lock_success"):
            failures.append("/proc/vmstat: no page fault was served under a VMA's lock")
        else:
            properties["vmstat"] = f"vma_lock_success={counters['vma_lock_success']}"
    elif not variant_on:
        properties["vmstat"] = "no vma_lock_* counters"


def _number(answers: Mapping[str, bytes], name: str) -> int:
    match = re.match(rb"\s*(\d{1,18})", answers.get(name, b""))
    return int(match[1]) if match else -1
