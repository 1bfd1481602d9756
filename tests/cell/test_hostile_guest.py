# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a guest sends (report, console, KTAP, benchmark, its state): verdicts, and no exception."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
from fakes.guests import FakeGuest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import DATA

from orchestrator.cell.program import ProgramRun
from orchestrator.core.text import clean
from orchestrator.evidence import hang, health
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import CellResult, SuiteResult
from orchestrator.suites.catalog import Program, Suite
from orchestrator.verdict import known
from orchestrator.vm.ssh import Mark

REAL = [path.read_bytes() for path in sorted((DATA / "splat").glob("*.log"))[:12]]
PIECES = [
    *(line + b"\n" for text in REAL for line in text.splitlines()[:40]),
    b"[    1.0] orchestrate: begin s/p #FIRST\n",
    b"[    1.0] orchestrate: begin s/p/a #FIRST\n",
    b"[    1.0] orchestrate: end s/p #SECOND\n",
    b"<0>[    1.000000] reboot: Power down\n",
    b"<6>[    1.000000] sysrq: Trigger a crash\n",
    b"vmstat_refresh: nr_mlock -99999999999999999999\n",
    b"<99999999999>[99999999999999.1] x\n",
    b"orchestrate: begin \xff #",
    b"TAP version 13\n1..99999999\nok 1 a\nnot ok 2 b # SKIP\n",
    b"  1..0\n    ok 1\n# # # ok 2 - \xf0\x9f\n",
    b"Bail out!\n",
    b"work: left-out=1e308 passes=0 (least 5)\n",
    b"99999999999999999999 failures, the first: x\n",
    b"failure 1: \n",
    b"@ tainted\n99999999999999999999\n@ tasks\n1 1 D x y\n",
    b"task:p state:D stack:0 pid:1 tgid:1\n __schedule+0x1/0x2\n",
    b'{"schema_version": 2, "metrics": {"m": {"value": 1e308}}}',
    b"\r\r\r\x1b[2J\x00\xe2\x80\xae",
    b"[" * 2000,
]
SENT = st.lists(st.sampled_from(PIECES) | st.binary(max_size=60), max_size=12).map(b"".join)
FACTS: dict[str, st.SearchStrategy[Any]] = {
    "exit": st.sampled_from([0, 1, 2, 4, 126, 255]),
    "timeout": st.booleans(),
    "stuck": st.booleans(),
    "wall_ms": st.sampled_from([0, 1, 2**62]),
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TODAY = datetime.date(2026, 11, 30)
KNOWN = known.Entry(
    case="s/*",
    reason="r",
    link="l",
    expires=TODAY,
    symptom="x",
    rate=known.Rate(count="left-out", per="passes", most=0.1),
)


@QUICK
@given(
    SENT,
    SENT,
    SENT,
    st.fixed_dictionaries(FACTS),
    st.sampled_from(["exit", "ktap", "benchmark"]),
    st.sampled_from(["", "no answer", "no report", "gone"]),
    st.sampled_from(["", "the guest panicked", "QEMU was killed by signal 9"]),
)
def test_a_program(
    tmp_path: Path,
    out: bytes,
    err: bytes,
    says: bytes,
    facts: dict[str, Any],
    parser: Any,
    lost: str,
    dead: str,
) -> None:
    guest: Any = FakeGuest(out=out, err=err, marked=says, lost=lost, dead=dead if lost else "", **facts)
    suite = Suite(name="s", description="d", timeout_s=1, program=(Program(name="p", parser=parser),))
    run = ProgramRun(guest, suite, "p", folder=tmp_path / "s", root=tmp_path, watch=guest.watch)
    guest.factor = 0.001
    result = run.execute()
    assert result.cases
    judged = known.judge(result.cases, [KNOWN], release="7.2", variant="", arch="x86_64", today=TODAY)
    whole = CellResult(
        cell="c", suites=(SuiteResult(suite="s", cases=judged, metrics=result.numbers.metrics),)
    )
    again = msgspec.json.decode(msgspec.json.encode(whole), type=CellResult)
    assert again == whole
    for case in judged:
        for text in (case.id, case.reason, case.detail, case.fingerprint):
            assert clean(text.encode()) == text


@QUICK
@given(st.lists(SENT, max_size=4))
def test_a_console(chunks: list[bytes]) -> None:
    watch, mark = ConsoleWatch(), Mark("s/p", "FIRST", "SECOND")
    watch.expect(mark)
    for chunk in chunks:
        watch.feed(chunk)
        watch.futile()
        assert all(seen.finding.title.isprintable() for seen in watch.take("s/p"))
    watch.ended(0)
    watch.negative()
    assert watch.act().isprintable()


@QUICK
@given(SENT)
def test_the_state_of_a_guest(sent: bytes) -> None:
    text = clean(sent)
    state = health.parse_state(text)
    health.troubles(health.State(tainted=0), state)
    tasks = hang.parse_console(text)
    assert hang.server_state(tasks) in ("", "is gone", "is stopped")
    assert hang.place(tasks).isprintable()
    assert hang.explain(tasks, hang.parse_holders(text)).isprintable()
