# SPDX-License-Identifier: GPL-2.0-only
"""guest/orc-exec.c, compiled and run on the host: the code is the same that runs in the guest."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from orchestrator.core import data

NONCE = "0123abcd"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")]


class Answer(NamedTuple):
    facts: dict[str, Any]
    out: bytes
    err: bytes


Exec = Callable[..., Answer]


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("orc") / "orc-exec"
    flags = ["-O2", "-static", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", str(made), str(data.guest() / "orc-exec.c")], check=True)
    return made


@pytest.fixture
def orc(binary: Path) -> Exec:
    """Run argv through it; the answer is its report and what came before that."""

    def run(*argv: str, options: tuple[str, ...] = (), limit: str = "20") -> Answer:
        done = subprocess.run(
            [str(binary), "--limit", limit, *options, "--", *argv],
            input=f"{NONCE}\nnot for the child\n".encode(),
            capture_output=True,
            check=True,
        )
        body, mark, tail = done.stderr.rpartition(f"\n@orc {NONCE} ".encode())
        assert mark, done.stderr
        assert tail.endswith(b"\n")
        return Answer(json.loads(tail), done.stdout, body)

    return run


def test_a_plain_command(orc: Exec) -> None:
    facts, out, err = orc("sh", "-c", "echo out; echo err >&2")
    assert (out, err) == (b"out\n", b"err\n")
    assert facts["exit"] == 0
    assert facts["signal"] is None
    assert facts["exec_error"] is None
    assert not facts["timeout"]
    assert not facts["stuck"]
    assert (facts["leftovers"], facts["dropped_stdout"], facts["dropped_stderr"]) == (0, 0, 0)
    assert facts["maxrss_kib"] > 0


@pytest.mark.parametrize("code", [1, 4, 126, 127, 255])
def test_exit_codes(orc: Exec, code: int) -> None:
    facts = orc("sh", "-c", f"exit {code}").facts
    assert (facts["exit"], facts["signal"], facts["exec_error"]) == (code, None, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGPIPE])
def test_signals(orc: Exec, number: int) -> None:
    facts = orc("sh", "-c", f"ulimit -c 0; kill -{int(number)} $$").facts
    assert (facts["exit"], facts["signal"]) == (None, int(number))


@pytest.mark.parametrize(
    ("argv", "options", "stage"),
    [
        (["/nonexistent/program"], (), "exec"),
        (["/etc/passwd"], (), "exec"),
        (["true"], ("--cwd", "/nonexistent"), "cwd"),
        (["true"], ("--cpus", "1000"), "cpus"),
    ],
)
def test_what_cannot_be_started_is_no_exit_code(
    orc: Exec, argv: list[str], options: tuple[str, ...], stage: str
) -> None:
    facts = orc(*argv, options=options).facts
    assert (facts["exit"], facts["signal"]) == (None, None)
    assert facts["exec_error"].startswith(stage)


def test_an_error_with_odd_bytes_is_still_json(orc: Exec) -> None:
    assert 'ab\\"c?' in json.dumps(orc('/x/ab"c\n').facts["exec_error"])


def test_surroundings_of_the_command(orc: Exec, tmp_path: Path) -> None:
    script = 'cat; pwd; echo "$A|$B"; ps -o sid=,pgid= -p $$; echo $$'
    answer = orc("sh", "-c", script, options=("--cwd", str(tmp_path), "--env", "A=x=y", "--env", "B="))
    lines = answer.out.decode().split("\n")
    # nothing of what followed the nonce on stdin
    assert lines[0] == str(tmp_path.resolve())
    assert lines[1] == "x=y|"
    session, group = lines[2].split()
    assert session == group == lines[3]


def test_signal_state_of_the_command_is_the_default(orc: Exec) -> None:
    status = orc("cat", "/proc/self/status").out.decode()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    # signals 32 and 33 are the C library's own: what a parent did to them cannot be undone through it
    standard = 0x7FFFFFFF
    assert int(masks["SigBlk"], 16) & standard == int(masks["SigIgn"], 16) & standard == 0


def test_no_descriptor_leaks_into_the_command(orc: Exec) -> None:
    assert orc("ls", "/proc/self/fd").out.split() == [b"0", b"1", b"2", b"3"]


def test_cpus_and_nice_are_read_back(orc: Exec) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    facts, out, _ = orc("nice", options=("--cpus", str(allowed[-1]), "--nice", "7"))
    assert (facts["cpus"], facts["nice"]) == (str(allowed[-1]), 7)
    assert out == b"7\n"


def test_cpus_that_the_machine_lacks_are_not_reported(orc: Exec) -> None:
    """The kernel silently takes the part of the set that exists: the report must not repeat the wish."""
    first = min(os.sched_getaffinity(0))
    assert orc("true", options=("--cpus", f"{first},1000-1003")).facts["cpus"] == str(first)


def test_the_limit_ends_what_obeys(orc: Exec) -> None:
    facts, out, _ = orc("sh", "-c", "echo begun; exec sleep 60", limit="0.2")
    assert facts["timeout"]
    assert facts["signal"] == signal.SIGTERM
    assert out == b"begun\n"
    assert facts["wall_ms"] >= 200


def test_the_limit_ends_what_ignores_sigterm_and_its_daemons(orc: Exec, marker: str) -> None:
    script = f"""trap '' TERM
    (setsid sh -c 'trap "" TERM; exec -a {marker} sleep 61' &)
    exec -a {marker} sleep 62"""
    facts = orc("bash", "-c", script, limit="0.2").facts
    assert facts["timeout"]
    assert facts["signal"] == signal.SIGKILL
    assert not facts["stuck"]
    assert alive(marker) == []


def test_a_stopped_command_is_ended_too(orc: Exec) -> None:
    facts = orc("sh", "-c", "kill -STOP $$", limit="0.2").facts
    assert facts["timeout"]
    assert facts["signal"] == signal.SIGKILL


def test_a_command_that_ends_well_on_sigterm_still_ran_out_of_time(orc: Exec) -> None:
    facts = orc("bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done", limit="0.2").facts
    assert facts["timeout"]
    assert facts["exit"] == 0


def test_an_orphan_that_holds_stdout_open(orc: Exec, marker: str) -> None:
    facts, out, _ = orc("bash", "-c", f"(setsid bash -c 'exec -a {marker} sleep 63' &); echo done; exit 3")
    assert facts["exit"] == 3
    assert facts["leftovers"] == 1
    assert not facts["timeout"]
    assert out == b"done\n"
    assert alive(marker) == []


def test_a_whole_crowd_of_leftovers(orc: Exec, marker: str) -> None:
    script = f"for i in $(seq 20); do (setsid bash -c \"trap '' TERM; exec -a {marker} sleep 64\" &); done"
    facts = orc("bash", "-c", f"{script}; while [ $(pgrep -c -f '^{marker}') -lt 20 ]; do :; done").facts
    assert facts["exit"] == 0
    assert facts["leftovers"] >= 20
    assert alive(marker) == []


def test_a_tree_that_keeps_forking_is_brought_down(orc: Exec, tmp_path: Path) -> None:
    source = tmp_path / "respawn.py"
    # two generations, each of which replaces itself for ever, in a new session every time
    source.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    if os.fork():\n"
        "        time.sleep(0.02)\n"
        "        os._exit(0)\n"
        "    os.setsid()\n"
    )
    facts = orc(sys.executable, str(source)).facts
    assert facts["exit"] == 0
    assert not facts["stuck"]
    assert alive(str(source)) == []


def test_floods_on_both_streams_are_bounded_and_counted(orc: Exec) -> None:
    script = "head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait"
    facts, out, err = orc("sh", "-c", script, options=("--max-bytes", "100001"))
    assert facts["exit"] == 0
    assert len(out) == len(err) == 100001
    assert facts["dropped_stdout"] == 3000000 - 100001
    assert facts["dropped_stderr"] == 2000000 - 100001


def test_nothing_is_lost_below_the_bound(orc: Exec) -> None:
    facts, out, _ = orc("sh", "-c", "seq 1 200000")
    assert out.decode() == "".join(f"{i}\n" for i in range(1, 200001))
    assert facts["dropped_stdout"] == 0


def test_the_nonce_is_nowhere_to_be_found(orc: Exec) -> None:
    script = "tr '\\0' '\\n' < /proc/$PPID/cmdline; tr '\\0' '\\n' < /proc/$PPID/environ; env; cat"
    assert NONCE.encode() not in orc("sh", "-c", script).out


def test_the_runner_sleeps_while_it_waits(orc: Exec) -> None:
    """It shares the guest's CPUs with the benchmarks."""
    user, system = orc("sh", "-c", "sleep 0.5; cut -d' ' -f14,15 /proc/$PPID/stat").out.split()
    assert (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") < 0.1


def test_a_forged_report_does_not_pass_for_one(orc: Exec) -> None:
    facts, _, err = orc("sh", "-c", "printf '\\n@orc guess {\"exit\": 0}\\n' >&2; exit 9")
    assert facts["exit"] == 9
    assert b"@orc guess" in err


def test_a_reader_that_goes_away_ends_the_command(binary: Path, marker: str) -> None:
    argv = [str(binary), "--limit", "600", "--", "bash", "-c", f"echo x; exec -a {marker} sleep 65"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(f"{NONCE}\n".encode())
        process.stdin.close()
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=60) == 1
    assert alive(marker) == []


def test_a_reader_that_does_not_read_does_not_stop_the_clock(binary: Path, marker: str) -> None:
    argv = [str(binary), "--limit", "0.5", "--", "bash", "-c", f"exec -a {marker} cat /dev/zero"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(f"{NONCE}\n".encode())
        process.stdin.close()
        report = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert json.loads(report.partition(f"@orc {NONCE} ".encode())[2])["timeout"]
    assert alive(marker) == []


def test_sigterm_to_the_runner_ends_the_command(binary: Path, marker: str) -> None:
    argv = [str(binary), "--limit", "600", "--", "bash", "-c", f"echo x; exec -a {marker} sleep 66"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(f"{NONCE}\n".encode())
        process.stdin.close()
        assert process.stdout.readline() == b"x\n"
        process.terminate()
        report = process.stderr.read()
        assert process.wait(timeout=60) == 0
    facts = json.loads(report.partition(f"@orc {NONCE} ".encode())[2])
    assert (facts["signal"], facts["timeout"]) == (signal.SIGTERM, False)
    assert alive(marker) == []


def test_freshening_says_what_it_could_not_do(binary: Path) -> None:
    """Without the right to: that it works is shown in guests, this host's clock is not ours to set."""
    helpless = ["setpriv", "--bounding-set=-sys_time,-sys_admin"] if os.geteuid() == 0 else []
    before = time.time_ns()
    done = subprocess.run(
        [*helpless, str(binary), "--freshen", "1000000000"], input=b"x" * 40, capture_output=True, check=True
    )
    facts = json.loads(done.stdout)
    assert (facts["clock_errno"], facts["entropy_errno"], facts["reseed_errno"]) == (errno.EPERM,) * 3
    assert facts["entropy_bytes"] == 40
    assert before <= facts["was_ns"] <= facts["clock_ns"] <= time.time_ns()


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (["--freshen", "1"], b"x" * 31),
        (["--freshen", "0"], b"x" * 64),
        (["--freshen", "soon"], b"x" * 64),
        (["--freshen"], b"x" * 64),
        (["--limit", "1", "--", "true"], b""),
        (["--limit", "1", "--", "true"], b"\n"),
        (["--limit", "1", "--", "true"], b"no newline"),
        (["--limit", "1", "--", "true"], b'a"b\n'),
        (["--limit", "1", "--", "true"], b"a" * 129 + b"\n"),
        (["--limit", "1", "--"], b"n\n"),
        (["--limit", "1"], b"n\n"),
        (["--limit"], b"n\n"),
        (["--", "true"], b"n\n"),
        (["--limit", "0", "--", "true"], b"n\n"),
        (["--limit", "nan", "--", "true"], b"n\n"),
        (["--limit", "1x", "--", "true"], b"n\n"),
        (["--limit", "1", "--nice", "20", "--", "true"], b"n\n"),
        (["--limit", "1", "--cpus", "1-", "--", "true"], b"n\n"),
        (["--limit", "1", "--cpus", "2-1", "--", "true"], b"n\n"),
        (["--limit", "1", "--cpus", "0,", "--", "true"], b"n\n"),
        (["--limit", "1", "--cpus", "99999999999999999999", "--", "true"], b"n\n"),
        (["--limit", "1", "--env", "=x", "--", "true"], b"n\n"),
        (["--limit", "1", "--env", "x", "--", "true"], b"n\n"),
        (["--limit", "1", "--max-bytes", "-1", "--", "true"], b"n\n"),
        (["--limit", "1", "--late", "soon", "--", "true"], b"n\n"),
        (["--limit", "1", "--mark", "a", "--", "true"], b"n\nfirst\n"),
        (["--limit", "1", "--color", "red", "--", "true"], b"n\n"),
    ],
)
def test_wrong_usage(binary: Path, argv: list[str], stdin: bytes) -> None:
    done = subprocess.run([str(binary), *argv], input=stdin, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"orc-exec: ")
    assert b"@orc" not in done.stderr


@pytest.mark.parametrize("answer", [b"\n", None])
def test_the_late_are_left_until_somebody_has_looked(binary: Path, answer: bytes | None) -> None:
    """``None``: stdin ends."""
    argv = [str(binary), "--limit", "0.3", "--late", "30", "--", "sleep", "100"]
    running = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin
    assert running.stderr
    running.stdin.write(f"{NONCE}\n".encode())
    running.stdin.flush()
    assert [running.stderr.readline() for _ in range(2)] == [b"\n", f"@orc {NONCE} late\n".encode()]
    time.sleep(0.5)
    assert psutil.Process(running.pid).children()
    if answer:
        running.stdin.write(answer)
        running.stdin.flush()
    else:
        running.stdin.close()
    report = json.loads(running.stderr.read().rpartition(f"@orc {NONCE} ".encode())[2])
    running.wait(10)
    assert (report["timeout"], report["signal"]) == (True, signal.SIGTERM)
    # the time of the look is not the command's
    assert report["wall_ms"] < 600


def test_nobody_looks_for_ever(binary: Path) -> None:
    argv = [str(binary), "--limit", "0.2", "--late", "0.5", "--", "sleep", "100"]
    running = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin
    running.stdin.write(f"{NONCE}\n".encode())
    running.stdin.flush()
    assert running.wait(10) == 0


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> str:
    """A name for processes, so that a leak of one test is found by that test."""
    return f"orctest-{os.getpid()}-{abs(hash(request.node.name)) % 10**8}"


def alive(name: str) -> list[int]:
    """Processes with ``name`` as an argument, zombies aside."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if name in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    if found:
        # killed processes take a moment to go
        time.sleep(0.2)
        found = [pid for pid in found if psutil.pid_exists(pid)]
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return found
