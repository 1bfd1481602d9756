# SPDX-License-Identifier: GPL-2.0-only
"""A cell's suites: built, run in guests of the cell's kernel, and held against what must be reported."""

from __future__ import annotations

import datetime
import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.cell import artifacts, health, program, reproduce
from orchestrator.cell import record as guest_record
from orchestrator.cell.boot import not_answering, shut_down
from orchestrator.cell.guests import Guests
from orchestrator.cell.program import Look, Told
from orchestrator.cell.state import Cell, kernel_spec
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.evidence import collect, host
from orchestrator.kernel import debug_build, flavor
from orchestrator.kernel.spec import Kernel
from orchestrator.results.model import Blame, Case, SuiteResult, Verdict
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog, delays
from orchestrator.suites.catalog import Suite
from orchestrator.verdict import known
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import image, overlay
from orchestrator.vm.ssh import RUNNER, Lost

_DISTURBED_RETRIES = 2
#: Guests of a cell whose memory is kept when a program hangs in them.
_DUMPS = 2
#: The guest image, and what the suites bring, as the run keeps them.
IMAGE, PAYLOAD = "image.cpio", "suites.cpio"

#: What a suite brings into the guest, by suite and by path there.
Brought = Mapping[str, Mapping[str, Path]]


def moot_suite(suite: Suite, reason: str) -> SuiteResult:
    """The result of a suite of which the question does not arise."""
    case = Case(id=suite.name, verdict=Verdict.NA, reason=reason)
    return SuiteResult(suite=suite.name, kind=suite.kind, cases=(case,))


def selftests_tree(cell: Cell) -> Tree | None:
    """Where the kernel's own tests are taken from."""
    return cell.context.selftests or cell.target.tree


def run_suites(cell: Cell, kernel: Kernel) -> None:
    """Run the cell's suites; what came of them is in the cell.

    :raises UserError: a suite of the user's cannot be built.
    """
    suites = []
    for suite in (cell.context.suites[name] for name in cell.plan.suites):
        if reason := _lacks(cell, suite):
            cell.suites.append(moot_suite(suite, reason))
        else:
            suites.append(suite)
    if not suites:
        return
    since = time.monotonic()
    try:
        brought = programs(cell, suites)
        spec = guest_spec(cell, kernel, suites, brought)
    except UserError:
        raise
    except OrchestrateError as error:
        if cell.context.cancelled():
            raise Interrupted("interrupted") from None
        cell.case("boot", error, since=since)
        cell.say("boot", error.message)
        return
    _write_reproducer(cell, kernel, suites, brought, spec)
    if any(suite.kind == "functional" for suite in suites):
        _Pass(cell, suites, brought, kernel).carry_out(Guests(cell, kernel, spec, one_each=True))
        return
    for attempt in range(1 + _DISTURBED_RETRIES):
        cases, before = cell.cases, len(cell.suites)
        measured = _Pass(cell, suites, brought, kernel)
        measured.carry_out(Guests(cell, kernel, spec, one_each=False))
        if not measured.disturbance or attempt == _DISTURBED_RETRIES:
            measured.discard()
            return
        # a disturbed boot is discarded, said so, and taken again
        cell.say("discarded", measured.disturbance)
        cell.cases, cell.suites = cases, cell.suites[:before]
        cell.properties[f"discarded boot {attempt + 1}"] = measured.disturbance


def _write_reproducer(
    cell: Cell, kernel: Kernel, suites: Sequence[Suite], brought: Brought, spec: GuestSpec
) -> None:
    context = cell.context
    image_, payload, _ = spec.initrds
    kept = artifacts.keep(context.root, cell.properties["guest image"], {IMAGE: image_})
    record = guest_record.record(
        cell=cell.plan.id,
        describe=cell.target.describe,
        kernel=kernel,
        kept=artifacts.keep_kernel(context.root, kernel),
        spec=spec,
        initrds=(f"{kept}/{IMAGE}", str(payload.relative_to(context.root))),
        accel=context.choices.accel,
        shared=all(suite.kind != "functional" for suite in suites),
        queue=_queue(cell, suites, brought),
    )
    encoded = msgspec.json.format(msgspec.json.encode(record), indent=1)
    overlay.write_atomically(cell.folder / guest_record.FILE, encoded, mode=0o644)
    argv = reproduce.command(cell.plan, context.choices, cell.target.source, context.suites)
    script = reproduce.standalone(record, argv)
    overlay.write_atomically(cell.folder / reproduce.NAME, script.encode(), mode=0o755)


def _lacks(cell: Cell, suite: Suite) -> str:
    tree = selftests_tree(cell)
    if suite.origin != "tree" or tree is None or (tree.path / suite.directory / "Makefile").is_file():
        return ""
    return (
        f"{tree.version} has no {suite.directory}: it is too old for this suite; "
        "--selftests-from takes it from another tree"
    )


def programs(cell: Cell, suites: Sequence[Suite]) -> dict[str, dict[str, Path]]:
    """What the suites bring into the guest, by suite and path there, built for the cell's architecture.

    :raises UserError: one of the user's own does not compile.
    :raises KernelError: the tree has none of them, or they do not compile.
    :raises InfraError: the host fails it.
    """
    return {
        suite.name: suite_build.build(
            suite,
            tree=selftests_tree(cell),
            arch=cell.arch,
            store=cell.context.store,
            log=cell.folder / f"{suite.name}.build.log",
            pinned=cell.context.selftests is not None,
        )
        for suite in suites
    }


def guest_spec(cell: Cell, kernel: Kernel, suites: Sequence[Suite], brought: Brought) -> GuestSpec:
    """The machine of a cell: the guest image, and an overlay with the run's keys and what the suites bring.

    :raises UserError: a package that a suite of the user's wants does not exist.
    :raises InfraError: the image or a program of ours cannot be made.
    """
    context = cell.context
    base = image.build_image(
        cell.plan.arch,
        cache=context.store.root,
        say=lambda text: cell.say("image", text),
        extra=catalog.packages(suites),
    )
    cell.properties["guest image"] = base.digest
    files = {
        RUNNER: overlay.build_runner(cell.arch, context.store),
        str(overlay.LOOKER): overlay.build_looker(cell.arch, context.store),
    }
    data: dict[str, Path] = {}
    for suite in suites:
        beside = suite.files_beside()
        for name, path in brought[suite.name].items():
            plain = name in beside and not os.access(path, os.X_OK)
            (data if plain else files)[suite_build.guest_path(suite, name)] = path
    if kernel.module is not None:
        data[delays.MODULE] = kernel.module
    brings = artifacts.keep_bytes(context.root, PAYLOAD, overlay.payload(files, data))
    keys = overlay.build_overlay(
        cell.folder / "overlay.cpio",
        host_key=context.keys.host_key,
        authorized_key=context.keys.authorized_key,
    )
    return GuestSpec(
        arch=cell.arch,
        kernel=context.swap_kernel(kernel),
        initrds=(base.path, context.root / brings, keys),
        smp=cell.plan.smp,
        mem_mib=cell.plan.mem_mib,
        # addresses of points are those of vmlinux
        cmdline=(*cell.plan.cmdline, *(("nokaslr",) if kernel.module is not None else ())),
        slower=flavor.slower(context.choices.flavors),
    )


def _other_kernel(cell: Cell) -> str:
    """The kernel's version where its tests are another tree's: they may ask for what it is too old for."""
    return (cell.release or cell.target.version) if cell.context.selftests is not None else ""


def _queue(cell: Cell, suites: Sequence[Suite], brought: Brought) -> list[tuple[Suite, str]]:
    """The programs to run, in order."""
    version = cell.release or cell.target.version
    return [
        (suite, name)
        for suite in suites
        for name in suite_build.runnable(
            suite, brought[suite.name], version=version, arch=cell.plan.arch, kernel=_other_kernel(cell)
        )
        if _wanted(cell, suite, name)
    ]


class _Pass:
    """All programs of all suites once; ``disturbance`` says why the host makes its figures worthless."""

    def __init__(self, cell: Cell, suites: Sequence[Suite], brought: Brought, kernel: Kernel) -> None:
        self.cell = cell
        self.kernel = kernel
        self.suites = suites
        self._kernel = _other_kernel(cell)
        self._queue = _queue(cell, suites, brought)
        self._found: dict[str, dict[str, tuple[Case, ...]]] = {suite.name: {} for suite in suites}
        self._numbers = {suite.name: program.Numbers() for suite in suites}
        self._took = dict.fromkeys(self._found, 0.0)
        self._at = suites[0]
        self.disturbance = ""

    def carry_out(self, guests: Guests) -> None:
        """Run what is queued, in as many guests as it takes, and add the results to the cell."""
        try:
            while self._queue:
                guest = guests.next(len(self._queue))
                if guest is None:
                    break
                try:
                    self._in(guest, guests)
                finally:
                    guest.close()
        except Interrupted:
            self._queue.clear()
        finally:
            guests.close()
        for suite in self.suites:
            self.cell.suites.append(self._result(suite))

    def _in(self, guest: Guest, guests: Guests) -> None:
        """Run one program, or as many as share a guest, until it is lost."""
        before, cpu_before = host.host_sample(), host.cpu_seconds([guest.pid])
        while self._queue:
            suite, name = self._queue.pop(0)
            self.cell.say("run", f"{suite.name}/{name}")
            at = time.monotonic()
            done = self._program(guest, suite, name)
            self._took[suite.name] += time.monotonic() - at
            if self.cell.context.cancelled():
                # its guest was taken away: the last program's verdict is the interrupt's, not its own
                raise Interrupted("interrupted")
            self._burned_before(done.before)
            guests.ahead(len(self._queue))
            since = time.monotonic()
            lost: Lost | None = None
            if not done.lost:
                try:
                    done = health.look(
                        self.cell,
                        guest,
                        done,
                        f"{suite.name}/{name}",
                        functools.partial(self._look, guest, name),
                    )
                except Lost as error:
                    lost = error
            self._found[suite.name][name] = done.cases
            self._numbers[suite.name] = self._numbers[suite.name].and_those(done.numbers)
            if done.lost:
                self.cell.say("lost", next(c.reason for c in done.cases if c.id == f"{suite.name}/{name}"))
                return
            if lost is not None:
                not_answering(self.cell, lost, since=since, after=f"{suite.name}/{name}")
                return
            if guests.one_each:
                break
        own = host.cpu_seconds([guest.pid]) - cpu_before
        self.disturbance = host.disturbed(before, host.host_sample(), own)
        shut_down(self.cell, guest, after=f"{suite.name}/{name}")

    def _burned_before(self, crash: Case | None) -> None:
        """What burned between two programs is the first one's, before all of them the boot's."""
        if crash is None:
            return
        suite, _, name = crash.id.partition("/")
        cases = self._found.get(suite, {}).get(name)
        if cases is None:
            reason = f"after the boot, before the first program: {crash.reason}"
            self.cell.put(msgspec.structs.replace(crash, id="boot", reason=reason))
            return
        self._found[suite][name] = (*(c for c in cases if c.id != crash.id), crash)

    def _program(self, guest: Guest, suite: Suite, name: str) -> program.ProgramResult:
        names = suite.known(name).widen
        self._at = suite
        return program.run(
            guest,
            suite,
            name,
            folder=self.cell.folder / "suites" / suite.name,
            root=self.cell.context.root,
            watch=self.cell.watch,
            look=Look(self._look, collect.limit_s(guest.factor)),
            places=(lambda: delays.find(names, self.kernel, self.cell.arch)) if names else None,
        )

    def _look(self, guest: Guest, name: str) -> Told:
        """Keep what can be known of a program that hangs; of the first ones the memory too."""
        self.cell.say("hang", f"{name} hangs: keeping evidence")
        self.cell.dumps += 1
        return collect.look(
            guest,
            name,
            folder=self.cell.folder / "suites" / self._at.name,
            root=self.cell.context.root,
            watch=self.cell.watch,
            dump=self.cell.dumps <= _DUMPS,
            debug=lambda: self._explaining,
        )

    @functools.cached_property
    def _explaining(self) -> Path | None:
        """The vmlinux with this kernel's types, if there is one; none is built now."""
        own = self.kernel.vmlinux
        try:
            return debug_build.explaining(own, self._debug_build) if own is not None else None
        except OrchestrateError:
            # evidence never costs a verdict
            return None

    def _debug_build(self) -> Kernel | None:
        if self.cell.target.tree is None:
            return None
        plan, context = self.cell.plan, self.cell.context
        return debug_build.find(kernel_spec(context, plan.label, plan.arch, plan.variant), context.store)

    def _result(self, suite: Suite) -> SuiteResult:
        # which programs there are is the business of the tree that they were built from
        tree = selftests_tree(self.cell)
        version = tree.version if tree is not None and suite.origin == "tree" else self.cell.release
        expected = {
            name: e
            for name, e in catalog.expected(suite, version, self.cell.plan.arch, kernel=self._kernel).items()
            if _wanted(self.cell, suite, name)
        }
        away = (
            {}
            if self.cell.plan.only_vsyscall
            else catalog.elsewhere(suite, version, self.cell.plan.arch, kernel=self._kernel)
        )
        why_not = "interrupted" if self.cell.context.cancelled() else _why_not(self.cell)
        cases, unknown = program.complete(suite, expected, away, self._found[suite.name], why_not=why_not)
        if not self.cell.context.choices.strict:
            cases = known.judge(
                cases,
                (*self.cell.context.known, *known.load(suite.folder / known.FILE)),
                release=self.cell.release,
                variant=self.cell.plan.variant,
                arch=self.cell.plan.arch,
                today=datetime.datetime.now(datetime.UTC).date(),
            )
        return SuiteResult(
            suite=suite.name,
            kind=suite.kind,
            cases=cases,
            metrics=self._numbers[suite.name].metrics,
            better=self._numbers[suite.name].better,
            unknown_programs=unknown,
            duration_s=round(self._took[suite.name], 3),
        )

    def discard(self) -> None:
        """Take the figures of a disturbed boot back."""
        if not self.disturbance:
            return
        self.cell.properties["host"] = self.disturbance
        for number, result in enumerate(self.cell.suites):
            if result.kind == "benchmark" and result.metrics:
                cases = tuple(
                    msgspec.structs.replace(
                        c, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=self.disturbance
                    )
                    if c.verdict is Verdict.PASS
                    else c
                    for c in result.cases
                )
                self.cell.suites[number] = msgspec.structs.replace(result, cases=cases, metrics={})


def _wanted(cell: Cell, suite: Suite, name: str) -> bool:
    return not cell.plan.only_vsyscall or suite.known(name).vsyscall


def _why_not(cell: Cell) -> str:
    """What stopped the cell before its programs could run."""
    stop = next((c for c in cell.cases if c.verdict is not Verdict.PASS), None)
    return f"not run: {stop.id}: {stop.reason}" if stop else ""
