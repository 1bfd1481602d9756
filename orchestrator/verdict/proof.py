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


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest should show. Facts that are unknown, of a prebuilt kernel, are only recorded.

    ``build_id`` is that of the vmlinux to boot and ``config`` its final configuration. ``variant_on`` tells
    whether it should have per-VMA locks.
    """

    build_id: str = ""
    config: Mapping[str, str] | None = None
    variant_on: bool | None = None
    tree_class: TreeClass | None = None
    smp: int


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the proof.

    ``properties`` are for people, ``failures`` are contradictions, ``missing`` are facts that were not shown;
    ``tainted`` is the kernel's taint mask after the boot, ``cpus`` the number of CPUs online,
    ``has_locks`` whether there are per-VMA locks, ``None`` if that was not shown.
    """

    properties: dict[str, str] = {}
    failures: list[str] = []
    missing: list[str] = []
    tainted: int
    cpus: int
    has_locks: bool | None

    def case(self) -> Case:
        """The cell's ``proof`` case: neither a contradiction nor a gap is green."""
        if self.failures or self.missing:
            reason = "; ".join((*self.failures, *(f"not shown: {m}" for m in self.missing)))
            return Case(id="proof", verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)
        facts = ", ".join(f"{name}: {value}" for name, value in self.properties.items())
        return Case(id="proof", verdict=Verdict.PASS, detail=facts)


def prove(guest: Guest, expected: Expected) -> Proof:
    """Ask the guest which kernel it runs, and compare.

    :raises orchestrator.vm.ssh.Lost: the guest does not answer.
    """
    script = "; ".join(
        f"echo '@@{name}'; {command} 2>/dev/null | base64" for name, command in _SECTIONS.items()
    )
    answer = guest.ssh.raw(script, limit_s=30 * guest.factor, death=guest.death)
    return judge(_sections(answer), expected)


def _sections(answer: bytes) -> dict[str, bytes]:
    sections = {}
    for part in answer[:_LIMIT].split(b"@@")[1:]:
        name, _, body = part.partition(b"\n")
        try:
            sections[name.decode(errors="replace").strip()] = base64.b64decode(body, validate=False)
        except binascii.Error:
            continue
    return sections


def judge(answers: Mapping[str, bytes], expected: Expected) -> Proof:
    """Compare the guest's answers with the kernel to boot; pure."""
    symbols = set(re.findall(r"(\w+)$", answers.get("kallsyms", b"").decode(errors="replace"), re.M))
    proof = Proof(
        tainted=_number(answers, "tainted"),
        cpus=_number(answers, "cpus"),
        has_locks=_LOOKUP in symbols if "schedule" in symbols else None,
    )
    _check_build_id(answers, expected, proof)
    _check_config(answers, expected, proof)
    if proof.has_locks is None:
        proof.missing.append("kallsyms names no function at all")
    elif expected.variant_on is not None and proof.has_locks != expected.variant_on:
        proof.failures.append(f"kallsyms: {_LOOKUP} is {'present' if proof.has_locks else 'absent'}")
    else:
        proof.properties["kallsyms"] = f"{_LOOKUP} {'present' if proof.has_locks else 'absent'}"
    if (
        expected.tree_class is TreeClass.SELECTABLE
        and expected.config is not None
        and expected.variant_on is not None
    ):
        _check_vmstat(answers, expected, proof)
    if proof.tainted < 0:
        # without this mask, new taint during the suites would not be noticed
        proof.missing.append("/proc/sys/kernel/tainted")
    if proof.cpus != expected.smp:
        proof.failures.append(f"{expected.smp} CPUs requested, {proof.cpus} online")
    proof.properties["vCPUs online"] = str(proof.cpus)
    return proof


def _check_build_id(answers: Mapping[str, bytes], expected: Expected, proof: Proof) -> None:
    built = expected.build_id
    try:
        running = build_id_of_notes(answers.get("notes", b""))
    except Exception:  # a hostile guest may send any bytes; an exception shows nothing
        running = ""
    if not running:
        if built:
            proof.missing.append("build-id of the running kernel")
    elif built and running != built:
        proof.failures.append(f"another kernel is running: build-id {running[:12]}, built was {built[:12]}")
    else:
        proof.properties["build-id"] = running


def _check_config(answers: Mapping[str, bytes], expected: Expected, proof: Proof) -> None:
    try:
        decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        running = parse_config(
            decompressor.decompress(answers.get("config", b""), _LIMIT).decode(errors="replace")
        )
    except (zlib.error, gzip.BadGzipFile):
        running = {}
    locks = f"PER_VMA_LOCK={running.get('PER_VMA_LOCK', 'n')}"
    if expected.config is None:
        if running:
            proof.properties["config.gz"] = locks
    elif not running:
        proof.missing.append("/proc/config.gz")
    elif differing := difference(expected.config, running):
        symbols = ", ".join(f"{s} ({a} built, {b} running)" for s, (a, b) in list(differing.items())[:5])
        proof.failures.append(f"/proc/config.gz differs from the built .config: {symbols}")
    else:
        proof.properties["config.gz"] = f"{locks}, as built"


def _check_vmstat(answers: Mapping[str, bytes], expected: Expected, proof: Proof) -> None:
    counters = parse_vmstat(answers.get("vmstat", b"").decode(errors="replace"))
    counts_stats = (expected.config or {}).get("PER_VMA_LOCK_STATS") == "y"
    if "pgfault" not in counters:
        proof.missing.append("/proc/vmstat")
    elif not expected.variant_on:
        if any(name.startswith("vma_lock_") for name in counters):
            proof.failures.append("/proc/vmstat counts vma_lock_* without per-VMA locks")
        else:
            proof.properties["vmstat"] = "no vma_lock_* counters"
    elif counts_stats and not counters.get("vma_lock_success"):
        proof.failures.append("/proc/vmstat: no page fault was served under a VMA's lock")
    elif counts_stats:
        proof.properties["vmstat"] = f"vma_lock_success={counters['vma_lock_success']}"


def _number(answers: Mapping[str, bytes], name: str) -> int:
    match = re.match(rb"\s*(\d{1,18})", answers.get(name, b""))
    return int(match[1]) if match else -1
