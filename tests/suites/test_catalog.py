# SPDX-License-Identifier: GPL-2.0-only
"""Every suite's descriptor, and what it expects of which kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import arch, data
from orchestrator.core.errors import UserError
from orchestrator.source.model import version_numbers
from orchestrator.suites import catalog

VERSIONS = ("6.12", "6.17", "7.1", "7.2", "7.3")
MAPS_RACE = {"6.12": None, "6.17": 3, "7.1": 3, "7.2": 6, "7.3": 6}


@pytest.mark.parametrize("name", catalog.names())
def test_every_descriptor(name: str) -> None:
    suite = catalog.load(name)
    assert suite.name == name
    assert suite.description
    assert not suite.description.endswith(".")
    programs = [program.name for program in suite.program]
    assert len(set(programs)) == len(programs)
    if suite.origin == "tree":
        assert suite.directory.startswith("tools/testing/selftests/")
        assert suite.expect, "a suite of the tree's says what must be there"
    else:
        assert all((suite.folder / source).is_file() for source in suite.build.sources)
    if suite.kind == "benchmark":
        assert suite.alone
        assert suite.boots > 1
    if not suite.all_programs:
        assert {e.program for e in suite.expect} <= set(programs), "expected, but never run"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("at", arch.names())
@pytest.mark.parametrize("name", catalog.names())
def test_each_program_is_expected_here_or_known_elsewhere(name: str, at: str, version: str) -> None:
    suite = catalog.load(name)
    here, away = catalog.expected(suite, version, at), catalog.excluded(suite, version, at)
    assert not set(here) & set(away)
    own = {p.name for p in suite.program} if suite.origin == "own" else set()
    assert set(here) | set(away) == {e.program for e in suite.expect} | own
    for e in here.values():
        assert e.cases >= 1
        assert e.reason or e.outcome == "pass", "a skip has its reason"


@pytest.mark.parametrize(("version", "cases"), MAPS_RACE.items())
@pytest.mark.parametrize("name", ["maps", "proc"])
def test_when_the_race_test_came_and_grew(name: str, version: str, cases: int | None) -> None:
    suite = catalog.load(name)
    for at in arch.names():
        here = catalog.expected(suite, version, at)
        if cases is None:
            assert "proc-maps-race" not in here
            reason = catalog.excluded(suite, version, at)["proc-maps-race"]
            assert reason == "not among this tree's selftests: it is there since 6.17"
        else:
            assert here["proc-maps-race"].cases == cases


@pytest.mark.parametrize(
    ("version", "here"),
    [("6.16", False), ("6.17", True), ("7.1.9", True), ("7.2-rc1", False), ("7.2", False), ("7.3", False)],
)
def test_since_is_included_and_until_is_not(version: str, here: bool) -> None:
    suite = catalog.Suite(
        name="s",
        description="d",
        kind="functional",
        origin="tree",
        expect=(catalog.Expectation(program="p", since="6.17", until="7.2"),),
    )
    assert ("p" in catalog.expected(suite, version, "x86_64")) == here
    assert ("p" in catalog.excluded(suite, version, "x86_64")) != here


def test_newer_tests_on_an_older_kernel() -> None:
    """--selftests-from: what there is says their tree, what it can be about says the kernel."""
    suite = catalog.load("proc")
    here = catalog.expected(suite, "7.2.12", "x86_64", kernel="6.12.95")
    assert here["proc-maps-race"].cases == 6
    assert {"proc-pid-vm", "proc-net-dev-lseek"} <= set(here)
    assert catalog.excluded(suite, "7.2.12", "x86_64", kernel="6.12.95") == {
        "proc-pidns": "about what kernels have since 6.18"
    }
    assert catalog.excluded(suite, "7.2.12", "x86_64", kernel="7.2.12") == {}
    assert set(catalog.excluded(suite, "7.2.12", "x86_64", kernel="6.6.1")) == {
        "proc-pidns",
        "proc-pid-vm",
        "proc-maps-race",
    }


def test_older_tests_on_a_newer_kernel() -> None:
    away = catalog.excluded(catalog.load("maps"), "6.12.95", "x86_64", kernel="7.2.12")
    assert list(away) == ["proc-maps-race"]


def test_what_an_architecture_skips() -> None:
    suite = catalog.load("maps")
    for program in ("proc-pid-vm", "proc-empty-vm"):
        assert catalog.expected(suite, "7.2", "x86_64")[program].outcome == "pass"
        refused = catalog.expected(suite, "7.2", "arm64")[program]
        assert refused.outcome == "skip"
        assert "x86" in refused.reason


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("7.2", (7, 2)),
        ("7.2.12", (7, 2, 12)),
        ("7.2-rc3", (7, 2)),
        ("7.2.0-rc3+", (7, 2, 0)),
        ("7.2.12-gabc123", (7, 2, 12)),
        ("6.12.57+deb13-amd64", (6, 12, 57)),
        ("7.2~rc1-1~exp1", (7, 2)),
        ("7.10", (7, 10)),
        ("", ()),
        ("next", ()),
    ],
)
def test_versions(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


@pytest.mark.parametrize("version", ["7.2-rc1", "7.2.0", "7.2.0-rc1-00012-gabc", "7.2.12", "7.10.1", "8.0"])
def test_a_limit_holds_for_all_of_a_release(version: str) -> None:
    """The tree of 7.2-rc1 has what 7.2 will have; ``until = "7.2"`` means none of 7.2's."""
    assert catalog.expected(catalog.load("maps"), version, "x86_64")["proc-maps-race"].cases == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", r"missing required field `description`"),
        ("name = ", r"x/suite.toml"),
        (
            "name = 'y'\ndescription = 'd'\nkind = 'functional'\norigin = 'own'",
            r"its name is 'y', its folder's 'x'",
        ),
        ("name = 'x'\ndescription = 'd'\nkind = 'funny'\norigin = 'own'", r"Invalid enum value 'funny'"),
        (
            "name = 'x'\ndescription = 'd'\nkind = 'functional'\norigin = 'own'\n"
            "[[program]]\nname = 'p'\nargs = []",
            r"unknown field `args`.*program",
        ),
    ],
)
def test_a_descriptor_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/suite.toml").write_text(text)
    monkeypatch.setattr(data, "selftests", lambda: tmp_path)
    with pytest.raises(UserError, match=message):
        catalog._built_in.__wrapped__("x")


def test_what_a_suite_says_of_a_program() -> None:
    suite = catalog.load("proc")
    assert suite.limit_s(suite.program_or_default("read")) == 300
    silent = suite.program_or_default("fd-001-lookup")
    assert silent == catalog.Program(name="fd-001-lookup")
    assert suite.limit_s(silent) == suite.timeout_s


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("maps/proc-pid-vm", ["proc-pid-vm"]),
        ("maps/proc-maps-race/maps/split", ["proc-maps-race"]),
        ("maps/proc-maps-race/*", ["proc-maps-race"]),
        ("maps/proc-*-vm", ["proc-pid-vm", "proc-empty-vm", "proc-maps-race"]),
        ("maps/proc-p*", ["proc-pid-vm"]),
        ("maps/proc-pid-vm*", ["proc-pid-vm"]),
        ("maps/proc-maps-race*fill", ["proc-maps-race"]),
        ("map?/proc-pid-vm", ["proc-pid-vm", "proc-empty-vm", "proc-maps-race"]),
        ("*", ["proc-pid-vm", "proc-empty-vm", "proc-maps-race"]),
        # what is not there is said by the whole suite
        ("maps/proc-pid", ["proc-pid-vm", "proc-empty-vm", "proc-maps-race"]),
        ("proc/proc-pid-vm", ["proc-pid-vm", "proc-empty-vm", "proc-maps-race"]),
    ],
)
def test_only_the_programs_that_may_have_a_case(pattern: str, left: list[str]) -> None:
    suite = catalog.only(catalog.load("maps"), pattern)
    assert [program.name for program in suite.program] == left
    assert {e.program for e in suite.expect} == set(left)
