# SPDX-License-Identifier: GPL-2.0-only
"""Builds and boots of a bisect. Each is replayed from the journal, or executed and appended to it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec

from orchestrator.bisect.journal import (
    BootStep,
    BuildStep,
    ChoiceStep,
    DecisionStep,
    Journal,
    Subject,
    TroubleStep,
    TwinStep,
)
from orchestrator.bisect.oracle import Boot, Oracle
from orchestrator.bisect.predicate import CaseFails, Judgement, Kind, Predicate, of_boot
from orchestrator.core.errors import InfraError
from orchestrator.results.model import CellResult

#: How often the host may fail the same thing before the bisect stops.
_ATTEMPTS = 3

Say = Callable[[str], None]
_T = TypeVar("_T")


class Recorder:
    """The steps of one bisect, and what follows from them.

    ``predicate`` may become narrower once the ends are known.
    """

    def __init__(self, journal: Journal, oracle: Oracle, predicate: Predicate, say: Say) -> None:
        self.journal = journal
        self.oracle = oracle
        self.predicate = predicate
        self.say = say
        self._builds: dict[Subject, BuildStep] = {}
        self._boots: Counter[Subject] = Counter()

    def build(self, subject: Subject) -> BuildStep:
        """The kernel of a subject, or why there is none.

        :raises InfraError: the host failed it each time.
        """
        if subject in self._builds:
            return self._builds[subject]
        step = self.journal.take(BuildStep(subject=subject))
        if not isinstance(step, BuildStep):
            self.say(f"{subject.name}: building")
            step = self._with_retries(subject, lambda: self.oracle.build(subject))
            self.journal.add(step)
        self._builds[subject] = step
        if step.error:
            self.say(f"{subject.name}: {step.error}")
        return step

    def boot(self, subject: Subject, why: str) -> BootStep:
        """Boot a kernel that was built once more, and judge the boot. The judgement is never INFRA.

        :raises InfraError: the host failed it each time.
        """
        number = self._boots[subject] + 1
        self._boots[subject] = number
        like = BootStep(subject=subject, number=number, why=why, judgement=Judgement(kind=Kind.WEAK))
        step = self.journal.take(like)
        if not isinstance(step, BootStep):
            step = self._boot(like)
            self.journal.add(step)
        judgement = step.judgement
        reason = f": {judgement.reason}" if judgement.reason else ""
        value = f" {judgement.value:g}" if judgement.value is not None else ""
        self.say(f"{subject.name}: boot {number} ({why}): {value or judgement.kind.value}{reason}")
        return step

    def _boot(self, like: BootStep) -> BootStep:
        def attempt() -> BootStep:
            boot: Boot = self.oracle.boot(like.subject, like.number, self._case())
            judgement = of_boot(self.predicate, boot.result)
            if judgement.kind is Kind.INFRA:
                self.oracle.discard(like.subject, like.number)
                raise InfraError(judgement.reason)
            return msgspec.structs.replace(like, judgement=judgement, run=boot.run, seconds=boot.seconds)

        return self._with_retries(like.subject, attempt)

    def _with_retries(self, subject: Subject, work: Callable[[], _T]) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except InfraError as error:
                self.journal.add(TroubleStep(subject=subject, reason=error.message))
                self.say(f"{subject.name}: host trouble: {error.message}")
                if attempt == _ATTEMPTS:
                    raise InfraError(
                        f"{subject.name}: failed {_ATTEMPTS} times: {error.message}",
                        remedy=f"{error.remedy + ' ' if error.remedy else ''}Continue with --resume.",
                    ) from error
        raise AssertionError

    def record_twin(self, subject: Subject, twin: Subject) -> None:
        """Record that a kernel equals another one."""
        step = TwinStep(subject=subject, twin=twin)
        if self.journal.take(step) is None:
            self.journal.add(step)
        self.say(f"{subject.name}: the same kernel as {twin.name}, byte for byte")

    def record_decision(self, subject: Subject, judgement: Judgement) -> Judgement:
        """Record the judgement of several boots together."""
        step = DecisionStep(subject=subject, judgement=judgement)
        if self.journal.take(step) is None:
            self.journal.add(step)
        self.say(f"{subject.name}: {judgement.kind.value}: {judgement.reason}")
        return judgement

    def choose(self, decide: Callable[[], str]) -> str:
        """The pattern of the cases to look at, decided once."""
        step = self.journal.take(ChoiceStep(pattern=""))
        if not isinstance(step, ChoiceStep):
            step = ChoiceStep(pattern=decide())
            self.journal.add(step)
        return step.pattern

    def results(self, subject: Subject) -> list[CellResult]:
        """The results of a subject's boots so far, restricted to the cases of the predicate."""
        numbers = range(1, self._boots[subject] + 1)
        return [self.oracle.boot(subject, number, self._case()).result for number in numbers]

    def _case(self) -> str:
        """The pattern of the cases to look at; empty for all."""
        return self.predicate.pattern if isinstance(self.predicate, CaseFails) else ""

    def twin(self, built: BuildStep) -> Subject | None:
        """The first subject with the same kernel."""
        for subject, other in self._builds.items():
            if subject != built.subject and built.image and other.image == built.image:
                return subject
        return None

    def is_built(self, subject: Subject) -> bool:
        """Whether the bisect has built it."""
        return subject in self._builds

    def boots(self, subject: Subject) -> int:
        """The number of its boots."""
        return self._boots[subject]

    def boot_minutes(self, otherwise: float) -> float:
        """The median duration of the boots so far."""
        return self._minutes([s.seconds for s in self.journal.steps if isinstance(s, BootStep)], otherwise)

    def build_minutes(self, otherwise: float) -> float:
        """The median duration of the builds so far, without the first, which was not incremental."""
        seconds = [
            s.seconds for s in self.journal.steps if isinstance(s, BuildStep) and s.image and not s.cached
        ]
        return self._minutes(seconds[1:], otherwise)

    @staticmethod
    def _minutes(seconds: list[float], otherwise: float) -> float:
        return max(statistics.median(seconds) / 60, 1e-3) if seconds else otherwise
