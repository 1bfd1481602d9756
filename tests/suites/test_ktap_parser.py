# SPDX-License-Identifier: GPL-2.0-only
"""KTAP of programs that others wrote: levels without a plan, names, dialects, and far too many results."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.text import clean
from orchestrator.results.model import Blame, Verdict
from orchestrator.suites import ktap_lines, ktap_parser
from orchestrator.suites.ktap_levels import MAX_NOTES
from orchestrator.suites.ktap_parser import MAX_CASES
from orchestrator.verdict.ktap import parse, to_cases


def judged(text: str, prefix: str = "s/p") -> list[str]:
    """``VERDICT id below the prefix`` of each case."""
    return [
        f"{case.verdict} {case.id.removeprefix(prefix).removeprefix('/')}"
        for case in to_cases(parse(clean(text.encode())), prefix)
    ]


def ids(text: str) -> list[str]:
    return [case.id for case in to_cases(parse(text), "s/p")]


# --- a plan may be omitted below a level that reports ------------------------------------------------

KUNIT_PARAMETERS = """KTAP version 1
1..1
    KTAP version 1
    # Subtest: list_sort
    1..3
    # module: list_sort
    ok 1 list_sort_test
        KTAP version 1
        # Subtest: params
        ok 1 a=1
        ok 2 a=2
    # params: pass:2 fail:0 skip:0 total:2
    ok 2 params
    ok 3 skip_test # SKIP this test should be skipped
# list_sort: pass:2 fail:0 skip:1 total:3
# Totals: pass:3 fail:0 skip:1 total:4
ok 1 list_sort
"""
CGROUP_BELOW_THE_RUNNER = """TAP version 13
1..1
# timeout set to 45
# selftests: cgroup: test_core
# ok 1 test_cgcore_internal_process_constraint
# ok 2 test_cgcore_top_down_constraint_enable
# ok 3 test_cgcore_lesser_ns_open # SKIP
ok 1 selftests: cgroup: test_core
"""
NO_PLAN_BELOW_A_FAILURE = """1..1
  KTAP version 1
  ok 1 a
  not ok 2 b
not ok 1 suite
"""


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            KUNIT_PARAMETERS,
            [
                "PASS list_sort/list_sort_test",
                "PASS list_sort/params/a=1",
                "PASS list_sort/params/a=2",
                "SKIP list_sort/skip_test",
            ],
        ),
        (
            CGROUP_BELOW_THE_RUNNER,
            [
                "PASS test_core/test_cgcore_internal_process_constraint",
                "PASS test_core/test_cgcore_top_down_constraint_enable",
                "SKIP test_core/test_cgcore_lesser_ns_open",
            ],
        ),
        (NO_PLAN_BELOW_A_FAILURE, ["PASS suite/a", "FAIL suite/b"]),
        # a header without results needs no plan where the parent says why
        ("1..1\n# TAP version 13\nok 1 selftests: x: y # SKIP no root\n", ["SKIP y"]),
        ("1..1\n# TAP version 13\nnot ok 1 selftests: x: y # exit=139\n", ["FAIL y"]),
        # indented deeper than the header that announces them
        (
            "1..1\n    KTAP version 1\n    1..2\n        ok 1 a\n        ok 2 b\nok 1 t\n",
            ["PASS t/a", "PASS t/b"],
        ),
        ("KTAP version 1\n1..2\n  ok 1 a\n  not ok 2 b\n", ["PASS a", "FAIL b"]),
    ],
)
def test_a_level_below_one_that_reports_needs_no_plan(text: str, want: list[str]) -> None:
    assert judged(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "TAP version 13\nok 1 a\nok 2 b\n",  # the outermost: nothing says that this is all
        "1..1\n  KTAP version 1\n  ok 1 a\n",  # the parent never reported
        "1..1\n  KTAP version 1\nok 1 t\n",  # nothing ran in it
        "1..1\n    1..3\n        ok 1 a\n        ok 2 b\nok 1 t\n",  # its plan does not hold
    ],
)
def test_what_nobody_vouches_for_is_inconclusive(text: str) -> None:
    assert judged(text)[-1] == "INCONCLUSIVE plan"


# --- names ------------------------------------------------------------------------------------------

NAMES = [
    "first",
    "a b",
    "x/y.z",
    "test #3 passes",
    "C# works",
    r"takes \# SKIP",
    "12.5 GB free",
    "-x",
    "ok",
    "é",
]
#: The same test as it ends in each way: what stands before its name, and behind it.
OUTCOMES = {
    "pass": ("ok", ""),
    "fail": ("not ok", ""),
    "skip": ("ok", " # SKIP no hardware"),
    "tap skip": ("ok", " # skip no hardware"),
    "glued skip": ("ok", " #skip no hardware"),
    "skipped not ok": ("not ok", " # SKIP"),
    "comment": ("ok", " # rcode=0"),
    "comment of a failure": ("not ok", " # rcode=1"),
    "comment and skip": ("ok", " # took 3 ms # SKIP no hardware"),
    "todo": ("not ok", " # TODO later"),
    "xfail": ("ok", " # XFAIL known"),
    "xpass": ("ok", " # XPASS gone"),
    "error": ("not ok", " # error setup"),
    "timeout": ("not ok", " # TIMEOUT 45 seconds"),
    "exit": ("not ok", " # exit=139"),
    "kernel message": ("ok", "[   12.345678] random: crng init done"),
}
SEPARATORS = (" {n} ", " {n} - ", " {n}- ", " - ", " ")


@pytest.mark.parametrize("separator", SEPARATORS)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
    data=st.data(),
    nested=st.sampled_from(["", "# ", "    "]),
)
@settings(max_examples=40, deadline=None)
def test_ids_do_not_depend_on_outcomes(
    separator: str, names: list[str], data: st.DataObject, nested: str
) -> None:
    def text(outcomes: list[tuple[str, str]]) -> str:
        lines = [f"{nested}1..{len(names)}"]
        for n, (name, (word, tail)) in enumerate(zip(names, outcomes, strict=True), 1):
            lines.append(f"{nested}{word}{separator.format(n=n)}{name}{tail}")
        return "\n".join(["1..1", *lines, "not ok 1 parent"] if nested else lines) + "\n"

    outcomes = [data.draw(st.sampled_from(list(OUTCOMES.values()))) for _ in names]
    leaves = [path for path in ids(text(outcomes)) if path != "s/p/parent"]
    assert leaves == [path for path in ids(text([OUTCOMES["pass"]] * len(names))) if path != "s/p/parent"]
    assert len(leaves) == len(names)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("ok - first\nnot ok - second\n", ["first", "second"]),
        ("ok first\nnot ok second\n", ["first", "second"]),
        ("ok 1 - first\nnot ok 2 -second\n", ["first", "-second"]),
        ("ok\nnot ok\n", ["unnamed", "unnamed#2"]),
        ("ok 1\nnot ok 2 # TIMEOUT 45 seconds\n", ["unnamed", "unnamed#2"]),
        ("ok 1\nnot ok 2 # exit=1\n", ["unnamed", "unnamed#2"]),
        ("ok 1\nok 2 # skip no root\n", ["unnamed", "unnamed#2"]),
        # ksft_test_result_skip() and ksft_test_result_error() put the name there
        ("ok 1 # SKIP first\nnot ok 2 # error second\n", ["first", "second"]),
        ("ok 1..1 selftests: x: y [PASS]\nnot ok 1..2 selftests: x: z [FAIL]\n", ["y", "z"]),
        ("ok 1 a\nok 1234567890123 b\n", ["a", "b"]),
    ],
)
def test_names(lines: str, names: list[str]) -> None:
    assert ids(f"1..2\n{lines}") == [f"s/p/{name}" for name in names]


def test_numbers_are_never_read_as_names() -> None:
    for word, number in product(("ok", "not ok"), ("1", "999999999", "9" * 5000)):
        assert ids(f"1..1\n{word} {number} a\n") == ["s/p/a"]


def test_prose_between_numbered_results_is_no_result() -> None:
    report = parse("1..2\nok let us start\nok 1 a\nok that went well\nok 2 b\n")
    assert report.problems == ()
    assert [(case.path, case.diagnostics) for case in report.cases] == [
        (("a",), ("ok let us start",)),
        (("b",), ("ok that went well",)),
    ]


def test_a_test_that_is_killed_keeps_the_ids_of_its_cases() -> None:
    """Its own result is missing then; the header still names it."""
    runner = "1..1\n# selftests: proc: race\n# TAP version 13\n# 1..2\n# ok 1 a\n"
    assert judged(runner)[0] == "PASS race/a"
    assert judged(f"{runner}# ok 2 b\nok 1 selftests: proc: race\n")[0] == "PASS race/a"
    kunit = "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: suite\n    1..2\n    not ok 1 a\n"
    assert judged(kunit)[0] == "FAIL suite/a"
    older = "TAP version 14\n1..1\n\t# Subtest: suite\n\t1..2\n\tok 1 - a\n"
    assert judged(older)[0] == "PASS suite/a"
    assert all("although" not in case.reason for case in to_cases(parse(kunit), "s/p"))


# --- dialects ---------------------------------------------------------------------------------------

YAML = """TAP version 14
pragma +strict
1..3
not ok 1 - adds
  ---
  message: "sum is wrong"
  found: 3
  expected: |
    ok 9 of a kind
    not ok 8
  ...
ok 2 - carries
not ok 3 - wraps # TODO later
"""
DMESG = """[    1.060000] printk: console [tty0] enabled
[    1.060000] KTAP version 1
[    1.060000] 1..1
[    1.060001]     KTAP version 1
[    1.060002]     # Subtest: maple
[    1.060003]     1..2
[    1.060004]     ok 1 store
ok 7 this line is of no kernel
[   10.060005] random: crng init done
[   10.060006]     not ok 2 erase
[   10.060007] not ok 1 maple
"""


def test_yaml_explains_the_result_before_it() -> None:
    adds, carries, wraps = to_cases(parse(YAML), "s/p")
    assert (adds.verdict, carries.verdict, wraps.verdict) == (Verdict.FAIL, Verdict.PASS, Verdict.SKIP)
    assert 'message: "sum is wrong"' in adds.detail
    assert "ok 9 of a kind" in adds.detail


@pytest.mark.parametrize(
    "tail", ["ok 2 b\n", "  ok 1 inner\n", "  KTAP version 1\n  1..1\n  ok 1 inner\nok 2 b\n"]
)
def test_yaml_without_an_end_hides_nothing(tail: str) -> None:
    assert judged(f"1..2\nok 1 a\n  ---\n{tail}")[-1] == "INCONCLUSIVE plan"


def test_results_in_a_kernel_log() -> None:
    assert judged(DMESG) == ["PASS maple/store", "FAIL maple/erase"]
    callers = DMESG.replace("] ", "][    T1] ", 1).replace("] KTAP", "][    T1] KTAP")
    assert judged(callers.replace("] ", "][    C0] "))  # parsed without an exception, whatever it is
    syslog = "".join(
        f"Nov 30 18:28:0{n % 10} box kernel: {line}\n" for n, line in enumerate(DMESG.splitlines())
    )
    assert judged(syslog.replace("kernel: ok 7", "sshd: ok 7")) == ["PASS maple/store", "FAIL maple/erase"]


def test_a_kernel_message_behind_a_result_is_no_part_of_its_name() -> None:
    [case] = to_cases(parse("1..1\nnot ok 1 a[  100.123456] usb 1-1: new device\n"), "s/p")
    assert (case.id, case.reason) == ("s/p/a", "not ok, without a reason")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1..0 # skip no hardware\n", ["SKIP "]),
        ("TAP version 13\n1..0 # Skipped: no hardware\n", ["SKIP "]),
        ("1..2\r\nok 1 a\r\nnot ok 2 b # TODO c\r\n", ["PASS a", "SKIP b"]),
        ("ok 1 - a\nok 2 - b\n1..2\n", ["PASS a", "PASS b"]),
        ("TAP version 12\n1..1\nok 1 # skip\n", ["SKIP unnamed"]),
        ("1..1\n# ok 1 a\n# 1..1\nok 1 selftests: net: p\n", ["PASS a"]),
        ("1..1\n# Subtest: x\n    1..1\n    ok 1 - a\nok 1 - x\n", ["PASS x/a"]),
        ("1..1\nok 1 a # XFAIL\n", ["SKIP a"]),
        ("1..1\nok 1 a # XPASS\n", ["FAIL a"]),
        ("1..1\nnot ok 1 # TIMEOUT 45 seconds\n", ["TIMEOUT unnamed"]),
        ("1..1\nnot ok 1 a # b # SKIP c\n", ["FAIL a"]),
        ("1..1\nok 1 a # b # SKIP c\n", ["SKIP a"]),
    ],
)
def test_dialects(text: str, want: list[str]) -> None:
    assert judged(text) == want


# --- reasons ----------------------------------------------------------------------------------------

HARNESS_LINES = [
    "Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0",
    "Totals: pass:3 fail:1 skip:1 total:5",
    "list_sort: pass:2 fail:1 skip:0 total:3",
    "Planned tests != run tests (3 != 1)",
    "PASSED: 5 / 6 tests passed.",
    "FAILED: 5 / 6 tests passed.",
    "Starting 2 tests from 2 test cases.",
    " RUN           f.t ...",
    "          FAIL  f.t",
    "            OK  f.t",
    "overriding timeout to 60",
    "timeout set to 45",
    "timeout=45",
    "module: list_sort",
    "Subtest: params",
    "[   12.345678] random: crng init done",
]


@pytest.mark.parametrize("line", HARNESS_LINES)
def test_what_a_harness_says_is_no_reason(line: str) -> None:
    """Each alternative of the pattern, with a line as programs print it."""
    [case] = to_cases(parse(f"1..1\n# out of memory\n# {line}\nnot ok 1 a # exit=1\n"), "s/p")
    assert case.reason == "out of memory [exit=1]"
    [case] = to_cases(parse(f"1..1\n# {line}\nnot ok 1 a # exit=1\n"), "s/p")
    assert case.reason == "exit=1"


def test_totals_below_the_runner_are_no_reason() -> None:
    text = """TAP version 13
1..2
# selftests: x: y
# TAP version 13
# 1..3
# ok 1 a
# Bail out! out of memory
# # Planned tests != run tests (3 != 1)
# # Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0
not ok 1 selftests: x: y # exit=1
# selftests: x: z
ok 2 selftests: x: z
"""
    reasons = {case.id: case.reason for case in to_cases(parse(text), "s/p")}
    assert reasons["s/p/y"] == "Bail out! out of memory [exit=1]"


def test_the_expectation_is_the_reason_of_a_kunit_test() -> None:
    text = "1..1\n# sums: EXPECTATION FAILED at lib/sum.c:31\nExpected a == b\n    a == 1\nnot ok 1 sums\n"
    [case] = to_cases(parse(text), "s/p")
    assert case.reason == "sums: EXPECTATION FAILED at lib/sum.c:31"


# --- limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["ok 1\n", "ok 1 a\n", "not ok 2 b # why\n", "# ok 1 a\n", "ok x\n"])
def test_a_flood_of_results_is_cut_with_one_case_that_says_so(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ktap_parser, "MAX_CASES", 50)
    cases = to_cases(parse(unit * 55), "s/p")
    assert len(cases) == 51
    assert (cases[-1].id, cases[-1].verdict, cases[-1].blame) == (
        "s/p/plan",
        Verdict.INCONCLUSIVE,
        Blame.INFRA,
    )
    assert cases[-1].reason.startswith("more than 50 results")
    plan = "".join(f"ok {n} t{n}\n" for n in range(1, 51))
    assert parse(f"1..50\n{plan}").problems == ()


def test_no_more_is_read_than_the_results_that_count() -> None:
    """Whatever follows the cap costs nothing: not even a line is cut out of the text."""

    class Text(str):
        last = 0

        def find(self, *arguments: Any) -> int:
            self.last = super().find(*arguments)
            return self.last

    text = Text("ok 1 a\n" * (2 * MAX_CASES))
    assert len(parse(text).cases) == MAX_CASES
    assert text.last < len("ok 1 a\n") * (MAX_CASES + 2)


def test_the_first_and_the_last_diagnostics_are_kept() -> None:
    noise = "".join(f"# line {n}\n" for n in range(5 * MAX_NOTES))
    [case] = parse(f"1..1\n{noise}not ok 1 a\n").cases
    assert len(case.diagnostics) == 2 * MAX_NOTES + 1
    assert case.diagnostics[0] == "line 0"
    assert case.diagnostics[-1] == f"line {5 * MAX_NOTES - 1}"
    assert " bytes cut " in case.diagnostics[MAX_NOTES]


@given(st.text(st.sampled_from("ok not#-:[]0123. SKIP\t"), max_size=40))
def test_any_line_is_read(line: str) -> None:
    result = ktap_lines.result(line)
    assert result is None or (result.name and "\n" not in result.name)
