# SPDX-License-Identifier: GPL-2.0-only
"""Turn the options of ``orchestrate series`` into the series and the scope of its tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator.core import sandbox
from orchestrator.core.errors import UserError
from orchestrator.kernel import compile_only
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.notices import notices
from orchestrator.plan.options import Options, choose, current_tree
from orchestrator.series import input
from orchestrator.series.input import SeriesSource
from orchestrator.series.model import Scope
from orchestrator.source.model import Say
from orchestrator.suites import catalog

#: The default benchmark to compare base and tip.
BENCHMARKS = ("map-latency",)

#: Reads a series; its argument is a folder for mails to fetch.
Reader = Callable[[Path], tuple[SeriesSource, Scope]]


class SeriesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A series as the user requests it.

    ``patches`` is the user's name for the series, ``source`` the repository; if it is empty, that of the
    current folder. ``also`` are the configurations that are only compiled. ``no_bench``: no benchmarks.
    """

    options: Options
    patches: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    no_bench: bool = False


def reader_of(request: SeriesRequest, say: Say) -> Reader:
    """A function that reads the series. Options are checked before anything is read.

    :raises UserError: a name does not exist, or options do not fit together.
    """
    if not request.patches:
        raise UserError("no series is given", remedy=f"Give {input.FORMS}.")
    source = request.source or current_tree()
    options = msgspec.structs.replace(request.options, sources=(source,) if source else ())
    choices, benchmarks, notice = split_suites(choose(options, tests=True), measure=not request.no_bench)
    also = compile_only.check_names(request.also)
    if notice:
        say(notice)

    def read(work: Path) -> tuple[SeriesSource, Scope]:
        series = input.read(source, request.patches, work, say)
        base = Source(spec=f"{series.folder}@{series.base}")
        untrusted = bool(series.mails)
        chosen = msgspec.structs.replace(
            choices,
            sources=(base,),
            sandboxed=sandbox.resolve(options.sandbox, untrusted=untrusted),
        )
        for line in notices(chosen, untrusted=untrusted):
            say(line)
        return series, Scope(
            choices=chosen,
            folder=str(series.folder),
            name=request.patches,
            also=also,
            bench=benchmarks,
        )

    return read


def split_suites(choices: Choices, *, measure: bool) -> tuple[Choices, tuple[str, ...], str]:
    """The choices for each patch's run, the benchmarks for base and tip, or the reason why there is none.

    :raises UserError: benchmarks are named, but nothing is measured.
    """
    kinds = {name: catalog.load(name).kind for name in choices.suites}
    functional = tuple(name for name, kind in kinds.items() if kind == "functional")
    benchmarks = tuple(name for name, kind in kinds.items() if kind == "benchmark")
    defaults = prepare.default_suites(choices.flavors)
    if benchmarks and not measure and set(choices.suites) != set(defaults):
        raise UserError(
            f"--suite {benchmarks[0]} is a benchmark, and --no-bench is given", remedy="Omit one of them."
        )
    if not functional:
        functional = tuple(n for n in defaults if n not in benchmarks)
        functional = tuple(n for n in functional if catalog.load(n).kind == "functional")
    of_patch = msgspec.structs.replace(choices, suites=functional)
    if not measure:
        return of_patch, (), ""
    if choices.flavors:
        return of_patch, (), "no benchmarks: a kernel with a flavor is too slow to compare"
    return of_patch, benchmarks or BENCHMARKS, ""
