# SPDX-License-Identifier: GPL-2.0-only
"""The document of a benchmark: what is believed of it, and what is not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import Inconclusive
from orchestrator.results.model import Blame, Verdict
from orchestrator.verdict import benchmark
from orchestrator.verdict.benchmark import MAX_STDOUT

GOOD: dict[str, Any] = {
    "schema_version": 2,
    "benchmark": "b",
    "parameters": {"seconds": 3, "file": "maps"},
    "metrics": {
        "faults_per_s": {"value": 1000.5, "unit": "1/s", "better": "higher", "compare": True},
        "worst_us": {"value": 12, "unit": "us", "better": "lower", "compare": False},
    },
    "histograms": {"fault": [[15, 2], [31, 1]]},
    "proofs": [{"name": "workers", "ok": True, "said": "2 of 2"}],
    "clock_step_ns": 40,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **changes}


def judge(document: dict[str, Any]) -> Any:
    return benchmark.judge(benchmark.parse(json.dumps(document).encode(), "b"), "b/b")


def test_numbers_have_the_names_that_the_program_gave_and_those_to_compare_a_direction() -> None:
    case, numbers, better = judge(GOOD)
    assert case.verdict is Verdict.PASS
    assert numbers == {"faults_per_s": 1000.5, "worst_us": 12.0}
    assert all(type(number) is float for number in numbers.values())
    assert better == {"faults_per_s": "higher"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"proofs": [{"name": "reader", "ok": False, "said": "it died"}]}, "reader: it died"),
        ({"proofs": [{"name": "reader", "ok": False, "said": ""}]}, "reader: not shown"),
        ({"proofs": []}, "it proves nothing"),
        ({"metrics": {}}, "no number to compare"),
        (
            {"metrics": {"m": {"value": -1, "unit": "us", "better": "lower", "compare": True}}},
            "m is -1",
        ),
        ({"histograms": {"fault_ns": [[31, 1], [15, 2]]}}, "the histogram fault_ns does not rise"),
        ({"histograms": {"fault_ns": [[15, 1], [15, 2]]}}, "the histogram fault_ns does not rise"),
    ],
)
def test_without_every_proof_there_are_no_numbers(changes: dict[str, Any], reason: str) -> None:
    case, numbers, better = judge(changed(**changes))
    assert (case.verdict, case.blame) == (Verdict.INCONCLUSIVE, Blame.INFRA)
    assert reason in case.reason
    assert (numbers, better) == ({}, {})


def test_of_many_faults_the_first_are_said() -> None:
    proofs = [{"name": f"p{n}", "ok": False, "said": "no"} for n in range(9)]
    assert judge(changed(proofs=proofs))[0].reason == "p0: no; p1: no; p2: no (and 6 more)"


@pytest.mark.parametrize("value", [1e308, 1e-308, 1e16, 1e-13, 5e-324, -0.1])
def test_figures_that_nothing_measures_are_no_figures(value: float) -> None:
    """The ratio of the largest and the smallest float has no exponential."""
    metrics = {"m": {"value": value, "unit": "us", "better": "lower", "compare": True}}
    case, numbers, _ = judge(changed(metrics=metrics))
    assert case.verdict is Verdict.INCONCLUSIVE
    assert case.reason.startswith("m is ")
    assert not numbers


def test_a_number_beyond_all_bounds_is_no_number() -> None:
    out = json.dumps(GOOD).replace("1000.5", "1e999").encode()
    with pytest.raises(Inconclusive, match="no valid document"):
        benchmark.parse(out, "b")


DELETE = object()


def replaced(path: str, value: object) -> dict[str, Any]:
    """The document with one value replaced; ``DELETE`` takes it away."""
    result = copy.deepcopy(GOOD)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    node: Any = result
    for key in parents:
        node = node[key]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 1),
        ("schema_version", True),
        ("more", 1),
        ("metrics.worst_us.value", "12"),
        ("metrics.worst_us.unit", "furlong"),
        ("metrics.worst_us.better", "more"),
        ("metrics.worst_us.compare", DELETE),
        ("metrics", {"\x1b[2J": GOOD["metrics"]["worst_us"]}),
        ("metrics", {f"m{n}": GOOD["metrics"]["worst_us"] for n in range(501)}),
        ("histograms.fault", [[1, 2, 3]]),
        ("histograms.fault", [[-1, 2]]),
        ("histograms.fault", [[1, 2**70]]),
        ("histograms.fault", [[i, 1] for i in range(1025)]),
        ("parameters.file", "../1/maps"),
        ("parameters.file", "maps\n\x1b[2J"),
        ("parameters.seconds", None),
        ("proofs.0.said", "x" * 401),
        ("proofs", DELETE),
    ],
)
def test_a_document_of_another_shape(path: str, value: object) -> None:
    with pytest.raises(Inconclusive, match="no valid document"):
        benchmark.parse(json.dumps(replaced(path, value)).encode(), "b")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (b"", "printed nothing"),
        (b" \n", "printed nothing"),
        (b" " * (MAX_STDOUT + 1) + b"x", "more than"),
        (b"{}", "no valid document"),
        (b"Killed\n", "no valid document"),
        (b"\xff\xfe", "no valid document"),
        (b"[" * 100_000, "no valid document"),
        (b'{"metrics":' * 50_000, "no valid document"),
        (b'{"unknown":' + b"[" * 100_000, "no valid document"),
        (b'{"benchmark": "\xff"}', "no valid document"),
        (b'{"schema_version": NaN}', "no valid document"),
        (json.dumps(changed(benchmark="c")).encode(), "the document of 'c'"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_document_of_this_benchmark(out: bytes, message: str) -> None:
    with pytest.raises(Inconclusive, match=message) as caught:
        benchmark.parse(out, "b")
    assert caught.value.remedy


def test_what_the_guest_wrote_does_not_reach_the_terminal() -> None:
    with pytest.raises(Inconclusive) as caught:
        benchmark.parse(json.dumps({"\x1b[2J\n" + "x" * 100_000: 1}).encode(), "b")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_inconclusive(out: bytes) -> None:
    with pytest.raises(Inconclusive):
        benchmark.parse(out, "b")


LEAVES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([]) | st.just({})
)


def paths(node: Any, prefix: str = "") -> list[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [prefix.lstrip(".")] * bool(prefix) + [
        p for key, sub in items for p in paths(sub, f"{prefix}.{key}")
    ]


@given(st.sampled_from(paths(GOOD)), LEAVES)
def test_any_one_value_replaced_is_judged_or_inconclusive(path: str, value: object) -> None:
    try:
        case, numbers, _ = judge(replaced(path, value))
    except Inconclusive:
        return
    assert bool(numbers) == (case.verdict is Verdict.PASS)
