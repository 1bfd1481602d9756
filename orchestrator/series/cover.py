# SPDX-License-Identifier: GPL-2.0-only
"""The results of a series as plain text for a cover letter, in 72 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from orchestrator.core.text import one_line
from orchestrator.results.model import Verdict
from orchestrator.series import performance
from orchestrator.series.matrix import Entry, Matrix, grouped, sentence
from orchestrator.series.model import COMPILE, WARNINGS, Change, Row, Series
from orchestrator.source.patches import patch_count

WIDTH = 72
LEGEND = (
    "ok passed, = same kernel image as the patch before, whose results stand, ^N fails since patch N "
    "(^0: without the series), ? cannot be judged, - not reached"
)


def text(series: Series, matrix: Matrix) -> str:
    """The text. What was not judged is as visible as what was."""
    lines = [
        *_wrapped(_opening(series)),
        "",
        *_section("Kernels", _kernels(series)),
        *_section("Machines", _machines(series)),
        *_section("Method", method(series)),
        *_findings(matrix),
        "",
        *table(matrix, WIDTH),
        "",
        *_wrapped(LEGEND),
        *_benchmarks(series.changes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _opening(series: Series) -> str:
    count = len(series.patches) - 1
    base = series.patches[0]
    release = next((k.release for s in series.steps for k in s.kernels.values() if k.release), "")
    of = f" ({release})" if release else ""
    sentences = (
        f"Tested with orchestrate {_version()}: {patch_count(count)} on {base.commit[:12]}{of}, one by one."
    )
    if series.interrupted or len([step for step in series.steps if step.finished]) <= count:
        sentences += " The test is incomplete: these are the results so far."
    return sentences


def _version() -> str:
    try:
        return version("orchestrate")
    except PackageNotFoundError:
        return "(unknown version)"


def _kernels(series: Series) -> list[str]:
    choices = series.scope.choices
    compilers = {
        name.split()[0]: kernel.toolchain
        for step in series.steps
        for name, kernel in step.kernels.items()
        if kernel.toolchain
    }
    sentences = [f"{', '.join(choices.variants)}"]
    if choices.flavors:
        sentences[0] += f", flavor {'+'.join(choices.flavors)}"
    sentences += [f"{arch}: {compilers.get(arch, 'not built')}" for arch in choices.arches]
    if series.scope.also:
        sentences.append(f"only compiled: {', '.join(series.scope.also)}")
    return sentences


def _machines(series: Series) -> list[str]:
    machines: dict[str, str] = {}
    for step in series.steps:
        machines |= step.machines
    return [f"{arch}: {what}" for arch, what in machines.items()] or ["none was booted"]


def method(series: Series) -> list[str]:
    """How the series was tested, in sentences."""
    suites = [row.check for row in series.rows if not row.own and row.check != "bench"]
    sentences = [
        "each patch built, compared with the one before for new warnings, booted once for each kernel"
    ]
    if suites:
        sentences[0] += f", and tested with {', '.join(dict.fromkeys(suites))}"
    if series.scope.bench:
        boots = series.scope.choices.boots or performance.BOOTS
        sentences.append(
            f"{', '.join(series.scope.bench)}: base against tip, {boots} boots of each, in turn on the same "
            "host, more if a metric is perhaps worse; one sample a boot; Hodges-Lehmann ratio with an exact "
            "95 % interval, rank test of Mann and Whitney, at most 5 % false discoveries over all metrics; a "
            "worse metric is searched for among the patches"
        )
    return sentences


def _findings(matrix: Matrix) -> list[str]:
    lines = ["Result:"]
    for same in grouped([*matrix.of_series, *matrix.unattributed, *matrix.at_base]):
        lines += _wrapped(one_line(sentence(same, matrix.patches)), "  - ", "    ")
    unsure = sum(
        entry.verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR)
        for entries in matrix.entries.values()
        for entry in entries
    )
    if not matrix.of_series:
        what = "no patch introduced a failure" if any(matrix.entries.values()) else "nothing was run"
        lines += _wrapped(what, "  - ", "    ")
    if unsure:
        lines += _wrapped(f"{unsure} of the checks below could not be judged", "  - ", "    ")
    return lines


def table(matrix: Matrix, width: int) -> list[str]:
    """The matrix: a line per check, a column per patch. Columns that do not fit continue below."""
    rows = [row for row in matrix.rows if is_informative(matrix, row)]
    name_width = max((len(row.name) for row in rows), default=0)
    count = max((len(entries) for entries in matrix.entries.values()), default=0)
    texts = {row.name: [entry.text for entry in matrix.entries[row.name]] for row in rows}
    cell = max([3, *(len(text) for each in texts.values() for text in each)])
    many = max(1, (width - name_width) // (cell + 1))
    lines: list[str] = []
    for start in range(0, count, many):
        if lines:
            lines.append("")
        numbers = range(start, min(start + many, count))
        heads = ["base" if n == 0 and cell >= 4 else str(n) for n in numbers]
        lines.append(_line("patch", heads, name_width, cell))
        lines += [_line(row.name, [texts[row.name][n] for n in numbers], name_width, cell) for row in rows]
    return lines


def is_informative(matrix: Matrix, row: Row) -> bool:
    """Whether a row has information: the warnings of a configuration that does not compile have none."""
    entries: tuple[Entry, ...] = matrix.entries[row.name]
    return any(entry.verdict is not None for entry in entries) or row.check not in (
        WARNINGS,
        COMPILE,
        "bench",
    )


def _line(name: str, words: Iterable[str], name_width: int, cell: int) -> str:
    return f"{name:<{name_width}}" + "".join(f" {word:>{cell}}" for word in words)


def _benchmarks(changes: Iterable[Change]) -> list[str]:
    changes = list(changes)
    if not changes:
        return []
    lines = ["", "Performance, tip / base:"]
    for suite, arch, variant in dict.fromkeys((c.suite, c.arch, c.variant) for c in changes):
        lines.append(f"  {suite}, {arch} {variant}")
        mine = [c for c in changes if (c.suite, c.arch, c.variant) == (suite, arch, variant)]
        lines += [line for change in mine for line in _change(change)]
    return lines


def _change(change: Change) -> Iterator[str]:
    sides = f"{change.base:.4g} -> {change.tip:.4g}"
    says = change.says.removesuffix(" shown")
    line = f"    {change.metric:<16} {sides:<16} {performance.in_words(change.ratio)} {says}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"    {change.metric}"
    yield from _wrapped(f"{sides} {performance.in_words(change.ratio)} {says}", " " * 8, " " * 8)


def _section(name: str, sentences: list[str]) -> list[str]:
    lines = []
    for number, sentence_ in enumerate(sentences):
        head = f"{name}:" if not number else ""
        lines += _wrapped(sentence_, f"{head:<10}", " " * 10)
    return lines


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [""]
