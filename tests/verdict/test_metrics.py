# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import Inconclusive
from orchestrator.results.model import Blame, Verdict
from orchestrator.verdict import metrics
from orchestrator.verdict.metrics import judge, parse_map_latency

Document = dict[str, Any]


def placement(cpu: int, nice: int) -> Document:
    return {
        "pid": 100 + cpu,
        "cpu_requested": cpu,
        "cpus_actual": [cpu],
        "nice_requested": nice,
        "nice_actual": nice,
    }


def phase(name: str, scale: int) -> Document:
    busy = placement(1, 0) | {"alive": True, "spins": 900, "last_ended_ms_ago": 1.5}
    scanner = placement(1, 15) | {
        "alive": True,
        "scans": 40,
        "bytes": 40 * 8000 * 50,
        "errors": 0,
        "last_errno": 0,
        "worst_scan_ms": 130.0,
        "last_ended_ms_ago": 20.0,
    }
    return {
        "name": name,
        "seconds": 5.001,
        "ops": 1000,
        "maps": 480,
        "unmaps": 520,
        "errors": 0,
        "mean_us": 60.0 * scale,
        "p50_us": 50.0 * scale,
        "p90_us": 80.0 * scale,
        "p99_us": 110.0 * scale,
        "p999_us": 200.0 * scale,
        "max_us": 5000.0 * scale,
        "vma_count": {"before": 8190, "after": 8230},
        "histogram_ns": [[50000 * scale, 600], [80000 * scale, 380], [5000000 * scale, 20]],
        "mapper": placement(0, 0),
        "scanners": [scanner] if name == "scanned" else [],
        "busy": [busy],
    }


def document() -> Document:
    return {
        "schema_version": 1,
        "parameters": {
            "size_mib": 128,
            "seconds": 5,
            "scanners": 1,
            "busy_ms": 2,
            "mapper_cpu": 0,
            "scanner_cpus": [1],
            "nice": 15,
            "file": "maps",
            "pause_us": 10,
            "fragments": 2000,
            "seed": 1,
            "phases": ["alone", "scanned"],
        },
        "page_size": 4096,
        "active_pages": 32768,
        "cpus_online": 2,
        "clock_step_ns": 40,
        "phases": [phase("alone", 1), phase("scanned", 4)],
    }


def changed(path: str, value: object) -> Document:
    """The document with one value replaced; ``DELETE`` takes it away."""
    result = document()
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    node: Any = result
    for key in parents:
        node = node[key]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return result


DELETE = object()


def parse(value: Document) -> metrics.Sample:
    return parse_map_latency(json.dumps(value).encode())


def test_a_proven_run_passes_with_its_numbers() -> None:
    case, numbers = judge(parse(document()), "map-latency/busy")
    assert (case.id, case.verdict, case.blame, case.reason) == (
        "map-latency/busy",
        Verdict.PASS,
        Blame.NONE,
        "",
    )
    assert numbers["mean_us_alone"] == 60
    assert numbers["mean_us_scanned"] == 240
    assert numbers["p99_us_scanned"] == 440
    assert numbers["max_us_alone"] == 5000
    assert numbers["ops_scanned"] == 1000
    assert numbers["interference"] == 4
    assert numbers["scans"] == 40
    assert all(type(number) is float for number in numbers.values())


SCANNER = "phases.1.scanners.0"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (f"{SCANNER}.scans", 0, "scanner 1: no scan of maps"),
        (f"{SCANNER}.alive", False, "scanner 1: dead at the end"),
        (f"{SCANNER}.nice_actual", 0, "scanner 1: nice 0, 15 requested"),
        (f"{SCANNER}.nice_actual", None, "scanner 1: nice None"),
        (f"{SCANNER}.cpus_actual", [0, 1], "scanner 1: on CPU 0,1, 1 requested"),
        (f"{SCANNER}.cpus_actual", [], "scanner 1: on CPU unknown"),
        (f"{SCANNER}.last_ended_ms_ago", None, "no scan in the second half"),
        (f"{SCANNER}.last_ended_ms_ago", 2600.0, "no scan in the second half"),
        (f"{SCANNER}.bytes", 40 * 1000 * 50, "50000 bytes a scan, too few for 2000 VMAs"),
        ("parameters.nice", 5, "scanner 1: started with nice 15, 5 requested"),
        ("phases.1.scanners", [], "0 scanners took part, 1 requested"),
        ("parameters.scanners", 2, "1 scanners took part, 2 requested"),
        ("phases.0.mapper.cpus_actual", [1], "mapper, phase 'alone': on CPU 1"),
        ("phases.1.mapper.nice_actual", 15, "mapper, phase 'scanned': nice 15"),
        ("phases.1.errors", 11, "11 mmap or munmap calls failed in phase 'scanned'"),
        ("phases.0.vma_count.before", 12, "12 VMAs in phase 'alone', 2000 requested"),
        ("phases.1.vma_count.after", 1999, "1999 VMAs in phase 'scanned'"),
        ("phases.0.busy.0.alive", False, "busy task 1, phase 'alone': dead at the end"),
        ("phases.1.busy.0.spins", 0, "busy task 1, phase 'scanned': never ran"),
        ("phases.1.busy", [], "0 busy tasks took part in phase 'scanned'"),
        ("parameters.busy_ms", 0, "1 busy tasks took part"),
        ("phases.0.scanners", document()["phases"][1]["scanners"], "scanners took part in phase 'alone'"),
        ("phases.0.mean_us", 0.0, "the clock stood still"),
        (
            "clock_step_ns",
            4_000_200,
            "steps of the clock are 4000.2 µs, operations in phase 'alone' take 60 µs",
        ),
        ("clock_step_ns", 12_001, "operations in phase 'alone' take 60 µs"),
    ],
)
def test_a_missing_proof_is_inconclusive(path: str, value: object, reason: str) -> None:
    case, numbers = judge(parse(changed(path, value)))
    assert (case.verdict, case.blame, numbers) == (Verdict.INCONCLUSIVE, Blame.INFRA, {})
    assert reason in case.reason
    assert "\n" not in case.reason


def test_a_few_failed_calls_are_no_fault() -> None:
    case, numbers = judge(parse(changed("phases.1.errors", 10)))
    assert case.verdict is Verdict.PASS
    assert numbers["errors_scanned"] == 10


def test_too_few_operations() -> None:
    few = document()
    few["phases"][1] |= {"ops": 99, "maps": 49, "unmaps": 50, "histogram_ns": [[200000, 99]]}
    case, _ = judge(parse(few))
    assert "99 operations in phase 'scanned', at least 100" in case.reason


@pytest.mark.parametrize("left", [0, 1])
def test_a_missing_phase(left: int) -> None:
    only = document()
    only["phases"] = [only["phases"][left]]
    only["parameters"]["phases"] = [only["phases"][0]["name"]]
    case, numbers = judge(parse(only))
    assert (case.verdict, numbers) == (Verdict.INCONCLUSIVE, {})
    assert "no phase" in case.reason


def test_many_faults_stay_one_short_line() -> None:
    many = document()
    many["parameters"]["scanners"] = 64
    many["phases"][1]["scanners"] = [many["phases"][1]["scanners"][0] | {"alive": False}] * 64
    case, _ = judge(parse(many))
    assert case.reason.endswith("more)")
    assert len(case.reason) < 300


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("phases.0.ops", 999),
        ("phases.0.maps", 481),
        ("phases.0.mean_us", None),
        ("phases.0.mean_us", 5001.0),
        ("phases.0.p99_us", 20.0),
        ("phases.0.histogram_ns", [[80000, 600], [50000, 400]]),
        ("phases.0.name", "scanned"),
        ("parameters.phases", ["scanned", "alone"]),
        ("phases", []),
    ],
)
def test_a_report_that_contradicts_itself(path: str, value: object) -> None:
    with pytest.raises(Inconclusive, match="contradicts itself"):
        parse(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 2),
        ("schema_version", True),
        ("phases.0.ops", -1),
        ("phases.0.ops", "1000"),
        ("phases.0.ops", 2**70),
        ("phases.0.mean_us", -1.0),
        ("phases.0.name", "quiet"),
        ("phases.0.histogram_ns", [[1, 2, 3]]),
        ("phases.0.histogram_ns", [[i, 1] for i in range(1025)]),
        ("parameters.file", "../1/maps"),
        ("parameters.file", "maps\n\x1b[2J"),
        ("unknown", 1),
        ("phases.1.scanners.0.pid", DELETE),
        ("phases", DELETE),
    ],
)
def test_a_report_of_another_shape(path: str, value: object) -> None:
    with pytest.raises(Inconclusive, match="no valid report"):
        parse(changed(path, value))


@pytest.mark.parametrize(
    "stdout",
    [
        b"",
        b" \n",
        b"Killed\n",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"phases":' * 100_000,
        b'{"unknown":' + b"[" * 100_000,
        b'{"parameters": {"file": "\xff"}}',
        b'{"schema_version": 1}',
        b" " * (metrics.MAX_STDOUT + 1) + b"{}",
        b'{"schema_version": NaN}',
    ],
    ids=lambda stdout: repr(stdout[:12]),
)
def test_rubbish_is_inconclusive(stdout: bytes) -> None:
    with pytest.raises(Inconclusive) as caught:
        parse_map_latency(stdout)
    assert caught.value.remedy


def test_what_the_guest_wrote_does_not_reach_the_terminal() -> None:
    with pytest.raises(Inconclusive) as caught:
        parse_map_latency(json.dumps({"\x1b[2J\n" + "x" * 100_000: 1}).encode())
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_inconclusive(stdout: bytes) -> None:
    with pytest.raises(Inconclusive):
        parse_map_latency(stdout)


LEAVES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([]) | st.just({})
)


def paths(node: Any, prefix: str = "") -> list[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [prefix.lstrip(".")] * bool(prefix) + [
        p for key, sub in items for p in paths(sub, f"{prefix}.{key}")
    ]


@given(st.sampled_from(paths(document())), LEAVES)
def test_any_one_value_replaced_is_judged_or_inconclusive(path: str, value: object) -> None:
    try:
        sample = parse(changed(path, value))
    except Inconclusive:
        return
    case, numbers = judge(sample)
    assert bool(numbers) == (case.verdict is Verdict.PASS)
