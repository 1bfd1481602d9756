# SPDX-License-Identifier: GPL-2.0-only
"""One cell, start to end: configure, build, boot, prove, run the suites, look back, shut down.

Whatever goes wrong ends in a case with a verdict and a blame; only a mistake of the user's leaves as an
error. Each stage knows the one before it and nothing after it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from orchestrator import arch as arches
from orchestrator import data
from orchestrator.errors import Inconclusive, InfraError, KernelError, OrchestrateError, UserError
from orchestrator.events import now
from orchestrator.evidence import health, host, proof
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.kernel import build as kernels
from orchestrator.kernel import kconfig, programs, toolchain
from orchestrator.kernel.model import Kernel, KernelSpec
from orchestrator.plan import CellPlan, Choices
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.source.model import Tree
from orchestrator.store import Store
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog, runner
from orchestrator.suites.catalog import Suite
from orchestrator.vm import accel, image, overlay, qemu
from orchestrator.vm.machine import BootFailure, Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.ssh import RUNNER, Lost

#: Takes phase and text.
Say = Callable[[str, str], None]
_WITH = "per-vma-lock"
_DISTURBED_RETRIES = 2


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells of a run share. ``swap_kernel`` is a test's hand: it boots another image than was built."""

    tree: Tree
    tree_class: TreeClass
    choices: Choices
    store: Store
    keys: overlay.RunKeys
    root: Path
    fragments: tuple[kconfig.Fragment, ...] = ()
    base: str = ""
    cancelled: Callable[[], bool] = lambda: False
    swap_kernel: Callable[[Kernel], Path] = lambda kernel: kernel.image


class Cancelled(OrchestrateError):
    """The run was interrupted while this cell was at work."""

    exit_code = 130


class _Cell:
    """The cell's state while it is carried out."""

    def __init__(self, context: Context, plan: CellPlan, say: Say) -> None:
        self.context = context
        self.plan = plan
        self.say = say
        self.folder = context.root / "cells" / plan.id
        self.arch = arches.load(plan.arch)
        self.cases: list[Case] = []
        self.suites: list[SuiteResult] = []
        self.properties: dict[str, str] = {}
        self.release = ""
        self.boots = 0
        self.tainted = 0
        self.watch = ConsoleWatch()

    def case(
        self,
        name: str,
        error: OrchestrateError | None = None,
        *,
        since: float,
        detail: str = "",
        log: str = "",
    ) -> None:
        """Record one of the cell's own cases: PASS, or what an error means for it."""
        took = round(time.monotonic() - since, 3)
        if error is None:
            self.cases.append(Case(id=name, verdict=Verdict.PASS, duration_s=took, detail=detail, log=log))
            return
        verdict, blame = _meaning(error)
        self.cases.append(
            Case(
                id=name,
                verdict=verdict,
                blame=blame,
                reason=error.message,
                detail=error.remedy,
                duration_s=took,
                log=log,
            )
        )


def _meaning(error: OrchestrateError) -> tuple[Verdict, Blame]:
    if isinstance(error, KernelError):
        return Verdict.FAIL, Blame.KERNEL
    if isinstance(error, Inconclusive):
        return Verdict.INCONCLUSIVE, Blame.INFRA
    return Verdict.ERROR, Blame.INFRA


def not_applicable(tree_class: TreeClass, variant: str) -> str:
    """Why a tree leaves no such variant; empty where it does.

    The variant with the locks is moot on a tree without them, the one without where they are universal.
    """
    if tree_class is TreeClass.ABSENT and variant == _WITH:
        return "this tree has no per-VMA locks (no lock_vma_under_rcu)"
    if tree_class is TreeClass.UNIVERSAL and variant != _WITH:
        return "this tree has per-VMA locks universally: CONFIG_PER_VMA_LOCK is gone"
    return ""


def carry_out(context: Context, plan: CellPlan, say: Say) -> CellResult:
    """Carry a cell out. Its folder below the run directory holds the evidence.

    :raises UserError: the cell cannot be what the user asked for.
    :raises Cancelled: the run was interrupted; what had been found is lost for this cell only.
    """
    started, at = now(), time.monotonic()
    cell = _Cell(context, plan, say)
    cell.folder.mkdir(parents=True, exist_ok=True)
    moot = not_applicable(context.tree_class, plan.variant)
    if moot:
        cell.cases.append(Case(id="config", verdict=Verdict.NA, reason=moot))
        cell.suites += [
            SuiteResult(suite=s, cases=(Case(id=s, verdict=Verdict.NA, reason=moot),)) for s in plan.suites
        ]
    else:
        kernel = _kernel(cell)
        if kernel is not None and plan.suites:
            _guests(cell, kernel)
    return CellResult(
        cell=plan.id,
        label=plan.label,
        arch=plan.arch,
        variant=plan.variant,
        release=cell.release,
        started_at=started,
        duration_s=round(time.monotonic() - at, 3),
        properties=cell.properties,
        cases=tuple(cell.cases),
        suites=tuple(cell.suites),
    )


def kernel_spec(context: Context, arch: str, variant: str) -> KernelSpec:
    """The kernel that the run means by an arch and a variant.

    :raises UserError: an unknown toolchain; InfraError: its compiler is not installed.
    """
    return KernelSpec(
        tree=context.tree,
        tree_class=context.tree_class,
        arch=arches.load(arch),
        variant=variant,
        toolchain=toolchain.find(context.choices.toolchain, arches.load(arch)),
        base=context.base,
        extra=context.fragments,
    )


def _kernel(cell: _Cell) -> Kernel | None:
    context, choices = cell.context, cell.context.choices
    since = time.monotonic()
    cell.properties |= {
        "source": context.tree.describe,
        "source digest": context.tree.digest,
        **({"commit": context.tree.commit} if context.tree.commit else {}),
        **({"dirty": context.tree.dirty} if context.tree.dirty else {}),
        "per-VMA locks in this tree": context.tree_class.value,
    }
    try:
        spec = kernel_spec(context, cell.plan.arch, cell.plan.variant)
        cell.say("config", "configuring")
        kernels.configure(spec, context.store)
        differing = kernels.pair_difference(spec, context.store)
        cell.properties["config difference of the pair"] = ", ".join(differing) or "no pair"
        cell.case(
            "config", since=since, detail=f"the variants differ in: {', '.join(differing) or 'no pair'}"
        )
        since = time.monotonic()
        kernel = kernels.build(
            spec,
            context.store,
            say=lambda text: cell.say("build", text),
            log=cell.folder / "build.log",
            jobs=choices.jobs,
        )
    except UserError:
        raise
    except OrchestrateError as error:
        if context.cancelled():
            raise Cancelled("interrupted") from None
        cell.case("build" if cell.cases else "config", error, since=since)
        cell.say("build", error.message)
        return None
    cell.release = kernel.release
    cell.properties |= {
        "release": kernel.release,
        "toolchain": kernel.toolchain,
        "kernel": kernel.key,
        "build": f"{'cached' if kernel.cached else 'built'}, {kernel.cpu_s:.0f} CPU-seconds",
        "image": str(kernel.image),
    }
    (cell.folder / "config").write_bytes(kernel.config.read_bytes())
    cell.case("build", since=since)
    return kernel


def _guests(cell: _Cell, kernel: Kernel) -> None:
    """Boot, prove and run; boot again for what is left when a guest is lost."""
    try:
        suites = [catalog.load(name) for name in cell.plan.suites]
        binaries = {
            s.name: suite_build.build(
                s,
                tree=cell.context.tree,
                arch=cell.arch,
                store=cell.context.store,
                log=cell.folder / f"{s.name}.build.log",
            )
            for s in suites
        }
        spec = _guest_spec(cell, kernel, binaries)
    except OrchestrateError as error:
        cell.case("boot", error, since=time.monotonic())
        return
    if all(s.kind == "benchmark" for s in suites):
        for attempt in range(1 + _DISTURBED_RETRIES):
            before = len(cell.cases)
            trouble = _pass(cell, kernel, spec, suites, binaries)
            if not trouble or attempt == _DISTURBED_RETRIES:
                break
            # a disturbed boot is discarded, said so, and taken again
            cell.say("discarded", trouble)
            del cell.cases[before:]
            cell.suites.clear()
            cell.properties[f"discarded boot {attempt + 1}"] = trouble
        return
    _pass(cell, kernel, spec, suites, binaries)


def _guest_spec(cell: _Cell, kernel: Kernel, binaries: Mapping[str, Mapping[str, Path]]) -> GuestSpec:
    context = cell.context
    base = image.build_image(
        cell.plan.arch, cache=context.store.root, say=lambda text: cell.say("image", text)
    )
    cell.properties["guest image"] = base.digest
    orc_exec = programs.compile_static(
        "orc-exec", [data.guest() / "orc-exec.c"], ("-O2",), arch=cell.arch, store=context.store
    )
    files = {RUNNER: orc_exec}
    for suite, found in binaries.items():
        files |= {f"{suite_build.GUEST_FOLDER}/{suite}/{name}": path for name, path in found.items()}
    archive = overlay.build_overlay(
        cell.folder / "overlay.cpio",
        host_key=context.keys.host_key,
        authorized_key=context.keys.authorized_key,
        files=files,
    )
    return GuestSpec(
        arch=cell.arch,
        kernel=context.swap_kernel(kernel),
        initrds=(base.path, archive),
        smp=cell.plan.smp,
        mem_mib=cell.plan.mem_mib,
        cmdline=cell.plan.cmdline,
    )


def _pass(
    cell: _Cell,
    kernel: Kernel,
    spec: GuestSpec,
    suites: list[Suite],
    binaries: Mapping[str, Mapping[str, Path]],
) -> str:
    """All programs of all suites, in as many guests as it takes; why the host disturbed it, or nothing."""
    queue = [(s, name) for s in suites for name in binaries[s.name] if _wanted(cell, s, name)]
    found: dict[str, dict[str, tuple[Case, ...]]] = {s.name: {} for s in suites}
    numbers: dict[str, dict[str, float]] = {s.name: {} for s in suites}
    took = dict.fromkeys(found, 0.0)
    before, cpu_before = host.host_sample(), 0.0
    disturbance = ""
    while queue:
        guest = _boot(cell, kernel, spec)
        if guest is None:
            break
        try:
            before = host.host_sample()
            cpu_before = host.cpu_seconds([guest.pid])
            while queue:
                suite, name = queue.pop(0)
                cell.say("run", f"{suite.name}/{name}")
                at = time.monotonic()
                done = runner.run(
                    guest,
                    suite,
                    name,
                    folder=cell.folder / "suites" / suite.name,
                    root=cell.context.root,
                    watch=cell.watch,
                )
                took[suite.name] += time.monotonic() - at
                found[suite.name][name] = done.cases
                numbers[suite.name] |= done.metrics
                if cell.context.cancelled():
                    raise Cancelled("interrupted")
                if done.lost:
                    cell.say("lost", done.cases[-1].reason)
                    break
            else:
                own = host.cpu_seconds([guest.pid]) - cpu_before
                disturbance = host.disturbed(before, host.host_sample(), own)
                _shutdown(cell, guest)
        finally:
            guest.close()
    for suite in suites:
        cell.suites.append(
            _suite_result(cell, suite, found[suite.name], numbers[suite.name], took[suite.name])
        )
    return _discard(cell, suites, disturbance)


def _wanted(cell: _Cell, suite: Suite, name: str) -> bool:
    return not cell.plan.only_vsyscall or suite.known(name).vsyscall


def _suite_result(
    cell: _Cell,
    suite: Suite,
    found: Mapping[str, tuple[Case, ...]],
    numbers: dict[str, float],
    took: float,
) -> SuiteResult:
    version = cell.release or cell.context.tree.version
    expected = {
        name: e
        for name, e in catalog.expected(suite, version, cell.plan.arch).items()
        if _wanted(cell, suite, name)
    }
    away = {} if cell.plan.only_vsyscall else catalog.elsewhere(suite, version, cell.plan.arch)
    cases, unknown = runner.complete(suite, expected, away, found)
    return SuiteResult(
        suite=suite.name, cases=cases, metrics=numbers, unknown_programs=unknown, duration_s=round(took, 3)
    )


def _discard(cell: _Cell, suites: list[Suite], disturbance: str) -> str:
    if not disturbance or not any(s.kind == "benchmark" for s in suites):
        return ""
    cell.properties["host"] = disturbance
    for number, result in enumerate(cell.suites):
        if catalog.load(result.suite).kind == "benchmark" and result.metrics:
            cases = tuple(
                msgspec.structs.replace(
                    c, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=disturbance
                )
                if c.verdict is Verdict.PASS
                else c
                for c in result.cases
            )
            cell.suites[number] = msgspec.structs.replace(result, cases=cases, metrics={})
    return disturbance


def _boot(cell: _Cell, kernel: Kernel, spec: GuestSpec) -> Guest | None:
    """A guest that answers and has proven what it is; otherwise a case that says why not."""
    context, choices = cell.context, cell.context.choices
    if context.cancelled():
        raise Cancelled("interrupted")
    cell.boots += 1
    suffix = f"-{cell.boots}" if cell.boots > 1 else ""
    log = cell.folder / f"console{suffix}.log"
    since = time.monotonic()
    cell.watch = ConsoleWatch()
    try:
        chosen = accel.choose(cell.arch, choices.accel, context.store.root)
        cell.say("boot", f"starting QEMU ({chosen.name}: {chosen.reason})")

        def start(name: str, deadlines: Deadlines) -> Guest:
            cell.watch = ConsoleWatch()
            return Guest.boot(
                spec,
                accel=name,
                keys=context.keys,
                log=log,
                sink=cell.watch.feed,
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
            raise Cancelled("interrupted") from None
        if isinstance(error, BootFailure) and (burned := cell.watch.take()):
            cell.cases.append(
                Case(
                    id="boot",
                    verdict=Verdict.CRASH,
                    blame=burned[0][1],
                    reason=burned[0][0].title,
                    detail="\n".join(burned[0][0].excerpt),
                    fingerprint=burned[0][0].fingerprint,
                    log=str(log.relative_to(context.root)),
                )
            )
        else:
            cell.case("boot", error, since=since, log=str(log.relative_to(context.root)))
        cell.say("boot", error.message)
        return None
    try:
        _record(cell, guest, chosen, kernel)
        return _proven(cell, guest, kernel, since, log)
    except Lost as error:
        guest.close()
        if context.cancelled():
            raise Cancelled("interrupted") from None
        cell.case("proof", error, since=since)
        return None
    except BaseException:
        guest.close()
        raise


def _record(cell: _Cell, guest: Guest, chosen: accel.Accelerator, kernel: Kernel) -> None:
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


def _proven(cell: _Cell, guest: Guest, kernel: Kernel, since: float, log: Path) -> Guest | None:
    again = cell.boots > 1
    burned = cell.watch.take()
    relative = str(log.relative_to(cell.context.root))
    if not again:
        cell.case("boot", since=since, log=relative)
    if burned:
        splat, blame = burned[0]
        crash = Case(
            id="boot",
            verdict=Verdict.CRASH,
            blame=blame,
            reason=f"while booting: {splat.title}",
            detail="\n".join(splat.excerpt),
            fingerprint=splat.fingerprint,
            log=relative,
        )
        cell.cases = [c for c in cell.cases if c.id != "boot"] + [crash]
    cell.say("proof", "asking the guest what it is")
    since = time.monotonic()
    found = proof.prove(
        guest,
        build_id=kernel.build_id,
        config=kconfig.parse_config(kernel.config.read_text()),
        variant_on=_has_locks(cell),
        tree_class=cell.context.tree_class,
        smp=cell.plan.smp,
    )
    cell.tainted = found.tainted
    case = msgspec.structs.replace(found.case(), duration_s=round(time.monotonic() - since, 3))
    cell.properties |= {f"proof: {name}": value for name, value in found.properties.items()}
    if not again or case.verdict is not Verdict.PASS:
        cell.cases = [c for c in cell.cases if c.id != "proof"] + [case]
    if case.verdict is not Verdict.PASS:
        cell.say("proof", case.reason)
        guest.close()
        return None
    dirty = " (dirty)" if cell.context.tree.dirty else ""
    cell.say(
        "testing",
        f"Linux {guest.release}{dirty} | {cell.plan.arch} | {cell.plan.variant}, shown by "
        f"{', '.join(found.properties)} | {guest.accel} | {guest.spec.smp} vCPUs",
    )
    return guest


def _has_locks(cell: _Cell) -> bool:
    return cell.context.tree_class is not TreeClass.ABSENT and cell.plan.variant == _WITH


def _shutdown(cell: _Cell, guest: Guest) -> None:
    """The last look: taint, late splats, and whether the guest goes down when told to."""
    since = time.monotonic()
    cell.say("shutdown", "a last look")
    try:
        tainted = int(guest.read("/proc/sys/kernel/tainted").strip() or b"-1")
        guest.ssh.raw(
            "sync; (sleep 0.1; reboot -f) >/dev/null 2>&1 &", limit_s=20 * guest.factor, gone=guest.death
        )
    except (Lost, ValueError) as error:
        cell.case("shutdown", InfraError(f"the guest did not answer at its end: {error}"), since=since)
        return
    until = time.monotonic() + 20 * guest.factor
    while guest.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    late = cell.watch.take()
    new = health.new_taint(cell.tainted, tainted)
    if late:
        splat, blame = late[0]
        cell.cases.append(
            Case(
                id="shutdown",
                verdict=Verdict.CRASH,
                blame=blame,
                reason=splat.title,
                detail="\n".join(splat.excerpt),
                fingerprint=splat.fingerprint,
            )
        )
    elif new:
        # the cheap catch-all: a splat whose words the scanner does not know still taints the kernel
        taint = KernelError(f"the kernel became tainted during the suites: {', '.join(new)}")
        seen = any(c.verdict is Verdict.CRASH for s in cell.suites for c in s.cases)
        cell.case("shutdown", None if seen else taint, since=since)
    elif guest.poll() is None:
        cell.case("shutdown", KernelError("the guest did not go down when told to"), since=since)
    else:
        cell.case("shutdown", since=since)


def reproduce(plan: CellPlan, choices: Choices, tree: Tree) -> str:
    """The shell script that runs this cell again."""
    argv = ["orchestrate", "run", "--source", tree.spec, "--arch", plan.arch, "--variant", plan.variant]
    for suite in plan.suites:
        argv += ["--suite", suite]
    argv += ["--accel", choices.accel, "--smp", str(plan.smp), "--mem", str(plan.mem_mib)]
    argv += ["--toolchain", choices.toolchain]
    if plan.vsyscall:
        argv += ["--vsyscall", plan.vsyscall]
    if plan.boot:
        argv += ["--boots", "1"]
    if choices.config:
        argv += ["--config", choices.config]
    for fragment in choices.kconfig:
        argv += ["--kconfig", fragment]
    return f'#!/bin/sh\n# {plan.id}: {tree.describe}\nexec {shlex.join(argv)} "$@"\n'
