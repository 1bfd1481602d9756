# SPDX-License-Identifier: GPL-2.0-only
"""What the guest says of itself against what was meant to be booted: any gap or contradiction shows."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.results.model import Blame, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.verdict import proof

BUILD_ID = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"SMP": "y", "PER_VMA_LOCK": "y", "PER_VMA_LOCK_STATS": "y", "NR_CPUS": "64"}


def notes(build_id: str = BUILD_ID) -> bytes:
    raw = bytes.fromhex(build_id)
    other = struct.pack("<III", 6, 4, 0x100) + b"Linux\0\0\0" + b"abcd"
    return other + struct.pack("<III", 4, len(raw), 3) + b"GNU\0" + raw


def config_gz(config: dict[str, str]) -> bytes:
    return gzip.compress("".join(f"CONFIG_{s}={v}\n" for s, v in config.items()).encode(), mtime=0)


#: A guest with per-VMA locks that says all it should.
GOOD = {
    "notes": notes(),
    "config": config_gz(CONFIG),
    "kallsyms": b"ffff0 T schedule\nffff1 T lock_vma_under_rcu\nffff2 T lock_next_vma\n",
    "vmstat": b"pgfault 100\nvma_lock_success 90\nvma_lock_abort 0\n",
    "tainted": b"0\n",
    "cpus": b"2\n",
    "release": b"7.2.1\n",
}
OFF_CONFIG = {"SMP": "y", "NR_CPUS": "64"}
#: The same without.
GOOD_OFF = {
    **GOOD,
    "config": config_gz(OFF_CONFIG),
    "kallsyms": b"ffff0 T schedule\n",
    "vmstat": b"pgfault 100\n",
}


def expected(on: bool = True, **changes: Any) -> proof.Expected:
    locks = proof.Expected(
        build_id=BUILD_ID,
        config=CONFIG if on else OFF_CONFIG,
        variant_on=on,
        tree_class=TreeClass.SELECTABLE,
        smp=2,
    )
    return msgspec.structs.replace(locks, **changes)


def judge(said: dict[str, bytes], on: bool = True, **changes: Any) -> proof.Proof:
    return proof.judge(said, expected(on, **changes))


def test_all_is_shown() -> None:
    found = judge(GOOD)
    assert (found.failures, found.missing, found.tainted, found.cpus) == ([], [], 0, 2)
    assert found.case().verdict is Verdict.PASS
    assert found.properties == {
        "build-id": BUILD_ID,
        "config.gz": "PER_VMA_LOCK=y, as built",
        "kallsyms": "lock_vma_under_rcu present",
        "vmstat": "vma_lock_success=90",
        "vCPUs online": "2",
    }


def test_all_is_shown_without_the_locks() -> None:
    found = judge(GOOD_OFF, on=False)
    assert found.case().verdict is Verdict.PASS
    assert found.properties["kallsyms"] == "lock_vma_under_rcu absent"
    assert found.properties["vmstat"] == "no vma_lock_* counters"


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("section", ["notes", "config", "kallsyms", "vmstat", "tainted", "cpus"])
@pytest.mark.parametrize("what", ["absent", "empty", "garbage"])
def test_every_missing_piece_shows(on: bool, section: str, what: str) -> None:
    said = dict(GOOD if on else GOOD_OFF)
    del said[section]
    if what != "absent":
        said[section] = b"" if what == "empty" else b"\xff\0 garbage\n"
    case = judge(said, on).case()
    assert (case.verdict, case.blame) == (Verdict.INCONCLUSIVE, Blame.INFRA)
    assert case.reason


@pytest.mark.parametrize(
    ("on", "section", "content", "reason"),
    [
        (True, "notes", notes("ff" * 20), "another kernel is running: build-id ffffffffffff"),
        (True, "notes", notes()[:-1], "not shown: build-id"),
        (True, "config", config_gz({**CONFIG, "NR_CPUS": "8"}), "NR_CPUS (64 built, 8 running)"),
        (True, "config", config_gz({**CONFIG, "MORE": "y"}), "MORE (n built, y running)"),
        (True, "config", config_gz(CONFIG)[:-20], "config.gz"),
        (True, "config", config_gz(OFF_CONFIG), "PER_VMA_LOCK (y built, n running)"),
        (True, "kallsyms", b"ffff0 T schedule\n", "lock_vma_under_rcu is absent"),
        (True, "kallsyms", b"ffff1 T lock_vma_under_rcu\n", "kallsyms names no function at all"),
        (False, "kallsyms", GOOD["kallsyms"], "lock_vma_under_rcu is present"),
        (True, "vmstat", b"pgfault 100\nvma_lock_success 0\n", "no page fault was served under a VMA's lock"),
        (True, "vmstat", b"pgfault 100\n", "no page fault was served under a VMA's lock"),
        (False, "vmstat", GOOD["vmstat"], "counts vma_lock_* without"),
        (False, "vmstat", b"pgfault 1\nvma_lock_success 0\n", "counts vma_lock_* without"),
        (True, "cpus", b"1\n", "2 CPUs requested, 1 online"),
        (True, "cpus", b"4\n", "2 CPUs requested, 4 online"),
    ],
)
def test_every_contradiction_shows(on: bool, section: str, content: bytes, reason: str) -> None:
    case = judge({**(GOOD if on else GOOD_OFF), section: content}, on).case()
    assert (case.verdict, case.blame) == (Verdict.INCONCLUSIVE, Blame.INFRA)
    assert reason in case.reason


def test_the_classic_mistake_the_other_variants_image() -> None:
    case = judge({**GOOD_OFF, "notes": notes("ee" * 20)}).case()
    for word in ("another kernel", "config.gz differs", "is absent", "no page fault"):
        assert word in case.reason


def test_trees_without_the_choice_have_no_counters_to_show() -> None:
    said = {**GOOD, "vmstat": b""}
    assert judge(said, tree_class=TreeClass.UNIVERSAL).case().verdict is Verdict.PASS
    assert (
        judge({**GOOD_OFF, "vmstat": b""}, False, tree_class=TreeClass.ABSENT).case().verdict is Verdict.PASS
    )


def test_taint_is_read() -> None:
    assert judge({**GOOD, "tainted": b"512\n"}).tainted == 512


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"CONFIG_A=y\n" * 4_000_000)
    assert judge({**GOOD, "config": bomb}).case().verdict is Verdict.INCONCLUSIVE


SECTIONS = [*GOOD, "other"]
hostile = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(list(GOOD.values())),
    st.binary(max_size=40).map(lambda b: notes()[:20] + b),
    st.binary(max_size=200).map(gzip.compress),
    st.text(max_size=50).map(lambda t: gzip.compress(f"CONFIG_{t}={t}".encode(errors="replace"))),
    st.integers().map(lambda n: f"{n}\n".encode()),
    st.text("0123456789٣²\n ", max_size=30).map(str.encode),
)


@given(st.dictionaries(st.sampled_from(SECTIONS), hostile), st.booleans(), st.sampled_from(TreeClass))
def test_no_bytes_break_it_or_prove_anything(said: dict[str, bytes], on: bool, age: TreeClass) -> None:
    found = judge(said, on, tree_class=age)
    case = found.case()
    needed = {"notes", "config", "kallsyms", "tainted", "cpus"}
    if not needed <= set(said):
        assert case.verdict is Verdict.INCONCLUSIVE
    assert case.reason or case.verdict is Verdict.PASS


class Answering:
    """A guest whose answer is given, or what the host's own shell makes of the script."""

    factor = 1.0

    def __init__(self, answer: bytes | None) -> None:
        self.ssh = self
        self._answer = answer

    def death(self) -> str:
        return ""

    def raw(self, script: str, **_: object) -> bytes:
        if self._answer is not None:
            return self._answer
        return subprocess.run(["sh", "-c", script], capture_output=True, check=False).stdout


def prove(answer: bytes | None) -> proof.Proof:
    return proof.prove(Answering(answer), expected())  # type: ignore[arg-type]


def test_the_script_runs_in_a_shell() -> None:
    """This host is another kernel: that is what must come out."""
    found = prove(None)
    assert found.case().verdict is Verdict.INCONCLUSIVE
    assert found.cpus == os.cpu_count()
    assert found.tainted >= 0


@given(
    st.one_of(
        st.binary(),
        st.lists(st.tuples(st.sampled_from(SECTIONS), st.binary())).map(
            lambda parts: b"".join(b"@@" + name.encode() + b"\n" + body for name, body in parts)
        ),
    )
)
def test_no_answer_breaks_it(answer: bytes) -> None:
    assert prove(answer).case().verdict is Verdict.INCONCLUSIVE
