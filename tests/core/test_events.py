# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import io
import threading
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from orchestrator.core.events import Event, Events, now

HOSTILE = "[red]markup[/red] [/nothing] :smile: \\x1b"


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def recorded(log: Path) -> list[Event]:
    return [msgspec.json.decode(line, type=Event) for line in log.read_bytes().splitlines()]


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    with Events(Console(file=out, width=80), tmp_path / "events.ndjson") as events:
        events.emit("", "", "7.2.1: 2 cells")
        events.reporter("cell-1")("boot", "starting QEMU " + "x" * 100)
        events.emit("cell-1", "run", HOSTILE)
        events.emit("cell-1", "done", "maps: 5 PASS")
    assert out.getvalue().splitlines() == [
        "7.2.1: 2 cells",
        "cell-1: boot: starting QEMU " + "x" * 100,
        f"cell-1: run: {HOSTILE}",
        "cell-1: done: maps: 5 PASS",
    ]
    assert "\x1b" not in out.getvalue()
    assert [(e.cell, e.phase, e.text) for e in recorded(tmp_path / "events.ndjson")] == [
        ("", "", "7.2.1: 2 cells"),
        ("cell-1", "boot", "starting QEMU " + "x" * 100),
        ("cell-1", "run", HOSTILE),
        ("cell-1", "done", "maps: 5 PASS"),
    ]


def test_times_are_utc_and_in_order(tmp_path: Path) -> None:
    with Events(Console(file=io.StringIO()), tmp_path / "log") as events:
        for _ in range(3):
            events.emit("", "", "x")
    times = [e.time for e in recorded(tmp_path / "log")]
    assert times == sorted(times)
    assert all(t.endswith("+00:00") and "T" in t for t in [*times, now()])


def test_a_ci_with_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    out = io.StringIO()
    with Events(Console(file=out, force_terminal=True, color_system=None)) as events:
        events.emit("c", "boot", "x")
    assert out.getvalue() == "c: boot: x\n"


def test_on_a_terminal_a_cell_has_a_line_until_it_is_done() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with Events(console) as events:
        events.emit("cell-1", "boot", HOSTILE)
        shown = io.StringIO()
        Console(file=shown, width=80).print(events._table())
        assert "cell-1" in shown.getvalue()
        assert HOSTILE in shown.getvalue()
        events.emit("cell-1", "done", "maps: 5 PASS")
        assert events._table().row_count == 0
    assert "maps: 5 PASS" in out.getvalue()


def test_a_terminal_shows_what_is_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Events(console, progress=lambda: (0.25, "1 of 4 cells, guests for about 6 min left")) as events:
        events.emit("cell-1", "boot", "x")
        shown = io.StringIO()
        Console(file=shown, width=80).print(events._view())
    bar, _, text = shown.getvalue().splitlines()[1].partition(" ")
    # without colours the rest of its 24 columns is blank
    assert len(bar) == 24 / 4
    assert text.strip() == "1 of 4 cells, guests for about 6 min left"


def test_events_after_the_end_are_not_an_error(tmp_path: Path) -> None:
    with Events(Console(file=io.StringIO()), tmp_path / "log") as events:
        pass
    events.emit("c", "boot", "late")
    assert recorded(tmp_path / "log") == []


def test_from_many_threads(tmp_path: Path) -> None:
    with Events(Console(file=io.StringIO()), tmp_path / "log") as events:

        def work(n: int) -> None:
            for i in range(50):
                events.emit(f"cell-{n}", "run", str(i))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = recorded(tmp_path / "log")
    for n in range(4):
        assert [e.text for e in found if e.cell == f"cell-{n}"] == [str(i) for i in range(50)]
