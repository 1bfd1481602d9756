# SPDX-License-Identifier: GPL-2.0-only
"""Logs in data/ktap: maps-race*, runner* and assert-then-timeout are captures of Linux 7.2's
proc-maps-race (the failures from a copy with one check inverted), the others were written for the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import DATA

from orchestrator.core.text import clean
from orchestrator.results.model import Blame, Verdict, exit_code
from orchestrator.suites.ktap_parser import MAX_DEPTH, MAX_PROBLEMS
from orchestrator.verdict.ktap import parse, to_cases

LOGS = DATA / "ktap"
SIX = [f"{v}.test_maps_tearing_from_{t}" for v in ("maps", "smaps") for t in ("split", "resize", "remap")]

GOLDEN: dict[str, tuple[str, list[str]]] = {
    "maps-race": ("maps/proc-maps-race", [f"PASS {name}" for name in SIX]),
    "maps-race-verbose": ("maps/proc-maps-race", [f"PASS {name}" for name in SIX]),
    "assert-then-timeout": ("maps/proc-maps-race", [f"FAIL kernel {SIX[0]}", f"PASS {SIX[5]}"]),
    "runner": (
        "maps",
        ["PASS proc-pid-vm", "PASS proc-empty-vm", *(f"PASS proc-maps-race/{name}" for name in SIX)],
    ),
    "runner-fail": (
        "maps",
        [
            "FAIL kernel proc-pid-vm",
            "SKIP proc-empty-vm",
            *(f"{'FAIL kernel' if 'split' in n else 'PASS'} proc-maps-race/{n}" for n in SIX),
        ],
    ),
    "runner-timeout": (
        "maps",
        [
            "PASS proc-pid-vm",
            "PASS proc-empty-vm",
            *(f"PASS proc-maps-race/{name}" for name in SIX[:2]),
            "TIMEOUT test proc-maps-race",
            "INCONCLUSIVE infra plan",
        ],
    ),
    "runner-to-file": (
        "maps",
        [
            "PASS proc-pid-vm",
            "PASS proc-empty-vm",
            "PASS proc-maps-race",
            *(f"PASS proc_maps_race.{name}" for name in SIX),
            "INCONCLUSIVE infra plan",
        ],
    ),
    "subtests-kunit": (
        "k",
        ["PASS vma_iter/forward", "FAIL kernel vma_iter/backward", "SKIP vma_iter/empty", "PASS maple/store"],
    ),
    "level-without-version": (
        "k",
        [
            "PASS old-harness/one",
            "FAIL kernel old-harness/two",
            "FAIL kernel liar/inner",
            "INCONCLUSIVE infra plan",
        ],
    ),
    "plan-at-end": (
        "k",
        [
            "PASS same name",
            "PASS same name#2",
            "FAIL test third",
            "SKIP fourth",
            "SKIP fifth",
            "FAIL test sixth",
            "SKIP seventh",
            "FAIL kernel eighth",
        ],
    ),
    "bail-out": ("k", ["PASS open", "FAIL test bail-out", "INCONCLUSIVE infra plan"]),
    "skip-all": ("k", ["SKIP "]),
    "killed-in-a-line": (
        "k",
        ["TIMEOUT test proc-maps-race", "ERROR infra gone", "INCONCLUSIVE infra plan"],
    ),
    "torn": ("k", ["PASS a", "FAIL kernel b", "INCONCLUSIVE infra plan"]),
}


def golden(name: str) -> str:
    return clean((LOGS / f"{name}.log").read_bytes())


def test_every_log_has_an_expectation() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logs(name: str) -> None:
    prefix, want = GOLDEN[name]
    cases = to_cases(parse(golden(name)), prefix)
    shown = [
        " ".join(filter(None, [c.verdict, c.blame])) + " " + c.id.removeprefix(prefix).removeprefix("/")
        for c in cases
    ]
    assert shown == want
    assert all(c.reason for c in cases if c.verdict is not Verdict.PASS)


def reasons(name: str, prefix: str = "k") -> dict[str, str]:
    cases = to_cases(parse(golden(name)), prefix)
    return {c.id.removeprefix(prefix).removeprefix("/"): c.reason for c in cases}


def test_the_assertion_is_the_reason_not_the_timeout() -> None:
    report = parse(golden("assert-then-timeout"))
    failed = report.cases[0]
    assert any("terminated by timeout" in line for line in failed.diagnostics)
    case = to_cases(report, "maps")[0]
    assert case.reason.startswith("proc-maps-race.c:788:test_maps_tearing_from_split:Expected last_line")
    assert "page boundary" in case.detail
    assert not any("Expected" in line for line in report.cases[1].diagnostics)


def test_a_timeout_without_assertion_stays_one() -> None:
    text = "TAP version 13\n1..1\n#  RUN           f.t ...\n# t: Test terminated by timeout\nnot ok 1 f.t\n"
    [case] = to_cases(parse(text), "p")
    assert (case.verdict, case.blame) == (Verdict.TIMEOUT, Blame.TEST)


def test_reasons() -> None:
    assert "Assertion `7 == 8' failed" in reasons("runner-fail")["proc-pid-vm"]
    assert reasons("runner-timeout")["proc-maps-race"] == "timed out: 5 seconds"
    assert (
        "planned 6, reported 2; proc_maps_race.maps.test_maps_tearing_from_remap was running"
        in (reasons("runner-timeout")["plan"])
    )
    assert reasons("plan-at-end")["fifth"] == "expected failure: known bug"
    assert reasons("plan-at-end")["sixth"] == "unexpected pass: now works"
    assert reasons("bail-out")["bail-out"] == "bailed out: mmap failed: Cannot allocate memory"
    assert reasons("bail-out")["plan"] == "planned 3, reported 1"
    assert reasons("skip-all")[""] == "PROCMAP_QUERY not supported"
    assert reasons("torn")["plan"] == "planned 3, reported 2; the output is cut"
    assert "although a test within it failed" in reasons("level-without-version")["plan"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "no KTAP in the output"),
        ("all good\n", "no KTAP in the output"),
        ("TAP version 13\n", "no plan; 0 reported"),
        ("TAP version 13\nok 1 a\n", "no plan; 1 reported"),
        ("1..0\n", "planned 0: nothing ran"),
        ("1..2\nok 1 a\n", "planned 2, reported 1"),
        ("1..1\nok 1 a\nok 2 b\n", "planned 1, reported 2"),
        ("1..2\nok 1 a\nok 1 a\n", "a: reported twice"),
        ("1..1\n1..2\nok 1 a\nok 2 b\n", "planned 1, then 2"),
        (
            "1..1\nok 1 a\n# Totals: pass:0 fail:1 xfail:0 xpass:0 skip:0 error:0\n",
            "count 1 failed, of which 0",
        ),
        ("1..1\nok 1 a\n[... 12 bytes cut ...]\n", "the output is cut"),
        ("1..1\n  1..2\n  ok 1 x\nok 1 a\n", "a: planned 2, reported 1"),
        ("1..1\n# TAP version 13\nok 1 a\n", "a: no plan; 0 reported"),
        ("1..1\n  1..1\n    1..1\n    ok 1 x\nok 1 a\n", "whose parent reported none"),
    ],
)
def test_what_does_not_add_up_is_never_green(text: str, want: str) -> None:
    report = parse(text)
    assert any(want in problem for problem in report.problems), report.problems
    cases = to_cases(report, "p")
    assert (cases[-1].id, cases[-1].verdict, cases[-1].blame) == ("p/plan", Verdict.INCONCLUSIVE, Blame.INFRA)
    assert exit_code(cases) == 4


@pytest.mark.parametrize(
    ("line", "ok", "directive", "reason"),
    [
        ("ok 1 a", True, "", ""),
        ("ok 1 - a", True, "", ""),
        ("ok - a", True, "", ""),
        ("..ok 1 a", True, "", ""),
        ("not ok a", False, "", ""),
        ("ok 1 a # SKIP why", True, "SKIP", "why"),
        ("ok 1 a # skipped: why", True, "SKIP", "why"),
        ("ok 1 a #SKIP why", True, "SKIP", "why"),
        ("not ok 1 a # SKIP why", False, "SKIP", "why"),
        ("not ok 1 a # skip why", False, "", "skip why"),
        ("ok 1 a # XFAIL   b", True, "XFAIL", "b"),
        ("not ok 1 a # TODO b", False, "TODO", "b"),
        ("not ok 1 a # TIMEOUT 45 seconds", False, "TIMEOUT", "45 seconds"),
        ("ok 1 a # TIMEOUT 45 seconds", True, "TIMEOUT", "45 seconds"),
        ("ok 1 a # timeout not supported", True, "", "timeout not supported"),
        ("not ok 1 a # error b", False, "ERROR", "b"),
        ("not ok 1 a # exit=134", False, "EXIT", "134"),
        ("ok 1 a # rcode=0", True, "", "rcode=0"),
        ("ok 1 a #  two spaces", True, "", "two spaces"),
    ],
)
def test_result_lines(line: str, ok: bool, directive: str, reason: str) -> None:
    [case] = parse(f"1..1\n{line}\n").cases
    assert (case.path, case.ok, case.directive, case.reason) == (("a",), ok, directive, reason)
    assert case.failing == (directive == "TIMEOUT" or (not ok and directive not in ("SKIP", "TODO")))


@pytest.mark.parametrize("line", ["okay then", "ok", "1..2 of them", "TAP version", "book 1 a", "not okay"])
def test_noise_is_no_result(line: str) -> None:
    report = parse(f"1..1\n{line}\nok 1 a\n")
    assert report.problems == ()
    assert [case.diagnostics for case in report.cases] == [(line,)]


def test_a_parent_that_fails_by_itself_is_a_case() -> None:
    text = "1..1\n  1..1\n  ok 1 x\n# why\nnot ok 1 a # exit=139\n"
    cases = {c.id: c for c in to_cases(parse(text), "p")}
    assert {key: c.verdict for key, c in cases.items()} == {"p/a/x": Verdict.PASS, "p/a": Verdict.FAIL}
    assert cases["p/a"].reason == "why [exit=139 (SIGSEGV)]"


def test_a_parent_that_fails_through_its_child_is_none_but_one_killed_is() -> None:
    inner = "1..1\n  1..1\n  not ok 1 x\nnot ok 1 a"
    assert [c.path for c in parse(f"{inner} # exit=1\n").cases] == [("a", "x")]
    assert [c.path for c in parse(f"{inner} # exit=137\n").cases] == [("a", "x"), ("a",)]
    assert [c.path for c in parse(f"{inner} # TIMEOUT 9 seconds\n").cases] == [("a", "x"), ("a",)]


def test_a_program_that_could_not_be_run_is_no_regression() -> None:
    [case] = to_cases(parse("1..1\nnot ok 1 selftests: proc: a # exit=127\n"), "p")
    assert (case.verdict, case.blame) == (Verdict.ERROR, Blame.INFRA)


def test_ids_of_specials_do_not_collide() -> None:
    cases = to_cases(parse("1..3\nok 1 plan\nnot ok 2 bail-out\nBail out! x\n"), "p")
    assert [c.id for c in cases] == ["p/plan", "p/bail-out", "p/bail-out#2", "p/plan#2"]


# --- round trip -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    name: str
    ok: bool
    directive: str
    reason: str
    diagnostics: tuple[str, ...]
    children: tuple[Tree, ...]


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "12", "x.y", "ok", "é"]), min_size=1, max_size=3
).map(" ".join)
MILD = st.sampled_from(["", "SKIP", "XFAIL", "TODO", "XPASS", "ERROR", "TIMEOUT"])


def trees(children: st.SearchStrategy[tuple[Tree, ...]]) -> st.SearchStrategy[Tree]:
    notes = st.lists(WORDS.map("note: {}".format), max_size=3).map(tuple)
    return st.builds(Tree, WORDS, st.booleans(), MILD, WORDS, notes, children)


FORESTS = st.lists(
    st.recursive(
        trees(st.just(())), lambda inner: trees(st.lists(inner, max_size=3).map(tuple)), max_leaves=12
    ),
    min_size=1,
    max_size=4,
)


def render(forest: Any, indent: str, header: int, depth: int = 0) -> list[str]:
    """Lines of a forest. ``header``: 0 version and plan, 1 plan alone, 2 version, and the plan at the end."""
    own = indent * depth
    lines = [f"{own}TAP version 13"] if header != 1 else []
    lines += [f"{own}1..{len(forest)}"] if header != 2 else []
    for number, tree in enumerate(forest, 1):
        lines += [f"{own}# {note}" for note in tree.diagnostics]
        if tree.children:
            lines += render(tree.children, indent, header, depth + 1)
        comment = f" # {tree.directive} {tree.reason}" if tree.directive else ""
        lines.append(f"{own}{'ok' if tree.ok else 'not ok'} {number} {tree.name}{comment}")
    return lines + ([f"{own}1..{len(forest)}"] if header == 2 else [])


def flat(forest: Any, parent: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    """What `parse` should make of a forest, worked out without it."""
    found: list[tuple[Any, ...]] = []
    names: list[str] = []
    for tree in forest:
        name, n = tree.name, 1
        while name in names:
            n += 1
            name = f"{tree.name}#{n}"
        names.append(name)
        inner = flat(tree.children, (*parent, name))
        found += inner
        failing = tree.directive in ("XPASS", "ERROR", "TIMEOUT") or (not tree.ok and not tree.directive)
        if not inner or (
            failing and (tree.directive in ("ERROR", "TIMEOUT") or not any(f[-1] for f in inner))
        ):
            reason = tree.reason if tree.directive else ""
            found.append(((*parent, name), tree.ok, tree.directive, reason, tree.diagnostics, failing))
    return found


@pytest.mark.parametrize("indent", ["# ", "  ", "    ", "\t"])
@given(forest=FORESTS, header=st.integers(0, 2))
def test_round_trip(indent: str, forest: list[Tree], header: int) -> None:
    report = parse("\n".join(render(forest, indent, header)) + "\n")
    got = [(c.path, c.ok, c.directive, c.reason, c.diagnostics, c.failing) for c in report.cases]
    assert got == flat(forest)
    assert report.planned == len(forest)
    assert [p for p in report.problems if "although" not in p and "reported twice" not in p] == []
    ids = [c.id for c in to_cases(report, "p")]
    assert len(ids) == len(set(ids))


@given(forest=FORESTS, indent=st.sampled_from(["# ", "  "]), data=st.data())
def test_a_lost_line_never_turns_into_green(forest: list[Tree], indent: str, data: st.DataObject) -> None:
    """Take away any one result or cut the log anywhere: some case says so."""
    lines = render(forest, indent, 0)
    results = [i for i, line in enumerate(lines) if "ok " in line and "note: " not in line]
    gone = data.draw(st.sampled_from(results))
    without = "\n".join(lines[:gone] + lines[gone + 1 :]) + "\n"
    assert exit_code(to_cases(parse(without), "p")) != 0
    whole = "\n".join(lines) + "\n"
    short = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert exit_code(to_cases(parse(short), "p")) != 0


FRAGMENTS = st.sampled_from(
    [
        "ok 1 a",
        "not ok 2 b",
        "ok 3 a # SKIP x",
        "1..2",
        "1..0 # SKIP",
        "TAP version 13",
        "Bail out! x",
        "# ",
        "  ",
        "\t",
        "\n",
        ".",
        "ok 3 selftests: p: q",
        "[... 5 bytes cut ...]",
        "#  RUN           x ...",
        "exit=999",
        "# Totals: pass:1 fail:2 xfail:0 xpass:0 skip:0 error:0",
        " # TIMEOUT 4 seconds",
        "\x1b[0m",
        "\u2028",
    ]
)


@given(st.lists(FRAGMENTS | st.text(max_size=5), max_size=80).map("".join) | st.text())
def test_anything_is_parsed(text: str) -> None:
    report = parse(text)
    cases = to_cases(report, "p")
    assert cases
    assert len({case.id for case in cases}) == len(cases)
    assert len({case.path for case in report.cases}) == len(report.cases)
    for case in report.cases:
        assert 0 < len(case.path) <= MAX_DEPTH
    if any(case.failing for case in report.cases):
        assert exit_code(cases) in (1, 3)
    if report.problems:
        assert exit_code(cases) != 0


HOSTILE: dict[str, Callable[[int], str]] = {
    "deep": lambda n: "".join("  " * (i % 200) + f"1..9\n{'  ' * (i % 200)}ok 1 a\n" for i in range(n)),
    "hashes": lambda n: "".join("# " * (i % 100) + "ok 1 a\n" for i in range(n)),
    "duplicates": lambda n: "ok 1 a\n" * n,
    "suffixes": lambda n: "".join(f"ok 1 a#{i}\nok 1 a\n" for i in range(n)),
    "versions": lambda n: "  TAP version 13\n  ok 1 a\n" * n,
    "notes": lambda n: "1..1\n" + "# x\n" * n,
    "bails": lambda n: "Bail out!\n" * n,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_text(name: str) -> None:
    """Calls made for twice the text are about twice as many; counted, not timed."""

    def calls(text: str) -> int:
        count = 0

        def tick(*_: object) -> None:
            nonlocal count
            count += 1

        before = sys.getprofile()
        sys.setprofile(tick)
        try:
            to_cases(parse(text), "p")
        finally:
            sys.setprofile(before)
        return count

    counts = [calls(HOSTILE[name](n)) for n in (400, 800, 1600)]
    for small, large in pairwise(counts):
        assert large < 2.3 * small


@pytest.mark.parametrize(
    "unit",
    [
        " ",
        "\t",
        "# ",
        ".",
        "ok 1 ",
        "not ok ",
        "ok 1 selftests: ",
        "x ok 1 selftests: a ",
        "1..1 # ",
        "Assertion ",
        "x.c:1:",
        " #",
        "TAP version ",
        "RUN  ",
        ": Test ",
        "1",
        "Totals: pass:1 fail:1 error:",
    ],
)
@pytest.mark.parametrize("head", ["", "# ", "1..1\n", "1..1\nnot ok 1 "])
def test_a_long_line_takes_no_square_time(unit: str, head: str) -> None:
    # Square time would be minutes here.
    text = head + unit * 50_000 + "\nnot ok 1 x\n"
    assert to_cases(parse(text), "p")


def test_depth_is_bounded() -> None:
    depth = 3 * MAX_DEPTH
    plans = [f"{'  ' * i}1..1" for i in range(depth)]
    results = [f"{'  ' * i}not ok 1 a" for i in reversed(range(depth))]
    report = parse("\n".join(plans + results) + "\n")
    assert max(len(case.path) for case in report.cases) == MAX_DEPTH
    assert exit_code(to_cases(report, "p")) == 1


def test_problems_are_bounded() -> None:
    report = parse("1..1\n" + "ok 1 a\n" * 10_000)
    assert len(report.problems) <= MAX_PROBLEMS + 1
    assert all(len(problem) <= 300 for problem in report.problems)
