# SPDX-License-Identifier: GPL-2.0-only
"""Find a cell of an earlier run by the user's name for it, and boot its guest again."""

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
from orchestrator.vm import accel as accelerators
from orchestrator.vm.machine import Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import overlay
from orchestrator.vm.rootfs.overlay import RunKeys

#: Cells that a message lists at most.
_MOST_LISTED = 12


class CellReference(msgspec.Struct, frozen=True):
    """A cell of an earlier run. ``root`` is the run directory, ``name`` the id of the cell."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.root / "cells" / self.name

    def record(self) -> GuestRecord:
        """What is needed to boot its guest.

        :raises UserError: the cell had no guest.
        """
        return guest_record.load(self.folder)

    def accelerator(self) -> str:
        """The accelerator of its guests, ``tcg`` if none came up."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.folder / "qemu.json").read_bytes(), type=_Qemu).accelerator
        return "tcg"


class _Qemu(msgspec.Struct):
    accelerator: str


def find(runs: Path, word: str) -> CellReference:
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
    """The run exists, the cell does not."""


def _cell(run: RunDirectory, name: str) -> CellReference:
    cells = [cell.id for cell in run.plan().cells]
    if name in cells:
        return CellReference(run.path, name)
    if not name and len(cells) == 1:
        return CellReference(run.path, cells[0])
    failed = [cell for cell in cells if _failed(run.path / "cells" / cell / "result.json")]
    labels = [f"{cell} (failed)" for cell in failed] + [cell for cell in cells if cell not in failed]
    more = f" and {len(labels) - _MOST_LISTED} more" if len(labels) > _MOST_LISTED else ""
    what = f"run {run.id} has {len(cells)} cells"
    if name:
        what = f"run {run.id} has no cell {name!r}{did_you_mean(name, cells)}"
    raise _NoCell(
        what, remedy=f"Name one as {run.id}/CELL: {', '.join(labels[:_MOST_LISTED])}{more}." if labels else ""
    )


def _failed(path: Path) -> bool:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        result = msgspec.json.decode(path.read_bytes(), type=CellResult)
        return any(case.verdict in AT_FAULT for case in result.all_cases())
    return False


@contextlib.contextmanager
def machine(cell: CellReference, *, cmdline: Sequence[str] = ()) -> Iterator[tuple[GuestSpec, RunKeys, Path]]:
    """The cell's machine with new keys, and a temporary folder for its files.

    :param cmdline: further kernel parameters.
    :raises UserError: a file of the run is gone.
    """
    spec = cell.record().spec(cell.root)
    keys = overlay.make_keys()
    with tempfile.TemporaryDirectory(prefix="orc-again-") as folder:
        archive = overlay.build_overlay(
            Path(folder) / "keys.cpio", host_key=keys.host_key, authorized_key=keys.authorized_key
        )
        parameters = tuple(word for word in cmdline if word not in spec.cmdline)
        yield (
            msgspec.structs.replace(
                spec, initrds=(*spec.initrds, archive), cmdline=(*spec.cmdline, *parameters)
            ),
            keys,
            Path(folder),
        )


@contextlib.contextmanager
def booted(cell: CellReference, store: Store, say: Say, *, accel: str) -> Iterator[Guest]:
    """The cell's guest, booted again; its kernel is verified.

    :param accel: ``auto``, ``kvm`` or ``tcg``.
    :raises BootFailure: it does not come up; InfraError: the host failed, or it is another kernel.
    """
    record = cell.record()
    with machine(cell) as (spec, keys, folder):
        accelerator = accelerators.choose(spec.arch, accel, store.root)
        say(f"booting the guest of {cell.name} again ({accelerator.name}: {accelerator.reason})")

        def start(name: str, deadlines: Deadlines) -> Guest:
            return Guest.boot(
                spec, accel=name, keys=keys, log=folder / "console.log", say=say, deadlines=deadlines
            )

        guest, _ = accelerators.boot(spec.arch, accelerator, accel == "kvm", store.root, start, say)
        try:
            _prove(guest, record)
            yield guest
        finally:
            guest.close()


class DecodedTraces(msgspec.Struct, frozen=True):
    """The console files with line numbers, and the crashes whose details have them."""

    files: tuple[Path, ...]
    cases: tuple[Case, ...]


def decode(
    cell: CellReference, store: Store, say: Say, *, vmlinux: Path | None, jobs: int = 0
) -> DecodedTraces:
    """Add file and line to the stack traces of a cell, in its folder and in the run's results.

    :param vmlinux: the user's, with line numbers; else the cell's own, or that of a debug build.
    :raises UserError: ``vmlinux`` is of another kernel or has no lines; the source has changed.
    :raises Inconclusive: the debug build has other code. KernelError, InfraError: it cannot be built.
    """
    record, directory = cell.record(), RunDirectory(cell.root)
    plan = directory.plan()
    finished = directory.results(plan).get(cell.name)
    if vmlinux is not None:
        demand_match(cell, record, vmlinux)
        if not debug_build.has_lines(vmlinux):
            raise UserError(
                f"{vmlinux} has no line numbers", remedy="Build it with CONFIG_DEBUG_INFO_DWARF4=y."
            )
        file = vmlinux
    else:

        def spec() -> KernelSpec:
            return _kernel_spec(plan, cell, store, say)

        file = stack_traces.explaining(cell.root, record, spec, store, say, build=True, jobs=jobs)
    result, files = stack_traces.write(cell.root, record, file, finished or CellResult(cell=cell.name))
    if finished is not None:
        replace_cell(directory, result)
    return DecodedTraces(files, tuple(case for case in result.all_cases() if case.verdict is Verdict.CRASH))


def demand_match(cell: CellReference, record: GuestRecord, vmlinux: Path) -> None:
    """Check that the user's vmlinux is of the kernel of a cell.

    It is compared with the cell's own vmlinux, or else with the build-id that the guest reported.

    :raises UserError: it is of another kernel, or that is not known. InfraError: not an ELF file.
    """
    own = cell.root / record.vmlinux
    if record.vmlinux and own.is_file():
        debug_build.demand_match(own, vmlinux)
        return
    directory = RunDirectory(cell.root)
    result = directory.results(directory.plan()).get(cell.name)
    build_id = result.properties.get("proof: build-id", "") if result is not None else ""
    if not build_id:
        raise UserError(
            f"{vmlinux} cannot be compared: there is only an image of this cell's kernel",
            remedy="Build the kernel with orchestrate (--source), which keeps its vmlinux.",
        )
    if (theirs := elf.build_id(vmlinux)) != build_id:
        raise UserError(
            f"{vmlinux} does not match the kernel of this cell: its build-id is {theirs},"
            f" the cell's {build_id}",
            remedy="Give the vmlinux of the same build as the image.",
        )


def _kernel_spec(plan: Plan, reference: CellReference, store: Store, say: Say) -> KernelSpec:
    """The kernel spec of a cell, if its source is unchanged."""
    cell = next(cell for cell in plan.cells if cell.id == reference.name)
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
        actual = elf.build_id_of_notes(guest.read("/sys/kernel/notes"))
    except OrchestrateError as error:
        raise InfraError(f"the guest's kernel cannot be identified: {error.message}") from None
    if actual != record.build_id:
        raise InfraError(
            f"the guest runs a kernel with build-id {actual}, the cell's had {record.build_id}",
            remedy="The run's artifacts/ were changed: run the cell again.",
        )
