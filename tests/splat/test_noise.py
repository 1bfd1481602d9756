# SPDX-License-Identifier: GPL-2.0-only
"""The list of known noise: each entry has a reason and an end."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from orchestrator.core.errors import UserError
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.splat import noise
from orchestrator.splat.noise import Entry
from orchestrator.splat.scanner import Scanner, Splat

DAY = datetime.date(2027, 6, 1)


def splats(stamp: str, *heads: str) -> tuple[Splat, ...]:
    scanner = Scanner()
    scanner.feed("".join(f"[{stamp:>12}] {head}\n" for head in heads).encode())
    return scanner.finish()


def entry(**fields: object) -> Entry:
    return Entry(**{"title": "BUG: Bad rss-counter", "reason": "r", "expires": DAY} | fields)  # type: ignore[arg-type]


RSS = "BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1"
OTHER = "BUG: non-zero pgtables_bytes on freeing mm: 4096"


def test_it_hides_what_it_is_about_and_nothing_else() -> None:
    found = splats("1.000000", RSS, OTHER)
    assert [one.title for one in noise.loud(found, [entry()], DAY)] == ["BUG: non-zero pgtables_bytes"]
    assert noise.loud(found, [entry(title="BUG: *")], DAY) == ()


def test_an_entry_that_has_expired_hides_nothing() -> None:
    found = splats("1.000000", RSS)
    assert noise.loud(found, [entry()], DAY + datetime.timedelta(days=1)) == found


@pytest.mark.parametrize(("stamp", "hidden"), [("4.900000", True), ("5.000000", False)])
def test_it_may_be_about_the_first_seconds_only(stamp: str, hidden: bool) -> None:
    found = splats(stamp, RSS)
    assert (noise.loud(found, [entry(before_s=5)], DAY) == ()) is hidden


def test_without_a_clock_nothing_is_in_the_first_seconds() -> None:
    scanner = Scanner()
    scanner.feed(RSS.encode() + b"\n")
    assert noise.loud(scanner.finish(), [entry(before_s=5)], DAY) == scanner.splats()


def test_each_entry_of_ours_has_a_rule_that_would_fire() -> None:
    for each in noise.load():
        assert each.reason
        assert each.expires > datetime.date(2026, 1, 1)
        title = each.title.replace("*", "Read")
        kind, _, function = title.partition(" in ")
        (found,) = splats("1.000000", f"BUG: {kind.removesuffix(' Read')} in {function}+0x1/0x2")
        assert found.function == function


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[noise]]\ntitle = 'x'\nexpires = 2027-01-01\n", "reason"),
        ("[[noise]]\ntitle = 'x'\nreason = 'r'\n", "expires"),
        ("[[noise]]\ntitle = 'x'\nreason = 'r'\nexpires = 'never'\n", "expires"),
        ("[[noise]]\ntitel = 'x'\n", "titel"),
        ("[[noise", "noise.toml"),
    ],
)
def test_a_wrong_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "noise.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        noise.load(path)


def test_a_cell_does_not_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "load", lambda: (entry(expires=datetime.date(9999, 1, 1)),))
    watch = ConsoleWatch()
    watch.feed(f"[    1.000000] {RSS}\n[    1.000000] {OTHER}\n".encode())
    assert [seen.finding.title for seen in watch.take()] == ["BUG: non-zero pgtables_bytes"]
