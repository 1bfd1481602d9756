# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark program itself, built from its descriptor and run on this host; faults are made for real."""

from __future__ import annotations

import os
import re
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
from orchestrator.verdict import benchmark
from orchestrator.verdict.benchmark import Document

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
    return [str(program), *QUICK, *options]


def run(program: Path, *options: str, user: int | None = None) -> Document:
    done = subprocess.run(command(program, *options), capture_output=True, check=False, user=user, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return benchmark.parse(done.stdout, "map-latency")


def run_and_meddle(program: Path, meddle: Callable[[psutil.Process], object], *options: str) -> Document:
    """Run the program and do something to its scanner as soon as that has placed itself."""
    argv = command(program, "--nice", "2", *options)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as running:
        meddle(placed(running.pid, "scanner", nice=2))
        stdout, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    return benchmark.parse(stdout, "map-latency")


def placed(parent: int, name: str, nice: int) -> psutil.Process:
    """A process of the program, once all of them are prepared: only then the mapper is a thread."""
    program = psutil.Process(parent)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in program.children():
            if child.name() == name and child.nice() == nice and program.num_threads() > 1:
                return child
        time.sleep(0.005)
    raise AssertionError(f"no {name} appeared")


def reason_of(document: Document) -> str:
    case, metrics, better = benchmark.judge(document, "map-latency/map-latency")
    assert (case.verdict, case.blame, metrics, better) == (Verdict.INCONCLUSIVE, Blame.INFRA, {}, {})
    return case.reason


def proof(document: Document, name: str) -> str:
    (found,) = (each for each in document.proofs if each.name == name)
    assert found.ok, found
    return found.text


def value(document: Document, name: str) -> float:
    return document.metrics[name].value


def test_cross_compiles_for_arm64(tmp_path: Path) -> None:
    compile_with("aarch64-linux-gnu-gcc", tmp_path / "map-latency")
    assert (tmp_path / "map-latency").read_bytes()[18] == 0xB7  # EM_AARCH64


def test_a_run_is_proven_and_gives_numbers(program: Path) -> None:
    document = run(program, "--seconds", "1")
    case, metrics, better = benchmark.judge(document, "map-latency/map-latency")
    assert case.verdict is Verdict.PASS, case.reason
    assert metrics["interference"] == pytest.approx(metrics["mean_us_scanned"] / metrics["mean_us_alone"])
    assert metrics["scans"] > 0
    assert metrics["worst_scan_ms"] > 0
    assert better == dict.fromkeys(
        ("mean_us_scanned", "p99_us_scanned", "mean_us_alone", "interference"), "lower"
    )
    assert 0 < document.clock_step_ns < 100_000
    for phase in ("alone", "scanned"):
        assert metrics[f"ops_{phase}"] > 0
        assert metrics[f"errors_{phase}"] == 0
        quantiles = [metrics[f"{name}_us_{phase}"] for name in ("p50", "p90", "p99", "p999", "max")]
        assert quantiles == sorted(quantiles)
        assert metrics[f"mean_us_{phase}"] <= quantiles[-1]
    assert proof(document, "alone: all on their CPUs") == f"mapper on {CPUS[0]}"
    assert proof(document, "scanned: all on their CPUs") == f"mapper on {CPUS[0]}, scanner on {CPUS[1]}"
    assert proof(document, "scanned: all of their niceness") == f"mapper {os.nice(0)}, scanner 1"


def test_the_histogram_agrees_with_the_mean(program: Path) -> None:
    document = run(program)
    for phase in ("alone", "scanned"):
        histogram = document.histograms[f"ns_{phase}"]
        count = sum(count for _, count in histogram)
        assert count == value(document, f"ops_{phase}")
        mean_us = value(document, f"mean_us_{phase}")
        upper_mean_us = sum(upper * count for upper, count in histogram) / count / 1000
        # Each value is at most a bucket, 6.25 %, below its upper end.
        assert mean_us <= upper_mean_us + 0.001
        assert mean_us >= upper_mean_us / 1.0625 - 0.001


def test_the_region_starts_as_fragmented_as_it_stays(program: Path) -> None:
    # 4096 pages: a quarter of them, and no more than twice that however long it runs.
    document = run(program, "--pause-us", "0")
    pages = document.parameters["active_pages"]
    assert pages == 4096
    for phase in ("alone", "scanned"):
        said = proof(document, f"{phase}: the region was fragmented")
        counts = re.fullmatch(r"(\d+) VMAs before, (\d+) after, 500 were asked for", said)
        assert counts is not None, said
        for vmas in map(int, counts.groups()):
            assert pages * 0.22 < vmas < pages * 0.5
        assert value(document, f"vmas_{phase}") == int(counts[1])
        assert value(document, f"ops_{phase}") > 0


def test_the_same_seed_does_the_same(program: Path) -> None:
    first, again, other = (
        value(run(program, "--seconds", "0.1", "--seed", seed), "vmas_alone") for seed in ("7", "7", "8")
    )
    assert first == again != other


def test_busy_tasks_run_beside_the_scanners(program: Path) -> None:
    document = run(program, "--scanners", "2", "--busy-ms", "1", "--seconds", "2")
    own, cpu = os.nice(0), CPUS[1]
    busy = f"busy task {own}"
    assert proof(document, "alone: all of their niceness") == f"mapper {own}, {busy}, {busy}"
    said = proof(document, "scanned: all of their niceness")
    assert said == f"mapper {own}, scanner 1, {busy}, scanner 1, {busy}"
    both = f"scanner on {cpu}, busy task on {cpu}" if len(CPUS) == 2 else "scanner on"
    assert both in proof(document, "scanned: all on their CPUs")
    assert "busy task 0 " not in proof(document, "alone: all worked until the end")
    for number in (1, 2):
        assert "attempts failed" in proof(document, f"scanner {number} read whole files")


def test_smaps_is_read_whole(program: Path) -> None:
    document = run(program, "--file", "smaps", "--size-mib", "4", "--fragments", "100", "--seconds", "1")
    assert document.parameters["file"] == "smaps"
    case, _, _ = benchmark.judge(document, "map-latency/map-latency")
    assert case.verdict is Verdict.PASS, case.reason
    said = re.search(r" of smaps, (\d+) bytes each", proof(document, "scanner 1 read whole files"))
    assert said is not None
    assert int(said[1]) > 500 * value(document, "vmas_scanned") / 2


@pytest.mark.parametrize(
    ("source", "text", "instead", "reason"),
    [
        ("map-latency.c", "LEAST_LINE 40", "LEAST_LINE 4000", "scanner 1 read whole files: "),
        ("map-latency.c", "side == &scanned ||", "true ||", "alone: no one scanned: "),
        ("bench.c", "STEPS_PER_OP 5", "STEPS_PER_OP 5000000", "the clock can time an operation, scanned: "),
        ("workers.c", "(void)kt_pin(self->slot);", "", "scanned: all on their CPUs: "),
    ],
)
def test_a_proof_that_nothing_here_can_break(
    source: str, text: str, instead: str, reason: str, tmp_path: Path
) -> None:
    """The program is broken in its place."""
    assert reason in reason_of(run(changed(tmp_path, source, text, instead)))


def changed(folder: Path, source: str, text: str, instead: str) -> Path:
    """The program, made of sources with another text in one of them."""
    for place in (FOLDER, data.library()):
        for path in (*place.glob("*.c"), *place.glob("*.h")):
            shutil.copy(path, folder)
    assert text in (folder / source).read_text()
    (folder / source).write_text((folder / source).read_text().replace(text, instead))
    argv = ["gcc", *SUITE["build"]["cflags"], "-I.", "-o", "changed", *(p.name for p in folder.glob("*.c"))]
    subprocess.run(argv, cwd=folder, check=True)
    return folder / "changed"


def test_a_region_of_too_few_vmas(program: Path) -> None:
    """As many are asked for as the region has on average; with this seed there are fewer."""
    reason = reason_of(run(program, "--fragments", "1024", "--seed", "74", "--seconds", "1"))
    assert re.search(r"alone: the region was fragmented: \d+ VMAs before, \d+ after, 1024 were asked", reason)


def test_a_file_that_cannot_be_read(program: Path) -> None:
    """A scanner that may open no file more fails each time, and says with what error."""

    def no_files(scanner: psutil.Process) -> None:
        scanner.rlimit(psutil.RLIMIT_NOFILE, (0, 0))

    reason = reason_of(run_and_meddle(program, no_files, "--seconds", "0.6"))
    assert "scanned: all worked until the end: done in 1 rounds" in reason
    assert "scanner 0 (0)" in reason
    assert "0 scans of maps" in reason
    assert "attempts failed: Too many open files" in reason


def test_a_killed_scanner(program: Path) -> None:
    reason = reason_of(run_and_meddle(program, psutil.Process.kill))
    assert "scanned: all worked until the end" in reason
    assert "scanner 0 (0) dead" in reason


def test_a_stopped_scanner(program: Path) -> None:
    def stop_for_a_while(scanner: psutil.Process) -> None:
        scanner.suspend()
        time.sleep(2)
        scanner.resume()

    assert "scanner 0 (0)" in reason_of(run_and_meddle(program, stop_for_a_while))


def test_a_scanner_of_another_priority(program: Path) -> None:
    reason = reason_of(run_and_meddle(program, lambda child: child.nice(7)))
    assert "scanned: all of their niceness: " in reason
    assert "scanner 7, 2 was asked for" in reason


def test_a_priority_that_is_not_allowed(program: Path) -> None:
    user = 65534 if os.geteuid() == 0 else None
    assert "-5 was asked for" in reason_of(run(program, "--nice", "-5", user=user))


def test_a_scanner_on_another_cpu(program: Path) -> None:
    # Later than its niceness, which it sets last: its own pinning must not undo this one.
    reason = reason_of(run_and_meddle(program, lambda child: child.cpu_affinity([CPUS[0]])))
    assert f"scanner on {CPUS[0]}, {CPUS[1]} was asked for" in reason
    reason = reason_of(run_and_meddle(program, lambda child: child.cpu_affinity(CPUS[:2])))
    assert f"scanner on -1, {CPUS[1]} was asked for" in reason


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (
            lambda tid: os.setpriority(os.PRIO_PROCESS, tid, os.nice(0) + 3),
            "alone: all of their niceness: mapper",
        ),
        (lambda tid: os.sched_setaffinity(tid, {CPUS[1]}), "alone: all on their CPUs: mapper on"),
    ],
)
def test_a_mapper_of_another_priority_or_on_another_cpu(
    program: Path, meddle: Callable[[int], object], reason: str
) -> None:
    def change_mapper(scanner: psutil.Process) -> None:
        own = psutil.Process(scanner.ppid())
        while not (tids := [thread.id for thread in own.threads() if thread.id != own.pid]):
            time.sleep(0.005)
        # more than once: it may only now place itself
        for _ in range(10):
            meddle(tids[0])
            time.sleep(0.01)

    document = run_and_meddle(program, change_mapper, "--seconds", "1")
    assert reason in reason_of(document)


def test_a_busy_task_that_died(program: Path) -> None:
    argv = command(program, "--busy-ms", "1", "--nice", "2")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as running:
        placed(running.pid, "busy task", nice=os.nice(0)).kill()
        stdout, _ = running.communicate(timeout=60)
    reason = reason_of(benchmark.parse(stdout, "map-latency"))
    assert "busy task 0 (0) dead" in reason


def test_too_few_operations(program: Path) -> None:
    reason = reason_of(run(program, "--pause-us", "50000"))
    assert re.search(r"ns_scanned: enough timed: \d+, at least 100 are needed", reason)


def test_no_operation_at_all(program: Path) -> None:
    document = run(program, "--pause-us", "1000000")
    assert value(document, "ops_alone") == 0
    assert "scanned: all worked until the end" in reason_of(document)
    assert "interference" not in document.metrics
    failed = {each.name for each in document.proofs if not each.ok}
    assert {"interference", "the clock can time an operation, alone", "ns_alone: enough timed"} <= failed


def test_calls_that_fail(program: Path) -> None:
    """Of the mapper, when it may have no more memory than it has got: once it is a thread, it maps."""

    def no_memory(scanner: psutil.Process) -> None:
        psutil.Process(scanner.ppid()).rlimit(psutil.RLIMIT_AS, (1 << 20, 1 << 20))

    document = run_and_meddle(program, no_memory)
    failed = {each.name for each in document.proofs if not each.ok}
    assert "scanned: the calls succeeded" in failed
    assert value(document, "errors_scanned") > 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fragments", "2000"], 4, "--fragments asks for 2000"),
        (["--nice", "20"], 2, "--nice"),
        (["--nice", ""], 2, "--nice"),
        (["--nice", "1.5"], 2, "--nice wants a whole number"),
        (["--seconds", "nan"], 2, "--seconds"),
        (["--seconds", "0"], 2, "--seconds wants a number from 0.1"),
        (["--size-mib", "-1"], 2, "--size-mib"),
        (["--scanners", "0"], 2, "--scanners"),
        (["--file", "../1/maps"], 2, "--file does not know '../1/maps'"),
        (["--samples", "3"], 2, "--samples is for --seed-table"),
        (["--seed-table", "--nice", "3"], 2, "--seed-table does not go with --nice"),
        (["--bogus"], 2, "bogus"),
        (["extra"], 2, "extra"),
    ],
)
def test_refusals(program: Path, options: list[str], code: int, message: str) -> None:
    # of one option only: others would be refused beside --seed-table
    argv = [str(program), *options] if "--seed-table" in options else command(program, *options)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["--size-mib", "16"], ["--seed-table"]])
def test_it_refuses_to_run_on_too_few_cpus(program: Path, words: list[str]) -> None:
    argv = ["taskset", "-c", str(CPUS[0]), str(program), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert re.search(r"needs \d CPUs, 1 may be used", done.stderr)


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
    argv = command(program, "--seconds", "60", "--busy-ms", "1", "--nice", "2")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as running:
        placed(running.pid, "scanner", nice=2)
        children = psutil.Process(running.pid).children()
        running.send_signal(signal.SIGKILL)
        running.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
    # Without a reaper in this container a dead child stays as a zombie.
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_report_that_cannot_be_written_is_an_error(program: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command(program), stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert b"No space left" in done.stderr


def test_the_table_of_the_seeds(tmp_path: Path) -> None:
    """On two CPUs, where it wants four: all are in each other's way, which is no matter here."""
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    program = changed(tmp_path, "seed-table.c", "SEED_FIRST_CPU 2", "SEED_FIRST_CPU 0")
    argv = [str(program), "--seed-table", "--samples", "3", "--seconds", "3"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    assert len(rows) == 3
    assert all(len(row) == 9 for row in rows)  # with few rows, each has its like in the series
    medians, means, maxima = ([row[column] for row in rows] for column in range(3))
    assert medians == [means[1]] * 3
    assert means == sorted(means)
    assert maxima == sorted(maxima)
    assert means[0] > 0
    assert sum(line.startswith("# sample ") for line in lines) == 3


def test_a_sample_that_does_not_count(tmp_path: Path) -> None:
    program = changed(tmp_path, "seed-table.c", "SEED_FIRST_CPU 2", "SEED_FIRST_CPU 0")
    argv = [str(program), "--seed-table", "--samples", "1", "--seconds", "2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not (samples := psutil.Process(running.pid).children()):
            time.sleep(0.005)
        placed(samples[0].pid, "scanner", nice=15).kill()
        stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (1, "")
    assert "sample 1 does not count: sample: all worked until the end: " in stderr
    assert "no table: 1 of 1 samples do not count" in stderr
