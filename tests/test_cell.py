# SPDX-License-Identifier: GPL-2.0-only
"""What a cell decides without a guest; with one, see test_guests.py."""

from __future__ import annotations

import shlex

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.cell_state import meaning, not_applicable
from orchestrator.errors import Inconclusive, InfraError, KernelError, OrchestrateError
from orchestrator.plan import CellPlan, Choices, Source
from orchestrator.reproduce import reproduce
from orchestrator.results.model import Blame, Verdict
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
    assert command[:3] == ["exec", "orchestrate", "run"]
    assert command[-1] == "$@"
    assert "7.2=/no/my linux" in command
    assert "7.2=/no/a.mbox" in command
    assert "nokaslr" in command
    # every option exists: with a source that is not there the parser is passed and the source refused
    done = CliRunner().invoke(cli.cli, command[2:-1])
    assert "No such option" not in done.output
    assert isinstance(done.exception, OrchestrateError)
