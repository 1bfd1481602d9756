# SPDX-License-Identifier: GPL-2.0-only
"""What the log of a build comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import InfraError, KernelError, OrchestrateError
from orchestrator.core.process import Outcome
from orchestrator.kernel import build_log

ENDED = Outcome(2, None, "ended")


@pytest.mark.parametrize(
    ("text", "outcome", "error", "message"),
    [
        ("/tree/mm/a.c:4:16: error: no\n", ENDED, KernelError, "here: mm/a.c:4:16: no"),
        (
            "../mm/a.c:4: fatal error: no\nmm/b.c:1:2: error: yes",
            ENDED,
            KernelError,
            "here: mm/a.c:4: no",
        ),
        (
            "In file included from mm/a.c:1:\nmm/a.h:2:3: error: no",
            ENDED,
            KernelError,
            "here: mm/a.h:2:3: no",
        ),
        ("mm/a.c:4:1: warning: no\nodd\nI: x: FAIL\n", ENDED, KernelError, "no | odd"),
        (
            "ld: mm/a.o:(.text+0x5): undefined reference to `b'",
            ENDED,
            KernelError,
            "mm/a.o:(.text+0x5): undefined",
        ),
        (
            'ERROR: modpost: "x" undefined!',
            ENDED,
            KernelError,
            'here: ERROR: modpost: "x" undefined!',
        ),
        (
            "ld.lld: error: undefined symbol: x",
            ENDED,
            KernelError,
            "here: ld.lld: error: undefined symbol: x",
        ),
        ("", ENDED, KernelError, "here: exit status 2"),
        ("sh: 1: flex: not found", ENDED, InfraError, "flex is missing"),
        ("scripts/x.sh: line 3: bc: command not found", ENDED, InfraError, "bc is missing"),
        ("a.c:1:1: error: no\nmake: *** [x] Error 137", ENDED, InfraError, "a build tool was killed"),
        ("make: *** [Makefile:9: x] Killed", ENDED, InfraError, "a build tool was killed"),
        ("cc1: out of memory\nvirtual memory exhausted", ENDED, InfraError, "ran out of memory"),
        ("a.c:1:1: error: half", Outcome(None, 9, "parent"), InfraError, "signal 9 (parent)"),
        ("a.c:1:1: error: half", Outcome(None, 9, "limit"), InfraError, "signal 9 (limit)"),
    ],
)
def test_the_word_of_a_log(
    tmp_path: Path, text: str, outcome: Outcome, error: type[OrchestrateError], message: str
) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(OrchestrateError) as caught:
        build_log.raise_for("here", Path("/tree"), outcome, tmp_path / "log", copy=tmp_path / "kept")
    assert type(caught.value) is error
    assert message in caught.value.message
    assert str(tmp_path / "kept") in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "outcome", "whole"),
    [
        ("mm/a.c:4:16: error: no\n", ENDED, True),
        ("mm/a.c:4:16: error: no\n", Outcome(None, 9, "limit"), False),
        ("mm/a.c:4:16: error: no\nmake: *** [x] Error 137", ENDED, False),
        ("make: *** [x] Error 2", ENDED, False),
    ],
)
def test_what_ended_of_a_compile_error_alone(
    tmp_path: Path, text: str, outcome: Outcome, whole: bool
) -> None:
    (tmp_path / "log").write_text(text)
    assert build_log.is_compile_error(outcome, tmp_path / "log", Path("/tree")) is whole


def test_how_far_a_build_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert build_log.objects(log) == 0
    log.write_text("  CC      mm/a.o\n  LD      mm/built-in.a\n  AS      mm/b.o\n  CC")
    assert build_log.objects(log) == 2
