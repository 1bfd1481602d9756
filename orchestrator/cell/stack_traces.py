# SPDX-License-Identifier: GPL-2.0-only
"""Add file and line to the stack traces of a cell that crashed.

A run does this if it costs no build: the kernel has line numbers, or its debug build is in the cache. With
``--decode``, and in ``orchestrate decode``, the debug build is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from orchestrator.cell import artifacts
from orchestrator.cell import record as guest_record
from orchestrator.cell.record import GuestRecord
from orchestrator.cell.state import CellState
from orchestrator.core import arch as arches
from orchestrator.core.errors import OrchestrateError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store
from orchestrator.core.text import clean, clean_str
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Kernel, KernelSpec
from orchestrator.results.model import Case, CellResult, Verdict
from orchestrator.splat import symbolize

PROPERTY = "stack traces"
_SUFFIX = ".decoded.log"
#: Of a console that is larger, the end.
_MAX_CONSOLE = 32 << 20
_MAX_DETAIL = 32768


def has_frames(result: CellResult) -> bool:
    """Whether a case of a cell that did not pass has a stack trace."""
    return any(_has_frames(case.detail) for case in result.all_cases() if case.verdict is not Verdict.PASS)


def _has_frames(text: str) -> bool:
    return bool(symbolize.frames(text.split("\n")))


def add_to_result(cell: CellState, result: CellResult) -> CellResult:
    """The result of a cell that has just ended, with line numbers where it has stack traces.

    An error becomes a property of the cell: no result is lost because of line numbers.
    """
    if result.interrupted or cell.host.cancelled() or not has_frames(result):
        return result
    root, choices = cell.host.root, cell.inputs.choices
    try:
        record = guest_record.load(cell.folder)
        vmlinux = explaining(
            root,
            record,
            cell.kernel_spec,
            cell.host.store,
            lambda text: cell.say("decode", text),
            build=choices.decode,
            jobs=choices.jobs,
        )
        return write(root, record, vmlinux, result)[0]
    except (OrchestrateError, OSError) as error:
        reason = f"without lines: {error.message if isinstance(error, OrchestrateError) else error.strerror}"
        cell.say("decode", reason)
        return msgspec.structs.replace(result, properties=result.properties | {PROPERTY: reason})


def command(root: Path, cell: str) -> str:
    """The command that decodes the stack traces of a cell, to be typed here.

    :param root: the run directory.
    """
    place = root.name if root.parent == Path("runs").absolute() else root
    return f"orchestrate decode {shlex.quote(f'{place}/{cell}')}"


def explaining(
    root: Path,
    record: GuestRecord,
    spec: Callable[[], KernelSpec],
    store: Store,
    say: Callable[[str], None],
    *,
    build: bool,
    jobs: int = 0,
) -> Path:
    """The vmlinux with line numbers of a cell's kernel; a debug build is kept in the run.

    :param root: the run directory.
    :param spec: returns the kernel spec of the cell; called only if needed.
    :param build: make the debug build if there is none.
    :raises UserError: there is none, or the kernel is only an image.
    :raises Inconclusive: the debug build is different code. KernelError, InfraError: it cannot be built.
    """
    own = root / record.vmlinux
    if not record.vmlinux or not own.is_file():
        raise UserError(
            "this cell's kernel is only an image: it has no vmlinux",
            remedy=f"Give its vmlinux: {command(root, record.cell)} --vmlinux FILE.",
        )

    def debug_kernel() -> Kernel | None:
        kernel_spec = spec()
        kernel = debug_build.find(kernel_spec, store)
        if kernel is None and build:
            return debug_build.build(kernel_spec, store, say=say, jobs=jobs)
        return kernel

    vmlinux = debug_build.vmlinux_with_lines(own, debug_kernel)
    if vmlinux is None:
        raise UserError(
            f"`{command(root, record.cell)}` makes a debug build of this kernel",
            remedy="Run that, or let runs do it with --decode.",
        )
    if vmlinux.parent == own.parent:
        return vmlinux
    copy = own.with_name(debug_build.DEBUG_VMLINUX)
    copy.unlink(missing_ok=True)
    artifacts.keep(root, own.parent.name, {debug_build.DEBUG_VMLINUX: vmlinux})
    return copy


def write(
    root: Path, record: GuestRecord, vmlinux: Path, result: CellResult
) -> tuple[CellResult, tuple[Path, ...]]:
    """Write a decoded copy of each console, and add lines to the details of the cases.

    :param vmlinux: one with line numbers that explains the cell's kernel.
    :return: the result, and the files.
    :raises UserError: ``vmlinux`` cannot be read. InfraError: no addr2line, or no space.
    """
    arch = arches.load(record.arch)
    consoles = {path: _read(path) for path in _consoles(root / "cells" / record.cell)}
    texts = [*consoles.values(), *(case.detail for case in result.all_cases())]
    places = symbolize.look_up(
        symbolize.frames(line for text in texts for line in text.split("\n")), vmlinux, arch
    )

    def lines(text: str) -> str:
        return "\n".join(symbolize.annotate(text.split("\n"), places))

    written = []
    for path, text in consoles.items():
        if _has_frames(text):
            written.append(path.with_name(f"{path.stem}{_SUFFIX}"))
            write_atomically(written[-1], lines(text).encode())

    def decoded(cases: Iterable[Case]) -> tuple[Case, ...]:
        return tuple(
            msgspec.structs.replace(case, detail=clean_str(lines(case.detail), limit=_MAX_DETAIL))
            if case.verdict is not Verdict.PASS and not _is_decoded(case.detail)
            else case
            for case in cases
        )

    what = ", ".join(str(path.relative_to(root)) for path in written) or "in the details of cases"
    decoded_result = msgspec.structs.replace(
        result,
        properties=result.properties | {PROPERTY: f"with lines: {what}"},
        cases=decoded(result.cases),
        suites=tuple(msgspec.structs.replace(suite, cases=decoded(suite.cases)) for suite in result.suites),
    )
    return decoded_result, tuple(written)


def _is_decoded(detail: str) -> bool:
    """Whether it has lines already: decoding again must not add them again."""
    return any(symbolize.DECODED.search(line) for line in detail.split("\n"))


def _consoles(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("console*.log") if not path.name.endswith(_SUFFIX))


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _MAX_CONSOLE))
        return clean(stream.read())
