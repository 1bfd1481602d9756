# SPDX-License-Identifier: GPL-2.0-only
"""A guest that does what it is told, with the watcher that is real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.vm.ssh import Futile, Lost, Ran, Silent, Trailer, Unreported

#: What stands for the class of a loss.
_LOSSES = {"no answer": Silent, "no report": Unreported}


class FakeConsole:
    def __init__(self, watch: ConsoleWatch, says: bytes) -> None:
        self._watch, self._says = watch, says

    def settle(self) -> None:
        """What was printed is in only after this."""
        self._watch.feed(self._says)

    def tail(self, lines: int = 12) -> list[str]:
        return ["last line"]


class FakeGuest:
    """``facts`` and streams are what its program gives, ``lost`` what happens in place of that.

    ``answers``: it accepts another connection afterwards. A program that the watcher need not wait for is
    ended.

    ``marked`` is what its console says while the program runs; FIRST and SECOND are the words of its marks.
    """

    def __init__(
        self,
        *,
        out: bytes = b"",
        err: bytes = b"",
        lost: str = "",
        dead: str = "",
        says: bytes = b"",
        marked: bytes = b"",
        answers: bool = False,
        **facts: object,
    ) -> None:
        self.factor = 2.0
        self.watch = ConsoleWatch()
        self.console = FakeConsole(self.watch, says)
        self.asked: dict[str, Any] = {}
        self._lost, self._dead, self._marked, self._can_answer = lost, dead, marked, answers
        given = {"exit": 0, **facts} if not {"signal", "exec_error"} & set(facts) else facts
        self._ran = Ran((), out, err, Trailer(**{"wall_ms": 3000, **given}))  # type: ignore[arg-type]

    def run(self, argv: Sequence[str], **options: Any) -> Ran:
        self.asked = {"argv": list(argv), **options}
        mark = options["mark"]
        self.watch.feed(
            self._marked.replace(b"FIRST", mark.first.encode()).replace(b"SECOND", mark.second.encode())
        )
        if self._ran.facts.timeout and options["late"]:
            options["late"].look()
        if why := options["futile"]():
            futile = Futile(why)
            futile.stdout = self._ran.stdout
            raise futile
        if self._lost:
            lost = _LOSSES.get(self._lost, Lost)(self._lost)
            lost.stdout = self._ran.stdout
            raise lost
        return self._ran

    def connect(self, timeout_s: float) -> None:
        if not self._can_answer:
            raise Lost("no answer")

    def death(self) -> str:
        return self._dead

    @property
    def panicked(self) -> bool:
        return self._dead.startswith("the guest ")
