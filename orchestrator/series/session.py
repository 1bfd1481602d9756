# SPDX-License-Identifier: GPL-2.0-only
"""Start or resume a series, write its reports, and return its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.core.events import Events, now
from orchestrator.core.store import Store
from orchestrator.engine.protocol import Engine
from orchestrator.kernel import compile_only
from orchestrator.plan.inputs import digests
from orchestrator.results import junit
from orchestrator.results.model import CellResult
from orchestrator.run.directory import RunDirectory, check_inputs, read_versioned
from orchestrator.series import cover, input, matrix, page, performance, preview, steps, terminal
from orchestrator.series.input import SeriesSource
from orchestrator.series.model import SERIES_VERSION, Patch, Scope, Series
from orchestrator.series.request import Reader
from orchestrator.series.steps import Workspace
from orchestrator.source import checkout as checkouts
from orchestrator.source.checkout import Checkout
from orchestrator.source.model import Say
from orchestrator.source.patches import patch_count

#: As ``RunDirectory`` calls it.
KIND = "series"
NAME = f"{KIND}.json"


def load(place: RunDirectory) -> Series:
    """The state of an earlier series.

    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    return read_versioned(place.path / NAME, Series, SERIES_VERSION, KIND)


@dataclasses.dataclass(frozen=True)
class _Services:
    """What a process gives to the series that it executes."""

    store: Store
    engine: Engine
    console: Console
    say: Say

    def checkout(self, repository: Path) -> contextlib.AbstractContextManager[Checkout]:
        """A private checkout of the user's repository."""
        return checkouts.opened(repository, cache=self.store.root, say=self.say)


def execute(
    place: RunDirectory,
    start: Reader | Series,
    *,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> int:
    """Start or resume a series; returns the exit code.

    :param start: a reader of the user's series, or the state of an earlier one.
    :raises UserError: the request cannot be met; nothing was run.
    :raises Interrupted: interrupted before anything was run.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
            work = Path(scratch)
            services = _Services(store, engine, console, say)
            if isinstance(start, Series):
                return _resume(place, start, work, services)
            source, scope = start(work / "fetched")
            return _begin(place, source, scope, work, services)
    except UserError:
        raise
    except OrchestrateError:
        # the interrupt has ended a tool
        if engine.cancelled():
            raise Interrupted("interrupted") from None
        raise


def dry_run(start: Reader, *, store: Store, runs: Path, say: Say) -> list[str]:
    """What a series was understood to be, and its estimated cost, in lines; nothing is built.

    :param runs: the folder of earlier runs.
    :raises UserError: the request cannot be met.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
        source, scope = start(Path(scratch) / "fetched")
        with checkouts.opened(source.folder, cache=store.root, say=say) as checkout:
            patches, notes = _commits(source, checkout, Path(scratch))
        return preview.lines(source, scope, patches, notes, store, runs)


def _begin(place: RunDirectory, source: SeriesSource, scope: Scope, work: Path, services: _Services) -> int:
    with services.checkout(source.folder) as checkout:
        patches, notes = _commits(source, checkout, work)
        place.try_folder()
        series = Series(
            id=place.id,
            scope=msgspec.structs.replace(scope, inputs=input.copy_names(source)),
            patches=patches,
            rows=steps.rows(scope.choices, scope.also, scope.bench),
            notes=notes,
            started_at=now(),
        )
        return _continue(place, series, checkout, services, source)


def _resume(place: RunDirectory, series: Series, work: Path, services: _Services) -> int:
    scope = series.scope
    source = SeriesSource(
        folder=Path(scope.folder),
        base=series.patches[0].commit,
        tip=series.patches[-1].commit,
        mails=tuple(place.path / name for name in scope.inputs),
    )
    with services.checkout(source.folder) as checkout:
        patches, _ = _commits(source, checkout, work)
        if [patch.commit for patch in patches] != [patch.commit for patch in series.patches]:
            raise UserError(f"{scope.name} has changed since the series began", remedy="Start a new one.")
        return _continue(place, series, checkout, services)


def _commits(
    source: SeriesSource, checkout: Checkout, work: Path
) -> tuple[tuple[Patch, ...], tuple[str, ...]]:
    """The base and the patches, and the sentences about how they were read."""
    (work / "apply").mkdir()
    notes = list(source.notes)
    patches = input.commits(source, checkout, work / "apply", notes.append)
    return patches, tuple(dict.fromkeys(notes))


def _copy_mails(place: RunDirectory, source: SeriesSource, series: Series, checkout: Checkout) -> None:
    """Copy the mails of a series to its folder, and write each patch as a mail."""
    input.copy_mails(source, place.path)
    for patch in series.patches[1:] if series.scope.inputs else ():
        place.write(steps.patch_file(patch), input.as_file(patch, checkout.path))


def _continue(
    place: RunDirectory,
    series: Series,
    checkout: Checkout,
    services: _Services,
    new_source: SeriesSource | None = None,
) -> int:
    """Execute the remaining steps, and write all reports.

    :param new_source: the source of a series that has no folder yet.
    """
    engine, console = services.engine, services.console

    def write(state: Series) -> None:
        place.write(NAME, msgspec.json.format(msgspec.json.encode(state), indent=1))

    workspace = Workspace(
        folder=place.path,
        store=Store(services.store.root, engine.cancelled),
        checkout=checkout,
        engine=engine,
        events=Events(console),
        selftests=_selftests(series, checkout),
        write=write,
    )
    # before the folder is made: a refused series leaves none
    series = _with_digests(series, workspace)
    with place.lock(), Events(console, place.path / "events.ndjson") as events:
        workspace = dataclasses.replace(workspace, events=events)
        if new_source is not None:
            _copy_mails(place, new_source, series, checkout)
        write(series)
        _announce(series, events, place)
        series = _execute(series, workspace, place)
    finished = not engine.cancelled()
    series = msgspec.structs.replace(series, interrupted=not finished, finished_at=now() if finished else "")
    result = matrix.judge(series)
    write(series)
    write_reports(place, series, result)
    terminal.print_summary(console, series, result, place.path)
    return matrix.series_exit_code(series, result)


def _execute(series: Series, workspace: Workspace, place: RunDirectory) -> Series:
    try:
        return performance.measure(steps.execute(series, workspace), workspace)
    except Interrupted:
        return load(place)
    except UserError:
        raise
    except OrchestrateError:
        if not workspace.engine.cancelled():
            raise
        return load(place)


def _selftests(series: Series, checkout: Checkout) -> str:
    """The source of the kernel's selftests for all patches, empty if none are needed."""
    choices = series.scope.choices
    if choices.selftests_from or not steps.has_tree_suites(choices):
        return choices.selftests_from
    repository = checkout.path if series.scope.inputs else series.scope.folder
    return f"{repository}@{series.patches[-1].commit}"


def _announce(series: Series, events: Events, place: RunDirectory) -> None:
    count = len(series.patches) - 1
    finished = sum(step.finished for step in series.steps)
    progress = f", {finished} of {count + 1} steps are done" if finished else ""
    opening = f"{patch_count(count)} on {series.patches[0].commit[:12]}{progress}"
    events.emit("", "", f"{opening}, results in {place.path}")
    for note in series.notes:
        events.emit("", "", note)
    for name in series.scope.also:
        if reason := compile_only.load(name).missing:
            events.emit("", "", f"{name} is skipped: {reason}")


def _with_digests(series: Series, workspace: Workspace) -> Series:
    """The series with the digests of its inputs besides the kernels.

    :raises UserError: an input has changed since the series began.
    """
    target = steps.target_of(series, series.patches[0], workspace)
    choices = msgspec.structs.replace(series.scope.choices, selftests_from=workspace.selftests)
    current = digests(steps.inputs_of(choices, [target], workspace))
    if series.digests:
        check_inputs(series.digests, current, KIND)
    return msgspec.structs.replace(series, digests=current)


def write_reports(place: RunDirectory, series: Series, result: matrix.Matrix) -> None:
    """Write the JUnit document, the page and the text for a cover letter."""
    junit.write(place.path / "junit.xml", junit_cells(series, result), run_id=series.id)
    place.write("series.html", page.render(series, result).encode())
    place.write("cover.txt", cover.text(series, result).encode())


def junit_cells(series: Series, result: matrix.Matrix) -> list[CellResult]:
    """One JUnit suite per patch."""
    cells = []
    for step in series.steps:
        patch = series.patches[step.number]
        cases = [
            case
            for row in series.rows
            if row.name in step.rows
            for case in matrix.junit_cases(row, result, step.rows[row.name], step.number)
        ]
        name = "base" if not patch.number else f"{patch.number:04} {patch.subject}"
        properties = {"commit": patch.commit, "subject": patch.subject}
        cells.append(
            CellResult(cell=name, label=steps.label_of(patch), properties=properties, cases=tuple(cases))
        )
    return cells
