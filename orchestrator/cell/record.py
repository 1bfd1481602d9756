# SPDX-License-Identifier: GPL-2.0-only
"""The record of a cell's guest, to boot it again and run its programs: ``cells/<cell>/guest.json``.

It is written before the first guest of the cell boots, so that a killed run has it, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.errors import UserError
from orchestrator.core.files import inside
from orchestrator.kernel.spec import Kernel
from orchestrator.suites import build as suite_build
from orchestrator.suites.catalog import Suite
from orchestrator.suites.invocation import invocation
from orchestrator.vm.qemu import GuestSpec

FILE = "guest.json"
_VERSION = 1


class ProgramRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the cell runs a program in the guest.

    ``limit_s`` is for a guest that boots in a second. ``ktap``: its output is TAP. ``foreign``: a script or
    command of the user; exit status 126 or 127 means that it could not run. ``own``: it follows the kernel's
    selftests, where exit status 2 is an expected failure. ``widen``: the points at which windows are widened.
    ``folder`` is where a shell in the guest starts.
    """

    id: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    options: tuple[str, ...]
    limit_s: float
    folder: str
    ktap: bool = False
    foreign: bool = False
    own: bool = True
    widen: tuple[str, ...] = ()


class GuestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A cell's guest. Paths are relative to the run directory.

    ``initrds`` lack the keys, which are new for each boot. ``shared``: all programs run in one guest, else
    each has its own. ``slower``: the flavor's factor on time limits.
    ``accel`` is the accelerator that was requested; ``build_id`` is empty if only the running kernel
    has it.
    """

    version: int = _VERSION
    cell: str
    describe: str
    arch: str
    release: str
    build_id: str
    kernel: str
    vmlinux: str
    initrds: tuple[str, ...]
    smp: int
    mem_mib: int
    cmdline: tuple[str, ...]
    accel: str
    slower: float
    shared: bool
    programs: tuple[ProgramRecord, ...]

    def spec(self, root: Path) -> GuestSpec:
        """The machine to boot, without an archive of keys.

        :param root: the run directory.
        :raises UserError: a file of it is gone.
        """
        for name in (self.kernel, *self.initrds):
            if not (root / name).is_file():
                raise UserError(
                    f"{root / name} is gone: this guest cannot be booted again",
                    remedy="Copy the run directory with its artifacts/, or execute the cell again.",
                )
        return self.machine(root)

    def machine(self, root: Path = Path()) -> GuestSpec:
        """The same, without a check of its files."""
        return GuestSpec(
            arch=arches.load(self.arch),
            kernel=root / self.kernel,
            initrds=tuple(root / name for name in self.initrds),
            smp=self.smp,
            mem_mib=self.mem_mib,
            cmdline=self.cmdline,
            slower=self.slower,
        )


def _program(suite: Suite, name: str) -> ProgramRecord:
    program = suite.program_or_default(name)
    call = invocation(suite, program)
    return ProgramRecord(
        id=f"{suite.name}/{name}",
        argv=call.argv,
        env=call.env,
        cwd=call.cwd,
        options=call.options,
        limit_s=call.limit_s,
        folder=suite_build.working_folder(suite) if suite.commands else suite_build.guest_folder(suite),
        ktap=program.parser == "ktap",
        foreign=suite.user and bool(program.script or suite.commands),
        own=not suite.user,
        widen=program.widen,
    )


def record(
    *,
    cell: str,
    describe: str,
    kernel: Kernel,
    image: str,
    spec: GuestSpec,
    initrds: tuple[str, ...],
    accel: str,
    shared: bool,
    queue: Iterable[tuple[Suite, str]],
) -> GuestRecord:
    """The record of a cell's guest.

    :param image: the kernel's image, relative to the run directory.
    :param initrds: likewise, without keys.
    :param queue: the programs of its suites, in the order in which they run.
    """
    return GuestRecord(
        cell=cell,
        describe=describe,
        arch=spec.arch.name,
        release=kernel.release,
        build_id=kernel.build_id,
        kernel=image,
        vmlinux=str(Path(image).with_name(kernel.vmlinux.name)) if kernel.vmlinux else "",
        initrds=initrds,
        smp=spec.smp,
        mem_mib=spec.mem_mib,
        cmdline=spec.cmdline,
        accel=accel,
        slower=spec.slower,
        shared=shared,
        programs=tuple(_program(suite, name) for suite, name in queue),
    )


def load(folder: Path) -> GuestRecord:
    """The record of a cell.

    :param folder: the cell's.
    :raises UserError: it has none, or one that cannot be read, or that somebody has forged.
    """
    path = folder / FILE
    try:
        record = msgspec.json.decode(path.read_bytes(), type=GuestRecord)
    except FileNotFoundError:
        raise UserError(
            f"cell {folder.name} booted no guest: it ended before that, or an older orchestrate ran it",
            remedy=f"What stopped it is in {folder / 'result.json'}; its reproduce.sh executes it again.",
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy="Execute the cell again.") from None
    if record.version > _VERSION:
        raise UserError(
            f"{path} has version {record.version}, written by a newer orchestrate; this one reads {_VERSION}",
            remedy="Use the newer orchestrate.",
        )
    _check(record, folder)
    return record


def _check(record: GuestRecord, folder: Path) -> None:
    """Check what a record from somebody else could do on this host.

    :raises UserError: a path leads out of the run directory, or what is printed has control characters.
    """
    remedy = "Execute the cell again."
    for name in (record.kernel, record.vmlinux, *record.initrds):
        inside(folder.parent.parent, name, remedy=remedy)
    programs = (word for program in record.programs for word in (program.id, program.folder))
    printed = (record.describe, record.release, record.build_id, *programs)
    if record.cell != folder.name or not all(word.isprintable() for word in printed):
        raise UserError(f"{folder / FILE} is not the record of this cell", remedy=remedy)
