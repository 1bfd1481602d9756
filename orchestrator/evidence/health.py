# SPDX-License-Identifier: GPL-2.0-only
"""What small files of a guest say about the kernel's health: taint, `/proc/vmstat`, `/proc/lockdep_stats`.

The taint mask is the catch-all: it tells that something went wrong even where the console scanner does
not know the words. The files come from a hostile guest, so lines that are not as expected are left out.
"""

from __future__ import annotations

import re

#: What each bit of `/proc/sys/kernel/tainted` says; the letter is the one in a splat's ``Tainted:`` line.
#: Source: Documentation/admin-guide/tainted-kernels.rst.
TAINT_BITS: tuple[str, ...] = (
    "P: proprietary module",
    "F: module loaded by force",
    "S: processor or system out of specification",
    "R: module unloaded by force",
    "M: machine check",
    "B: bad page or page flags",
    "U: set by user space",
    "D: oops or BUG",
    "A: ACPI table overridden",
    "W: warning",
    "C: staging driver",
    "I: workaround for broken firmware",
    "O: out-of-tree module",
    "E: unsigned module",
    "L: soft lockup",
    "K: live patch",
    "X: auxiliary, set by the distribution",
    "T: built with randomised structures",
    "N: in-kernel test",
    "J: mutating debug operation by user space",
)

#: What loading a module of ours leaves in the mask: out of the tree, and not signed.
OUT_OF_TREE = 1 << 12 | 1 << 13

_VMSTAT = re.compile(r"^([A-Za-z_]\w{0,99}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_DEBUG_LOCKS = re.compile(r"^\s*debug_locks:\s+(\d{1,9})\s*$", re.ASCII | re.MULTILINE)
_MAX_CHARS = 256 * 1024


def taint_reasons(mask: int) -> tuple[str, ...]:
    """The reasons in a taint mask, lowest bit first; a bit without a name is ``bit N``.

    :raises ValueError: for a negative mask, which no kernel gives.
    """
    if mask < 0:
        raise ValueError(f"a taint mask is not negative: {mask}")
    return tuple(
        TAINT_BITS[bit] if bit < len(TAINT_BITS) else f"bit {bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )


def new_taint(before: int, after: int) -> tuple[str, ...]:
    """The reasons that are in ``after`` but were not in ``before``."""
    return taint_reasons(after & ~before)


def parse_vmstat(text: str) -> dict[str, int]:
    """Counters of `/proc/vmstat` by name, as they stand there (pages or events); odd lines are left out."""
    return {name: int(value) for name, value in _VMSTAT.findall(text[:_MAX_CHARS])}


def lockdep_on(text: str) -> bool | None:
    """Whether lockdep still checks, from `/proc/lockdep_stats`; ``None`` if the text does not tell.

    Lockdep turns itself off after its first report: what runs later in that boot is not lock-tested.
    """
    match = _DEBUG_LOCKS.search(text[:_MAX_CHARS])
    return None if match is None else match[1] != "0"
