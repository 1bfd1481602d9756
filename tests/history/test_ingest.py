# SPDX-License-Identifier: GPL-2.0-only
"""The history on SQLite and on a real PostgreSQL: one code path, the same answers."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from fakes import postgresql

from orchestrator.cli.main import cli
from orchestrator.core.errors import InfraError, UserError
from orchestrator.history import ingest, queries, transfer
from orchestrator.history.database import VARIABLE, History, default_url
from orchestrator.results.model import SCHEMA_VERSION, Case, CellResult, SuiteResult, Verdict
from orchestrator.run.summary import RunResult

METRIC = "lat/mean_us"


def a_run(number: int, *, verdict: Verdict = Verdict.PASS, us: float = 20.0, boots: int = 3) -> RunResult:
    cells = tuple(
        CellResult(
            cell=f"7.2-x86_64-{variant}-{boot}",
            label="7.2",
            arch="x86_64",
            variant=variant,
            release="7.2.1",
            boot=boot,
            properties={"accelerator": "tcg", "host CPU": "a CPU, 2 CPUs"},
            suites=(
                SuiteResult(
                    suite="maps",
                    cases=(
                        Case(id="maps/p/one", verdict=Verdict.PASS),
                        Case(id="maps/p/two", verdict=verdict, reason="a gap, ümläut \U0001f600"),
                    ),
                ),
                SuiteResult(suite="lat", kind="benchmark", metrics={"mean_us": us + boot}),
            ),
        )
        for variant in ("per-vma-lock", "mmap-lock")
        for boot in range(1, boots + 1)
    )
    return RunResult(
        schema_version=SCHEMA_VERSION,
        id=f"202601{number:02}-000000-abcd",
        sources=(),
        started_at=f"2026-01-{number:02}T00:00:00.000+00:00",
        cells=cells,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "postgresql":
        setting = request.getfixturevalue("server")
        engine = sa.create_engine(setting.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
    else:
        setting = str(tmp_path / "a folder" / "history.sqlite")
    monkeypatch.setenv(VARIABLE, setting)
    return default_url()


@pytest.fixture
def history(url: str) -> Iterator[History]:
    with History(url) as opened:
        yield opened


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, ["history", *words])


def test_a_run_is_recorded_once(history: History) -> None:
    assert ingest.put(history, a_run(1))
    assert not ingest.put(history, a_run(1))
    assert [run.run for run in queries.case_runs(history, "maps/p/one", limit=9)] == [a_run(1).id] * 2
    # a resumed run has more results
    assert ingest.put(history, a_run(1, boots=5))
    (first, second) = queries.metric_runs(history, METRIC, limit=9)
    assert (first.boots, second.boots) == (5, 5)
    assert len(list(ingest.documents(history))) == 1


def test_what_a_case_did(history: History) -> None:
    for number in range(1, 6):
        ingest.put(history, a_run(number, verdict=Verdict.FAIL if number == 4 else Verdict.PASS))
    runs = queries.case_runs(history, "maps/p/two", limit=4)
    assert [(run.run[:8], run.failed, run.passed) for run in runs] == [
        ("20260105", 0, 3), ("20260105", 0, 3), ("20260104", 3, 0), ("20260104", 3, 0),
    ]  # fmt: skip
    assert runs[2].reason == "a gap, ümläut \U0001f600"
    output = command("maps/p/two").output
    assert "  7.2 x86_64 per-vma-lock: 3 of 15 boots failed: 95 % interval 7.0 .. 45.2 %" in output
    assert "2026-01-04 00:00  20260104-000000-abcd  7.2 x86_64 mmap-lock  7.2.1  3 of 3 failed" in output


def test_what_a_metric_did(history: History) -> None:
    for number in range(1, 4):
        ingest.put(history, a_run(number, us=20.0 * number))
    runs = queries.metric_runs(history, METRIC, limit=4)
    assert [(run.run[:8], run.median, run.low, run.high, run.boots) for run in runs] == [
        ("20260103", 62, 61, 63, 3), ("20260103", 62, 61, 63, 3),
        ("20260102", 42, 41, 43, 3), ("20260102", 42, 41, 43, 3),
    ]  # fmt: skip
    lines = command(METRIC).output.splitlines()
    assert lines[2] == "host CPU a CPU, 2 CPUs; accelerator tcg"
    assert lines[3].endswith("7.2 x86_64 per-vma-lock  7.2.1  62 [61 .. 63], 3 boots")


def test_an_unknown_name_proposes_the_nearest(history: History) -> None:
    with pytest.raises(UserError, match="no case or metric 'maps/p/tow'\n") as caught:
        queries.kind_of(history, "maps/p/tow")
    assert "It is empty" in caught.value.remedy
    ingest.put(history, a_run(1))
    with pytest.raises(UserError, match="did you mean 'maps/p/two'"):
        queries.kind_of(history, "maps/p/tow")
    # a reason is a text of the database, too, and neither a case nor a metric
    with pytest.raises(UserError, match="no case or metric"):
        queries.kind_of(history, "a gap, ümläut \U0001f600")


def test_the_last_good_run(history: History) -> None:
    with pytest.raises(UserError, match="no run that ended with exit code 0"):
        queries.last_good(history)
    ingest.put(history, a_run(1))
    ingest.put(history, a_run(2))
    ingest.put(history, a_run(3, verdict=Verdict.FAIL))
    assert queries.last_good(history) == a_run(2)


@pytest.mark.slow
def test_from_one_database_to_the_other_and_back(server: str, tmp_path: Path) -> None:
    def exported(url: str, *sources: Path) -> bytes:
        with History(url) as history:
            assert all(transfer.import_(history, sources)) or not sources
            transfer.export(history, str(tmp_path / "export"))
        return (tmp_path / "export").read_bytes()

    other = server.replace("postgresql:", "postgresql+psycopg:")
    dice = random.Random(3)
    numbers = list(range(1, 29))
    dice.shuffle(numbers)
    with History(f"sqlite:///{tmp_path / 'a'}") as history:
        for number in numbers:
            ingest.put(history, a_run(number, us=dice.random() * 1e9, verdict=dice.choice(list(Verdict))))
    first = exported(f"sqlite:///{tmp_path / 'a'}")
    (tmp_path / "first").write_bytes(first)
    assert exported(other, tmp_path / "first") == first
    (tmp_path / "second").write_bytes(exported(other))
    assert exported(f"sqlite:///{tmp_path / 'b'}", tmp_path / "second") == first


def test_run_directories_are_imported_once(history: History, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / "runs" / a_run(number).id
        folder.mkdir(parents=True)
        (folder / "results.json").write_bytes(msgspec.json.encode(a_run(number)))
    (tmp_path / "runs" / "latest").symlink_to(a_run(3).id)
    (tmp_path / "runs" / "unfinished").mkdir()
    assert command("import", str(tmp_path / "runs" / a_run(2).id)).output == (
        "1 run imported, 0 were recorded already\n"
    )
    assert command("import", str(tmp_path / "runs")).output == "2 runs imported, 1 were recorded already\n"
    result = command("import", str(tmp_path / "runs" / "unfinished"))
    assert isinstance(result.exception, UserError)
    (tmp_path / "torn").write_bytes(msgspec.json.encode(a_run(4)) + b'\n{"id"')
    result = command("import", str(tmp_path / "torn"))
    assert isinstance(result.exception, UserError)
    assert "torn:2: not the results of a run" in result.exception.message
    # what was read before is recorded
    assert len(list(ingest.documents(history))) == 4


WRITER = """
import sys
sys.path[:0] = sys.argv[3:]
from test_ingest import a_run
from orchestrator.history import ingest
from orchestrator.history.database import History
with History(sys.argv[1]) as history:
    for number in range(int(sys.argv[2]), 29, 4):
        ingest.put(history, a_run(number))
        print(number, flush=True)
"""


@pytest.mark.slow
def test_writers_that_are_killed_lose_no_committed_run(url: str, tmp_path: Path) -> None:
    here = Path(__file__).parent
    dice = random.Random(4)
    said: set[int] = set()
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, url, str(first), str(here), str(here.parent)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for first in range(1, 5)
        ]
        assert writers[0].stdout is not None
        said.add(int(writers[0].stdout.readline()))
        time.sleep(dice.uniform(0, 0.3))
        for writer in writers:
            writer.kill()
        for writer in writers:
            assert writer.stdout is not None
            said |= {int(line) for line in writer.stdout.read().split("\n") if line.isdigit()}
            writer.wait()
    with History(url) as history:
        stored = [msgspec.json.decode(line, type=RunResult) for line in ingest.documents(history)]
        assert {a_run(number).id for number in said} <= {run.id for run in stored}
        assert said
        cases = queries.case_runs(history, "maps/p/two", limit=999)
        metrics = queries.metric_runs(history, METRIC, limit=999)
        # what is there is whole
        for run in stored:
            assert run == a_run(int(run.id[6:8]))
            for rows in (cases, metrics):
                assert len([row for row in rows if row.run == run.id]) == 2


# --- a database that cannot be used ------------------------------------------------------------------------


def test_a_database_of_a_newer_orchestrate(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h'}"
    History(url).close()
    with sqlite3.connect(tmp_path / "h") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UserError, match="tables of version 9999"):
        History(url)


def test_a_migration_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os; from alembic import op; from orchestrator.history.database import History\n"
        "real = op.create_index\n"
        "import alembic.operations as o\n"
        "o.Operations.create_index = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "History(sys.argv[1])\n"
    )
    url = f"sqlite:///{tmp_path / 'h'}"
    done = subprocess.run([sys.executable, "-c", code, url], check=False)
    assert done.returncode == -9
    with sqlite3.connect(tmp_path / "h") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    with History(url) as history:
        assert ingest.put(history, a_run(1))


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h").write_bytes(content)
    if not content:
        History(f"sqlite:///{tmp_path / 'h'}").close()
        return
    with pytest.raises(InfraError, match="file is not a database"):
        History(f"sqlite:///{tmp_path / 'h'}")


def test_a_history_that_cannot_be_written_costs_a_run_nothing_but_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "/dev/full/h")
    lines: list[str] = []
    transfer.record(a_run(1), lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("the run is not recorded: the history /dev/full/h: ")


@pytest.mark.parametrize("setting", ["mysql+nosuch://x", "http://x/y", "://"])
def test_a_url_of_another_kind(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, setting)
    with pytest.raises(UserError, match=VARIABLE):
        History(default_url())
