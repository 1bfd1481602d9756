# SPDX-License-Identifier: GPL-2.0-only
"""Builds and boots through the journal: each is taken from it if it is there, else done and written down."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec

from orchestrator.bisect.journal import Booted, Built, Chosen, Decided, Journal, Subject, Taken, Trouble
from orchestrator.bisect.oracle import Boot, Oracle
from orchestrator.bisect.predicate import CaseFails, Judgement, Kind, Predicate, of_boot
from orchestrator.core.errors import InfraError
from orchestrator.results.model import CellResult

#: How often the host may fail the same thing before the bisect stops.
_ATTEMPTS = 3

Say = Callable[[str], None]
_T = TypeVar("_T")


class Bench:
    """The steps of one bisect; all that it knows it has from them.

    ``predicate`` may be made narrower once the ends are known.
    """

    def __init__(self, journal: Journal, oracle: Oracle, predicate: Predicate, say: Say) -> None:
        self.journal = journal
        self.oracle = oracle
        self.predicate = predicate
        self.say = say
        self._built: dict[Subject, Built] = {}
        self._boots: Counter[Subject] = Counter()

    def build(self, subject: Subject) -> Built:
        """The kernel of a subject, or why there is none.

        :raises InfraError: the host failed it again and again.
        """
        if subject in self._built:
            return self._built[subject]
        found = self.journal.take(Built(subject=subject))
        if not isinstance(found, Built):
            self.say(f"{subject.name}: building")
            found = self._insisting(subject, lambda: self.oracle.build(subject))
            self.journal.add(found)
        self._built[subject] = found
        if found.error:
            self.say(f"{subject.name}: {found.error}")
        return found

    def boot(self, subject: Subject, why: str) -> Booted:
        """One more boot of a kernel that was built, and what it says: never INFRA.

        :raises InfraError: the host failed it again and again.
        """
        number = self._boots[subject] + 1
        self._boots[subject] = number
        like = Booted(subject=subject, number=number, why=why, judgement=Judgement(kind=Kind.WEAK))
        found = self.journal.take(like)
        if not isinstance(found, Booted):
            found = self._boot(like)
            self.journal.add(found)
        said = f": {found.judgement.reason}" if found.judgement.reason else ""
        value = f" {found.judgement.value:g}" if found.judgement.value is not None else ""
        self.say(f"{subject.name}: boot {number} ({why}): {value or found.judgement.kind.value}{said}")
        return found

    def _boot(self, like: Booted) -> Booted:
        def attempt() -> Booted:
            boot: Boot = self.oracle.boot(like.subject, like.number, self._case())
            judgement = of_boot(self.predicate, boot.result)
            if judgement.kind is Kind.INFRA:
                self.oracle.discard(like.subject, like.number)
                raise InfraError(judgement.reason)
            return msgspec.structs.replace(like, judgement=judgement, run=boot.run, seconds=boot.seconds)

        return self._insisting(like.subject, attempt)

    def _insisting(self, subject: Subject, work: Callable[[], _T]) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except InfraError as error:
                self.journal.add(Trouble(subject=subject, reason=error.message))
                self.say(f"{subject.name}: the host's trouble: {error.message}")
                if attempt == _ATTEMPTS:
                    raise InfraError(
                        f"{subject.name}: {_ATTEMPTS} times: {error.message}",
                        remedy=f"{error.remedy + ' ' if error.remedy else ''}Then go on with --resume.",
                    ) from error
        raise AssertionError

    def take_over(self, subject: Subject, same: Subject) -> None:
        """Write down that a kernel is another's."""
        step = Taken(subject=subject, same=same)
        if self.journal.take(step) is None:
            self.journal.add(step)
        self.say(f"{subject.name}: its kernel is that of {same.name}, byte for byte")

    def decided(self, subject: Subject, judgement: Judgement) -> Judgement:
        """Write down what several boots came to together."""
        step = Decided(subject=subject, judgement=judgement)
        if self.journal.take(step) is None:
            self.journal.add(step)
        self.say(f"{subject.name}: {judgement.kind.value}: {judgement.reason}")
        return judgement

    def choose(self, decide: Callable[[], str]) -> str:
        """Which cases are looked at, decided once."""
        found = self.journal.take(Chosen(pattern=""))
        if not isinstance(found, Chosen):
            found = Chosen(pattern=decide())
            self.journal.add(found)
        return found.pattern

    def results(self, subject: Subject) -> list[CellResult]:
        """What the boots of a subject gave so far: all of it, or what the cases asked for need."""
        numbers = range(1, self._boots[subject] + 1)
        return [self.oracle.boot(subject, number, self._case()).result for number in numbers]

    def _case(self) -> str:
        """The pattern of the cases that are looked at; empty where it is all of them."""
        return self.predicate.pattern if isinstance(self.predicate, CaseFails) else ""

    def twin(self, built: Built) -> Subject | None:
        """The first one built whose kernel is the same."""
        for subject, other in self._built.items():
            if subject != built.subject and built.image and other.image == built.image:
                return subject
        return None

    def is_built(self, subject: Subject) -> bool:
        """Whether it was built by the bisect."""
        return subject in self._built

    def boots(self, subject: Subject) -> int:
        """How often it was booted."""
        return self._boots[subject]

    def boot_minutes(self, otherwise: float) -> float:
        """What a boot takes: the median of those done."""
        return self._minutes([s.seconds for s in self.journal.steps if isinstance(s, Booted)], otherwise)

    def build_minutes(self, otherwise: float) -> float:
        """What a build takes: the median of those after the first, which had nothing to build upon."""
        done = [s.seconds for s in self.journal.steps if isinstance(s, Built) and s.image and not s.cached]
        return self._minutes(done[1:], otherwise)

    @staticmethod
    def _minutes(seconds: list[float], otherwise: float) -> float:
        return max(statistics.median(seconds) / 60, 1e-3) if seconds else otherwise
