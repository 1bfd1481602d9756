# SPDX-License-Identifier: GPL-2.0-only
"""Text of guests, compilers and patches reaches no reader as anything but text, by whichever way it goes."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError, UserError
from orchestrator.core.events import Event, Events
from orchestrator.report import page, terminal
from orchestrator.results import junit
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.run.summary import RunResult, SourceResult, with_cells
from orchestrator.verdict import benchmark
from orchestrator.verdict.ktap import parse, to_cases
from orchestrator.verdict.program import inconclusive

HOSTILE = {
    "escape sequences": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]52;c;YQ==\x07",
    "C1 controls": "\x9b31mred\x9d0;title\x9c\x85",
    "C0 controls": "a\x00\x07\x08\x0b\x7f",
    "overrides of direction": "a\u202eb\u2066c\u2069",
    "marks of direction": "\u200e\u200f\u061c",
    "no width": "a\u200bb\u200c\u200d\u2060\ufeff",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "lone surrogates": "a\ud800\udfffb",
    "not of XML": "\ufffe\uffff",
    "markup": "<script>alert(1)</script> ]]> & [bold]x[/bold]",
}


def assert_safe(text: str) -> None:
    steering = [
        c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\t\n"
    ]
    assert steering == []
    assert "\ufffe" not in text


@pytest.fixture(params=list(HOSTILE.values()), ids=list(HOSTILE))
def hostile(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def cell_of(hostile: str) -> CellResult:
    """A cell with hostile text wherever there is text, made in each way in which a case is made."""
    case = Case(
        id=f"s/{hostile}", verdict=Verdict.FAIL, blame=Blame.KERNEL, reason=hostile, detail=f"a\n{hostile}"
    )
    plain = Case(id="s/b", verdict=Verdict.CRASH, reason="r")
    replaced = msgspec.structs.replace(
        plain,
        reason=hostile,
        detail=hostile,
        fingerprint=hostile,
        further_fingerprints=(hostile,),
        log=hostile,
    )
    raw = {"id": f"s/c{hostile}", "verdict": "ERROR", "reason": hostile}
    decoded = msgspec.convert(raw, Case)
    suite = SuiteResult(
        suite="s",
        cases=(case, replaced, decoded, inconclusive("s/d", hostile)),
        metrics={hostile: 1.0},
        better={hostile: "lower"},
        unknown_programs=(hostile,),
    )
    return CellResult(
        cell=f"c{hostile}", label=hostile, release=hostile, properties={hostile: hostile}, suites=(suite,)
    )


def result_of(hostile: str) -> RunResult:
    source = SourceResult(label=hostile, source=hostile, digest="d")
    return with_cells(
        RunResult(schema_version=2, id="r", sources=(source,), started_at=""), [cell_of(hostile)]
    )


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in strings(each)]
    return [text for each in value for text in strings(each)] if isinstance(value, list) else []


def test_results_json(hostile: str) -> None:
    for text in strings(json.loads(msgspec.json.encode(result_of(hostile)))):
        assert_safe(text)


def test_a_reason_is_one_line() -> None:
    case = Case(id="a\nb", verdict=Verdict.FAIL, reason="one\n\ttwo", log="l\n")
    assert (case.id, case.reason, case.log) == ("a b", "one  two", "l ")


def test_junit(hostile: str) -> None:
    document = junit.render([cell_of(hostile)], run_id=hostile).decode()
    assert_safe(document)
    assert "<script" not in document


def test_the_terminal(hostile: str) -> None:
    for is_terminal in (False, True):
        out = terminal.console()
        out.file = stream = io.StringIO()
        out._force_terminal = is_terminal
        terminal.print_summary(out, result_of(hostile), Path("/runs/r"))
        assert_safe(stream.getvalue().replace("\x1b[", ""))
        assert "\x1b[2J" not in stream.getvalue()


def test_whatever_else_is_printed(hostile: str) -> None:
    """A subject of a patch, a title of a report: the terminal itself lets nothing through."""
    out = terminal.console()
    out.file = stream = io.StringIO()
    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(hostile)
    out.print(hostile, soft_wrap=True)
    out.print(table)
    assert_safe(stream.getvalue())


@pytest.mark.parametrize("kind", [UserError, InfraError, KernelError, Interrupted, OrchestrateError])
def test_errors(hostile: str, kind: type[OrchestrateError]) -> None:
    error = kind(f"cannot build: {hostile}", remedy=hostile)
    for text in (str(error), error.message, error.remedy, *map(str, error.args)):
        assert_safe(text)


def test_progress_lines(hostile: str, tmp_path: Path) -> None:
    stream = io.StringIO()
    with Events(Console(file=stream, highlight=False, markup=False), tmp_path / "events.ndjson") as events:
        events.emit("cell", "run", hostile)
        events.record(Event("t", hostile, hostile, hostile))
    assert_safe(stream.getvalue())
    for line in (tmp_path / "events.ndjson").read_text().splitlines():
        for text in strings(json.loads(line)):
            assert_safe(text)


def test_pages(hostile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "page.j2").write_text(
        '<p title="{{ text }}">{{ text }}{% for t in texts %}{{ t }}{% endfor %}</p>'
    )
    monkeypatch.setattr(page, "__file__", str(tmp_path / "report" / "page.py"))
    html = page.render("page.j2", text=hostile, texts=[hostile])
    assert_safe(html)
    assert "<script" not in html


def test_what_a_benchmark_says(hostile: str) -> None:
    document = {
        "schema_version": 2,
        "benchmark": "b",
        "parameters": {},
        "metrics": {},
        "histograms": {},
        "proofs": [{"name": "p", "ok": False, "said": hostile.encode("utf-8", "replace").decode()}],
        "clock_step_ns": 1,
    }
    case, _, _ = benchmark.judge(benchmark.parse(json.dumps(document).encode(), "b"), "s/b")
    assert_safe(case.reason)


def test_what_a_test_prints(hostile: str) -> None:
    text = hostile.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
    for case in to_cases(parse(f"1..1\n# {text}\nnot ok 1 {text}\n"), "s/p"):
        assert_safe(case.id + case.reason)
        assert_safe(case.detail)
