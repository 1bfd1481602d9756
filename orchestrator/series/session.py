# SPDX-License-Identifier: GPL-2.0-only
"""A series from its first word to its exit code: begun or resumed, carried out, written down."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from orchestrator.cli import choices_from_options
from orchestrator.core.errors import Interrupted, OrchestrateError, UserError
from orchestrator.core.events import Events, now
from orchestrator.core.store import Store
from orchestrator.engine import Engine
from orchestrator.kernel import compile_only
from orchestrator.plan import prepare
from orchestrator.plan.plan import Choices, Source
from orchestrator.results import junit
from orchestrator.results.model import CellResult
from orchestrator.run.execute import RunDirectory, check_inputs, read_kept
from orchestrator.series import cover, input, matrix, page, performance, steps
from orchestrator.series import terminal as shown
from orchestrator.series.model import SERIES_VERSION, Asked, Patch, Series
from orchestrator.series.steps import Hands
from orchestrator.source import checkout
from orchestrator.source.checkout import Workshop
from orchestrator.suites import catalog

Say = Callable[[str], None]

#: As ``RunDirectory`` calls it.
KIND = "series"
NAME = f"{KIND}.json"
#: The benchmark in which base and tip are held against each other, where none is named.
BENCHMARKS = ("map-latency",)


def load(place: RunDirectory) -> Series:
    """The state of a series.

    :raises UserError: it cannot be read, or a newer orchestrate wrote it.
    """
    return read_kept(place.path / NAME, Series, SERIES_VERSION, KIND)


def split_suites(choices: Choices, *, measure: bool) -> tuple[Choices, tuple[str, ...], str]:
    """The choices of each patch's run, the benchmarks for base and tip, and why there is none.

    :raises UserError: benchmarks are named and not wanted.
    """
    kinds = {name: catalog.load(name).kind for name in choices.suites}
    functional = tuple(name for name, kind in kinds.items() if kind == "functional")
    named = tuple(name for name, kind in kinds.items() if kind == "benchmark")
    defaults = set(choices.suites) == set(prepare.default_suites(choices.flavors))
    if named and not measure and not defaults:
        raise UserError(f"--suite {named[0]} is a benchmark, and --no-bench", remedy="Leave one out.")
    if not functional:
        functional = tuple(n for n in prepare.default_suites(choices.flavors) if n not in named)
        functional = tuple(n for n in functional if catalog.load(n).kind == "functional")
    each = msgspec.structs.replace(choices, suites=functional)
    if not measure:
        return each, (), ""
    if choices.flavors:
        return each, (), "nothing is measured in a kernel made for diagnosis"
    return each, named or BENCHMARKS, ""


#: What reads a series, given a folder for what it fetches: as it was named, and what is asked of it.
Reader = Callable[[Path], tuple[input.Given, Asked]]


def asked(word: str, words: dict[str, Any], say: Say) -> Reader:
    """What the command line asks for; mistakes in options are found before anything is read.

    :param words: the options of the verb, as click gives them.
    :raises UserError: a name that does not exist, or options that do not fit together.
    """
    if not word:
        raise UserError("which series?", remedy=f"Give {input.FORMS}.")
    source = words["source"] or choices_from_options.here()
    blank = {"sources": (source,) if source else (), "patches": (), "digests": ()}
    choices = choices_from_options.choices({**words, **blank}, tests=True)
    each, benchmarks, why = split_suites(choices, measure=not words["no_bench"])
    also = compile_only.check_names(tuple(words["also"]))
    if why:
        say(why)

    def reader(work: Path) -> tuple[input.Given, Asked]:
        read = input.read(source, word, work, say)
        spec = f"{read.folder}@{read.base}"
        return read, Asked(
            choices=msgspec.structs.replace(each, sources=(Source(spec=spec),)),
            folder=str(read.folder),
            given=word,
            also=also,
            bench=benchmarks,
        )

    return reader


def carry_out(
    place: RunDirectory,
    what: Reader | Series,
    *,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> int:
    """Begin a series, or go on with one, and give its exit code.

    :param what: what reads the user's words, or the state of one that was begun.
    :raises UserError: it cannot be as asked; nothing was run.
    :raises Interrupted: it was told to end before anything was run.
    """
    try:
        return _carry_out(place, what, store, engine, console, say)
    except UserError:
        raise
    except OrchestrateError:
        # a tool of ours that ended because everything was told to
        if engine.cancelled():
            raise Interrupted("interrupted") from None
        raise


def _carry_out(
    place: RunDirectory, what: Reader | Series, store: Store, engine: Engine, console: Console, say: Say
) -> int:
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
        work = Path(scratch)
        if isinstance(what, Series):
            series: Series | None = what
            old = what.asked
            mails = tuple(place.path / name for name in old.inputs)
            wanted = input.Given(
                folder=Path(old.folder),
                base=what.patches[0].commit,
                tip=what.patches[-1].commit,
                mails=mails,
            )
        else:
            series = None
            wanted, old = what(work / "fetched")
        with checkout.opened(wanted.folder, cache=store.root, say=say) as shop:
            (work / "apply").mkdir()
            patches = input.commits(wanted, shop, work / "apply")
            if series is None:
                place.try_folder()
                return _go_on(
                    place, _new(place.id, wanted, old, patches), shop, store, engine, console, wanted
                )
            if [patch.commit for patch in patches] != [patch.commit for patch in series.patches]:
                raise UserError(
                    f"{series.asked.given} is not what it was when the series began",
                    remedy="Begin a new one.",
                )
            return _go_on(place, series, shop, store, engine, console)


def _new(name: str, wanted: input.Given, asked: Asked, patches: tuple[Patch, ...]) -> Series:
    return Series(
        id=name,
        asked=msgspec.structs.replace(asked, inputs=input.kept_names(wanted)),
        patches=patches,
        rows=steps.rows(asked.choices, asked.also, asked.bench),
        notes=wanted.notes,
        started_at=now(),
    )


def _keep_mails(place: RunDirectory, wanted: input.Given, series: Series, shop: Workshop) -> None:
    """Keep the mails that a series was given as, and each patch as one of its own."""
    input.keep(wanted, place.path)
    for patch in series.patches[1:] if series.asked.inputs else ():
        place.write(steps.patch_file(patch), input.as_file(patch, shop.path))


def _go_on(
    place: RunDirectory,
    series: Series,
    shop: Workshop,
    store: Store,
    engine: Engine,
    console: Console,
    begun_with: input.Given | None = None,
) -> int:
    """Carry out what is left, and draw everything anew from what is there.

    :param begun_with: what a series was given as that has no folder yet.
    """

    def write(state: Series) -> None:
        place.write(NAME, msgspec.json.format(msgspec.json.encode(state), indent=1))

    choices = series.asked.choices
    selftests = choices.selftests_from
    if not selftests and steps.has_tree_suites(choices):
        where = shop.path if series.asked.inputs else series.asked.folder
        selftests = f"{where}@{series.patches[-1].commit}"
    hands = Hands(
        folder=place.path,
        store=Store(store.root, engine.cancelled),
        shop=shop,
        engine=engine,
        events=Events(console),
        selftests=selftests,
        write=write,
    )
    # before there is a folder: what is refused leaves none
    series = _unchanged(series, hands)
    with place.held(), Events(console, place.path / "events.ndjson") as events:
        hands = dataclasses.replace(hands, events=events)
        if begun_with is not None:
            _keep_mails(place, begun_with, series, shop)
        write(series)
        _say_beginning(series, events, place)
        try:
            series = performance.carry_out(steps.carry_out(series, hands), hands)
        except Interrupted:
            series = load(place)
        except UserError:
            raise
        except OrchestrateError:
            if not engine.cancelled():
                raise
            series = load(place)
    done = not engine.cancelled()
    series = msgspec.structs.replace(series, interrupted=not done, finished_at=now() if done else "")
    found = matrix.judge(series)
    write(series)
    write_reports(place, series, found)
    shown.closing(console, series, found, place.path)
    return matrix.series_exit_code(series, found)


def _say_beginning(series: Series, events: Events, place: RunDirectory) -> None:
    count = len(series.patches) - 1
    done = sum(step.done for step in series.steps)
    kept = f", {done} of {count + 1} kernels' turns done" if done else ""
    what = f"{count} patch{'es' if count > 1 else ''} on {series.patches[0].commit[:12]}{kept}"
    events.emit("", "", f"{what}, results in {place.path}")
    for note in series.notes:
        events.emit("", "", note)
    for name in series.asked.also:
        if why := compile_only.load(name).missing:
            events.emit("", "", f"{name} is left out: {why}")


def _unchanged(series: Series, hands: Hands) -> Series:
    """The series with what it reads besides its kernels; demanded to be what it was, if it was begun before.

    :raises UserError: it is not.
    """
    target = steps.target_of(series, series.patches[0], hands)
    choices = msgspec.structs.replace(series.asked.choices, selftests_from=hands.selftests)
    there = prepare.inputs(steps.context_of(choices, [target], hands, "patches"))
    if series.digests:
        check_inputs(series.digests, there, KIND)
    return msgspec.structs.replace(series, digests=there)


def write_reports(place: RunDirectory, series: Series, found: matrix.Matrix) -> None:
    """Draw what follows from a series: the JUnit document, the page, the text for a cover letter."""
    junit.write(place.path / "junit.xml", told(series, found), run_id=series.id)
    place.write("series.html", page.render(series, found).encode())
    place.write("cover.txt", cover.text(series, found).encode())


def told(series: Series, found: matrix.Matrix) -> list[CellResult]:
    """A suite of JUnit for each patch."""
    cells = []
    for step in series.steps:
        patch = series.patches[step.number]
        cases = [
            case
            for row in series.rows
            if row.name in step.rows
            for case in matrix.told_cases(row, found, step.rows[row.name], step.number)
        ]
        name = "base" if not patch.number else f"{patch.number:04} {patch.subject}"
        properties = {"commit": patch.commit, "subject": patch.subject}
        cells.append(
            CellResult(cell=name, label=steps.label_of(patch), properties=properties, cases=tuple(cases))
        )
    return cells
