# SPDX-License-Identifier: GPL-2.0-only
"""The health of a cell's guest between programs: the program before is to blame for what got worse.

Trouble that may be temporary (a process about to exit, memory freed later) is checked again for a while
before it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from orchestrator.cell.program import ProgramResult
from orchestrator.cell.state import CellState
from orchestrator.core.text import clean
from orchestrator.evidence import health
from orchestrator.evidence.collect import HangReport
from orchestrator.evidence.health import State, Trouble
from orchestrator.kernel import flavor
from orchestrator.results.model import GRAVITY, Blame, Case, Verdict
from orchestrator.splat.scanner import Kind
from orchestrator.vm.machine import Guest
from orchestrator.vm.rootfs.overlay import LOOKER

#: Seconds to wait for what may pass, on a machine of reference speed.
PASSING_S = 4.0
_AGAIN_S = 0.5
_LOOK_S = 20.0
_DEBUG = "/sys/kernel/debug"
#: A leak is reported once it is 5 s old and two scans have found no pointer to it.
_SCAN = f"cd {_DEBUG} && echo scan > kmemleak && sleep 6 && echo scan > kmemleak"
_SCAN_S = 120.0
_LEAK_BYTES = 1 << 18
_OFF = "lockdep had turned itself off"


def state(guest: Guest) -> State:
    """The state of the guest at this moment.

    :raises Lost: it does not answer.
    """
    output = guest.ssh.raw(str(LOOKER), limit_s=_LOOK_S * guest.factor, death=guest.death)
    return health.parse_state(clean(output))


def leakless(cell: CellState, guest: Guest) -> None:
    """Forget the leaks of the boot, where kmemleak is to show those of programs.

    :raises Lost: the guest does not answer.
    """
    if not flavor.kmemleak(cell.inputs.choices.flavors):
        return
    mount = "mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null"
    guest.ssh.raw(
        f"{mount}; {_SCAN}; cd {_DEBUG} && echo clear > kmemleak && echo scan=off > kmemleak",
        limit_s=_SCAN_S * guest.factor,
        death=guest.death,
    )


def _leaks(cell: CellState, guest: Guest) -> tuple[Trouble, ...]:
    if not flavor.kmemleak(cell.inputs.choices.flavors):
        return ()
    with cell.watch.ignoring(Kind.KMEMLEAK):
        output = guest.ssh.raw(
            f"{_SCAN}; head -c {_LEAK_BYTES} {_DEBUG}/kmemleak; echo clear > {_DEBUG}/kmemleak",
            limit_s=_SCAN_S * guest.factor,
            death=guest.death,
        )
    return health.leaks(output)


def check(
    cell: CellState, guest: Guest, result: ProgramResult, case_id: str, hang: Callable[[], HangReport]
) -> ProgramResult:
    """A program's result, with the damage that it did to its guest.

    :param hang: examines a hang; called if the program left processes that cannot be killed.
    :raises Lost: the guest does not answer any more.
    """
    before = cell.health
    after, troubles = _settled(cell, guest, before)
    troubles = (*troubles, *health.negative(cell.watch.negative()), *_leaks(cell, guest))
    explained = any(c.verdict is Verdict.CRASH for c in result.cases) or cell.watch.waits()
    # a program that ran out of time was examined then
    late = any(c.id == case_id and c.verdict is Verdict.TIMEOUT for c in result.cases)
    cases = list(result.cases)
    for trouble in troubles:
        if trouble.verdict is Verdict.CRASH and explained:
            continue
        if trouble.stuck and not late:
            trouble = _explained(trouble, hang())
        cases = _with(cases, case_id, trouble)
    if words := health.tainted_by_userland(before, after, _own_taint(cell)):
        cases = [_noted(case, words) if case.id == case_id else case for case in cases]
    cases = _without_lockdep(cell, cases, case_id, before.lockdep, after.lockdep)
    cell.health = after
    return msgspec.structs.replace(result, cases=tuple(cases))


def _settled(cell: CellState, guest: Guest, before: State) -> tuple[State, tuple[Trouble, ...]]:
    own_taint = _own_taint(cell)
    until = time.monotonic() + PASSING_S * guest.factor
    while True:
        after = state(guest)
        troubles = health.troubles(before, after, own_taint=own_taint)
        if not any(t.passing for t in troubles) or time.monotonic() > until:
            return after, troubles
        time.sleep(_AGAIN_S)


def _own_taint(cell: CellState) -> int:
    # orchestrate's module is out of tree and not signed
    return health.OUT_OF_TREE if flavor.module(cell.inputs.choices.flavors) else 0


def _explained(trouble: Trouble, hang: HangReport) -> Trouble:
    return msgspec.structs.replace(
        trouble,
        reason="; ".join(word for word in (trouble.reason, hang.reason) if word),
        detail="\n\n".join(text for text in (hang.detail, trouble.detail) if text),
    )


def _with(cases: list[Case], case_id: str, trouble: Trouble) -> list[Case]:
    """The cases with a trouble added to the program's own; the graver of the two is its verdict."""
    case = Case(
        id=case_id,
        verdict=trouble.verdict,
        blame=trouble.blame,
        reason=trouble.reason,
        detail=trouble.detail,
        fingerprint=trouble.fingerprint,
        log=next((c.log for c in cases if c.log), ""),
    )
    own = next((c for c in cases if c.id == case_id), None)
    if own is not None and own.verdict is not Verdict.PASS:
        # the time-out and the stuck process are the same hang
        same = trouble.stuck and own.verdict is Verdict.TIMEOUT
        graver, other = (own, case) if same or _grave(own) <= _grave(case) else (case, own)
        fingerprints = dict.fromkeys((*graver.fingerprints(), *other.fingerprints()))
        case = msgspec.structs.replace(
            graver,
            log=own.log,
            further_fingerprints=tuple(f for f in fingerprints if f != graver.fingerprint),
            detail="\n\n".join(t for t in (graver.detail, f"Also: {other.reason}", other.detail) if t),
        )
    if own is not None:
        case = msgspec.structs.replace(case, duration_s=own.duration_s)
    return [c for c in cases if c is not own] + [case]


def _noted(case: Case, taint: str) -> Case:
    """A case with a note about its own taint, which changes no verdict."""
    note = f"it tainted the kernel: {taint}"
    return msgspec.structs.replace(case, detail="\n\n".join(text for text in (case.detail, note) if text))


def _grave(case: Case) -> int:
    return GRAVITY.index(case.verdict)


def _without_lockdep(
    cell: CellState, cases: list[Case], case_id: str, before: bool | None, after: bool | None
) -> list[Case]:
    """A case that passed while lockdep was off, in a kernel that has it, proves nothing."""
    if after is not False:
        return cases
    unchecked = cell.watch.after_first_splat(case_id) if before else None
    return [
        msgspec.structs.replace(c, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=_OFF)
        if c.verdict is Verdict.PASS and (unchecked is None or c.id in unchecked)
        else c
        for c in cases
    ]
