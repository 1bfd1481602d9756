# SPDX-License-Identifier: GPL-2.0-only
"""A console that was kept: from a file, from a pipe, and of any size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import DATA
from under_test import ORCHESTRATE

from orchestrator.core.errors import UserError
from orchestrator.splat import file
from orchestrator.splat.kinds import Class

LOGS = DATA / "splat"
COMMAND = [*ORCHESTRATE, "console"]
KEYS = [
    *("class", "title", "function", "access", "fingerprint"),
    *("corrupted", "fatal", "first_line", "last_line"),
]


def call(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *argv], input=stdin, capture_output=True, check=False)


def body(name: str) -> bytes:
    return (b"\n" + (LOGS / name).read_bytes()).partition(b"\n\n")[2]


@pytest.mark.parametrize("name", ["memory-kinds.log", "lockdep-kinds.log", "torn-ansi.log"])
def test_json_has_an_object_for_each_splat(name: str) -> None:
    done = call("--json", "-", stdin=body(name))
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, b"")
    assert len(found) == (LOGS / name).read_text().partition("\n\n")[0].count("# ")
    for each in found:
        assert list(each)[: len(KEYS)] == KEYS
        assert each["class"] in set(Class)
        assert 1 <= each["first_line"] <= each["last_line"]


def test_a_clean_console_is_an_empty_array() -> None:
    for log in (str(LOGS / "clean-boot.log"), os.devnull):
        done = call(log, "--json")
        assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], b"")
        assert call(log).stdout == f"{log}: no splat\n".encode()


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_the_text_fits_a_terminal(path: Path) -> None:
    from orchestrator.report import splats

    text = splats.as_text(file.read(str(path)))
    # but for fingerprints, which are copied: they are whole
    assert all(len(line) <= 80 or re.fullmatch(r"    \S+", line) for line in text.splitlines())
    assert text.isprintable() or "\n" in text


def test_file_and_pipe_say_the_same(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(body("memory-kinds.log"))
    assert call(str(log), "--json").stdout == call("-", "--json", stdin=log.read_bytes()).stdout


@pytest.mark.parametrize("name", ["nowhere.log", ".", "locked.log", "a\0b"])
def test_what_cannot_be_read_is_wrong_usage(name: str, tmp_path: Path) -> None:
    locked = tmp_path / "locked.log"
    locked.touch(mode=0)
    if name == locked.name and os.access(locked, os.R_OK):
        pytest.skip("root reads anything")
    with pytest.raises(UserError) as caught:
        file.read(name if "\0" in name else str(tmp_path / name))
    assert caught.value.exit_code == 2
    assert caught.value.message.count("\n") == 0


def test_wrong_usage_is_a_line_and_2(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path)):
        done = call(name)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"Traceback" not in done.stderr
        assert name.encode() in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    names = ["".join(chr(ord("a") + int(digit)) for digit in str(number)) for number in range(250)]
    head = "[    1.000000] WARNING: mm/x.c:1 at {}+0x1/0x2, CPU#1: a/1\n"
    log.write_text("".join(head.format(name) for name in names))
    command = " ".join(COMMAND)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} --json {log} | head -n 1"], capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b"[\n", b"")


def test_known_noise_is_hidden_and_told() -> None:
    head = b"[    1.300000] BUG: KASAN: wild-memory-access in rcu_is_watching+0x1/0x2\n"
    frames = b"[    1.300000] Read of size 8 at addr 1 by task swapper/0\n[    1.300000] Call Trace:\n"
    frames += b"[    1.300000]  rcu_is_watching+0x1/0x2\n"
    done = call("-", stdin=head + frames)
    assert (done.returncode, done.stdout) == (0, b"standard input: no splat\n\n1 hidden as known noise\n")
    late = re.sub(rb"\[    1\.", b"[   91.", head + frames)
    assert call("-", stdin=late).returncode == 1


MEASURE = """
import resource, sys
from orchestrator.splat.scanner import Scanner
block, times = sys.stdin.buffer.read(), int(sys.argv[1])
scanner = Scanner()
scanner.feed(block)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(times):
    scanner.feed(block)
print(len(scanner.finish()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown_kib(block: bytes, times: int) -> int:
    """How much more memory a reader takes after ``times`` more blocks."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(times)], input=block, stdout=subprocess.PIPE, check=True
    )
    return int(done.stdout.split()[1])


BLOCKS = {
    "clean": b"".join(b"[%5d.%06d] eth0: link is up, %d\n" % (n, n, n) for n in range(28_000)),
    "noise": bytes(range(256)) * 4000,
    "one line": b"BUG: " * 200_000,
    "splats": b"".join(body(path.name) for path in sorted(LOGS.glob("*.log"))) * 20,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "splats" else n for n in BLOCKS]
)
def test_memory_does_not_grow(name: str) -> None:
    assert grown_kib(BLOCKS[name], 20) < 8 * 1024


@pytest.mark.long
@pytest.mark.parametrize("name", BLOCKS)
def test_half_a_gigabyte_takes_no_more_memory(name: str) -> None:
    assert grown_kib(BLOCKS[name], 500_000_000 // len(BLOCKS[name])) < 8 * 1024
