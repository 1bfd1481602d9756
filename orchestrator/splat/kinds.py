# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of kernel reports: the fine `Kind` of a rule, and the coarse `Class` that users filter by."""

from __future__ import annotations

from enum import StrEnum


class Class(StrEnum):
    """What a splat is filed under; a kind belongs to exactly one."""

    KASAN = "kasan"
    KMSAN = "kmsan"
    KCSAN = "kcsan"
    KFENCE = "kfence"
    UBSAN = "ubsan"
    LOCKDEP = "lockdep"
    RCU = "rcu"
    HUNG = "hung"
    LOCKUP = "lockup"
    OOPS = "oops"
    WARNING = "warning"
    BUG = "bug"
    PANIC = "panic"
    LEAK = "leak"
    OTHER = "other"


class Kind(StrEnum):
    """What a rule recognises; part of the fingerprint."""

    PANIC = "panic"
    OOPS = "oops"
    BUG = "bug"
    WARNING = "warning"
    LOCKDEP = "lockdep"
    KASAN = "kasan"
    KCSAN = "kcsan"
    KFENCE = "kfence"
    KMSAN = "kmsan"
    UBSAN = "ubsan"
    RCU_STALL = "rcu-stall"
    RCU_USE = "rcu-use"
    HUNG_TASK = "hung-task"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    LOCKUP = "lockup"
    REFCOUNT = "refcount"
    LIST = "list-corruption"
    SEQ_FILE = "seq-file"
    KMEMLEAK = "kmemleak"
    OOM = "oom"
    OOM_PANIC = "oom-panic"
    FUZZER = "fuzzer"
    REBOOT = "reboot"
    OTHER = "other"


#: The kernel reports a saturated refcount with WARN(), a corrupted list with BUG(), and a buggy .next
#: function with a plain line.
CLASSES: dict[Kind, Class] = {
    Kind.PANIC: Class.PANIC,
    Kind.OOPS: Class.OOPS,
    Kind.BUG: Class.BUG,
    Kind.WARNING: Class.WARNING,
    Kind.LOCKDEP: Class.LOCKDEP,
    Kind.KASAN: Class.KASAN,
    Kind.KCSAN: Class.KCSAN,
    Kind.KFENCE: Class.KFENCE,
    Kind.KMSAN: Class.KMSAN,
    Kind.UBSAN: Class.UBSAN,
    Kind.RCU_STALL: Class.RCU,
    Kind.RCU_USE: Class.RCU,
    Kind.HUNG_TASK: Class.HUNG,
    Kind.SOFT_LOCKUP: Class.LOCKUP,
    Kind.HARD_LOCKUP: Class.LOCKUP,
    Kind.LOCKUP: Class.LOCKUP,
    Kind.REFCOUNT: Class.WARNING,
    Kind.LIST: Class.BUG,
    Kind.SEQ_FILE: Class.BUG,
    Kind.KMEMLEAK: Class.LEAK,
    Kind.OOM: Class.OTHER,
    Kind.OOM_PANIC: Class.PANIC,
    Kind.FUZZER: Class.OTHER,
    Kind.REBOOT: Class.OTHER,
    Kind.OTHER: Class.OTHER,
}
