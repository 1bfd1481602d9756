# SPDX-License-Identifier: GPL-2.0-only
"""The verbs that read results: nothing is built or booted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import completion, config
from orchestrator.cli.options import EXIT_CODES, RUNS, options

if TYPE_CHECKING:
    from orchestrator.run.summary import RunResult


@click.command(
    cls=config.Verb,
    epilog="\b\nExit codes: 0 compared · 1 a regression, with --fail-on regression ·\n2 wrong usage",
    short_help="Compare two runs, or two kernels of one run.",
)
@click.argument("names", nargs=-1, metavar="A [B]", shell_complete=completion.runs)
@options(RUNS)
@click.option(
    "--format",
    "format_",
    default="text",
    show_default=True,
    type=click.Choice(["text", "markdown", "json"]),
    help="How to print the comparison.",
)
@click.option(
    "--effect",
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 1000),
    help="The least change of a metric that matters.",
)
@click.option("--fail-on", type=click.Choice(["regression"]), help="Exit with 1 if there is a regression.")
def compare(names: tuple[str, ...], out: str, format_: str, effect: float, fail_on: str | None) -> None:
    """Compare B with A: which cases changed, and which metrics.

    A and B are runs (an id, a path or `last`), or labels or variants of one: RUN:NAME. `history:last-good` is
    the newest recorded run that ended well. A alone must have two labels or two variants."""
    from orchestrator.report import difference
    from orchestrator.run import sides

    if not 1 <= len(names) <= 2:
        raise click.UsageError("give one run or two: orchestrate compare A [B]")
    comparison = sides.compare(*sides.sides(Path(out), names, last_good=_last_good), effect=effect / 100)
    render = {"text": difference.as_text, "markdown": difference.as_markdown, "json": difference.as_json}
    click.echo(render[format_](comparison))
    sys.exit(1 if fail_on and comparison.difference.regressions else 0)


@click.command(cls=config.Verb, short_help="Show what a case or a metric did in earlier runs.")
@click.argument("words", nargs=-1, metavar="CASE|METRIC|import DIR...|export FILE")
@click.option("--limit", default=50, show_default=True, metavar="N", type=click.IntRange(1), help="Lines.")
def history(words: tuple[str, ...], limit: int) -> None:
    """Show what a case or a metric did in earlier runs.

    CASE is the id of a case, METRIC is SUITE/METRIC. `import` records run directories, folders of them, or
    exported files; runs that are recorded already are left alone. `export` writes all runs to FILE, `-` is
    standard output."""
    from orchestrator.history import queries, transfer
    from orchestrator.history.database import History, default_url
    from orchestrator.report import history as texts

    action = words[0] if words else ""
    if len(words) < 1 + (action in ("import", "export")) or (action != "import" and len(words) > 2):
        raise click.UsageError("give a case or a metric, import DIR..., or export FILE")
    with History(default_url()) as database:
        if action == "import":
            click.echo(texts.import_text(transfer.import_(database, map(Path, words[1:]))))
        elif action == "export":
            transfer.export(database, words[1])
        elif queries.kind_of(database, action) == "case":
            click.echo(texts.case_text(action, queries.case_runs(database, action, limit=limit)))
        else:
            click.echo(texts.metric_text(action, queries.metric_runs(database, action, limit=limit)))


@click.command(cls=config.Verb, short_help="Write the report of a run: a page, or Markdown.")
@click.argument("name", required=False, default="last", metavar="[RUN]", shell_complete=completion.runs)
@options(RUNS)
@click.option("--markdown", is_flag=True, help="Print Markdown, for the page of a CI job, and write no file.")
@click.option("--open", "open_", is_flag=True, help="Open the page in the browser.")
def report(name: str, out: str, markdown: bool, open_: bool) -> None:
    """Write the report of a run, report.html, and print its path.

    RUN is an id, a path or `last`, which is the default. The page is one file without script, that loads
    nothing."""
    from orchestrator.report import run_page
    from orchestrator.run import summary
    from orchestrator.run.directory import RunDirectory

    folder = RunDirectory.existing(Path(out), name).path
    result = summary.read(folder)
    if markdown:
        click.echo(run_page.markdown(result))
        return
    path = run_page.write(result, folder)
    click.echo(path)
    if open_:
        click.launch(path.as_uri())


@click.command(epilog=EXIT_CODES, short_help="Find kernel reports in a console log.")
@click.argument("log", shell_complete=completion.files)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, [] for a clean console.")
def console(log: str, as_json: bool) -> None:
    """Find kernel reports in the console LOG; - reads standard input.

    Prints the class, title, function, fingerprint and lines of each. Exit code 0: a
    clean console, 1: kernel reports."""
    from orchestrator.report import splats
    from orchestrator.splat import file

    result = file.read(log)
    click.echo(splats.as_json(result.splats) if as_json else splats.as_text(result))
    sys.exit(1 if result.splats or result.dropped else 0)


def _last_good() -> RunResult:
    from orchestrator.history import queries
    from orchestrator.history.database import History, default_url

    with History(default_url()) as database:
        return queries.last_good(database)
