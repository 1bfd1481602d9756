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

from orchestrator.core.errors import UserError, did_you_mean
from orchestrator.core.files import write_atomically
from orchestrator.core.store import absolute
from orchestrator.plan.plan import PLAN_VERSION, Plan
from orchestrator.plan.target import Target
from orchestrator.results.model import CellResult
from orchestrator.run import latest

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

        :param name: its id (with or without the kind before it), its path, or ``last`` or ``latest`` for the
            newest one below ``runs``.
        :raises UserError: there is none.
        """
        mark = latest.PLAN if kind == _RUN else f"{kind}.json"
        begun = latest.begun(runs, mark)
        if begun and (name == LAST or (name == latest.NAME and runs / name not in begun)):
            return cls(begun[-1])
        for path in (runs / name, runs / f"{_prefix(kind)}{name}", absolute(Path(name))):
            if name and (path / mark).is_file():
                return cls(latest.folder(path))
        known = ", ".join(path.name for path in reversed(begun[-5:]))
        raise UserError(
            f"there is no {kind} {name!r} in {runs}{did_you_mean(name, [path.name for path in begun])}",
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
                    f"run {self.id} is being executed by another process",
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
        """Write a file by atomic rename.

        :raises InfraError: it cannot be written.
        """
        write_atomically(self.path / name, content)

    def plan(self) -> Plan:
        """The plan that the run was begun with.

        :raises UserError: it cannot be read, or a newer orchestrate wrote it.
        """
        return read_kept(self.path / latest.PLAN, Plan, PLAN_VERSION, _RUN)

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
                f"{name} has changed since the {kind} began",
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
