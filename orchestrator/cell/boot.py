# SPDX-License-Identifier: GPL-2.0-only
"""A cell's guest: booted, verified, and shut down."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from orchestrator.cell import health as cell_health
from orchestrator.cell.state import CellState, NotApplicable
from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError, UserError
from orchestrator.evidence import health, host
from orchestrator.kernel import kconfig
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.kernel.spec import Kernel
from orchestrator.plan.target import other_variant
from orchestrator.results.model import Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.verdict import proof
from orchestrator.verdict.crash import new_console_case
from orchestrator.vm import accel, qemu
from orchestrator.vm.machine import BootFailure, Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import Lost


def console_log(cell: CellState) -> Path:
    """The console log of the cell's next guest: ``console.log``, ``console-2.log`` …"""
    cell.guests += 1
    suffix = f"-{cell.guests}" if cell.guests > 1 else ""
    return cell.folder / f"console{suffix}.log"


def boot(cell: CellState, kernel: Kernel, spec: GuestSpec) -> Guest | None:
    """Boot a guest and verify its identity; ``None``: a case has the reason."""
    if cell.host.cancelled():
        raise Interrupted("interrupted")
    since = time.monotonic()
    log = console_log(cell)
    cell.renew_watch(kernel)
    try:
        guest, accelerator = _start(cell, kernel, spec, log)
    except UserError:
        raise
    except OrchestrateError as error:
        _record_failed_boot(cell, error, since, log)
        return None
    try:
        _record(cell, guest, accelerator, kernel)
        return _proven(cell, guest, kernel, since, log)
    except Lost as error:
        guest.close()
        _record_lost_guest(cell, guest, error, since)
        return None
    except BaseException:
        guest.close()
        raise


def _start(cell: CellState, kernel: Kernel, spec: GuestSpec, log: Path) -> tuple[Guest, accel.Accelerator]:
    choices, store = cell.inputs.choices, cell.host.store

    def say(text: str) -> None:
        cell.say("boot", text)

    def start(name: str, deadlines: Deadlines) -> Guest:
        watch = cell.renew_watch(kernel)
        return Guest.boot(
            spec,
            accel=name,
            keys=cell.host.keys,
            log=log,
            sink=watch.feed,
            say=say,
            deadlines=deadlines,
        )

    accelerator = accel.choose(cell.arch, choices.accel, store.root)
    say(f"starting QEMU ({accelerator.name}: {accelerator.reason})")
    return accel.boot(cell.arch, accelerator, choices.accel == "kvm", store.root, start, say)


def _record_failed_boot(cell: CellState, error: OrchestrateError, since: float, log: Path) -> None:
    """Record why no guest booted.

    :raises Interrupted: the run is cancelled.
    """
    if cell.host.cancelled():
        raise Interrupted("interrupted") from None
    relative = str(log.relative_to(cell.host.root))
    crash = new_console_case("boot", cell.watch) if isinstance(error, BootFailure) else None
    if crash:
        cell.put(msgspec.structs.replace(crash, log=relative))
    else:
        cell.case("boot", error, since=since, log=relative)
    cell.say("boot", error.message)


def _record_lost_guest(cell: CellState, guest: Guest, error: Lost, since: float) -> None:
    """Record that a guest was lost before its identity was verified.

    :raises Interrupted: the run is cancelled.
    """
    if cell.host.cancelled():
        raise Interrupted("interrupted") from None
    if crash := new_console_case("proof", cell.watch):
        cell.put(crash)
    else:
        cell.case("proof", KernelError(error.message) if guest.panicked else error, since=since)


def _record(cell: CellState, guest: Guest, accelerator: accel.Accelerator, kernel: Kernel) -> None:
    cell.properties |= {
        "accelerator": accelerator.name,
        "accelerator reason": accelerator.reason,
        "QEMU": qemu.version(cell.arch),
        "host CPU": host.cpu_model(),
        "vCPUs": str(guest.spec.smp),
        "memory": f"{guest.spec.mem_mib} MiB",
        "boot phases (s)": ", ".join(f"{name} {s:.2f}" for name, s in guest.phases_s.items()),
        "time-out factor": f"{guest.factor:.2f}",
    }
    if cell.plan.vsyscall:
        cell.properties["vsyscall"] = cell.plan.vsyscall
    record = {
        "argv": guest.argv,
        "accelerator": accelerator.name,
        "reason": accelerator.reason,
        "phases_s": guest.phases_s,
        "kernel": str(kernel.image),
    }
    (cell.folder / "qemu.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))


def _proven(cell: CellState, guest: Guest, kernel: Kernel, since: float, log: Path) -> Guest | None:
    again = any(c.id == "boot" for c in cell.cases)
    relative = str(log.relative_to(cell.host.root))
    if not again:
        cell.case("boot", since=since, log=relative)
    if crash := new_console_case("boot", cell.watch):
        cell.put(msgspec.structs.replace(crash, reason=f"while booting: {crash.reason}", log=relative))
    cell.say("proof", "verifying the guest's identity")
    since = time.monotonic()
    expected = proof.Expected(
        build_id=kernel.build_id,
        config=kconfig.parse_config(kernel.config.read_text()) if kernel.config else None,
        variant_on=_has_locks(cell),
        tree_class=cell.target.tree_class,
        smp=cell.plan.smp,
    )
    evidence = proof.prove(guest, expected)
    if cell.target.prebuilt is not None:
        _read_variant(cell, guest, evidence)
    cell_health.leakless(cell, guest)
    cell.health = cell.proven_health = cell_health.state(guest)
    if evidence.tainted:
        cell.properties["tainted after boot"] = ", ".join(health.taint_reasons(evidence.tainted))
    case = msgspec.structs.replace(evidence.case(), duration_s=round(time.monotonic() - since, 3))
    cell.properties |= {f"proof: {name}": value for name, value in evidence.properties.items()}
    if not again or case.verdict is not Verdict.PASS:
        cell.put(case)
    if case.verdict is not Verdict.PASS:
        cell.say("proof", case.reason)
        guest.close()
        return None
    # for a prebuilt kernel these were only recorded: there is nothing to compare them with
    recorded = ("build-id", "config.gz") if cell.target.prebuilt is not None else ()
    proofs = [name for name in evidence.properties if name not in recorded]
    dirty = " (dirty)" if cell.target.tree is not None and cell.target.tree.dirty else ""
    cell.say(
        "testing",
        f"Linux {guest.release}{dirty} | {cell.plan.arch} | {cell.plan.variant}, shown by "
        f"{', '.join(proofs)} | {guest.accel} | {guest.spec.smp} vCPUs",
    )
    return guest


def _has_locks(cell: CellState) -> bool | None:
    if cell.target.tree_class is None:
        return None
    return cell.target.tree_class is not TreeClass.ABSENT and cell.plan.variant == WITH


def _read_variant(cell: CellState, guest: Guest, evidence: proof.Proof) -> None:
    """Record the variant of a prebuilt kernel.

    :raises NotApplicable: it is not the variant of this cell.
    """
    cell.release = guest.release
    if evidence.has_locks is None:
        return
    variant = WITH if evidence.has_locks else WITHOUT
    cell.prebuilt_variant = variant
    if variant != cell.plan.variant:
        guest.close()
        raise NotApplicable(other_variant(variant))


def shut_down(cell: CellState, guest: Guest, *, after: str) -> None:
    """Shut a guest down; record late kernel reports, and whether the guest stops.

    :param after: the program that ran last in this guest.
    """
    since = time.monotonic()
    cell.say("shutdown", "shutting the guest down")
    try:
        guest.ssh.raw(
            "sync; (sleep 0.1; reboot -f) >/dev/null 2>&1 &", limit_s=20 * guest.factor, death=guest.death
        )
    except Lost as error:
        not_answering(cell, error, since=since, after=after)
        return
    until = time.monotonic() + 20 * guest.factor
    while guest.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    _check_interrupt(cell)
    if late := new_console_case("shutdown", cell.watch):
        cell.put(late)
    elif guest.poll() is None:
        cell.case("shutdown", KernelError(f"the guest did not shut down after {after}"), since=since)
    else:
        cell.case("shutdown", since=since)


def not_answering(cell: CellState, error: Lost, *, since: float, after: str) -> None:
    """Record that a guest was lost right after the end of its program."""
    _check_interrupt(cell)
    if late := new_console_case("shutdown", cell.watch):
        cell.put(late)
    else:
        cell.case("shutdown", InfraError(f"the guest did not answer after {after}: {error}"), since=since)


def _check_interrupt(cell: CellState) -> None:
    """A guest that an interrupt takes away says nothing, and a resumed cell must not keep it."""
    if cell.host.cancelled():
        raise Interrupted("interrupted")
