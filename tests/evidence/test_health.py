# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence.health import (
    OUT_OF_TREE,
    TAINT_BITS,
    State,
    Trouble,
    leaks,
    lockdep_on,
    negative,
    new_taint,
    parse_state,
    parse_vmstat,
    taint_reasons,
    troubles,
)
from orchestrator.results.model import Blame, Verdict


@pytest.mark.parametrize(
    ("mask", "letters"),
    [
        (0, ""),
        (512, "W"),
        (128, "D"),
        (16384, "L"),
        (1 << 5 | 1 << 7 | 1 << 9, "BDW"),
        (1 << 12 | 1 << 13, "OE"),
    ],
)
def test_taint_letters(mask: int, letters: str) -> None:
    assert "".join(reason[0] for reason in taint_reasons(mask)) == letters


def test_every_bit_has_a_name_of_its_own() -> None:
    assert len(TAINT_BITS) == 20
    assert len({name[0] for name in TAINT_BITS}) == 20
    assert taint_reasons((1 << 20) - 1) == TAINT_BITS


def test_bits_of_later_kernels_are_not_lost() -> None:
    assert taint_reasons(1 << 25) == ("bit 25",)


def test_a_negative_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        taint_reasons(-1)


@given(st.integers(0, 2**24), st.integers(0, 2**24))
def test_new_taint_is_what_was_added(before: int, after: int) -> None:
    new = set(new_taint(before, after))
    assert new == set(taint_reasons(after)) - set(taint_reasons(before))


def test_vmstat() -> None:
    text = "nr_free_pages 51234\nvma_lock_success 77\nvma_lock_abort 0\n"
    assert parse_vmstat(text) == {"nr_free_pages": 51234, "vma_lock_success": 77, "vma_lock_abort": 0}


@pytest.mark.parametrize(
    "line",
    ["", "pgfault", "pgfault -1", "pgfault 1 2", "pgfault 0x10", "1 2", "a\x1b[31m 3", "pgfault " + "9" * 40],
)
def test_odd_lines_of_vmstat_are_left_out(line: str) -> None:
    assert parse_vmstat(f"pgpgin 1\n{line}\npgpgout 2\n") == {"pgpgin": 1, "pgpgout": 2}


@pytest.mark.parametrize(
    ("text", "on"),
    [
        (" lock-classes: 900 [max: 8192]\n debug_locks:                             1\n", True),
        (" debug_locks:                             0\n", False),
        ("", None),
        (" debug_locks: yes\n", None),
    ],
)
def test_lockdep_on(text: str, on: bool | None) -> None:
    assert lockdep_on(text) is on


# --- a state, and what is worse than it was ---------------------------------------------------------------

LOOK = """\
@ tainted
0
@ lockdep
 lock-classes:                          900 [max: 8192]
 debug_locks:                             1
@ vmstat
nr_free_pages 100000
nr_anon_pages 700
nr_mlock 0
@ hugepages
hugepages-2048kB 8 8 0
@ holders
2 0
@ tasks
81 81 S do_wait sh
82 82 S do_poll dropbear
"""


def state(*changes: tuple[str, str]) -> State:
    text = LOOK
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_state(text)


def test_a_state_is_read() -> None:
    found = state()
    assert (found.tainted, found.lockdep, found.holders) == (0, True, (2, 0))
    assert found.vmstat["nr_anon_pages"] == 700
    assert found.huge == {"hugepages-2048kB": 0}
    assert [(task.tid, task.comm) for task in found.tasks] == [(81, "sh"), (82, "dropbear")]
    assert troubles(found, found) == ()


STUCK = "81 81 S do_wait sh\n90 91 D __vma_start_exclude_readers bad\n  [<0>] __vma_start_write+0x1/0x2\n"


@pytest.mark.parametrize(
    ("changes", "verdict", "blame", "reason"),
    [
        (
            [("@ tainted\n0", "@ tainted\n512")],
            Verdict.CRASH,
            Blame.KERNEL,
            "the kernel became tainted: W: warning",
        ),
        (
            [("81 81 S do_wait sh\n", STUCK)],
            Verdict.FAIL,
            Blame.KERNEL,
            "it left processes that sleep uninterruptibly: bad in __vma_start_exclude_readers",
        ),
        (
            [("82 82 S", "83 83 R 0 rest\n82 82 S")],
            Verdict.FAIL,
            Blame.TEST,
            "it left running processes: rest",
        ),
        (
            [("hugepages-2048kB 8 8 0", "hugepages-2048kB 8 6 1")],
            Verdict.FAIL,
            Blame.KERNEL,
            "huge pages leaked: 3 of 2048kB have no owner",
        ),
        (
            [("nr_mlock 0", "nr_mlock 1"), ("nr_anon_pages 700", "nr_anon_pages 9000")],
            Verdict.FAIL,
            Blame.KERNEL,
            "counters did not return after its processes had ended: "
            "nr_anon_pages 700 -> 9000, nr_mlock 0 -> 1",
        ),
    ],
)
def test_what_is_worse(changes: list[tuple[str, str]], verdict: Verdict, blame: Blame, reason: str) -> None:
    (trouble,) = troubles(state(), state(*changes))
    assert (trouble.verdict, trouble.blame, trouble.reason) == (verdict, blame, reason)
    # taint stays, all else may still go away
    assert trouble.passing == (verdict is not Verdict.CRASH)


@pytest.mark.parametrize(
    "changes",
    [
        [("82 82 S do_poll dropbear", "99 99 S do_poll dropbear")],
        [("82 82 S do_poll dropbear", "82 82 S do_poll dropbear\n98 98 Z 0 gone")],
        # more are set up, and free; some are in a file that is still there
        [("hugepages-2048kB 8 8 0", "hugepages-2048kB 16 16 0")],
        [("hugepages-2048kB 8 8 0", "hugepages-2048kB 8 6 0"), ("2 0", "3 0")],
        [("nr_anon_pages 700", "nr_anon_pages 900"), ("nr_free_pages 100000", "nr_free_pages 5")],
        [("@ tainted\n0", "@ tainted\n12288")],
        [("@ tainted\n0", "@ tainted\nlots")],
    ],
)
def test_what_is_not(changes: list[tuple[str, str]]) -> None:
    assert troubles(state(), state(*changes), own_taint=OUT_OF_TREE) == ()


def test_a_guest_that_tells_nothing_is_not_accused() -> None:
    assert troubles(state(), parse_state("")) == ()
    assert troubles(parse_state(""), state()) == (
        Trouble(
            verdict=Verdict.FAIL,
            blame=Blame.TEST,
            reason="it left running processes: sh in do_wait",
            passing=True,
        ),
    )


@given(st.text())
def test_no_state_is_too_odd(text: str) -> None:
    troubles(state(), parse_state(LOOK + text))
    troubles(parse_state(text), state())


def test_counters_below_zero() -> None:
    assert negative({}) == ()
    (trouble,) = negative({"nr_mlock": -3, "nr_file_hugepages": -1})
    assert (trouble.verdict, trouble.blame) == (Verdict.FAIL, Blame.KERNEL)
    assert trouble.reason.endswith("below zero: nr_file_hugepages -1, nr_mlock -3")


LEAK = b"""\
unreferenced object 0xffff888004b0a0c0 (size 192):
  comm "mm-stress", pid 123, jiffies 4294902323
  backtrace (crc 5a5a5a5a):
    kmem_cache_alloc_noprof+0x1f5/0x3b0
    vm_area_dup+0x21/0x60
    copy_mm+0x3d1/0x800
"""


def test_what_kmemleak_says() -> None:
    assert leaks(b"") == ()
    (trouble,) = leaks(LEAK * 5)
    assert (trouble.verdict, trouble.blame) == (Verdict.FAIL, Blame.KERNEL)
    assert trouble.reason == "memory leaked, allocated in vm_area_dup (5)"
    assert trouble.fingerprint == leaks(LEAK)[0].fingerprint != ""
    assert "unreferenced object" in trouble.detail
