# SPDX-License-Identifier: GPL-2.0-only
"""The path made whole, as the user goes it: prebuilt kernels, commands, own suites, repeats, shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fakes.mounts import SMALL, mounted
from paths import ROOT
from under_test import ORCHESTRATE, SOURCE, results

from orchestrator.core import arch
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.run.summary import RunResult

pytestmark = pytest.mark.guest


def _orchestrate(*words: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ORCHESTRATE, *words], capture_output=True, text=True, input=given, check=False, timeout=1800
    )
    print(done.stdout, done.stderr)
    return done


def _cases(result: RunResult) -> dict[tuple[str, str, str], Case]:
    return {(c.arch, c.variant, x.id): x for c in result.cells for x in c.all_cases()}


def test_a_strangers_suite_and_a_command_in_all_four_guests(tmp_path: Path) -> None:
    """docs/example-suite: a script that needs bash and gawk, and a C program; beside them one command."""
    note = tmp_path / "my note"
    note.write_text("ünïcode and spaces\n")
    out = tmp_path / "runs of mine"
    done = _orchestrate(
        "run", "--source", SOURCE, "--arch", "all", "--suite", ROOT / "docs/example-suite",
        "--cmd", 'grep -q ünïcode "my note"', "--put", note, "--accel", "tcg", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0
    result = results(out)
    assert {(c.arch, c.variant) for c in result.cells} == {
        (a, v) for a in arch.usual() for v in ("per-vma-lock", "mmap-lock")
    }
    for cell in result.cells:
        suites = {s.suite: {c.verdict for c in s.cases} for s in cell.suites}
        assert suites["cmd"] == {Verdict.PASS}
        (own,) = set(suites) - {"cmd"}
        assert suites[own] <= {Verdict.PASS, Verdict.SKIP}
        assert Verdict.PASS in suites[own]


def test_a_prebuilt_kernel_is_read_from_its_guest(tmp_path: Path) -> None:
    built = _orchestrate("build", "--source", SOURCE, "--arch", "x86_64", "--variant", "mmap-lock")
    image = built.stdout.strip()
    out = tmp_path / "runs"
    done = _orchestrate("run", "--kernel", f"theirs={image}", "--cmd", "uname -a", "--out", out)
    assert done.returncode == 0
    result = results(out)
    cases = _cases(result)
    assert cases["x86_64", "mmap-lock", "cmd/cmd"].verdict is Verdict.PASS
    assert cases["x86_64", "per-vma-lock", "config"].verdict is Verdict.NA
    assert "lacks per-VMA locks" in cases["x86_64", "per-vma-lock", "config"].reason
    assert not result.pairs


def test_repeats_boot_anew_and_give_a_rate(tmp_path: Path) -> None:
    # the nonce on the kernel's command line is another one in each boot
    command = "grep -o 'orc.nonce=[0-9a-f]*' /proc/cmdline"
    out = tmp_path / "runs"
    done = _orchestrate(
        "run", "--source", SOURCE, "--arch", "x86_64", "--variant", "mmap-lock",
        "--cmd", command, "--times", "3", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0
    assert "1 case never failed in 3 boots (95 %: the rate is below 56.1 %)" in done.stdout
    (rate,) = results(out).rates
    assert (rate.failures, rate.boots) == (0, 3)
    logs = [path.read_text() for path in out.glob("*/cells/*/suites/cmd/cmd.log")]
    assert len(set(logs)) == 3


def test_until_fail_ends_with_the_first_failure(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = _orchestrate(
        "run", "--source", SOURCE, "--arch", "x86_64", "--variant", "mmap-lock",
        "--cmd", "false", "--until-fail", "--times", "50", "--out", out,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(results(out).cells) == 1
    assert "1 of 1 boots failed" in done.stdout


def test_a_shell_takes_a_script_and_gives_its_status() -> None:
    done = _orchestrate(
        "shell", "--source", SOURCE, "--arch", "arm64", "--variant", "mmap-lock",
        given="uname -m; nproc; exit 7\n",
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stdout.split() == ["aarch64", "2"]


def test_a_shell_whose_guest_dies_says_so(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.write_text("put\n")
    done = _orchestrate(
        "shell", "--source", SOURCE, "--arch", "x86_64", "--variant", "mmap-lock", "--put", note,
        given="cat note; sleep 1; echo c >/proc/sysrq-trigger; sleep 9; echo alive\n",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == "put\n"
    assert "the guest panicked" in done.stderr
    assert "sysrq triggered crash" in done.stderr


def test_each_program_has_its_own_guest_and_a_panic_costs_only_itself(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = _orchestrate(
        "run", "--source", SOURCE, "--arch", "x86_64", "--variant", "per-vma-lock",
        "--cmd", "touch /tmp/mine", "--cmd", "echo c >/proc/sysrq-trigger", "--cmd", "! test -e /tmp/mine",
        "--accel", "tcg", "--out", out,
    )  # fmt: skip
    assert done.returncode == 1
    cases = _cases(results(out))
    verdicts = [cases["x86_64", "per-vma-lock", f"cmd/cmd-{n}"].verdict for n in (1, 2, 3)]
    assert verdicts == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    assert cases["x86_64", "per-vma-lock", "cmd/cmd-2"].blame is Blame.TEST
    assert len(list(out.glob("*/cells/*/console*.log"))) >= 3


def test_a_full_disk_for_results_is_said_in_a_line(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    words = ["run", "--source", SOURCE, "--arch", "x86_64", "--variant", "mmap-lock", "--cmd", "true"]
    done = mounted(SMALL.format("200k"), small, [*ORCHESTRATE, *words, "--out", small / "runs"])
    said = done.stdout + done.stderr
    assert done.returncode == 3, said
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "a fault of its own" not in said
