# SPDX-License-Identifier: GPL-2.0-only
"""One program's judgement, with a guest that does what it is told, and the watcher that is real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.guests import FakeGuest
from paths import DATA

from orchestrator.cell import program
from orchestrator.cell.program import ProgramResult, ProgramRun
from orchestrator.evidence import watch
from orchestrator.evidence.collect import HangProbe, HangReport
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Expectation, Program, Suite
from orchestrator.verdict.expected import complete
from orchestrator.verdict.program import Numbers

LOGS = DATA / "splat"
PASS, FAIL, SKIP, NA = Verdict.PASS, Verdict.FAIL, Verdict.SKIP, Verdict.NA
WARNING = (LOGS / "x86-warning-7.2.log").read_bytes()
BEGIN, END = b"[    1.0] orchestrate: begin s/p #FIRST\n", b"[    9.0] orchestrate: end s/p #SECOND\n"
KTAP = b"TAP version 13\n1..2\nok 1 a\nok 2 b\n"


def suite(**program: Any) -> Suite:
    return Suite(
        name="s",
        description="d",
        kind="functional",
        origin="tree",
        timeout_s=10,
        program=(Program(name="p", **program),),
    )


Judge = Callable[..., ProgramResult]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    def run(guest: FakeGuest, probe: HangProbe | None = None, **program: Any) -> ProgramResult:
        folder = tmp_path / "suites/s"
        return ProgramRun(
            guest,  # type: ignore[arg-type]
            suite(**program),
            "p",
            folder=folder,
            root=tmp_path,
            watch=guest.watch,
            probe=probe,
        ).execute()

    return run


def only(result: ProgramResult) -> Case:
    (case,) = result.cases
    assert case.id == "s/p"
    return case


@pytest.mark.parametrize(
    ("guest", "verdict", "blame", "reason"),
    [
        ({}, PASS, Blame.NONE, ""),
        ({"exit": 1}, FAIL, Blame.KERNEL, "exit status 1"),
        ({"exit": 1, "err": b"why\n\n"}, FAIL, Blame.KERNEL, "exit status 1: why"),
        (
            {"exit": 1, "err": b"x\np: p.c:12: main: Assertion `a == b' failed.\ny\n"},
            FAIL,
            Blame.KERNEL,
            "p.c:12: main: Assertion `a == b' failed.",
        ),
        ({"exit": 4}, SKIP, Blame.NONE, "the test skips itself (exit status 4)"),
        ({"exit": 4, "err": b"no such file\n"}, SKIP, Blame.NONE, "no such file"),
        ({"exit": 2}, SKIP, Blame.NONE, "expected failure: exit status 2"),
        ({"exit": 3}, FAIL, Blame.KERNEL, "exit status 3"),
        ({"signal": 11}, FAIL, Blame.KERNEL, "killed by SIGSEGV"),
        ({"signal": 6, "err": b"aborting\n"}, FAIL, Blame.KERNEL, "killed by SIGABRT: aborting"),
        ({"signal": 63}, FAIL, Blame.KERNEL, "killed by signal 63"),
        ({"signal": 15, "timeout": True}, Verdict.TIMEOUT, Blame.TEST, "not done within 20 s"),
        ({"exit": 0, "timeout": True}, Verdict.TIMEOUT, Blame.TEST, "not done within 20 s"),
        (
            {"signal": None, "timeout": True, "stuck": True},
            Verdict.TIMEOUT,
            Blame.KERNEL,
            "not done within 20 s, and it cannot be killed",
        ),
        (
            {"exec_error": "exec /x: No such file or directory"},
            Verdict.ERROR,
            Blame.INFRA,
            "it could not be started: exec /x: No such file or directory",
        ),
    ],
)
def test_how_a_program_ends(
    judge: Judge, guest: dict[str, Any], verdict: Verdict, blame: Blame, reason: str
) -> None:
    result = judge(FakeGuest(**guest))
    case = only(result)
    assert (case.verdict, case.blame, case.reason) == (verdict, blame, reason)
    assert not result.lost
    assert case.duration_s == 3.0


def test_what_is_asked_of_the_guest(judge: Judge) -> None:
    guest = FakeGuest(cpus="0-1", nice=5)
    judge(guest, argv=("--x",), env={"A": "b"}, timeout_s=7, cpus="0-1", nice=5)
    mark = guest.asked.pop("mark")
    assert guest.asked.pop("futile") == guest.watch.futile
    assert mark.id == "s/p"
    assert mark.first != mark.second
    assert guest.asked == {
        "argv": ["/opt/orchestrate/suites/s/p", "--x"],
        "limit_s": 14.0,
        "env": {"ORCHESTRATE_FACTOR": "2.00", "ORCHESTRATE_MARK": f"{mark.first} s/p", "A": "b"},
        "cwd": "/tmp",
        "options": ("--cpus", "0-1", "--nice", "5"),
        "late": None,
    }


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"nice": 0, "cpus": "0"}, "nice 5 was asked for, the process had 0"),
        ({"nice": 5, "cpus": "0-1"}, "CPUs 0 were asked for, the process had 0-1"),
        ({"nice": 5, "cpus": ""}, "CPUs 0 were asked for, the process had none"),
    ],
)
@pytest.mark.parametrize("parser", ["exit", "ktap"])
def test_a_placement_that_was_not_granted_proves_nothing(
    judge: Judge, parser: str, facts: dict[str, Any], reason: str
) -> None:
    case = only(judge(FakeGuest(out=KTAP, **facts), parser=parser, cpus="0", nice=5))
    assert (case.verdict, case.reason) == (Verdict.INCONCLUSIVE, reason)


def test_a_server_that_goes_away_is_not_the_kernels_silence(judge: Judge) -> None:
    case = only(judge(FakeGuest(lost="reset by peer")))
    assert (case.verdict, case.blame) == (Verdict.ERROR, Blame.INFRA)
    assert case.reason == "the guest's SSH server went away while its kernel ran on: reset by peer"


KERNEL_SAYS = b"<0>[    5.000000][   T99] "
PROGRAM_SAYS = b"<8>[    5.000000][   T99] "
REBOOTED = "the guest rebooted or powered off"
FAIL_TEST = (FAIL, Blame.TEST)


@pytest.mark.parametrize(
    ("act", "dead", "lost"),
    [
        (b"reboot: Restarting system", REBOOTED, "gone"),
        (b"reboot: Power down", REBOOTED, "gone"),
        (b"reboot: System halted", "", "no answer"),
        (b"sysrq: Resetting", REBOOTED, "gone"),
        (b"sysrq: Power Off", REBOOTED, "gone"),
        (b"sysrq: Kill All Tasks", "", "gone"),
        (b"sysrq: Terminate All Tasks", "", "gone"),
        (b"SysRq : Resetting", REBOOTED, "gone"),
    ],
)
def test_a_guest_that_userland_takes_down_is_the_programs(
    judge: Judge, act: bytes, dead: str, lost: str
) -> None:
    case = only(judge(FakeGuest(lost=lost, dead=dead, marked=BEGIN + KERNEL_SAYS + act + b"\n")))
    assert (case.verdict, case.blame) == FAIL_TEST
    assert act.decode() in case.reason
    # who only writes so has not done it
    written = judge(FakeGuest(lost="gone", dead=REBOOTED, marked=BEGIN + PROGRAM_SAYS + act + b"\n"))
    assert only(written).verdict is Verdict.CRASH
    # nor what the program before it had done
    before = FakeGuest(lost="gone", dead=REBOOTED)
    before.watch.feed(KERNEL_SAYS + act + b"\n")
    assert only(judge(before)).verdict is Verdict.CRASH


@pytest.mark.parametrize(
    "says",
    [
        b"sysrq: Trigger a crash\n" + KERNEL_SAYS + b"Kernel panic - not syncing: sysrq triggered crash\n",
        b"SysRq : Trigger a crash\n"
        + KERNEL_SAYS
        + b"BUG: unable to handle kernel NULL pointer dereference\n",
        b"sysrq: Manual OOM execution\n" + KERNEL_SAYS + b"Out of memory: Killed process 3 (p)\n",
    ],
)
def test_a_crash_that_was_asked_for_is_the_programs(judge: Judge, says: bytes) -> None:
    marked = BEGIN + KERNEL_SAYS + says
    case = only(judge(FakeGuest(lost="gone", dead="the guest panicked", marked=marked)))
    assert (case.verdict, case.blame) == FAIL_TEST
    assert case.reason.startswith("written or requested by a program: ")


def test_a_report_before_the_reboot_is_still_the_kernels(judge: Judge) -> None:
    marked = BEGIN + WARNING + KERNEL_SAYS + b"reboot: Restarting system\n"
    case = only(judge(FakeGuest(lost="gone", dead=REBOOTED, marked=marked)))
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)


@pytest.mark.parametrize(
    "text",
    [
        b"WARNING: mm/mmap_lock.c:1 at lock_next_vma+0x1/0x2, CPU#0: p/1",
        b"BUG: KASAN: use-after-free in f+0x1/0x2",
        b"Kernel panic - not syncing: Fatal exception",
        b"rcu: INFO: rcu_preempt self-detected stall on CPU",
    ],
)
def test_a_report_that_a_program_writes_is_the_programs(judge: Judge, text: bytes) -> None:
    case = only(judge(FakeGuest(marked=BEGIN + PROGRAM_SAYS + text + b"\n" + END)))
    assert (case.verdict, case.blame) == FAIL_TEST
    kernels = only(judge(FakeGuest(marked=BEGIN + KERNEL_SAYS + text + b"\n" + END)))
    assert (kernels.verdict, kernels.blame) == (Verdict.CRASH, Blame.KERNEL)


def test_who_ends_the_runner_or_its_session_is_the_program(judge: Judge) -> None:
    case = only(judge(FakeGuest(lost="no report")))
    assert (case.verdict, case.blame) == FAIL_TEST
    assert "the runner that watches the program" in case.reason
    # the server is well and a new session works
    case = only(judge(FakeGuest(lost="reset by peer", answers=True)))
    assert (case.verdict, case.blame) == FAIL_TEST
    assert "session" in case.reason
    # a killed QEMU is nobody's act in the guest
    case = only(judge(FakeGuest(lost="no report", dead="QEMU was killed by signal 9")))
    assert (case.verdict, case.blame) == (Verdict.ERROR, Blame.INFRA)


@pytest.mark.parametrize("state", ["is stopped", "is gone"])
def test_a_server_that_was_stopped_is_no_hang_of_the_kernel(judge: Judge, state: str) -> None:
    probe = HangProbe(lambda *_: HangReport(server=state), 30.0)
    case = only(judge(FakeGuest(lost="no answer"), probe=probe))
    assert (case.verdict, case.blame) == FAIL_TEST
    assert state in case.reason


def test_a_program_that_mutes_the_console_proves_nothing(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_MARK_S", 0.01)
    result = judge(FakeGuest(out=KTAP.replace(b"ok 2", b"not ok 2"), exit=1, marked=BEGIN), parser="ktap")
    assert {c.id: c.verdict for c in result.cases} == {"s/p/a": Verdict.INCONCLUSIVE, "s/p/b": FAIL}
    assert "mute" in result.cases[0].reason
    # a console that shows no marks at all is not its doing
    assert only(judge(FakeGuest())).verdict is PASS


def flood(number: int) -> bytes:
    return BEGIN + b"".join(
        WARNING.replace(b"vma_start_read", b"f_%d" % (n % number)) for n in range(watch.FLOOD_REPORTS)
    )


@pytest.mark.parametrize("number", [1, 7])
def test_a_flood_is_not_waited_for(judge: Judge, number: int) -> None:
    result = judge(FakeGuest(out=KTAP[:-7], marked=flood(number)), parser="ktap")
    case = next(c for c in result.cases if c.id == "s/p")
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert f"floods the console: {watch.FLOOD_REPORTS} reports" in case.reason
    assert result.fault == case.fingerprint
    assert result.lost
    # what it had reported stays, but nobody knows which case the kernel warned in
    assert next(c for c in result.cases if c.id == "s/p/a").verdict is Verdict.INCONCLUSIVE


def test_much_text_without_a_report_is_inconclusive(judge: Judge) -> None:
    marked = BEGIN + KERNEL_SAYS + (b"x" * 100 + b"\n") * (watch.FLOOD_BYTES_QUIET // 100)
    case = only(judge(FakeGuest(marked=marked)))
    assert case.verdict is Verdict.INCONCLUSIVE
    assert "floods the console: 0 reports" in case.reason


def test_a_hang_that_the_kernel_reports_is_not_waited_for(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STALL_S", -1.0)
    probe = HangProbe(lambda *_: HangReport(reason="p/1 waits", place="__vma_start_write"), 30.0)
    hung = BEGIN + (LOGS / "hung-task.log").read_bytes()
    result = judge(FakeGuest(marked=hung), probe=probe)
    case = only(result)
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert case.reason.endswith("; p/1 waits")
    assert result.fault == case.fingerprint


@pytest.mark.parametrize(
    ("guest", "fault"),
    [
        ({"timeout": True, "signal": 15}, ""),
        ({"timeout": True, "stuck": True, "signal": None}, "hang in m_start"),
        ({"lost": "no answer"}, "hang in m_start"),
        ({"lost": "gone"}, ""),
        ({}, ""),
    ],
)
def test_which_fault_may_be_the_same_in_other_programs(
    judge: Judge, guest: dict[str, Any], fault: str
) -> None:
    probe = HangProbe(lambda *_: HangReport(place="m_start"), 30.0)
    assert judge(FakeGuest(**guest), probe=probe).fault == fault


@pytest.mark.parametrize(
    ("dead", "verdict", "blame", "reason"),
    [
        ("the guest panicked", Verdict.CRASH, Blame.KERNEL, "the guest panicked"),
        (
            "the guest rebooted or powered off",
            Verdict.CRASH,
            Blame.KERNEL,
            "the guest rebooted or powered off",
        ),
        ("QEMU was killed by signal 9", Verdict.ERROR, Blame.INFRA, "QEMU was killed by signal 9"),
        ("", Verdict.TIMEOUT, Blame.KERNEL, "the guest stopped answering (limit 20 s): no answer"),
    ],
)
def test_a_guest_that_is_lost(judge: Judge, dead: str, verdict: Verdict, blame: Blame, reason: str) -> None:
    result = judge(FakeGuest(lost="no answer", dead=dead))
    case = only(result)
    assert (case.verdict, case.blame, case.reason) == (verdict, blame, reason)
    assert case.detail == "last line"
    assert result.lost


def test_the_splat_tells_more_than_the_death(judge: Judge) -> None:
    says = (LOGS / "x86-null-deref-then-panic.log").read_bytes()
    case = only(judge(FakeGuest(lost="gone", dead="the guest panicked", says=says)))
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert case.reason.startswith("BUG: unable to handle")
    assert case.fingerprint
    assert "Call Trace" in case.detail


@pytest.mark.parametrize("parser", ["exit", "ktap", "benchmark"])
def test_a_splat_outweighs_what_the_program_says(judge: Judge, parser: str) -> None:
    says = (LOGS / "x86-warning-7.2.log").read_bytes()
    result = judge(FakeGuest(out=KTAP, says=says), parser=parser)
    case = next(c for c in result.cases if c.id == "s/p")
    assert (case.verdict, case.blame) == (Verdict.CRASH, Blame.KERNEL)
    assert case.reason.startswith("WARNING in vma_start_read")
    assert case.log == "suites/s/p.log"
    assert result.numbers == Numbers()


def test_running_out_of_memory_is_nobodys_crash(judge: Judge) -> None:
    says = b"".join((LOGS / "oom-then-reboot.log").read_bytes().splitlines(keepends=True)[5:12])
    case = only(judge(FakeGuest(signal=9, says=says)))
    assert (case.verdict, case.blame) == (Verdict.INCONCLUSIVE, Blame.INFRA)
    assert "out of memory" in case.reason


def test_what_burned_before_is_not_this_programs(judge: Judge) -> None:
    guest = FakeGuest()
    guest.watch.feed((LOGS / "x86-warning-7.2.log").read_bytes())
    assert only(judge(guest)).verdict is PASS


def test_ktap(judge: Judge) -> None:
    result = judge(FakeGuest(out=KTAP), parser="ktap")
    assert [(c.id, c.verdict, c.duration_s) for c in result.cases] == [
        ("s/p/a", PASS, 1.5),
        ("s/p/b", PASS, 1.5),
    ]


@pytest.mark.parametrize(
    ("guest", "verdicts"),
    [
        ({"out": KTAP, "exit": 1}, {"s/p/a": PASS, "s/p/b": PASS, "s/p": FAIL}),
        ({"out": KTAP, "signal": 11}, {"s/p/a": PASS, "s/p/b": PASS, "s/p": FAIL}),
        ({"out": KTAP.replace(b"ok 2", b"not ok 2"), "exit": 1}, {"s/p/a": PASS, "s/p/b": FAIL}),
        ({"out": KTAP[:-7], "exit": 0}, {"s/p/a": PASS, "s/p/plan": Verdict.INCONCLUSIVE}),
        (
            {"out": KTAP[:-7], "signal": 9, "timeout": True},
            {"s/p/a": PASS, "s/p/plan": Verdict.INCONCLUSIVE, "s/p": Verdict.TIMEOUT},
        ),
        ({"out": b"", "exit": 0}, {"s/p/plan": Verdict.INCONCLUSIVE}),
        ({"out": b"1..0 # SKIP not here\n", "exit": 4}, {"s/p": SKIP}),
    ],
)
def test_ktap_and_the_exit_status(judge: Judge, guest: dict[str, Any], verdicts: dict[str, Verdict]) -> None:
    result = judge(FakeGuest(**guest), parser="ktap")
    assert {c.id: c.verdict for c in result.cases} == verdicts


IN_B = b"[    2.0] orchestrate: begin s/p/b #FIRST\n"


def test_the_case_that_burned_is_the_one_that_crashed(judge: Judge) -> None:
    result = judge(FakeGuest(out=KTAP, marked=BEGIN + IN_B + WARNING + END), parser="ktap")
    cases = {c.id: c for c in result.cases}
    assert {name: c.verdict for name, c in cases.items()} == {"s/p/a": PASS, "s/p/b": Verdict.CRASH}
    assert cases["s/p/b"].reason == "WARNING in vma_start_read"
    assert "orchestrate: " not in cases["s/p/b"].detail
    assert result.before is None


def test_what_a_case_had_said_is_kept(judge: Judge) -> None:
    out = KTAP.replace(b"ok 2 b", b"not ok 2 b")
    result = judge(FakeGuest(out=out, exit=1, marked=BEGIN + IN_B + WARNING + END), parser="ktap")
    case = next(c for c in result.cases if c.id == "s/p/b")
    assert case.verdict is Verdict.CRASH
    assert "The program said: FAIL" in case.detail


def test_what_burned_before_the_program_is_the_boots(judge: Judge) -> None:
    result = judge(FakeGuest(marked=WARNING + BEGIN + END))
    assert only(result).verdict is PASS
    assert result.before is not None
    assert (result.before.id, result.before.verdict) == ("boot", Verdict.CRASH)


def test_what_burned_behind_the_end_is_left(judge: Judge) -> None:
    guest = FakeGuest(marked=BEGIN + END + WARNING)
    assert only(judge(guest)).verdict is PASS
    (left,) = guest.watch.take()
    assert left.after == "s/p"


def test_what_was_done_before_the_guest_died_is_kept(judge: Judge, tmp_path: Path) -> None:
    guest = FakeGuest(out=KTAP[:-7], lost="gone", dead="the guest panicked", marked=BEGIN + IN_B + WARNING)
    result = judge(guest, parser="ktap")
    crash = Verdict.CRASH
    assert {c.id: c.verdict for c in result.cases} == {"s/p/a": PASS, "s/p/b": crash, "s/p": crash}
    assert (tmp_path / "suites/s/p.log").read_bytes() == KTAP[:-7]


def probe_of(seen: list[str]) -> HangProbe:
    def at(guest: object, name: str) -> HangReport:
        seen.append(name)
        return HangReport("p/1 waits for a VMA lock", "evidence: p.hang.txt")

    return HangProbe(at, 30.0)


@pytest.mark.parametrize(
    ("guest", "verdict", "blame"),
    [
        ({"timeout": True, "signal": 15}, Verdict.TIMEOUT, Blame.TEST),
        ({"timeout": True, "stuck": True, "signal": None}, Verdict.TIMEOUT, Blame.KERNEL),
        ({"lost": "no answer"}, Verdict.TIMEOUT, Blame.KERNEL),
    ],
)
def test_what_hangs_is_looked_at_once_and_the_verdict_stays(
    judge: Judge, guest: dict[str, Any], verdict: Verdict, blame: Blame
) -> None:
    seen: list[str] = []
    case = only(judge(FakeGuest(**guest), probe=probe_of(seen)))
    assert seen == ["p"]
    assert (case.verdict, case.blame) == (verdict, blame)
    assert case.reason.endswith("; p/1 waits for a VMA lock")
    assert case.detail.startswith("evidence: p.hang.txt")


@pytest.mark.parametrize(
    "guest", [{}, {"exit": 1}, {"lost": "gone"}, {"lost": "x", "dead": "the guest panicked"}]
)
def test_what_does_not_hang_is_left_alone(judge: Judge, guest: dict[str, Any]) -> None:
    seen: list[str] = []
    judge(FakeGuest(**guest), probe=probe_of(seen))
    assert seen == []


def test_a_benchmark_that_says_nothing_proves_nothing(judge: Judge) -> None:
    case = only(judge(FakeGuest(out=b"hello\n"), parser="benchmark"))
    assert case.verdict is Verdict.INCONCLUSIVE
    assert only(judge(FakeGuest(exit=1), parser="benchmark")).verdict is FAIL


def test_the_output_is_kept_as_it_came(judge: Judge, tmp_path: Path) -> None:
    case = only(judge(FakeGuest(out=b"\xff\x1b[31mred\n", err=b"\0err", exit=1)))
    assert case.log == "suites/s/p.log"
    assert (tmp_path / case.log).read_bytes() == b"\xff\x1b[31mred\n\n--- standard error ---\n\0err"
    assert "\x1b" not in case.detail
    assert "\\x00err" in case.reason


def case(id: str, verdict: Verdict = PASS, reason: str = "") -> Case:
    return Case(id=id, verdict=verdict, reason=reason)


def completed(
    wanted: dict[str, Expectation], found: dict[str, list[Case]], away: dict[str, str] | None = None
) -> dict[str, tuple[Verdict, str]]:
    cases, _ = complete(suite(), wanted, away or {}, found)
    return {c.id: (c.verdict, c.reason) for c in cases}


P = Expectation(program="p")
P3 = Expectation(program="p", cases=3)
P_SKIPS = Expectation(program="p", outcome="skip", reason="x86 only")


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (P, {"p": [case("s/p")]}, {"s/p": (PASS, "")}),
        (P, {}, {"s/p": (Verdict.INCONCLUSIVE, "it did not report: not built")}),
        (P, {"p": []}, {"s/p": (Verdict.INCONCLUSIVE, "1 cases expected of this kernel, 0 reported")}),
        (
            P,
            {"p": [case("s/p", SKIP, "no file")]},
            {"s/p": (Verdict.INCONCLUSIVE, "it skipped where it should run: no file")},
        ),
        (P_SKIPS, {"p": [case("s/p", SKIP, "said")]}, {"s/p": (SKIP, "x86 only")}),
        (P_SKIPS, {"p": [case("s/p", FAIL, "said")]}, {"s/p": (FAIL, "said")}),
        (
            P3,
            {"p": [case("s/p/a"), case("s/p/b")]},
            {
                "s/p/a": (PASS, ""),
                "s/p/b": (PASS, ""),
                "s/p": (Verdict.INCONCLUSIVE, "3 cases expected of this kernel, 2 reported"),
            },
        ),
        # the reason why there are fewer is known
        (P3, {"p": [case("s/p", Verdict.CRASH, "bug")]}, {"s/p": (Verdict.CRASH, "bug")}),
        (P3, {"p": [case(f"s/p/{n}") for n in "abcd"]}, {f"s/p/{n}": (PASS, "") for n in "abcd"}),
    ],
)
def test_reports_are_held_against_what_must_come(
    wanted: Expectation, found: dict[str, list[Case]], expected: dict[str, tuple[Verdict, str]]
) -> None:
    assert completed({"p": wanted}, found) == expected


def test_the_plan_is_no_case_of_its_own() -> None:
    found = {"p": [case("s/p/a"), case("s/p/b"), case("s/p/plan", Verdict.INCONCLUSIVE, "torn")]}
    assert completed({"p": P3}, found)["s/p"][0] is Verdict.INCONCLUSIVE


def test_a_question_that_does_not_arise() -> None:
    assert completed({}, {}, {"p": "since 6.17"}) == {"s/p": (NA, "since 6.17")}
    # backported: what reports counts
    assert completed({}, {"p": [case("s/p")]}, {"p": "since 6.17"}) == {"s/p": (PASS, "")}


def test_programs_that_nobody_expected_are_named() -> None:
    found = {"p": [case("s/p")], "zz": [case("s/zz", FAIL)], "aa": [case("s/aa")]}
    cases, unknown = complete(suite(), {"p": P}, {}, found)
    assert unknown == ("aa", "zz")
    assert {c.id: c.verdict for c in cases} == {"s/p": PASS, "s/zz": FAIL, "s/aa": PASS}


@pytest.mark.parametrize("name", catalog.names())
def test_a_suite_that_did_not_run_at_all_is_not_green(name: str) -> None:
    whole = catalog.load(name)
    cases, _ = complete(whole, catalog.expected(whole, "7.2", "x86_64"), {}, {})
    assert cases
    assert {c.verdict for c in cases} == {Verdict.INCONCLUSIVE}
