# SPDX-License-Identifier: GPL-2.0-only
"""A cell's guest: brought up, made to prove what it is, looked at once more at its end."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from orchestrator.analysis.pairs import WITH, WITHOUT
from orchestrator.cell import health as cell_health
from orchestrator.cell.state import Cell, Moot, another_variant
from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError, UserError
from orchestrator.evidence import health
from orchestrator.kernel import kconfig
from orchestrator.kernel.spec import Kernel
from orchestrator.results.model import Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.verdict import proof
from orchestrator.verdict.crash import burned
from orchestrator.vm import accel, qemu
from orchestrator.vm.machine import BootFailure, Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import Lost


def console_log(cell: Cell) -> Path:
    """The console log of the cell's next guest: ``console.log``, ``console-2.log`` …"""
    cell.guests += 1
    suffix = f"-{cell.guests}" if cell.guests > 1 else ""
    return cell.folder / f"console{suffix}.log"


def boot(cell: Cell, kernel: Kernel, spec: GuestSpec) -> Guest | None:
    """A guest that answers and has proven what it is; otherwise a case that says why not."""
    context, choices = cell.context, cell.context.choices
    if context.cancelled():
        raise Interrupted("interrupted")
    log = console_log(cell)
    since = time.monotonic()
    cell.watch_anew(kernel)
    try:
        chosen = accel.choose(cell.arch, choices.accel, context.store.root)
        cell.say("boot", f"starting QEMU ({chosen.name}: {chosen.reason})")

        def start(name: str, deadlines: Deadlines) -> Guest:
            watch = cell.watch_anew(kernel)
            return Guest.boot(
                spec,
                accel=name,
                keys=context.keys,
                log=log,
                sink=watch.feed,
                say=lambda text: cell.say("boot", text),
                deadlines=deadlines,
            )

        guest, chosen = accel.boot(
            cell.arch,
            chosen,
            choices.accel == "kvm",
            context.store.root,
            start,
            lambda text: cell.say("boot", text),
        )
    except UserError:
        raise
    except OrchestrateError as error:
        if context.cancelled():
            raise Interrupted("interrupted") from None
        where = str(log.relative_to(context.root))
        if isinstance(error, BootFailure) and (crash := burned("boot", cell.watch)):
            cell.put(msgspec.structs.replace(crash, log=where))
        else:
            cell.case("boot", error, since=since, log=where)
        cell.say("boot", error.message)
        return None
    try:
        _record(cell, guest, chosen, kernel)
        return _proven(cell, guest, kernel, since, log)
    except Lost as error:
        guest.close()
        if context.cancelled():
            raise Interrupted("interrupted") from None
        died = KernelError(error.message) if guest.panicked else error
        crash = burned("proof", cell.watch)
        cell.put(crash) if crash else cell.case("proof", died, since=since)
        return None
    except BaseException:
        guest.close()
        raise


def _record(cell: Cell, guest: Guest, chosen: accel.Accelerator, kernel: Kernel) -> None:
    cell.properties |= {
        "accelerator": chosen.name,
        "accelerator reason": chosen.reason,
        "QEMU": qemu.version(cell.arch),
        "vCPUs": str(guest.spec.smp),
        "memory": f"{guest.spec.mem_mib} MiB",
        "boot phases (s)": ", ".join(f"{name} {s:.2f}" for name, s in guest.phases_s.items()),
        "time-out factor": f"{guest.factor:.2f}",
    }
    if cell.plan.vsyscall:
        cell.properties["vsyscall"] = cell.plan.vsyscall
    record = {
        "argv": guest.argv,
        "accelerator": chosen.name,
        "reason": chosen.reason,
        "phases_s": guest.phases_s,
        "kernel": str(kernel.image),
    }
    (cell.folder / "qemu.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))


def _proven(cell: Cell, guest: Guest, kernel: Kernel, since: float, log: Path) -> Guest | None:
    again = any(c.id == "boot" for c in cell.cases)
    relative = str(log.relative_to(cell.context.root))
    if not again:
        cell.case("boot", since=since, log=relative)
    if crash := burned("boot", cell.watch):
        cell.put(msgspec.structs.replace(crash, reason=f"while booting: {crash.reason}", log=relative))
    cell.say("proof", "asking the guest what it is")
    since = time.monotonic()
    found = proof.prove(
        guest,
        build_id=kernel.build_id,
        config=kconfig.parse_config(kernel.config.read_text()) if kernel.config else None,
        variant_on=_has_locks(cell),
        tree_class=cell.target.tree_class,
        smp=cell.plan.smp,
    )
    if cell.target.prebuilt is not None:
        _read_variant(cell, guest, found)
    cell_health.leakless(cell, guest)
    cell.state = cell.proven_state = cell_health.state(guest)
    if found.tainted:
        cell.properties["tainted after boot"] = ", ".join(health.taint_reasons(found.tainted))
    case = msgspec.structs.replace(found.case(), duration_s=round(time.monotonic() - since, 3))
    cell.properties |= {f"proof: {name}": value for name, value in found.properties.items()}
    if not again or case.verdict is not Verdict.PASS:
        cell.put(case)
    if case.verdict is not Verdict.PASS:
        cell.say("proof", case.reason)
        guest.close()
        return None
    # of a prebuilt kernel the rest was recorded, there is nothing to compare it with
    recorded = ("build-id", "config.gz") if cell.target.prebuilt is not None else ()
    shown = [name for name in found.properties if name not in recorded]
    dirty = " (dirty)" if cell.target.tree is not None and cell.target.tree.dirty else ""
    cell.say(
        "testing",
        f"Linux {guest.release}{dirty} | {cell.plan.arch} | {cell.plan.variant}, shown by "
        f"{', '.join(shown)} | {guest.accel} | {guest.spec.smp} vCPUs",
    )
    return guest


def _has_locks(cell: Cell) -> bool | None:
    if cell.target.tree_class is None:
        return None
    return cell.target.tree_class is not TreeClass.ABSENT and cell.plan.variant == WITH


def _read_variant(cell: Cell, guest: Guest, found: proof.Proof) -> None:
    """Which variant a prebuilt kernel is.

    :raises Moot: not the one that this cell is about.
    """
    cell.release = guest.release
    if found.has_locks is None:
        return
    read = WITH if found.has_locks else WITHOUT
    cell.context.variants_read[cell.plan.label] = read
    if read != cell.plan.variant:
        guest.close()
        raise Moot(another_variant(read))


def shut_down(cell: Cell, guest: Guest, *, after: str) -> None:
    """The end of a guest that was looked at: late splats, and whether it goes down when told to.

    :param after: the program that ran last in this guest.
    """
    since = time.monotonic()
    cell.say("shutdown", "telling the guest to go down")
    try:
        guest.ssh.raw(
            "sync; (sleep 0.1; reboot -f) >/dev/null 2>&1 &", limit_s=20 * guest.factor, gone=guest.death
        )
    except Lost as error:
        not_answering(cell, error, since=since, after=after)
        return
    until = time.monotonic() + 20 * guest.factor
    while guest.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    if late := burned("shutdown", cell.watch):
        cell.put(late)
    elif guest.poll() is None:
        cell.case(
            "shutdown", KernelError(f"the guest did not go down when told to, after {after}"), since=since
        )
    else:
        cell.case("shutdown", since=since)


def not_answering(cell: Cell, error: Lost, *, since: float, after: str) -> None:
    """A guest that was there at the end of its program and is gone a moment later."""
    if late := burned("shutdown", cell.watch):
        cell.put(late)
    else:
        cell.case("shutdown", InfraError(f"the guest did not answer after {after}: {error}"), since=since)
