# SPDX-License-Identifier: GPL-2.0-only
"""Judge the document that a benchmark prints (``selftests/lib/bench.h``): a verdict, and numbers.

The document comes from the guest: it is bounded, and checked for consistency first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.core import codec
from orchestrator.core.errors import Inconclusive
from orchestrator.core.text import one_line
from orchestrator.results.model import Blame, Case, Verdict

#: A document of 64 workers and full histograms is about 100 KiB.
MAX_STDOUT = 1 << 20

_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.,:/ -]{0,79}\Z")]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Units are chosen so that figures are near 1. Beyond this nothing was measured, and ratios overflow.
LARGEST, SMALLEST = 1e15, 1e-12
#: Pairs of the largest value of a bucket in ns and a count, rising, without empty buckets.
_Histogram = Annotated[tuple[tuple[_Count, _Count], ...], Meta(max_length=1024)]


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number; ``compare``: it is compared between the variants.

    Its name ends in its unit, unless it is a ratio or a count.
    """

    value: float
    unit: Literal["ns", "us", "ms", "1/s", "ratio", "count"]
    better: Literal["lower", "higher"]
    compare: bool


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition without which the numbers mean nothing; ``text`` explains it."""

    name: _Name
    ok: bool
    text: Annotated[str, Meta(max_length=400)] = msgspec.field(name="said", default="")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The output of a benchmark in one boot."""

    schema_version: Literal[2]
    benchmark: _Name
    parameters: Annotated[dict[_Name, float | _Name], Meta(max_length=100)]
    metrics: Annotated[dict[_Name, Metric], Meta(max_length=500)]
    histograms: Annotated[dict[_Name, _Histogram], Meta(max_length=100)]
    proofs: Annotated[tuple[Proof, ...], Meta(max_length=500)]
    clock_step_ns: _Count


def parse(stdout: bytes, name: str) -> Document:
    """Read the output of the benchmark ``name``.

    :raises Inconclusive: no output, too much, another document, or invalid numbers.
    """
    remedy = "Look at the program's exit code and standard error in the log of this suite."
    if not stdout.strip():
        raise Inconclusive(f"{name} printed nothing", remedy=remedy)
    try:
        document = codec.decode_untrusted(stdout, Document, limit=MAX_STDOUT)
    except ValueError as error:
        raise Inconclusive(f"{name} printed no valid document: {error}", remedy=remedy) from None
    if document.benchmark != name:
        raise Inconclusive(f"{name} printed the document of {document.benchmark!r}", remedy=remedy)
    return document


def judge(document: Document, case_id: str) -> tuple[Case, dict[str, float], dict[str, str]]:
    """The verdict on one run; its numbers by name; and for those to compare, ``lower`` or ``higher``.

    There are no numbers unless every proof holds. A document without a proof, or without a number to compare,
    shows nothing.
    """
    faults = list(_faults(document))
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        reason = "; ".join(faults[:3]) + more
        return Case(id=case_id, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason), {}, {}
    return (
        Case(id=case_id, verdict=Verdict.PASS),
        {name: metric.value for name, metric in document.metrics.items()},
        {name: metric.better for name, metric in document.metrics.items() if metric.compare},
    )


def _faults(document: Document) -> Iterator[str]:
    for proof in document.proofs:
        if not proof.ok:
            yield f"{proof.name}: {one_line(proof.text) or 'not shown'}"
    if not document.proofs:
        yield "it proves nothing about its own work"
    if not any(metric.compare for metric in document.metrics.values()):
        yield "it has no number to compare"
    for name, metric in document.metrics.items():
        if not (metric.value == 0 or SMALLEST <= metric.value <= LARGEST):
            yield f"{name} is {metric.value}"
    for name, buckets in document.histograms.items():
        if any(low >= high for (low, _), (high, _) in pairwise(buckets)):
            yield f"the histogram {name} does not rise"
