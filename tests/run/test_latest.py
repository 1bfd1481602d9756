# SPDX-License-Identifier: GPL-2.0-only
"""The link to the newest run: always right, and never in the place of something of the user's."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from orchestrator.core.errors import UserError
from orchestrator.run import latest
from orchestrator.run.directory import LAST, RunDirectory

OLD, NEW = "20260101-000000-aaaa", "20260102-000000-bbbb"


def begin(runs: Path, *names: str, mark: str = latest.PLAN) -> None:
    for name in names:
        (runs / name).mkdir()
        (runs / name / mark).touch()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    begin(tmp_path, OLD, NEW)
    return tmp_path


def test_it_leads_to_the_newest_run(runs: Path) -> None:
    latest.link(runs)
    assert (runs / "latest").readlink().name == NEW
    begin(runs, "20260103-000000-0000")
    latest.link(runs)
    assert (runs / "latest").readlink().name == "20260103-000000-0000"
    # an older one that is resumed is not the newest
    latest.link(runs)
    assert (runs / "latest").readlink().name == "20260103-000000-0000"
    assert sorted(path.name for path in runs.iterdir()) == [OLD, NEW, "20260103-000000-0000", "latest"]


def test_it_can_be_moved_with_its_folder(runs: Path) -> None:
    latest.link(runs)
    moved = runs.rename(runs.with_name("elsewhere"))
    assert (moved / "latest").resolve() == moved / NEW


def test_bisects_and_series_are_no_runs(runs: Path) -> None:
    begin(runs, "bisect-20260109-000000-cccc", mark="bisect.json")
    begin(runs, "series-20260109-000000-cccc", mark="series.json")
    (runs / "20260110-000000-dddd").mkdir()
    latest.link(runs)
    assert (runs / "latest").readlink().name == NEW


def test_a_run_is_seen_once_and_under_its_own_name(runs: Path) -> None:
    latest.link(runs)
    assert [path.name for path in latest.folders(runs)] == [OLD, NEW]
    for word in ("latest", LAST, NEW, str(runs / "latest"), f"{runs}/latest/"):
        found = RunDirectory.existing(runs, word)
        assert (found.id, found.path) == (NEW, runs / NEW)
    with pytest.raises(UserError) as error:
        RunDirectory.existing(runs, "nosuch")
    assert error.value.remedy == f"The newest are: {NEW}, {OLD}."


def test_latest_is_a_word_for_bisects_and_series_too(runs: Path) -> None:
    latest.link(runs)
    begin(runs, "bisect-20260109-000000-cccc", mark="bisect.json")
    assert RunDirectory.existing(runs, "latest", "bisect").id == "bisect-20260109-000000-cccc"
    with pytest.raises(UserError, match="there is no series 'latest'"):
        RunDirectory.existing(runs, "latest", "series")


@pytest.mark.parametrize("word", ["latest", LAST])
def test_without_the_link_it_is_the_newest_run_too(runs: Path, word: str) -> None:
    assert RunDirectory.existing(runs, word).id == NEW
    (runs / "latest").symlink_to("gone")
    assert RunDirectory.existing(runs, word).id == NEW
    latest.link(runs)
    assert (runs / "latest").readlink().name == NEW


def test_what_the_user_has_there_stays(runs: Path) -> None:
    place = runs / "latest"
    place.write_text("mine")
    latest.link(runs)
    assert place.read_text() == "mine"
    place.unlink()

    place.mkdir()
    latest.link(runs)
    assert not place.is_symlink()
    place.rmdir()

    kept = runs / "my notes"
    kept.mkdir()
    for target in (kept, Path("my notes"), Path("../somewhere"), Path("/nowhere/at/all")):
        place.symlink_to(target)
        latest.link(runs)
        assert place.readlink() == target
        place.unlink()


def test_a_run_that_the_user_calls_so_is_that_run(runs: Path) -> None:
    (runs / OLD).rename(runs / "latest")
    latest.link(runs)
    assert RunDirectory.existing(runs, "latest").path == runs / "latest"


def test_without_links_there_is_none(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    latest.link(runs)
    assert sorted(path.name for path in runs.iterdir()) == [OLD, NEW]
    assert RunDirectory.existing(runs, "latest").id == NEW


def _runs(folder: Path, worker: int) -> None:
    for number in range(40):
        begin(folder, f"20260201-{number:06}-{worker:04x}")
        latest.link(folder)


def test_runs_side_by_side_leave_it_right(tmp_path: Path) -> None:
    """Whoever looks meanwhile finds a run behind it, and at the end the newest one."""
    begin(tmp_path, OLD)
    latest.link(tmp_path)
    workers = [multiprocessing.Process(target=_runs, args=(tmp_path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    looks = 0
    while any(worker.is_alive() for worker in workers):
        assert (tmp_path / "latest" / latest.PLAN).is_file()
        looks += 1
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert looks
    newest = latest.folders(tmp_path)[-1].name
    assert (tmp_path / "latest").readlink().name == newest == "20260201-000039-0003"
    assert not list(tmp_path.glob(".latest*"))
