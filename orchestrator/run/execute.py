# SPDX-License-Identifier: GPL-2.0-only
"""A run: carries a plan out through an engine and owns the run directory.

    <runs>/<id>/plan.json events.ndjson results.json junit.xml
                artifacts/<digest>/…
                cells/<cell>/{result.json,console.log,qemu.json,config,reproduce.sh,suites/…}

Results are written as they arrive, by atomic rename: a run that is killed keeps what it had, and a
resumed one repeats only the cells that have no ``result.json``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from orchestrator.cell import lifecycle as cells
from orchestrator.cell import reproduce, stack_traces
from orchestrator.cell.state import Context, Target, kernel_spec, moot
from orchestrator.core.errors import OrchestrateError, UserError
from orchestrator.core.events import Events, now
from orchestrator.core.store import absolute
from orchestrator.engine import Engine
from orchestrator.kernel import build as kernels
from orchestrator.plan.plan import PLAN_VERSION, CellPlan, Plan
from orchestrator.results import junit
from orchestrator.results.model import AT_FAULT, SCHEMA_VERSION, CellResult
from orchestrator.run import summary
from orchestrator.run.summary import RunResult, SourceResult
from orchestrator.vm.rootfs.overlay import write_atomically

_T = TypeVar("_T")

#: What ``--resume`` takes for the newest run.
LAST = "last"


#: What a run was; bisects and series are kept as runs are, begun with a file of their name.
_RUN = "run"


class RunDirectory:
    """The folder of one run, bisect or series. ``id`` is its name."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.id = path.name

    @classmethod
    def fresh(cls, runs: Path, kind: str = _RUN) -> RunDirectory:
        """A folder for a new run, or another ``kind`` of work; nothing is made yet."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        return cls(runs / f"{_prefix(kind)}{stamp}-{secrets.token_hex(2)}")

    @classmethod
    def existing(cls, runs: Path, name: str, kind: str = _RUN) -> RunDirectory:
        """The folder of a run that was begun, or of another ``kind`` of work.

        :param name: its id (with or without the kind before it), its path, or ``last`` for the newest one
            below ``runs``.
        :raises UserError: there is none.
        """
        mark = "plan.json" if kind == _RUN else f"{kind}.json"
        begun = sorted(path.parent for path in runs.glob(f"*/{mark}"))
        if name == LAST and begun:
            return cls(begun[-1])
        for path in (runs / name, runs / f"{_prefix(kind)}{name}", absolute(Path(name))):
            if name and (path / mark).is_file():
                return cls(path)
        known = ", ".join(path.name for path in reversed(begun[-5:]))
        raise UserError(
            f"there is no {kind} {name!r} in {runs}",
            remedy=f"The newest are: {known}." if known else "Name the folder of the runs with --out.",
        )

    def try_folder(self) -> None:
        """Find out now whether the run can be kept there; nothing is left behind.

        :raises UserError: it cannot.
        """
        there = next(parent for parent in self.path.parents if parent.exists())
        with self._writable(), tempfile.NamedTemporaryFile(dir=there):
            pass

    def create(self) -> None:
        """Make the folder.

        :raises UserError: it cannot be written.
        """
        with self._writable():
            (self.path / "cells").mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that carries this run out.

        :raises UserError: another one does, or the folder cannot be written.
        """
        lock = FileLock(self.path / ".lock")
        with self._writable():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"run {self.id} is being carried out by another process",
                    remedy="Wait for its end, or end it; then resume.",
                ) from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.path.parent}: {error.strerror}",
                remedy="Name another folder with --out.",
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file by atomic rename."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.write_bytes(content)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    def plan(self) -> Plan:
        """The plan that the run was begun with.

        :raises UserError: it cannot be read, or a newer orchestrate wrote it.
        """
        return read_kept(self.path / "plan.json", Plan, PLAN_VERSION, _RUN)

    def done(self, plan: Plan) -> dict[str, CellResult]:
        """The cells that have a result, by their id."""
        found = {}
        for cell in plan.cells:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                content = (self.path / "cells" / cell.id / "result.json").read_bytes()
                found[cell.id] = msgspec.json.decode(content, type=CellResult)
        return found


class _Version(msgspec.Struct):
    version: int


def _prefix(kind: str) -> str:
    return "" if kind == _RUN else f"{kind}-"


def read_kept(path: Path, type_: type[_T], known: int, kind: str) -> _T:
    """What a file holds that a run, or another ``kind`` of work, was begun with.

    :param known: the newest version of such files that is understood.
    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=_Version).version
        if version > known:
            raise UserError(
                f"{path} is of version {version}, written by a newer orchestrate: this one knows {known}",
                remedy="Resume it with that one.",
            )
        return msgspec.json.decode(raw, type=type_)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=f"Begin a new {kind}.") from error


def check_inputs(before: Mapping[str, str], now_there: Mapping[str, str], kind: str = _RUN) -> None:
    """Demand that what is read besides the kernels is what it was when the run began.

    :param before: digests by what the user calls it; likewise ``now_there``.
    :raises UserError: something is not.
    """
    for name in (*before, *now_there):
        if before.get(name) != now_there.get(name):
            raise UserError(
                f"{name} is not what it was when the {kind} began",
                remedy=f"Bring it back to that state, or begin a new {kind}.",
            )


def check_unchanged(plan: Plan, found: Sequence[Target], inputs: Mapping[str, str]) -> None:
    """Demand that all that a resumed run is made of is what it was.

    :param inputs: digests of what it reads besides its kernels.
    :raises UserError: something is not.
    """
    check_inputs(plan.inputs, inputs)
    now_there = {target.label: target for target in found}
    for kernel in plan.kernels:
        target = now_there.get(kernel.label)
        if target is None or target.digest != kernel.digest:
            what = f"now {target.describe}" if target else "gone"
            raise UserError(
                f"{kernel.label} was {kernel.describe} when the run began, and is {what}",
                remedy="Bring it back to that state, or begin a new run.",
            )


def carry_out(
    the_plan: Plan,
    shared: Context,
    directory: RunDirectory,
    engine: Engine,
    events: Events,
    *,
    junit_path: Path | None = None,
    done: Mapping[str, CellResult] | None = None,
) -> RunResult:
    """Carry a plan out; results are on disk after every cell.

    When the engine is cancelled, guests and builds end at once; the result has what there is and says so.

    :param done: cells of an earlier attempt that are not repeated.
    :raises UserError: a cell cannot be what was asked for.
    """
    result = RunResult(
        schema_version=SCHEMA_VERSION,
        id=directory.id,
        sources=tuple(_source_result(target) for target in shared.targets.values()),
        started_at=now(),
    )
    directory.write("plan.json", msgspec.json.format(msgspec.json.encode(the_plan), indent=1))
    found = dict(done or {})

    def work(cell: CellPlan) -> CellResult:
        folder = directory.path / "cells" / cell.id
        # what an attempt that was killed has left
        shutil.rmtree(folder, ignore_errors=True)
        target = shared.targets[cell.label]
        argv = reproduce.command(cell, shared.choices, target.source, shared.suites)
        script = reproduce.by_orchestrate(cell.id, target.describe, argv)
        # once the cell has a guest, it writes another one
        write_atomically(folder / reproduce.NAME, script.encode(), mode=0o755)
        say = events.saying(cell.id)
        return stack_traces.in_run(shared, cell, cells.carry_out(shared, cell, say), say)

    def wanted() -> Iterator[CellPlan]:
        for cell in the_plan.cells:
            if cell.id in found or (shared.choices.until_fail and _has_failed(cell, the_plan, shared, found)):
                continue
            yield cell

    for cell, ended in engine.carry_out(wanted(), work):
        found[cell.id] = ended
        if not ended.interrupted:
            directory.write(f"cells/{cell.id}/result.json", msgspec.json.encode(ended))
        result = _write(directory, result, the_plan, found, junit_path, interrupted=engine.cancelled())
        events.emit(cell.id, "done", summary.summary(ended))
    result = msgspec.structs.replace(result, finished_at=now())
    return _write(directory, result, the_plan, found, junit_path, interrupted=engine.cancelled())


def replace_cell(directory: RunDirectory, ended: CellResult) -> None:
    """Put another result of a cell in the place of the one it has, and draw what follows from it anew.

    :raises UserError: the run is being carried out, or cannot be read.
    """
    the_plan = directory.plan()
    path = directory.path / "results.json"
    with directory.held():
        try:
            result = msgspec.json.decode(path.read_bytes(), type=RunResult)
        except (OSError, msgspec.MsgspecError) as error:
            raise UserError(f"{path} cannot be read: {error}", remedy="Resume the run first.") from None
        found = {cell.cell: cell for cell in result.cells} | {ended.cell: ended}
        directory.write(f"cells/{ended.cell}/result.json", msgspec.json.encode(ended))
        _write(directory, result, the_plan, found, None, interrupted=result.interrupted)


def _has_failed(cell: CellPlan, the_plan: Plan, shared: Context, found: Mapping[str, CellResult]) -> bool:
    """Whether an earlier repeat of the very same has shown what is waited for."""
    if not cell.boot or any(shared.suites[name].kind == "benchmark" for name in cell.suites):
        return False
    same = msgspec.structs.replace(cell, id="", boot=0)
    return any(
        case.verdict in AT_FAULT
        for other in the_plan.cells
        if other.id in found and msgspec.structs.replace(other, id="", boot=0) == same
        for case in found[other.id].all_cases()
    )


def _source_result(target: Target) -> SourceResult:
    return SourceResult(
        label=target.label,
        source=target.describe,
        digest=target.digest,
        tree_class=target.tree_class.value if target.tree_class else "",
        maps_read_under_vma_locks=target.maps_read_under_vma_locks,
    )


def _write(
    directory: RunDirectory,
    result: RunResult,
    the_plan: Plan,
    found: Mapping[str, CellResult],
    junit_path: Path | None,
    *,
    interrupted: bool,
) -> RunResult:
    # in the order of the plan, whatever the order in which they ended, or were resumed
    result = summary.drawn(result, [found[c.id] for c in the_plan.cells if c.id in found])
    result = msgspec.structs.replace(result, interrupted=interrupted)
    directory.write("results.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    told = summary.told(result)
    junit.write(directory.path / "junit.xml", told, run_id=result.id)
    if junit_path is not None:
        with contextlib.suppress(OSError):
            junit_path.parent.mkdir(parents=True, exist_ok=True)
        junit.write(junit_path, told, run_id=result.id)
    return result


def build_all(
    shared: Context, *, say: Callable[[str], None], configure_only: bool = False
) -> Iterator[tuple[str, OrchestrateError | None]]:
    """Build every kernel of some choices; the path of each image, or what went wrong and the error.

    :param configure_only: stop after the configuration and give its path instead.
    :raises UserError: a choice that does not exist, or a request of the user's that is lost.
    """
    choices, store = shared.choices, shared.store
    for target in shared.targets.values():
        assert target.tree_class is not None
        say(f"{target.describe}: per-VMA locks are {target.tree_class.value}")
        for arch in choices.arches:
            for variant in choices.variants:
                if reason := moot(shared, target, variant):
                    say(f"{arch} {variant}: not applicable: {reason}")
                    continue
                spec = kernel_spec(shared, target.label, arch, variant)
                try:
                    differing = kernels.pair_difference(spec, store)
                    if configure_only:
                        pair = ", ".join(differing) or "nothing: there is no pair"
                        say(f"{arch} {variant}: the variants differ in {pair}")
                        yield str(kernels.configure(spec, store).path), None
                        continue
                    kernel = kernels.build(spec, store, say=say, jobs=choices.jobs)
                except UserError:
                    raise
                except OrchestrateError as error:
                    yield f"{arch} {variant}: {error}", error
                else:
                    yield str(kernel.image), None
