# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a bisect, one line each. A step is on disk before the next one begins.

A resumed bisect replays its journal: the code that decides takes each step from the file until none is left.
The same steps lead to the same decisions, so it ends up where it stopped.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from orchestrator.bisect.predicate import Judgement
from orchestrator.core.errors import InfraError, UserError


class Subject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is judged: a commit (full name), optionally with the commit ``without`` reverted."""

    commit: str
    without: str = ""

    @property
    def name(self) -> str:
        """A short name, for people and folders."""
        return self.commit[:12] + (f"-without-{self.without[:12]}" if self.without else "")


class BuildStep(msgspec.Struct, frozen=True, kw_only=True, tag="built", omit_defaults=True):
    """The build of a kernel. ``error`` says why it failed, ``kernels_fault`` whether the tree is to blame.

    ``image`` is the digest of what is booted. ``seconds`` is the time of this build; a ``cached`` kernel took
    none.
    """

    subject: Subject
    image: str = ""
    error: str = ""
    kernels_fault: bool = False
    log: str = ""
    seconds: float = 0.0
    cached: bool = False


class BootStep(msgspec.Struct, frozen=True, kw_only=True, tag="booted", omit_defaults=True):
    """The ``number``-th boot of a kernel. ``why`` is the part of the bisect that needed it."""

    subject: Subject
    number: int
    why: str
    judgement: Judgement
    run: str = ""
    seconds: float = 0.0


class TwinStep(msgspec.Struct, frozen=True, kw_only=True, tag="same", omit_defaults=True):
    """A kernel that equals the one of ``twin`` byte for byte, and shares its judgement."""

    subject: Subject
    twin: Subject = msgspec.field(name="same")


class TroubleStep(msgspec.Struct, frozen=True, kw_only=True, tag="trouble", omit_defaults=True):
    """The host failed a build or boot. It is not an observation; the step is repeated."""

    subject: Subject
    reason: str


class ChoiceStep(msgspec.Struct, frozen=True, kw_only=True, tag="chosen"):
    """The case in which the ends differ, where the user did not say what is bad."""

    pattern: str


class DecisionStep(msgspec.Struct, frozen=True, kw_only=True, tag="decided", omit_defaults=True):
    """The judgement of a metric over several boots. Its reason is the effect against both ends."""

    subject: Subject
    judgement: Judgement


Step = BuildStep | BootStep | TwinStep | TroubleStep | ChoiceStep | DecisionStep


class Journal:
    """The file of steps. ``steps`` are those up to now, replayed or new.

    :raises UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.steps: list[Step] = []
        self._earlier = _read(path)
        self._at = 0

    def __len__(self) -> int:
        return len(self._earlier)

    @property
    def resumed(self) -> bool:
        """Whether steps of an earlier process are left to replay."""
        return self._at < len(self._earlier)

    def take(self, like: Step) -> Step | None:
        """The next step of an earlier process; ``None`` if there is none.

        :param like: a step of the same kind and subject; its other fields do not matter.
        :raises UserError: the journal has a different step here.
        """
        while self.resumed and isinstance(self._earlier[self._at], TroubleStep):
            self._keep()
        if not self.resumed:
            return None
        step = self._earlier[self._at]
        if _identity(step) != _identity(like):
            raise UserError(
                f"{self._path}: this orchestrate would take another step {self._at + 1}",
                remedy="Resume with the version that started it, or start a new bisect: kernels are cached.",
            )
        return self._keep()

    def _keep(self) -> Step:
        step = self._earlier[self._at]
        self._at += 1
        self.steps.append(step)
        return step

    def add(self, step: Step) -> None:
        """Append a step; it is on disk when this returns.

        :raises InfraError: it cannot be written.
        """
        assert not self.resumed
        try:
            with self._path.open("ab", buffering=0) as stream:
                stream.write(msgspec.json.encode(step) + b"\n")
                os.fsync(stream.fileno())
        except OSError as error:
            raise InfraError(
                f"{self._path}: {error.strerror}", remedy="Free some space. Continue with --resume."
            ) from error
        self.steps.append(step)


def _identity(step: Step) -> tuple[object, ...]:
    if isinstance(step, BootStep):
        return (BootStep, step.subject, step.number)
    return (type(step),) if isinstance(step, ChoiceStep) else (type(step), step.subject)


def _read(path: Path) -> list[Step]:
    """The steps of an earlier process. A torn last line is removed from the file."""
    steps: list[Step] = []
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                steps.append(msgspec.json.decode(line, type=Step))
            except msgspec.MsgspecError as error:
                raise UserError(f"{path}:{number}: {error}", remedy="Start a new bisect.") from error
    return steps
