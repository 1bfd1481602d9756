# SPDX-License-Identifier: GPL-2.0-only
"""The verbs: parse, call, print. They import late, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import completion, config, requests, results
from orchestrator.cli.exit import interrupts, run_verb
from orchestrator.cli.options import (
    BISECT,
    BUILT,
    EXIT_CODES,
    GUEST,
    KERNEL,
    MACHINE,
    PREBUILT,
    RUNS,
    SERIES,
    SUITES,
    TESTED,
    TESTS,
    alone,
    options,
    resume,
)
from orchestrator.cli.types import Parallel

if TYPE_CHECKING:
    from rich.console import Console


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="orchestrate", prog_name="orchestrate")
def cli() -> None:
    """Build a kernel with and without per-VMA locks, boot both in QEMU, test
    /proc/PID/maps in the guests over SSH, and report in JUnit."""


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@options(KERNEL, PREBUILT, TESTS, GUEST, RUNS)
@click.option(
    "--junit", metavar="FILE", shell_complete=completion.files, help="Also write the JUnit file here."
)
@resume("run", completion.runs)
@click.option("--dry-run", is_flag=True, help="Print the plan and its estimated cost; run nothing.")
@click.option(
    "--parallel",
    default="auto",
    show_default=True,
    metavar="N|auto",
    type=Parallel(),
    help="Cells at a time. auto: as many as have CPUs and memory of their own. Benchmarks run alone.",
)
@click.option("--fail-fast", is_flag=True, help="Start no cell after one that the kernel or a test failed.")
@click.option(
    "--bisect-exit",
    is_flag=True,
    help="Exit codes for `git bisect run`: 0 good, 1 bad, 125 cannot be judged, 128 or more abort.",
)
@click.pass_context
def run(context: click.Context, /, **parameters: Any) -> None:
    """Build kernels, boot them, and run the suites."""
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine, Room
    from orchestrator.history import transfer
    from orchestrator.report import run_page
    from orchestrator.report import terminal as report
    from orchestrator.run import start

    if parameters["resume"] is not None:
        alone(context, "--resume", "resume", "out", "junit", "bisect_exit", "parallel", "fail_fast")
    console, store = report.console(), open_store()
    say = _progress_printer(console, context)
    prepared = start.prepare_run(requests.run(parameters), store, say)
    if parameters["dry_run"]:
        from orchestrator.run import estimate

        cost = estimate.cost(prepared.plan, prepared.inputs, store, prepared.request.out, say)
        report.print_plan(console, prepared.plan, cost)
        return
    room = Room.of_host(parameters["parallel"])
    choices = prepared.plan.choices
    if len(prepared.plan.cells) > 1 and (most := room.most(choices.smp, choices.mem_mib)) > 1:
        say(f"up to {most} cells at a time (--parallel); benchmarks alone")
    engine = LocalEngine(store, room)
    with interrupts(engine.cancel):
        result = prepared.execute(engine, console)
    report.print_summary(console, result, prepared.directory.path)
    run_page.write(result, prepared.directory.path)
    transfer.record(result, say)
    sys.exit(result.exit_code(bisect=prepared.request.bisecting))


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@options(KERNEL)
@click.option(
    "--configure-only",
    is_flag=True,
    help="Classify the tree and configure the kernels; print the path of each .config.",
)
@click.pass_context
def build(context: click.Context, /, **parameters: Any) -> None:
    """Build kernels and print the paths of their images."""
    from orchestrator.core.store import open_store
    from orchestrator.plan import prepare
    from orchestrator.plan.notices import notices
    from orchestrator.plan.options import choose
    from orchestrator.report import terminal as report
    from orchestrator.results.model import gravest_exit_code
    from orchestrator.run.build import build_all

    store = open_store()
    say = _progress_printer(report.console(stderr=True), context)
    choices = choose(requests.options(parameters))
    for line in notices(choices):
        say(line)
    inputs = prepare.inputs(choices, prepare.targets(choices, store, say), (), store)
    codes = []
    for line, error in build_all(inputs, store, say=say, configure_only=parameters["configure_only"]):
        click.echo(line, err=error is not None)
        codes.append(error.exit_code if error else 0)
    sys.exit(gravest_exit_code(codes))


@cli.command(
    cls=config.Verb,
    epilog="\b\nExit codes: 0 culprit, re-checked · 2 wrong usage · 3 infrastructure ·\n"
    "4 suspects only, or an end is not as claimed · 130 interrupted",
    short_help="Find the commit that introduced a regression.",
)
@options(BISECT, BUILT, TESTED, GUEST, RUNS)
@click.pass_context
def bisect(context: click.Context, /, **parameters: Any) -> None:
    """Find the commit that introduced a regression (functional, flaky or performance).

    --case, --splat, --metric, --boot or --build says what is bad. Default: a case that fails at --bad and
    passes at --good."""
    from orchestrator.bisect import command, request, setup
    from orchestrator.bisect.graph import History
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine
    from orchestrator.report import terminal as report
    from orchestrator.run.directory import RunDirectory

    console, store = report.console(), open_store()
    say = _progress_printer(console, context)
    out = Path(parameters["out"])
    if parameters["resume"] is not None:
        alone(context, "--resume", "resume", "out", why="a resumed bisect keeps its options")
        folder = RunDirectory.existing(out, parameters["resume"], setup.KIND).path
        bisect_setup = setup.load(folder)
        history = History.read(Path(bisect_setup.repository), bisect_setup.good, bisect_setup.bad)
    else:
        bisect_setup, history = request.prepare_bisect(requests.bisect(parameters), say)
        folder = RunDirectory.fresh(out, setup.KIND).path
    if parameters["dry_run"]:
        for line in command.estimate(bisect_setup, history, store, out):
            click.echo(line)
        return
    engine = LocalEngine(store)
    with interrupts(engine.cancel):
        conclusion = command.execute(folder, bisect_setup, history, store, engine, console, say)
    sys.exit(conclusion.exit_code)


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@click.argument("patches", required=False, metavar="[SERIES]", shell_complete=completion.files)
@options(SERIES, BUILT, SUITES, MACHINE, RUNS)
@click.pass_context
def series(context: click.Context, /, **parameters: Any) -> None:
    """Test a patch series, patch by patch.

    SERIES is an mbox, a folder of patches, BASE..TIP of the repository, or a message-id (b4 fetches it).
    Each patch is built, compiled in further configurations, booted and tested. Then benchmarks compare base
    and tip. Each failure is attributed to the patch that introduced it."""
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine
    from orchestrator.report import terminal as report
    from orchestrator.run.directory import RunDirectory
    from orchestrator.series import request, session
    from orchestrator.series.model import Series

    console, store = report.console(), open_store()
    say = _progress_printer(console, context)
    out = Path(parameters["out"])
    start: request.Reader | Series
    if parameters["resume"] is not None:
        alone(context, "--resume", "resume", "out", why="a resumed series keeps its options")
        place = RunDirectory.existing(out, parameters["resume"], session.KIND)
        start = session.load(place)
    else:
        place = RunDirectory.fresh(out, session.KIND)
        start = request.reader_of(requests.series(parameters), say)
        if parameters["dry_run"]:
            for line in session.dry_run(start, store=store, runs=out, say=say):
                click.echo(line)
            return
    engine = LocalEngine(store)
    with interrupts(engine.cancel):
        code = session.execute(place, start, store=store, engine=engine, console=console, say=say)
    sys.exit(code)


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@click.argument("cell", required=False, metavar="[RUN/CELL]", shell_complete=completion.cells)
@options(KERNEL, PREBUILT, GUEST, RUNS)
@click.pass_context
def shell(context: click.Context, /, cell: str | None, **parameters: Any) -> None:
    """Boot one kernel and open a shell in its guest.

    RUN/CELL boots the guest of an earlier run's cell again. RUN is an id, a path or `last`; if the run has
    one cell, RUN is enough. The guest's identity is verified first. The guest stops when the shell exits;
    nothing is kept."""
    from orchestrator.core.store import open_store
    from orchestrator.debug import shell as shells
    from orchestrator.plan.options import choose
    from orchestrator.report import terminal as report

    say = _progress_printer(report.console(stderr=True), context)
    if cell is not None:
        from orchestrator.debug import reopen

        alone(context, cell, "cell", "out", "accel", why="the guest of an earlier cell keeps its options")
        reference = reopen.find(Path(parameters["out"]), cell)
        sys.exit(shells.open_again(reference, open_store(), say, accel=parameters["accel"]))
    sys.exit(
        shells.open_shell(
            choose(requests.options(parameters)),
            open_store(),
            say,
            fixed_variant=bool(parameters["variants"]),
        )
    )


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@click.argument("cell", metavar="RUN/CELL", shell_complete=completion.cells)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- GDB...]")
@options(RUNS)
@click.option(
    "--accel",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "kvm", "tcg"]),
    help="auto uses the accelerator of the cell.",
)
@click.option(
    "--vmlinux",
    metavar="FILE",
    shell_complete=completion.files,
    help="Read symbols from this file; it must be of the same build.",
)
@click.option(
    "--print",
    "only_print",
    is_flag=True,
    help="Print the gdb command instead of running it; Ctrl-C stops the guest.",
)
@click.pass_context
def gdb(context: click.Context, /, cell: str, words: tuple[str, ...], **parameters: Any) -> None:
    """Boot a cell's guest again, halted, and attach gdb.

    RUN/CELL is as for `orchestrate shell`. Arguments after `--` go to gdb. The guest stops when gdb exits."""
    from orchestrator.core.store import open_store
    from orchestrator.debug import gdb as debugger
    from orchestrator.debug import reopen
    from orchestrator.report import terminal as report

    say = _progress_printer(report.console(stderr=True), context)
    reference = reopen.find(Path(parameters["out"]), cell)
    vmlinux = Path(parameters["vmlinux"]) if parameters["vmlinux"] else None
    code = debugger.attach(
        reference,
        open_store(),
        say,
        accel=parameters["accel"],
        vmlinux=vmlinux,
        words=words,
        only_print=parameters["only_print"],
    )
    sys.exit(code)


@cli.command(cls=config.Verb, epilog=EXIT_CODES)
@click.argument("cell", metavar="RUN/CELL", shell_complete=completion.cells)
@options(RUNS)
@click.option(
    "--vmlinux",
    metavar="FILE",
    shell_complete=completion.files,
    help="Read line numbers from this file; it must be of the same build.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Compile jobs. Default: one per CPU.")
@click.pass_context
def decode(context: click.Context, /, cell: str, **parameters: Any) -> None:
    """Add file, line and inlined functions to a cell's stack traces.

    RUN/CELL is as for `orchestrate shell`. A kernel without line numbers is built again with them. That
    takes as long as the first build; the cache keeps the result."""
    from orchestrator.core.store import open_store
    from orchestrator.core.text import clean_str
    from orchestrator.debug import reopen
    from orchestrator.report import terminal as report

    say = _progress_printer(report.console(stderr=True), context)
    reference = reopen.find(Path(parameters["out"]), cell)
    vmlinux = Path(parameters["vmlinux"]) if parameters["vmlinux"] else None
    decoded = reopen.decode(reference, open_store(), say, vmlinux=vmlinux, jobs=parameters["jobs"] or 0)
    for case in decoded.cases:
        # the run may come from somebody else
        click.echo(clean_str(f"{case.id}: {case.reason}\n{case.detail}\n"))
    for path in decoded.files:
        click.echo(path)
    if not decoded.files and not decoded.cases:
        say(f"the consoles of {reference.name} have no stack trace")


@cli.command(name="list")
def list_() -> None:
    """List architectures, variants, flavors and suites."""
    from orchestrator.core import arch
    from orchestrator.kernel import compile_only, flavor, kconfig
    from orchestrator.suites import catalog

    by_name = tuple(f"{name} (by name only)" for name in arch.names() if name not in arch.usual())
    click.echo("architectures:  " + "  ".join((*arch.usual(), *by_name)))
    click.echo("variants:       " + "  ".join(kconfig.variants()))
    click.echo(click.wrap_text("  ".join(flavor.names()), 80, "flavors:        ", " " * 16))
    click.echo("also built:     " + "  ".join(compile_only.names()))
    click.echo("suites:")
    for name in catalog.names():
        suite = catalog.load(name)
        default = " (default)" if name in catalog.DEFAULT else ""
        click.echo(f"  {name:<17}{suite.description}{default}")


@cli.command(epilog=EXIT_CODES, short_help="Check this host and print how to install what is missing.")
@click.option(
    "--arch",
    "arches",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.arches,
    help="One of `orchestrate list`, or all; may be repeated. Default: all.",
)
@click.option("--network", is_flag=True, help="Also check the Debian mirror; takes at most 20 s.")
def doctor(arches: tuple[str, ...], network: bool) -> None:
    """Check this host and print the command that installs what is missing."""
    from orchestrator import doctor as doctors
    from orchestrator.core import arch
    from orchestrator.core.store import default_cache
    from orchestrator.report import terminal as report

    names = arch.expand(arches or ("all",))
    optional = () if arches else [name for name in arch.names() if name not in names]
    checks = doctors.check(
        [arch.load(name) for name in names],
        default_cache(),
        optional=[arch.load(name) for name in optional],
        network=network,
    )
    doctors.render(checks, report.console())
    sys.exit(doctors.exit_code(checks))


@cli.command(name="completion")
@click.argument("shell", required=False, type=click.Choice(completion.SHELLS))
def completion_(shell: str | None) -> None:
    """Print the completion script for bash, zsh or fish.

    Default: the shell in $SHELL."""
    click.echo(completion.script(shell or completion.users_shell(), cli), nl=False)


def _progress_printer(console: Console, context: click.Context) -> Callable[[str], None]:
    """A function that prints progress lines, after one with the configuration file, if one was read."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    if file := context.meta.get(config.META):
        say(f"options from {file}")
    return say


for _verb in (results.compare, results.history, results.report, results.console):
    cli.add_command(_verb)


def main() -> None:
    """Run a verb; an error is a line or two and an exit code, never a traceback."""
    run_verb(cli)


if __name__ == "__main__":
    main()
