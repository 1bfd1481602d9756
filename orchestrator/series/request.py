# SPDX-License-Identifier: GPL-2.0-only
"""From the options of ``orchestrate series`` to the series and what is tested of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.kernel import compile_only
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.options import Options, choose, current_tree
from orchestrator.series import input
from orchestrator.series.input import SeriesSource
from orchestrator.series.model import Scope
from orchestrator.source.model import Say
from orchestrator.suites import catalog

#: The benchmark in which base and tip are compared, where none is named.
BENCHMARKS = ("map-latency",)

#: Reads a series, given a folder for what it fetches.
Reader = Callable[[Path], tuple[SeriesSource, Scope]]


class SeriesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A series that the user asks for.

    ``patches`` is the series as the user names it, ``source`` the repository, empty for the one that the
    user is in. ``also`` are the configurations that are only compiled; ``no_bench``: nothing is measured.
    """

    options: Options
    patches: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    no_bench: bool = False


def reader_of(request: SeriesRequest, say: Say) -> Reader:
    """What reads the series; mistakes in options are found before anything is read.

    :raises UserError: a name that does not exist, or options that do not fit together.
    """
    if not request.patches:
        raise UserError("which series?", remedy=f"Give {input.FORMS}.")
    source = request.source or current_tree()
    options = msgspec.structs.replace(request.options, sources=(source,) if source else ())
    choices, benchmarks, why_none = split_suites(choose(options, tests=True), measure=not request.no_bench)
    also = compile_only.check_names(request.also)
    if why_none:
        say(why_none)

    def read(work: Path) -> tuple[SeriesSource, Scope]:
        series = input.read(source, request.patches, work, say)
        base = Source(spec=f"{series.folder}@{series.base}")
        return series, Scope(
            choices=msgspec.structs.replace(choices, sources=(base,)),
            folder=str(series.folder),
            name=request.patches,
            also=also,
            bench=benchmarks,
        )

    return read


def split_suites(choices: Choices, *, measure: bool) -> tuple[Choices, tuple[str, ...], str]:
    """The choices of each patch's run, the benchmarks for base and tip, and why there is none.

    :raises UserError: benchmarks are named although nothing is to be measured.
    """
    kinds = {name: catalog.load(name).kind for name in choices.suites}
    functional = tuple(name for name, kind in kinds.items() if kind == "functional")
    benchmarks = tuple(name for name, kind in kinds.items() if kind == "benchmark")
    defaults = prepare.default_suites(choices.flavors)
    if benchmarks and not measure and set(choices.suites) != set(defaults):
        raise UserError(f"--suite {benchmarks[0]} is a benchmark, and --no-bench", remedy="Leave one out.")
    if not functional:
        functional = tuple(n for n in defaults if n not in benchmarks)
        functional = tuple(n for n in functional if catalog.load(n).kind == "functional")
    of_patch = msgspec.structs.replace(choices, suites=functional)
    if not measure:
        return of_patch, (), ""
    if choices.flavors:
        return of_patch, (), "nothing is measured in a kernel made for diagnosis"
    return of_patch, benchmarks or BENCHMARKS, ""
