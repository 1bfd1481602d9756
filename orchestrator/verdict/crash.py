# SPDX-License-Identifier: GPL-2.0-only
"""What the console says while programs run, made into cases: it overrules whatever a program prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.vm.ssh import Mark

_DETAIL_LIMIT = 16384
_MARK = re.compile(r"orchestrate: (?:begin|end) \S")


class Finding(Protocol):
    """A splat, as far as a verdict needs it."""

    @property
    def title(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def excerpt(self) -> tuple[str, ...]: ...


class Sighting(Protocol):
    """A splat, whose fault it is, and which program and case ran at its place on the console.

    Where none ran, ``after`` is the program that had ended last; empty: none had begun.
    """

    @property
    def finding(self) -> Finding: ...
    @property
    def blame(self) -> Blame: ...
    @property
    def program(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def after(self) -> str: ...


class Watch(Protocol):
    """The console's watcher: what burned since it was last asked."""

    def expect(self, mark: Mark) -> None:
        """A program begins, with these marks on the console."""
        ...

    def ended(self, timeout_s: float) -> bool:
        """Whether the mark of its end is there; waits for it where marks are shown at all."""
        ...

    def take(self, within: str = "") -> Sequence[Sighting]:
        """What burned since the last call; ``within``: but not behind the end of this program."""
        ...


def burned(case_id: str, watch: Watch) -> Case | None:
    """What the console says since it was last asked, as a case; ``None`` where it is silent."""
    return crash(case_id, watch.take())


def crash(case_id: str, seen: Sequence[Sighting]) -> Case | None:
    """Some sightings as one case; ``None`` of none."""
    if not seen:
        return None
    first = next((s for s in seen if s.blame is Blame.KERNEL), seen[0])
    more = f" (and {len(seen) - 1} more)" if len(seen) > 1 else ""
    return Case(
        id=case_id,
        verdict=Verdict.CRASH if first.blame is Blame.KERNEL else Verdict.INCONCLUSIVE,
        blame=first.blame,
        reason=f"{first.finding.title}{more}",
        detail="\n".join(line for line in first.finding.excerpt if not _MARK.search(line))[:_DETAIL_LIMIT],
        fingerprint=first.finding.fingerprint,
    )


def apart(case_id: str, watch: Watch) -> tuple[list[Sighting], list[Sighting]]:
    """What burned while the program ran, and what had burned before it."""
    seen = watch.take(case_id)
    return [s for s in seen if s.program == case_id], [s for s in seen if s.program != case_id]


def before(seen: Sequence[Sighting]) -> Case | None:
    """What had burned before a program, as a case of the one before it, or of the boot."""
    where = [s.program or s.after or "boot" for s in seen]
    return crash(where[0], [s for s, w in zip(seen, where, strict=True) if w == where[0]]) if seen else None


def burn(
    cases: Sequence[Case], case_id: str, seen: Sequence[Sighting], *, keep: Case | None
) -> tuple[list[Case], bool]:
    """The cases, of which those that burned are what the console says: whatever the program printed.

    :param keep: stands whatever burned.
    """
    found = list(cases)
    wheres = dict.fromkeys(s.case or case_id for s in seen)
    for where in wheres:
        burning = crash(where, [s for s in seen if (s.case or case_id) == where])
        said = next((c for c in found if c.id == where), None)
        if burning is None or (said is not None and said is keep):
            continue
        if said is not None and said.reason:
            printed = f"{burning.detail}\n\nThe program said: {said.verdict}: {said.reason}\n{said.detail}"
            burning = msgspec.structs.replace(burning, detail=printed[:_DETAIL_LIMIT])
        if said is not None:
            burning = msgspec.structs.replace(burning, duration_s=said.duration_s)
        found = [c for c in found if c is not said] + [burning]
    return found, bool(wheres)
