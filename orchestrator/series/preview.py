# SPDX-License-Identifier: GPL-2.0-only
"""What a series was understood to be, and its estimated cost, before anything is built."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.core import arch as arches
from orchestrator.core.store import Store
from orchestrator.core.text import one_line
from orchestrator.plan import prepare
from orchestrator.run.estimate import boot_seconds, incremental_builds
from orchestrator.series import performance
from orchestrator.series.input import SeriesSource
from orchestrator.series.model import Patch, Scope

_WIDTH = 80


def lines(
    source: SeriesSource,
    scope: Scope,
    patches: Sequence[Patch],
    notes: Sequence[str],
    store: Store,
    runs: Path,
) -> list[str]:
    """The series and its cost in lines of 80 columns.

    :param patches: the base and the patches.
    :param notes: sentences about how the series was read.
    :param runs: the folder of earlier runs, series and bisects.
    """
    count = len(patches) - 1
    name = " ".join(filter(None, (source.version, repr(source.title) if source.title else "")))
    text = [f"{one_line(scope.name)}: {', '.join(filter(None, (name, _counted(count, 'patch'))))}"]
    for patch in patches:
        number = str(patch.number) if patch.number else "base"
        text.append(
            _cut(f"{number:>6}  {patch.commit[:12]} {patch.subject}{' (merge)' if patch.merge else ''}")
        )
    text += [f"- {note}" for note in notes]
    if source.mails:
        text.append(f"Prerequisites: {', '.join(source.prerequisites) or 'the mails name none'}.")
    text += [*_work(scope, count, store, runs), "Nothing was built or booted."]
    return [part for line in text for part in _wrapped(line)]


def _work(scope: Scope, count: int, store: Store, runs: Path) -> Iterator[str]:
    choices = scope.choices
    kernels = [f"{arch} {variant}" for arch in choices.arches for variant in choices.variants]
    flavors = f", flavor {'+'.join(choices.flavors)}" if choices.flavors else ""
    yield f"Kernels of each commit: {', '.join(kernels)}{flavors}."
    if scope.also:
        yield f"Only compiled: {', '.join(scope.also)} (their time is not estimated)."
    steps = count + 1
    variants = len(choices.variants)
    for name in choices.arches:
        cost = incremental_builds(
            arches.load(name), store, cold=variants, warm=count * variants, jobs=choices.jobs
        )
        yield f"Builds on {name}: {_counted(steps * variants, 'kernel')}, {cost}."
    suites = [suite.name for suite in prepare.suites(choices)]
    yield f"Boots with {', '.join(suites)}: at most {_boots(scope, suites, steps, runs)}."
    if scope.bench:
        boots = 2 * (choices.boots or performance.BOOTS)
        yield f"Boots with {', '.join(scope.bench)}: {_boots(scope, scope.bench, boots, runs)}."


def _boots(scope: Scope, suites: Sequence[str], boots: int, runs: Path) -> str:
    """The number of boots and their usual time, for all kernels of a series."""
    choices = scope.choices
    kernels = [(arch, variant) for arch in choices.arches for variant in choices.variants]
    seconds = [boot_seconds(runs, *kernel, suites) for kernel in kernels]
    known = [each for each in seconds if each is not None]
    time = f"{boots * sum(known) / 60:.0f} min" if len(known) == len(seconds) else "time not known yet"
    return f"{boots * len(kernels)}, {time}"


def _counted(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) or [""]
