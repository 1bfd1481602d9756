# SPDX-License-Identifier: GPL-2.0-only
"""The document of a benchmark: what is believed of it, and what is not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from orchestrator.core.errors import Inconclusive
from orchestrator.results.model import Blame, Verdict
from orchestrator.verdict import benchmark
from orchestrator.verdict.metrics import MAX_STDOUT

GOOD: dict[str, Any] = {
    "schema_version": 2,
    "benchmark": "b",
    "parameters": {"seconds": 3},
    "metrics": {
        "faults 1 thread": {"value": 1000.5, "unit": "1/s", "better": "higher", "compare": True},
        "worst": {"value": 12, "unit": "us", "better": "lower", "compare": False},
    },
    "histograms": {"fault": [[15, 2], [31, 1]]},
    "proofs": [{"name": "workers", "ok": True, "said": "2 of 2"}],
    "clock_step_ns": 40,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **changes}


def judge(document: dict[str, Any]) -> Any:
    return benchmark.judge(benchmark.parse(json.dumps(document).encode(), "b"), "b/b")


def test_numbers_have_their_units_and_those_to_compare_a_direction() -> None:
    case, numbers, better = judge(GOOD)
    assert case.verdict is Verdict.PASS
    assert numbers == {"faults 1 thread 1/s": 1000.5, "worst us": 12.0}
    assert better == {"faults 1 thread 1/s": "higher"}


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


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (b"", "printed nothing"),
        (b" " * (MAX_STDOUT + 1) + b"x", "more than"),
        (b"{}", "no valid document"),
        (b"\xff\xfe", "no valid document"),
        (json.dumps(changed(schema_version=1)).encode(), "no valid document"),
        (json.dumps(changed(more=1)).encode(), "no valid document"),
        (json.dumps(changed(metrics={"\x1b[2J": GOOD["metrics"]["worst"]})).encode(), "no valid document"),
        (json.dumps(changed(benchmark="c")).encode(), "the document of 'c'"),
    ],
)
def test_what_is_no_document_of_this_benchmark(out: bytes, message: str) -> None:
    with pytest.raises(Inconclusive, match=message) as caught:
        benchmark.parse(out, "b")
    assert "\x1b" not in caught.value.message
