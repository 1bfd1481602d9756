# SPDX-License-Identifier: GPL-2.0-only
"""The machine of a cell: the kernel, the guest image, and the files of the suites."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orchestrator.cell import artifacts, reproduce
from orchestrator.cell import record as guest_record
from orchestrator.cell.state import CellState
from orchestrator.core.files import write_atomically
from orchestrator.kernel import flavor
from orchestrator.kernel.spec import Kernel
from orchestrator.source.model import Tree
from orchestrator.suites import build as suite_build
from orchestrator.suites import catalog, delays
from orchestrator.suites.catalog import Suite
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import image, overlay
from orchestrator.vm.ssh import RUNNER

#: Names in ``artifacts/`` of the guest image and of the files of the suites.
IMAGE, PAYLOAD = "image.cpio", "suites.cpio"

#: The files of the suites by suite, then by their path in the guest's folder of the suite.
SuiteFiles = Mapping[str, Mapping[str, Path]]


def selftests_tree(cell: CellState) -> Tree | None:
    """The tree of the kernel's selftests."""
    return cell.inputs.selftests or cell.target.tree


def build_suites(cell: CellState, suites: Sequence[Suite]) -> dict[str, dict[str, Path]]:
    """The files of the suites, built for the cell's architecture; see ``SuiteFiles``.

    :raises UserError: a program of the user's does not compile.
    :raises KernelError: the tree has no program of a suite, or none that compiles.
    :raises InfraError: the host is at fault.
    """
    return {
        suite.name: suite_build.build(
            suite,
            tree=selftests_tree(cell),
            arch=cell.arch,
            store=cell.host.store,
            log=cell.folder / f"{suite.name}.build.log",
            pinned=cell.inputs.selftests is not None,
            sandboxed=cell.inputs.choices.sandboxed,
        )
        for suite in suites
    }


def guest_spec(cell: CellState, kernel: Kernel, suites: Sequence[Suite], files: SuiteFiles) -> GuestSpec:
    """The machine: the guest image, and an overlay with the run's keys and the suites' files.

    :raises UserError: a package that a suite of the user's needs does not exist.
    :raises InfraError: the image or one of orchestrate's own programs cannot be made.
    """
    host = cell.host
    base = image.build_image(
        cell.plan.arch,
        cache=host.store.root,
        say=lambda text: cell.say("image", text),
        extra=catalog.packages(suites),
    )
    cell.properties["guest image"] = base.digest
    payload = artifacts.keep_bytes(host.root, PAYLOAD, _payload(cell, kernel, suites, files))
    keys = overlay.build_overlay(
        cell.folder / "overlay.cpio",
        host_key=host.keys.host_key,
        authorized_key=host.keys.authorized_key,
    )
    return GuestSpec(
        arch=cell.arch,
        kernel=kernel.image,
        initrds=(base.path, host.root / payload, keys),
        smp=cell.plan.smp,
        mem_mib=cell.plan.mem_mib,
        # addresses of probe points are those of vmlinux
        cmdline=(*cell.plan.cmdline, *(("nokaslr",) if kernel.module is not None else ())),
        slower=flavor.slower(cell.inputs.choices.flavors),
    )


def _payload(cell: CellState, kernel: Kernel, suites: Sequence[Suite], files: SuiteFiles) -> bytes:
    store = cell.host.store
    executables = {
        RUNNER: overlay.build_runner(cell.arch, store),
        str(overlay.LOOKER): overlay.build_looker(cell.arch, store),
    }
    data: dict[str, Path] = {}
    for suite in suites:
        beside = suite.files_beside()
        for name, path in files[suite.name].items():
            is_data = name in beside and not os.access(path, os.X_OK)
            (data if is_data else executables)[suite_build.guest_path(suite, name)] = path
    if kernel.module is not None:
        data[delays.MODULE] = kernel.module
    return overlay.payload(executables, data)


def write_reproducer(
    cell: CellState, kernel: Kernel, suites: Sequence[Suite], files: SuiteFiles, spec: GuestSpec
) -> None:
    """Write the record of the guest, and the script that boots it again."""
    root = cell.host.root
    image_, payload, _ = spec.initrds
    image_folder = artifacts.keep(root, cell.properties["guest image"], {IMAGE: image_})
    record = guest_record.record(
        cell=cell.plan.id,
        describe=cell.target.describe,
        kernel=kernel,
        image=artifacts.keep_kernel(root, kernel),
        spec=spec,
        initrds=(f"{image_folder}/{IMAGE}", str(payload.relative_to(root))),
        accel=cell.inputs.choices.accel,
        shared=all(suite.kind != "functional" for suite in suites),
        queue=program_queue(cell, suites, files),
    )
    encoded = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_atomically(cell.folder / guest_record.FILE, encoded)
    script = reproduce.standalone(record, reproduce.command(cell.plan, cell.inputs, cell.target.source))
    write_atomically(cell.folder / reproduce.NAME, script.encode(), mode=0o755)


def kernel_of_other_tests(cell: CellState) -> str:
    """The kernel's version, if the tests come from another tree and may need what it lacks; else empty."""
    return (cell.release or cell.target.version) if cell.inputs.selftests is not None else ""


def program_queue(cell: CellState, suites: Sequence[Suite], files: SuiteFiles) -> list[tuple[Suite, str]]:
    """The programs to run, in order."""
    version, kernel = cell.release or cell.target.version, kernel_of_other_tests(cell)
    return [
        (suite, name)
        for suite in suites
        for name in suite_build.runnable(
            suite, files[suite.name], version=version, arch=cell.plan.arch, kernel=kernel
        )
        if in_plan(cell, suite, name)
    ]


def in_plan(cell: CellState, suite: Suite, name: str) -> bool:
    """Whether the cell runs a program; a further ``vsyscall=`` cell runs only programs that depend on it."""
    return not cell.plan.only_vsyscall or suite.program_or_default(name).vsyscall
