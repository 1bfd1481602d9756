# SPDX-License-Identifier: GPL-2.0-only
"""A cell of an earlier run: found by what the user calls it, its guest booted once more."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from orchestrator.cell import record as guest_record
from orchestrator.cell import stack_traces
from orchestrator.cell.record import GuestRecord
from orchestrator.core import elf
from orchestrator.core.errors import InfraError, OrchestrateError, UserError, did_you_mean
from orchestrator.core.store import Store, absolute
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import KernelSpec, Say
from orchestrator.plan import prepare
from orchestrator.plan.inputs import kernel_spec
from orchestrator.plan.plan import Plan
from orchestrator.results.model import AT_FAULT, Case, CellResult, Verdict
from orchestrator.run import latest
from orchestrator.run.directory import RunDirectory, check_unchanged
from orchestrator.run.execute import replace_cell
from orchestrator.vm import accel
from orchestrator.vm.machine import Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.rootfs.overlay import RunKeys

_NAMED_AT_MOST = 12


class Found(msgspec.Struct, frozen=True):
    """A cell of a run; ``root`` is the run directory."""

    root: Path
    cell: str

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.root / "cells" / self.cell

    def record(self) -> GuestRecord:
        """What it takes to boot its guest.

        :raises UserError: it had none.
        """
        return guest_record.load(self.folder)

    def accelerator(self) -> str:
        """The accelerator that its guests had, ``tcg`` where none came up."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.folder / "qemu.json").read_bytes(), type=_Qemu).accelerator
        return "tcg"


class _Qemu(msgspec.Struct):
    accelerator: str


def find(runs: Path, word: str) -> Found:
    """The cell that the user means.

    :param runs: the folder of runs.
    :param word: ``RUN/CELL``, where ``RUN`` is an id, a path, ``last`` or ``latest``; of a run with one cell
        ``RUN`` alone; or the path of a cell's folder.
    :raises UserError: there is no such run or cell, or several.
    """
    word = word.rstrip("/")
    place = absolute(Path(word))
    if place.parent.name == "cells" and (place.parent.parent / latest.PLAN).is_file():
        return _cell(RunDirectory(latest.folder(place.parent.parent)), place.name)
    head, slash, tail = word.rpartition("/")
    try:
        return _cell(RunDirectory.existing(runs, word), "")
    except _NoCell as error:
        raise UserError(error.message, remedy=error.remedy) from None
    except UserError:
        if not slash:
            raise
    return _cell(RunDirectory.existing(runs, head), tail)


class _NoCell(UserError):
    """The run is there, the cell is not."""


def _cell(run: RunDirectory, name: str) -> Found:
    cells = [cell.id for cell in run.plan().cells]
    if name in cells:
        return Found(run.path, name)
    if not name and len(cells) == 1:
        return Found(run.path, cells[0])
    failed = [cell for cell in cells if _failed(run.path / "cells" / cell / "result.json")]
    shown = [f"{cell} (failed)" for cell in failed] + [cell for cell in cells if cell not in failed]
    more = f" and {len(shown) - _NAMED_AT_MOST} more" if len(shown) > _NAMED_AT_MOST else ""
    what = f"run {run.id} has {len(cells)} cells"
    if name:
        what = f"run {run.id} has no cell {name!r}{did_you_mean(name, cells)}"
    raise _NoCell(
        what, remedy=f"Name one as {run.id}/CELL: {', '.join(shown[:_NAMED_AT_MOST])}{more}." if shown else ""
    )


def _failed(path: Path) -> bool:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        result = msgspec.json.decode(path.read_bytes(), type=CellResult)
        return any(case.verdict in AT_FAULT for case in result.all_cases())
    return False


@contextlib.contextmanager
def machine(found: Found, *, cmdline: Sequence[str] = ()) -> Iterator[tuple[GuestSpec, RunKeys, Path]]:
    """The cell's machine with keys of its own, and a folder for what comes of it that goes away afterwards.

    :param cmdline: further kernel parameters.
    :raises UserError: a file of the run is gone.
    """
    spec = found.record().spec(found.root)
    keys = overlay.make_keys()
    with tempfile.TemporaryDirectory(prefix="orc-again-") as folder:
        archive = overlay.build_overlay(
            Path(folder) / "keys.cpio", host_key=keys.host_key, authorized_key=keys.authorized_key
        )
        more = tuple(word for word in cmdline if word not in spec.cmdline)
        yield (
            msgspec.structs.replace(spec, initrds=(*spec.initrds, archive), cmdline=(*spec.cmdline, *more)),
            keys,
            Path(folder),
        )


@contextlib.contextmanager
def booted(found: Found, store: Store, say: Say, *, asked: str) -> Iterator[Guest]:
    """The cell's guest, booted again and shown to run the very kernel.

    :param asked: ``auto``, ``kvm`` or ``tcg``.
    :raises BootFailure: it does not come up; InfraError: the host's fault, or it is another kernel.
    """
    record = found.record()
    with machine(found) as (spec, keys, folder):
        chosen = accel.choose(spec.arch, asked, store.root)
        say(f"booting the guest of {found.cell} again ({chosen.name}: {chosen.reason})")

        def start(name: str, deadlines: Deadlines) -> Guest:
            return Guest.boot(
                spec, accel=name, keys=keys, log=folder / "console.log", say=say, deadlines=deadlines
            )

        guest, _ = accel.boot(spec.arch, chosen, asked == "kvm", store.root, start, say)
        try:
            _prove(guest, record)
            yield guest
        finally:
            guest.close()


class Decoded(msgspec.Struct, frozen=True):
    """The consoles with lines, and the cases whose details have them."""

    files: tuple[Path, ...]
    cases: tuple[Case, ...]


def decode(found: Found, store: Store, say: Say, *, vmlinux: Path | None, jobs: int = 0) -> Decoded:
    """Give the stack traces of a cell lines, in its folder and in the run's results.

    :param vmlinux: the user's own, with line numbers; else the kernel's, or that of a debug build.
    :raises UserError: ``vmlinux`` is of another kernel or has no lines; the source has changed.
    :raises Inconclusive: the debug build is other code. KernelError, InfraError: it cannot be built.
    """
    record, directory = found.record(), RunDirectory(found.root)
    plan = directory.plan()
    done = directory.results(plan).get(found.cell)
    if vmlinux is not None:
        demand_match(found, record, vmlinux)
        if not debug_build.has_lines(vmlinux):
            raise UserError(
                f"{vmlinux} has no line numbers", remedy="Build it with CONFIG_DEBUG_INFO_DWARF4=y."
            )
        file = vmlinux
    else:

        def spec() -> KernelSpec:
            return _kernel_spec(plan, found, store, say)

        file = stack_traces.explaining(found.root, record, spec, store, say, build=True, jobs=jobs)
    result = done or CellResult(cell=found.cell)
    told, files = stack_traces.write(found.root, record, file, result)
    if done is not None:
        replace_cell(directory, told)
    return Decoded(files, tuple(case for case in told.all_cases() if case.verdict is Verdict.CRASH))


def demand_match(found: Found, record: GuestRecord, vmlinux: Path) -> None:
    """Demand that a vmlinux of the user's explains the kernel of a cell.

    It is compared with the cell's own; where there is only an image, by the build-id that its guest had.

    :raises UserError: it does not, or it cannot be told. InfraError: it is no ELF file.
    """
    own = found.root / record.vmlinux
    if record.vmlinux and own.is_file():
        debug_build.demand_match(own, vmlinux)
        return
    directory = RunDirectory(found.root)
    done = directory.results(directory.plan()).get(found.cell)
    ran = done.properties.get("proof: build-id", "") if done is not None else ""
    if not ran:
        raise UserError(
            f"{vmlinux} cannot be compared: of this cell's kernel there is only an image",
            remedy="Build the kernel with orchestrate (--source), which keeps its vmlinux.",
        )
    if (theirs := elf.build_id(vmlinux)) != ran:
        raise UserError(
            f"{vmlinux} does not match the kernel of this cell: its build-id is {theirs}, the cell's {ran}",
            remedy="Give the vmlinux of the very build that the image is of.",
        )


def _kernel_spec(plan: Plan, found: Found, store: Store, say: Say) -> KernelSpec:
    """The kernel of a cell as its run asked for it, once it is shown that its source is what it was."""
    cell = next(cell for cell in plan.cells if cell.id == found.cell)
    number = next(n for n, kernel in enumerate(plan.kernels) if kernel.label == cell.label)
    source = msgspec.structs.replace(plan.choices.sources[number], label=cell.label)
    choices = msgspec.structs.replace(plan.choices, sources=(source,), suites=(), commands=(), put=())
    targets = prepare.targets(choices, store, say)
    check_unchanged(msgspec.structs.replace(plan, kernels=(plan.kernels[number],), inputs={}), targets, {})
    inputs = prepare.inputs(choices, targets, (), store, say)
    return kernel_spec(inputs, cell.label, cell.arch, cell.variant)


def _prove(guest: Guest, record: GuestRecord) -> None:
    if not record.build_id:
        return
    try:
        runs = elf.build_id_of_notes(guest.read("/sys/kernel/notes"))
    except OrchestrateError as error:
        raise InfraError(f"what the guest runs cannot be told: {error.message}") from None
    if runs != record.build_id:
        raise InfraError(
            f"the guest runs a kernel with build-id {runs}, the cell's had {record.build_id}",
            remedy="Something changed the run's artifacts/: carry the cell out anew.",
        )
