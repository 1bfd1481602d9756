# SPDX-License-Identifier: GPL-2.0-only
"""The folder of one run, bisect or series.

<runs>/<id>/plan.json events.ndjson results.json junit.xml
            artifacts/<digest>/…
            cells/<cell>/{result.json,console.log,qemu.json,config,reproduce.sh,suites/…}
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from orchestrator.core import contents
from orchestrator.core.errors import UserError, did_you_mean
from orchestrator.core.files import inside, write_atomically
from orchestrator.core.store import absolute
from orchestrator.plan.plan import PLAN_VERSION, Plan
from orchestrator.plan.target import Target
from orchestrator.results.model import CellResult
from orchestrator.run import latest

_T = TypeVar("_T")

_MARK = ".gitignore"

#: What ``--resume`` takes for the newest run.
LAST = "last"

#: The kind of a run. A bisect or a series starts with a file of its kind's name.
_RUN = "run"


class RunDirectory:
    """The folder of one run, bisect or series. ``id`` is its name."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.id = path.name

    @classmethod
    def fresh(cls, runs: Path, kind: str = _RUN) -> RunDirectory:
        """A folder for a new run, or another ``kind`` of work; it is not created yet."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        return cls(runs / f"{_prefix(kind)}{stamp}-{secrets.token_hex(2)}")

    @classmethod
    def existing(cls, runs: Path, name: str, kind: str = _RUN) -> RunDirectory:
        """The folder of an earlier run, or of another ``kind`` of work.

        :param name: its id (with or without the kind before it), its path, or ``last`` or ``latest`` for the
            newest one below ``runs``.
        :raises UserError: there is no such run.
        """
        mark = latest.PLAN if kind == _RUN else f"{kind}.json"
        folders = latest.folders(runs, mark)
        if folders and (name == LAST or (name == latest.NAME and runs / name not in folders)):
            return cls(folders[-1])
        for path in (runs / name, runs / f"{_prefix(kind)}{name}", absolute(Path(name))):
            if name and (path / mark).is_file():
                return cls(latest.folder(path))
        newest = ", ".join(path.name for path in reversed(folders[-5:]))
        raise UserError(
            f"there is no {kind} {name!r} in {runs}{did_you_mean(name, [path.name for path in folders])}",
            remedy=f"The newest are: {newest}." if newest else "Name the folder of the runs with --out.",
        )

    def try_folder(self) -> None:
        """Check that the run can be written there; nothing is left behind.

        :raises UserError: it cannot be written.
        """
        there = next(parent for parent in self.path.parents if parent.exists())
        with self._writable(), tempfile.NamedTemporaryFile(dir=there):
            pass

    def create(self) -> None:
        """Make the folder.

        :raises UserError: it cannot be written.
        """
        with self._writable():
            self._make()
            (self.path / "cells").mkdir(exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that executes this run.

        :raises UserError: another process executes it, or the folder cannot be written.
        """
        lock = FileLock(self.path / ".lock")
        with self._writable():
            self._make()
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"run {self.id} is being executed by another process",
                    remedy="Wait until it ends, or stop it; then resume.",
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _make(self) -> None:
        """Make the folder, and mark the uppermost new one: a tree around it would count as changed."""
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        if not missing:
            return
        runs, new = self.path.parent, missing[-1]
        if new == self.path and not any(runs.iterdir()):
            # an empty folder that the user made for results
            new = runs
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if (runs / _MARK).read_bytes() == contents.RESULTS:
                return
        write_atomically(new / _MARK, contents.RESULTS)

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
        """Write a file by atomic rename.

        :raises InfraError: it cannot be written.
        """
        write_atomically(self.path / name, content)

    def plan(self) -> Plan:
        """The plan of the run.

        :raises UserError: it cannot be read, a newer orchestrate wrote it, or a cell's folder is elsewhere.
        """
        plan = read_versioned(self.path / latest.PLAN, Plan, PLAN_VERSION, _RUN)
        cells = self.path / "cells"
        # the run may come from somebody else
        names = ((self.path, "artifacts"), (self.path, "cells"), *((cells, cell.id) for cell in plan.cells))
        for folder, name in names:
            inside(folder, name, remedy=f"Start a new {_RUN}.")
        return plan

    def results(self, plan: Plan) -> dict[str, CellResult]:
        """The results of the finished cells, by cell id."""
        results = {}
        for cell in plan.cells:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                content = (self.path / "cells" / cell.id / "result.json").read_bytes()
                results[cell.id] = msgspec.json.decode(content, type=CellResult)
        return results


class _Version(msgspec.Struct):
    version: int


def _prefix(kind: str) -> str:
    return "" if kind == _RUN else f"{kind}-"


def read_versioned(path: Path, type_: type[_T], newest: int, kind: str) -> _T:
    """Read the file that starts a run, or another ``kind`` of work.

    :param newest: the newest version that can be read.
    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=_Version).version
        if version > newest:
            raise UserError(
                f"{path} has version {version}, written by a newer orchestrate; this one reads {newest}",
                remedy="Resume with the newer orchestrate.",
            )
        return msgspec.json.decode(raw, type=type_)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=f"Start a new {kind}.") from error


def check_inputs(before: Mapping[str, str], now: Mapping[str, str], kind: str = _RUN) -> None:
    """Check that no input besides the kernels has changed since the run began.

    :param before: digests by the user's name for the input; likewise ``now``.
    :raises UserError: an input has changed.
    """
    for name in (*before, *now):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{name} has changed since the {kind} began",
                remedy=f"Restore it, or start a new {kind}.",
            )


def check_unchanged(plan: Plan, targets: Sequence[Target], inputs: Mapping[str, str]) -> None:
    """Check that no kernel or other input of a resumed run has changed.

    :param inputs: digests of the inputs besides the kernels.
    :raises UserError: one has changed.
    """
    check_inputs(plan.inputs, inputs)
    by_label = {target.label: target for target in targets}
    for kernel in plan.kernels:
        target = by_label.get(kernel.label)
        if target is None or target.digest != kernel.digest:
            state = f"now {target.describe}" if target else "gone"
            raise UserError(
                f"{kernel.label} was {kernel.describe} when the run began, and is {state}",
                remedy="Restore it, or start a new run.",
            )
