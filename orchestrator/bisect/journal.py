# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect has done, a line a step: on disk before the next step begins.

A bisect that goes on reads its own steps again: the code that decides takes each from the journal until there
are no more, and comes to where it was, since it decides alike from the same.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from orchestrator.bisect.predicate import Judgement
from orchestrator.core.errors import InfraError, UserError


class Subject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is judged: a commit (full name), perhaps with the change of another one taken out."""

    commit: str
    without: str = ""

    @property
    def name(self) -> str:
        """For people and folders."""
        return self.commit[:12] + (f"-without-{self.without[:12]}" if self.without else "")


class Built(msgspec.Struct, frozen=True, kw_only=True, tag="built", omit_defaults=True):
    """A kernel was built, or cannot be: ``error`` says why, ``kernels_fault`` whether it is the tree's.

    ``image`` is the digest of what is booted; ``seconds`` were spent on it now, ``cached`` if none were.
    """

    subject: Subject
    image: str = ""
    error: str = ""
    kernels_fault: bool = False
    log: str = ""
    seconds: float = 0.0
    cached: bool = False


class Booted(msgspec.Struct, frozen=True, kw_only=True, tag="booted", omit_defaults=True):
    """A kernel was booted for the ``number``-th time; ``why``: for which part of the bisect."""

    subject: Subject
    number: int
    why: str
    judgement: Judgement
    run: str = ""
    seconds: float = 0.0


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag="same", omit_defaults=True):
    """A kernel is byte for byte another's, which was judged: it takes over what that one came to."""

    subject: Subject
    same: Subject


class Trouble(msgspec.Struct, frozen=True, kw_only=True, tag="trouble", omit_defaults=True):
    """The host failed a build or boot; it is no observation, and is tried again."""

    subject: Subject
    reason: str


class Chosen(msgspec.Struct, frozen=True, kw_only=True, tag="chosen"):
    """Nobody said what is bad; this is what the ends differ in."""

    pattern: str


class Decided(msgspec.Struct, frozen=True, kw_only=True, tag="decided", omit_defaults=True):
    """What a number's boots came to together; its reason is the effect against both ends, with interval."""

    subject: Subject
    judgement: Judgement


Step = Built | Booted | Taken | Trouble | Chosen | Decided


class Journal:
    """The file of steps; ``steps`` are those that count by now, read again or new.

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
        """Whether steps of an earlier process are still to be taken."""
        return self._at < len(self._earlier)

    def take(self, like: Step) -> Step | None:
        """The earlier step that stands where this one is about to be made; ``None`` where there is none.

        :param like: a step of the same kind and subject, whatever else it holds.
        :raises UserError: the journal went another way here.
        """
        while self.resumed and isinstance(self._earlier[self._at], Trouble):
            self._keep()
        if not self.resumed:
            return None
        found = self._earlier[self._at]
        if _what(found) != _what(like):
            raise UserError(
                f"{self._path}: step {self._at + 1} is not what this orchestrate would do there",
                remedy="Go on with the version that began it, or begin again: kernels are kept.",
            )
        return self._keep()

    def _keep(self) -> Step:
        found = self._earlier[self._at]
        self._at += 1
        self.steps.append(found)
        return found

    def add(self, step: Step) -> None:
        """Write a step down; it is on disk when this returns.

        :raises InfraError: it cannot be written.
        """
        assert not self.resumed
        try:
            with self._path.open("ab", buffering=0) as stream:
                stream.write(msgspec.json.encode(step) + b"\n")
                os.fsync(stream.fileno())
        except OSError as error:
            raise InfraError(
                f"{self._path}: {error.strerror}", remedy="Free some space, and go on with --resume."
            ) from error
        self.steps.append(step)


def _what(step: Step) -> tuple[object, ...]:
    if isinstance(step, Booted):
        return (Booted, step.subject, step.number)
    return (type(step),) if isinstance(step, Chosen) else (type(step), step.subject)


def _read(path: Path) -> list[Step]:
    """The steps of an earlier process. The last line is dropped from the file if it is torn."""
    found: list[Step] = []
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found.append(msgspec.json.decode(line, type=Step))
            except msgspec.MsgspecError as error:
                raise UserError(f"{path}:{number}: {error}", remedy="Begin a new bisect.") from error
    return found
