# SPDX-License-Identifier: GPL-2.0-only
"""What a cell decides without a guest; with one, see test_guests.py."""

from __future__ import annotations

import shlex

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.cell_state import Cell, meaning, not_applicable
from orchestrator.errors import Inconclusive, InfraError, KernelError, OrchestrateError
from orchestrator.plan import CellPlan, Choices, Source
from orchestrator.reproduce import reproduce
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.source.classify import TreeClass
from orchestrator.suites import catalog


@pytest.mark.parametrize(
    ("tree_class", "variant", "moot"),
    [
        (TreeClass.ABSENT, "per-vma-lock", "no per-VMA locks"),
        (TreeClass.ABSENT, "mmap-lock", ""),
        (TreeClass.SELECTABLE, "per-vma-lock", ""),
        (TreeClass.SELECTABLE, "mmap-lock", ""),
        (TreeClass.UNIVERSAL, "per-vma-lock", ""),
        (TreeClass.UNIVERSAL, "mmap-lock", "universally"),
    ],
)
def test_question_that_does_not_arise(tree_class: TreeClass, variant: str, moot: str) -> None:
    assert moot in not_applicable(tree_class, variant)
    assert bool(not_applicable(tree_class, variant)) == bool(moot)


@pytest.mark.parametrize(
    ("error", "verdict", "blame"),
    [
        (KernelError("x"), Verdict.FAIL, Blame.KERNEL),
        (Inconclusive("x"), Verdict.INCONCLUSIVE, Blame.INFRA),
        (InfraError("x"), Verdict.ERROR, Blame.INFRA),
    ],
)
def test_meaning_of_errors(error: OrchestrateError, verdict: Verdict, blame: Blame) -> None:
    assert meaning(error) == (verdict, blame)


def test_reproducer_is_a_command_that_the_tool_understands() -> None:
    plan = CellPlan(
        id="c", label="7.2", arch="arm64", variant="mmap-lock", suites=("maps",), smp=3, mem_mib=600, boot=2
    )
    choices = Choices(
        arches=("arm64",),
        variants=("mmap-lock",),
        kconfig=("CONFIG_A=y",),
        toolchain="gcc-12",
        accel="tcg",
        cmdline=("nokaslr",),
    )
    source = Source(spec="/no/my linux", label="7.2", patches=("/no/a.mbox",))
    script = reproduce(plan, choices, source, {"maps": catalog.load("maps")}, "7.2")
    command = shlex.split(script.splitlines()[-1])
    assert command[:5] == ["exec", "env", "ORCHESTRATE_CONFIG=/dev/null", "orchestrate", "run"]
    assert command[-1] == "$@"
    assert "7.2=/no/my linux" in command
    assert "7.2=/no/a.mbox" in command
    assert "nokaslr" in command
    # every option exists: with a source that is not there the parser is passed and the source refused
    done = CliRunner().invoke(cli.cli, command[4:-1])
    assert "No such option" not in done.output
    assert isinstance(done.exception, OrchestrateError)


def test_a_cells_description_cannot_break_out_of_its_comment() -> None:
    plan = CellPlan(id="c", label="x", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512)
    choices = Choices(arches=("x86_64",), variants=("mmap-lock",))
    script = reproduce(plan, choices, Source(spec="v7.2"), {}, "7.2\ntouch owned\r\x1b[31m")
    assert [line.partition(" ")[0] for line in script.splitlines()] == ["#!/bin/sh", "#", "command", "exec"]


def test_of_several_guests_words_the_gravest_stands() -> None:
    cell = Cell.__new__(Cell)
    for first, second, stands in (
        (Verdict.ERROR, Verdict.CRASH, Verdict.CRASH),
        (Verdict.CRASH, Verdict.ERROR, Verdict.CRASH),
        (Verdict.FAIL, Verdict.PASS, Verdict.FAIL),
        (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
    ):
        cell.cases = []
        for verdict in (first, second):
            cell.put(Case(id="shutdown", verdict=verdict))
        assert [case.verdict for case in cell.cases] == [stands]
