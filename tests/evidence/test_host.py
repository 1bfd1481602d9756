# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec
import psutil
import pytest

from orchestrator.evidence.host import (
    HostSample,
    cpu_seconds,
    disturbed,
    host_sample,
    other_fraction,
    steal_fraction,
)

BEFORE = HostSample(at_s=100.0, cpus=2, busy_s=50.0, steal_s=1.0, total_s=200.0, load_1min=0.5)


def later(busy_s: float, steal_s: float = 0.0, total_s: float = 20.0, cpus: int = 2) -> HostSample:
    return HostSample(
        at_s=110.0,
        cpus=cpus,
        busy_s=BEFORE.busy_s + busy_s,
        steal_s=BEFORE.steal_s + steal_s,
        total_s=BEFORE.total_s + total_s,
        load_1min=2.5,
    )


def test_a_quiet_host() -> None:
    assert disturbed(BEFORE, later(busy_s=19.0), own_cpu_s=18.0) == ""


def test_steal_disturbs() -> None:
    after = later(busy_s=10.0, steal_s=4.0)
    assert steal_fraction(BEFORE, after) == pytest.approx(0.2)
    assert disturbed(BEFORE, after, 10.0) == "steal 20% of the host's CPU time (load 0.5 before, 2.5 after)"
    assert disturbed(BEFORE, after, 10.0, max_steal=0.25) == ""


def test_other_work_disturbs() -> None:
    after = later(busy_s=19.0)
    assert other_fraction(BEFORE, after, 9.0) == pytest.approx(0.5)
    assert "other work 50% of the host's CPU time" in disturbed(BEFORE, after, own_cpu_s=9.0)
    assert disturbed(BEFORE, after, own_cpu_s=9.0, max_other=0.6) == ""


def test_both_are_named() -> None:
    reason = disturbed(BEFORE, later(busy_s=10.0, steal_s=5.0), own_cpu_s=0.0)
    assert "steal 25%" in reason
    assert "other work 50%" in reason


def test_own_time_beyond_the_hosts_is_rounding() -> None:
    assert other_fraction(BEFORE, later(busy_s=5.0), own_cpu_s=5.02) == 0
    assert disturbed(BEFORE, later(busy_s=5.0), own_cpu_s=5.02) == ""


def test_no_proof_of_quiet_is_not_quiet() -> None:
    assert "no CPU time" in disturbed(BEFORE, BEFORE, 0.0)
    assert "from 2 to 4 CPUs" in disturbed(BEFORE, later(busy_s=1.0, cpus=4), 1.0)
    assert steal_fraction(BEFORE, BEFORE) == other_fraction(BEFORE, BEFORE, 0.0) == 0


def test_waiting_is_idle_and_interrupts_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    times = psutil.cpu_times()._replace(
        user=1.0, nice=2.0, system=4.0, idle=8.0, iowait=16.0, irq=32.0, softirq=64.0, steal=128.0
    )
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    sample = host_sample()
    assert (sample.busy_s, sample.steal_s, sample.total_s) == (103.0, 128.0, 255.0)


def test_this_host() -> None:
    before = host_sample()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = host_sample()
    assert after.at_s > before.at_s
    assert after.total_s > before.total_s
    # A clock tick each of the host's and of our own accounting.
    assert after.busy_s - before.busy_s >= 0.3 - 0.1
    assert 0 <= steal_fraction(before, after) <= 1
    assert 0 <= other_fraction(before, after, 0.3) <= 1
    assert msgspec.json.decode(msgspec.json.encode(after), type=HostSample) == after


def test_cpu_seconds_of_processes() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as burner:
        assert burner.stdout is not None
        burner.stdout.readline()
        assert cpu_seconds([burner.pid]) >= 0.25
        together = cpu_seconds([burner.pid, os.getpid()])
        assert together > cpu_seconds([burner.pid])
        burner.communicate(b"\n")
    assert cpu_seconds([burner.pid]) == 0
