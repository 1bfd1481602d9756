# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark program itself, built from its descriptor and run on this host; faults are made for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from paths import ROOT

from orchestrator.core import data
from orchestrator.results.model import Blame, Verdict
from orchestrator.verdict.metrics import Sample, judge, parse_map_latency

pytestmark = pytest.mark.slow

FOLDER = ROOT / "selftests" / "map-latency"
SUITE = tomllib.loads((FOLDER / "suite.toml").read_text())
CPUS = sorted(os.sched_getaffinity(0))
STRICT = ["-Wall", "-Wextra", "-Werror", "-static"]
#: Small and with a priority that also gets somewhere beside a build.
QUICK = ["--size-mib", "16", "--fragments", "500", "--seconds", "0.4", "--nice", "1"]


def compile_with(compiler: str, output: Path) -> None:
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"no {compiler}")
    sources = [str(FOLDER / name) for name in SUITE["build"]["sources"]]
    sources += map(str, data.library().glob("*.c"))
    flags = [*SUITE["build"]["cflags"], *STRICT, f"-I{data.library()}"]
    argv = [path, *flags, "-o", str(output), *sources]
    subprocess.run(argv, check=True)


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    # Not below pytest's own folder, which an unprivileged user cannot enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        compile_with("gcc", Path(folder) / "map-latency")
        yield Path(folder) / "map-latency"


def command(program: Path, *options: str) -> list[str]:
    return [str(program), "--mapper-cpu", str(CPUS[0]), "--scanner-cpus", str(CPUS[1]), *QUICK, *options]


def run(program: Path, *options: str, user: int | None = None) -> Sample:
    done = subprocess.run(command(program, *options), capture_output=True, check=False, user=user, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return parse_map_latency(done.stdout)


def run_and_meddle(program: Path, meddle: Callable[[psutil.Process], object], *options: str) -> Sample:
    """Run the program and do something to its scanner as soon as that has placed itself."""
    argv = command(program, "--nice", "2", *options)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as running:
        meddle(placed_scanner(running.pid, nice=2))
        stdout, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    return parse_map_latency(stdout)


def placed_scanner(parent: int, nice: int) -> psutil.Process:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in psutil.Process(parent).children():
            if child.name() == "ml-scanner" and child.nice() == nice:
                return child
        time.sleep(0.005)
    raise AssertionError("no scanner appeared")


def reason_of(sample: Sample) -> str:
    case, metrics = judge(sample)
    assert (case.verdict, case.blame, metrics) == (Verdict.INCONCLUSIVE, Blame.INFRA, {})
    return case.reason


def test_cross_compiles_for_arm64(tmp_path: Path) -> None:
    compile_with("aarch64-linux-gnu-gcc", tmp_path / "map-latency")
    assert (tmp_path / "map-latency").read_bytes()[18] == 0xB7  # EM_AARCH64


def test_a_run_is_proven_and_gives_numbers(program: Path) -> None:
    sample = run(program, "--seconds", "1")
    case, metrics = judge(sample)
    assert case.verdict is Verdict.PASS, case.reason
    assert metrics["interference"] == metrics["mean_us_scanned"] / metrics["mean_us_alone"]
    assert metrics["scans"] > 0
    assert 0 < sample.clock_step_ns < 100_000
    alone, scanned = sample.phases
    assert (alone.name, scanned.name) == ("alone", "scanned")
    assert alone.scanners == ()
    assert scanned.mapper.cpus_actual == (CPUS[0],)
    (scanner,) = scanned.scanners
    assert scanner.cpus_actual == (CPUS[1],)
    assert scanner.nice_actual == 1
    assert alone.maps > 0
    assert alone.unmaps > 0


def test_the_histogram_agrees_with_the_mean(program: Path) -> None:
    for phase in run(program).phases:
        assert phase.mean_us is not None
        upper_mean_us = sum(upper * count for upper, count in phase.histogram_ns) / phase.ops / 1000
        # Each value is at most a bucket, 6.25 %, below its upper end.
        assert phase.mean_us <= upper_mean_us + 0.001
        assert phase.mean_us >= upper_mean_us / 1.0625 - 0.001


def test_the_region_starts_as_fragmented_as_it_stays(program: Path) -> None:
    # 4096 pages: a quarter of them, and no more than twice that however long it runs.
    sample = run(program, "--pause-us", "0")
    pages = sample.active_pages
    for phase in sample.phases:
        assert pages * 0.22 < phase.vma_count.before < pages * 0.5
        assert pages * 0.22 < phase.vma_count.after < pages * 0.5
        assert phase.ops > 0


def test_the_same_seed_does_the_same(program: Path) -> None:
    first, again, other = (run(program, "--seconds", "0", "--seed", seed) for seed in ("7", "7", "8"))
    assert first.phases[0].vma_count == again.phases[0].vma_count != other.phases[0].vma_count


def test_busy_tasks_run_beside_the_scanners(program: Path) -> None:
    sample = run(program, "--scanners", "2", "--busy-ms", "1", "--seconds", "1")
    for phase in sample.phases:
        assert len(phase.busy) == 2
        for busy in phase.busy:
            assert busy.spins > 0
            assert busy.cpus_actual == (CPUS[1],)
            assert busy.nice_actual == phase.mapper.nice_actual
    assert len(sample.phases[1].scanners) == 2


def test_smaps_is_read_whole(program: Path) -> None:
    sample = run(program, "--file", "smaps", "--size-mib", "4", "--fragments", "100", "--seconds", "1")
    case, _ = judge(sample)
    assert case.verdict is Verdict.PASS, case.reason
    (scanner,) = sample.phases[1].scanners
    assert scanner.bytes / scanner.scans > 500 * sample.phases[1].vma_count.before / 2


def test_a_file_that_is_not_there(program: Path) -> None:
    sample = run(program, "--file", "nonexistent")
    assert "no scan of nonexistent" in reason_of(sample)
    assert "errno 2" in reason_of(sample)


def test_a_killed_scanner(program: Path) -> None:
    sample = run_and_meddle(program, psutil.Process.kill)
    assert "scanner 1: dead at the end" in reason_of(sample)
    assert sample.phases[1].scanners[0].nice_actual is None


def test_a_scanner_of_another_priority(program: Path) -> None:
    sample = run_and_meddle(program, lambda child: child.nice(7))
    assert "scanner 1: nice 7, 2 was asked for" in reason_of(sample)


def test_a_priority_that_is_not_allowed(program: Path) -> None:
    user = 65534 if os.geteuid() == 0 else None
    sample = run(program, "--nice", "-5", user=user)
    assert "-5 was asked for" in reason_of(sample)


def test_a_scanner_on_another_cpu(program: Path) -> None:
    # Later than its niceness, which it sets last: its own pinning must not undo this one.
    sample = run_and_meddle(program, lambda child: child.cpu_affinity([CPUS[0]]))
    assert f"scanner 1: on CPU {CPUS[0]}, {CPUS[1]} was asked for" in reason_of(sample)


def test_too_few_operations(program: Path) -> None:
    sample = run(program, "--pause-us", "500000")
    assert "operations in phase 'alone', at least 100" in reason_of(sample)


def test_no_operation_at_all(program: Path) -> None:
    sample = run(program, "--seconds", "0")
    assert [phase.ops for phase in sample.phases] == [0, 0]
    assert [phase.mean_us for phase in sample.phases] == [None, None]
    assert "0 operations" in reason_of(sample)


@pytest.mark.parametrize(("phases", "missing"), [("alone", "scanned"), ("scanned", "alone")])
def test_a_phase_left_out(program: Path, phases: str, missing: str) -> None:
    assert f"no phase '{missing}'" in reason_of(run(program, "--phases", phases))


def test_no_scanner(program: Path) -> None:
    assert "0 scanners took part" in reason_of(run(program, "--scanners", "0"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fragments", "2000"], 4, "--fragments asks for 2000"),
        (["--scanner-cpus", "1023"], 4, "CPU 1023 cannot be used"),
        (["--scanner-cpus", str(CPUS[0])], 2, "both to the mapper and to a scanner"),
        (["--nice", "20"], 2, "--nice"),
        (["--nice", ""], 2, "--nice"),
        (["--seconds", "nan"], 2, "--seconds"),
        (["--size-mib", "-1"], 2, "--size-mib"),
        (["--file", "../1/maps"], 2, "--file"),
        (["--phases", "alone,alone"], 2, "twice"),
        (["--phases", "quiet"], 2, "quiet"),
        (["--bogus"], 2, "bogus"),
        (["extra"], 2, "extra"),
    ],
)
def test_refusals(program: Path, options: list[str], code: int, message: str) -> None:
    done = subprocess.run(command(program, *options), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""


def test_help_names_every_option_of_the_suite(program: Path) -> None:
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    for each in SUITE["program"]:
        for option in each["argv"][::2]:
            assert f"{option} " in text


def test_the_suite_fits_its_time_limit() -> None:
    for each in SUITE["program"]:
        options = dict(zip(each["argv"][::2], each["argv"][1::2], strict=True))
        assert 2 * float(options["--seconds"]) < each["timeout_s"] <= SUITE["timeout_s"]


def test_children_die_with_the_program(program: Path) -> None:
    argv = command(program, "--seconds", "60", "--busy-ms", "1", "--phases", "scanned", "--nice", "2")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as running:
        placed_scanner(running.pid, nice=2)
        children = psutil.Process(running.pid).children()
        running.send_signal(signal.SIGKILL)
        running.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
    # Without a reaper in this container a dead child stays as a zombie.
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_report_that_cannot_be_written_is_an_error(program: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(program, "--seconds", "0"), stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
