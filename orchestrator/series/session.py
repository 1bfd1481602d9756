# SPDX-License-Identifier: GPL-2.0-only
"""A series from its beginning, or its resumption, to its reports and its exit code."""

from __future__ import annotations

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
from orchestrator.series import cover, input, matrix, page, performance, steps
from orchestrator.series import terminal as shown
from orchestrator.series.input import SeriesSource
from orchestrator.series.model import SERIES_VERSION, Patch, Scope, Series
from orchestrator.series.request import Reader
from orchestrator.series.steps import Workspace
from orchestrator.source import checkout
from orchestrator.source.checkout import Checkout
from orchestrator.source.model import Say

#: As ``RunDirectory`` calls it.
KIND = "series"
NAME = f"{KIND}.json"


def load(place: RunDirectory) -> Series:
    """The state of a series.

    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    return read_versioned(place.path / NAME, Series, SERIES_VERSION, KIND)


def execute(
    place: RunDirectory,
    what: Reader | Series,
    *,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> int:
    """Begin a series, or continue one; the exit code.

    :param what: reads the series that the user named, or the state of one that was begun.
    :raises UserError: it cannot be as asked; nothing was run.
    :raises Interrupted: it was told to end before anything was run.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
            work = Path(scratch)
            if isinstance(what, Series):
                return _resume(place, what, work, store, engine, console, say)
            source, scope = what(work / "fetched")
            return _begin(place, source, scope, work, store, engine, console, say)
    except UserError:
        raise
    except OrchestrateError:
        # a tool that ended because everything was told to
        if engine.cancelled():
            raise Interrupted("interrupted") from None
        raise


def _begin(
    place: RunDirectory,
    source: SeriesSource,
    scope: Scope,
    work: Path,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> int:
    with checkout.opened(source.folder, cache=store.root, say=say) as shop:
        patches = _commits(source, shop, work)
        place.try_folder()
        series = Series(
            id=place.id,
            scope=msgspec.structs.replace(scope, inputs=input.kept_names(source)),
            patches=patches,
            rows=steps.rows(scope.choices, scope.also, scope.bench),
            notes=source.notes,
            started_at=now(),
        )
        return _continue(place, series, shop, store, engine, console, source)


def _resume(
    place: RunDirectory,
    series: Series,
    work: Path,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> int:
    scope = series.scope
    source = SeriesSource(
        folder=Path(scope.folder),
        base=series.patches[0].commit,
        tip=series.patches[-1].commit,
        mails=tuple(place.path / name for name in scope.inputs),
    )
    with checkout.opened(source.folder, cache=store.root, say=say) as shop:
        patches = _commits(source, shop, work)
        if [patch.commit for patch in patches] != [patch.commit for patch in series.patches]:
            raise UserError(f"{scope.name} has changed since the series began", remedy="Begin a new one.")
        return _continue(place, series, shop, store, engine, console)


def _commits(source: SeriesSource, shop: Checkout, work: Path) -> tuple[Patch, ...]:
    (work / "apply").mkdir()
    return input.commits(source, shop, work / "apply")


def _keep_mails(place: RunDirectory, source: SeriesSource, series: Series, shop: Checkout) -> None:
    """Keep the mails of a series, and each patch as a mail of its own."""
    input.keep(source, place.path)
    for patch in series.patches[1:] if series.scope.inputs else ():
        place.write(steps.patch_file(patch), input.as_file(patch, shop.path))


def _continue(
    place: RunDirectory,
    series: Series,
    shop: Checkout,
    store: Store,
    engine: Engine,
    console: Console,
    new_source: SeriesSource | None = None,
) -> int:
    """Execute what is left, and write all reports anew.

    :param new_source: that of a series that has no folder yet.
    """

    def write(state: Series) -> None:
        place.write(NAME, msgspec.json.format(msgspec.json.encode(state), indent=1))

    workspace = Workspace(
        folder=place.path,
        store=Store(store.root, engine.cancelled),
        shop=shop,
        engine=engine,
        events=Events(console),
        selftests=_selftests(series, shop),
        write=write,
    )
    # before there is a folder: what is refused leaves none
    series = _with_digests(series, workspace)
    with place.lock(), Events(console, place.path / "events.ndjson") as events:
        workspace = dataclasses.replace(workspace, events=events)
        if new_source is not None:
            _keep_mails(place, new_source, series, shop)
        write(series)
        _say_beginning(series, events, place)
        series = _execute(series, workspace, place)
    done = not engine.cancelled()
    series = msgspec.structs.replace(series, interrupted=not done, finished_at=now() if done else "")
    result = matrix.judge(series)
    write(series)
    write_reports(place, series, result)
    shown.closing(console, series, result, place.path)
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


def _selftests(series: Series, shop: Checkout) -> str:
    """The source of the kernel's own tests for all patches, empty where none is needed."""
    choices = series.scope.choices
    if choices.selftests_from or not steps.has_tree_suites(choices):
        return choices.selftests_from
    repository = shop.path if series.scope.inputs else series.scope.folder
    return f"{repository}@{series.patches[-1].commit}"


def _say_beginning(series: Series, events: Events, place: RunDirectory) -> None:
    count = len(series.patches) - 1
    done = sum(step.done for step in series.steps)
    kept = f", {done} of {count + 1} kernels' turns done" if done else ""
    what = f"{count} patch{'es' if count > 1 else ''} on {series.patches[0].commit[:12]}{kept}"
    events.emit("", "", f"{what}, results in {place.path}")
    for note in series.notes:
        events.emit("", "", note)
    for name in series.scope.also:
        if why := compile_only.load(name).missing:
            events.emit("", "", f"{name} is left out: {why}")


def _with_digests(series: Series, workspace: Workspace) -> Series:
    """The series with digests of what it reads besides its kernels.

    :raises UserError: one has changed since the series began.
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
    """A suite of JUnit for each patch."""
    cells = []
    for step in series.steps:
        patch = series.patches[step.number]
        cases = [
            case
            for row in series.rows
            if row.name in step.rows
            for case in matrix.told_cases(row, result, step.rows[row.name], step.number)
        ]
        name = "base" if not patch.number else f"{patch.number:04} {patch.subject}"
        properties = {"commit": patch.commit, "subject": patch.subject}
        cells.append(
            CellResult(cell=name, label=steps.label_of(patch), properties=properties, cases=tuple(cases))
        )
    return cells
