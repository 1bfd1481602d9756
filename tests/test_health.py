# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence.health import TAINT_BITS, lockdep_on, new_taint, parse_vmstat, taint_reasons


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
