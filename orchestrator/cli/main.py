# SPDX-License-Identifier: GPL-2.0-only
"""The verbs. Parses, calls, prints; imports late, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import choices_from_options, completion, config
from orchestrator.cli.exit import carry_out, for_bisect, interrupts, unjudged
from orchestrator.cli.options import (
    BISECT,
    BUILT,
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

if TYPE_CHECKING:
    from rich.console import Console

_EXIT_CODES = """\b
Exit codes: 0 all good · 1 the kernel or a test is at fault · 2 wrong usage ·
3 infrastructure · 4 inconclusive, or nothing passed · 130 interrupted"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=_EXIT_CODES,
)
@click.version_option(package_name="orchestrate", prog_name="orchestrate")
def cli() -> None:
    """Build a kernel with and without per-VMA locks, boot both in QEMU, test
    /proc/PID/maps in the guests over SSH, and answer in JUnit."""


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@options(KERNEL, PREBUILT, TESTS, GUEST, RUNS)
@click.option(
    "--junit", metavar="FILE", shell_complete=completion.files, help="Write the JUnit file here too."
)
@resume("run", completion.runs)
@click.option("--dry-run", is_flag=True, help="Show the plan and what it would cost, and end.")
@click.option(
    "--bisect-exit",
    is_flag=True,
    help="Exit for `git bisect run`: 0 good, 1 bad, 125 cannot be judged, 128 or more stops it.",
)
@click.pass_context
def run(context: click.Context, /, **given: Any) -> None:
    """Build, boot and test; the main job."""
    from orchestrator.core.events import Events
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine
    from orchestrator.plan import prepare
    from orchestrator.report import terminal as report
    from orchestrator.results import junit
    from orchestrator.run import execute as runs

    for_bisect(given["bisect_exit"])
    junit_path = Path(given["junit"]) if given["junit"] else None
    console = report.console()
    store = open_store()
    engine = LocalEngine()
    say = _saying(console, context)
    resuming = given["resume"] is not None
    if resuming:
        alone(context, "--resume", "resume", "out", "junit", "bisect_exit")
        directory = runs.RunDirectory.existing(Path(given["out"]), given["resume"])
        choices = directory.plan().choices
    else:
        directory = runs.RunDirectory.fresh(Path(given["out"]))
        choices = choices_from_options.choices(given, tests=True)
    if junit_path is not None:
        junit.try_path(junit_path)
    directory.try_folder()
    with unjudged(given["bisect_exit"] and any(source.patches for source in choices.sources)):
        # a series that does not apply to this commit says nothing of it
        found = prepare.targets(choices, store, say)
    suites = prepare.suites(choices)
    shared = prepare.context(
        choices, found, suites, store, directory.path, cancelled=engine.cancelled, say=say
    )
    if resuming:
        the_plan = directory.plan()
        runs.check_unchanged(the_plan, found, prepare.inputs(shared))
    else:
        the_plan = prepare.plan(prepare.pinned(choices, found), found, suites, prepare.inputs(shared))
    if given["dry_run"]:
        from orchestrator.run import estimate

        report.planned(console, the_plan, estimate.cost(the_plan, shared, Path(given["out"]), say))
        return
    directory.create()
    with directory.held():
        done = directory.done(the_plan) if resuming else {}
        with Events(console, directory.path / "events.ndjson") as events, interrupts(engine.cancel):
            kept = f", {len(done)} of them done" if done else ""
            count = f"{len(the_plan.cells)} cell" + ("s" if len(the_plan.cells) > 1 else "")
            what = "; ".join(
                k.describe if k.describe.startswith(k.label) else f"{k.label}: {k.describe}"
                for k in the_plan.kernels
            )
            events.emit("", "", f"{what}: {count}{kept}, results in {directory.path}")
            # what was asked for and cannot be had of this commit is no fault of the next one
            with unjudged(given["bisect_exit"]):
                result = runs.carry_out(
                    the_plan, shared, directory, engine, events, junit_path=junit_path, done=done
                )
    report.closing(console, result, directory.path)
    sys.exit(result.exit_code(bisect=given["bisect_exit"]))


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@options(KERNEL)
@click.option(
    "--configure-only", is_flag=True, help="Classify the tree and configure; print the .config's path."
)
@click.pass_context
def build(context: click.Context, /, **given: Any) -> None:
    """Build kernels and print where their images are."""
    from orchestrator.core.store import open_store
    from orchestrator.plan import prepare
    from orchestrator.report import terminal as report
    from orchestrator.run import execute as runs

    store = open_store()
    say = _saying(report.console(stderr=True), context)
    choices = choices_from_options.choices(given)
    shared = prepare.context(choices, prepare.targets(choices, store, say), (), store, Path())
    codes = set()
    for line, error in runs.build_all(shared, say=say, configure_only=given["configure_only"]):
        click.echo(line, err=error is not None)
        codes.add(error.exit_code if error else 0)
    # the order in which exit codes win, see docs/verdicts.md; a tree that has none of the kernels is 4
    sys.exit(next((code for code in (130, 1, 3, 4, 0) if code in codes), 4))


@cli.command(
    cls=config.Verb,
    epilog="Exit codes: 0 culprit, re-checked · 2 wrong usage · 3 infrastructure · "
    "4 suspects only, or an end is not as claimed · 130 interrupted",
)
@options(BISECT, BUILT, TESTED, GUEST, RUNS)
@click.pass_context
def bisect(context: click.Context, /, **given: Any) -> None:
    """Find the commit that brought a fault in: functional, flaky or of performance.

    Without --case, --splat, --metric, --boot or --build: a case that fails at --bad and passes at --good."""
    from orchestrator.bisect import command, request, setup
    from orchestrator.bisect.graph import History
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine
    from orchestrator.report import terminal as report
    from orchestrator.run import execute as runs

    console = report.console()
    store = open_store()
    engine = LocalEngine()
    say = _saying(console, context)
    out = Path(given["out"])
    if given["resume"] is not None:
        alone(context, "--resume", "resume", "out", why="the bisect goes on as it was begun")
        folder = runs.RunDirectory.existing(out, given["resume"], setup.KIND).path
        wanted = setup.load(folder)
        history = History.read(Path(wanted.repository), wanted.good, wanted.bad)
    else:
        wanted, history = request.plan(given, say)
        folder = runs.RunDirectory.fresh(out, setup.KIND).path
    if given["dry_run"]:
        for line in command.estimate(wanted, history, store, out):
            click.echo(line)
        return
    with interrupts(engine.cancel):
        found = command.carry_out(folder, wanted, history, store, engine, console, say)
    sys.exit(found.exit_code)


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@click.argument("patches", required=False, metavar="[SERIES]", shell_complete=completion.files)
@options(SERIES, BUILT, SUITES, MACHINE, RUNS)
@click.pass_context
def series(context: click.Context, /, patches: str | None, **given: Any) -> None:
    """Test a patch series, patch by patch.

    SERIES is an mbox, a folder of patches, BASE..TIP of the repository, or a message-id (b4 fetches it).
    Each patch is built, compiled in further configurations, booted and tested; then base and tip are
    measured. What fails names the patch that it began with."""
    from orchestrator.core.store import open_store
    from orchestrator.engine.local import LocalEngine
    from orchestrator.report import terminal as report
    from orchestrator.run.execute import RunDirectory
    from orchestrator.series import session
    from orchestrator.series.model import Series

    console = report.console()
    store, engine, say = open_store(), LocalEngine(), _saying(console, context)
    out = Path(given["out"])
    if given["resume"] is not None:
        alone(context, "--resume", "resume", "out", why="the series goes on as it was begun")
        place = RunDirectory.existing(out, given["resume"], session.KIND)
        wanted: session.Reader | Series = session.load(place)
    else:
        place = RunDirectory.fresh(out, session.KIND)
        wanted = session.asked(patches or "", given, say)
    with interrupts(engine.cancel):
        code = session.carry_out(place, wanted, store=store, engine=engine, console=console, say=say)
    sys.exit(code)


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@click.argument("cell", required=False, metavar="[RUN/CELL]", shell_complete=completion.cells)
@options(KERNEL, PREBUILT, GUEST, RUNS)
@click.pass_context
def shell(context: click.Context, /, cell: str | None, **given: Any) -> None:
    """Boot one kernel and open a shell in its guest.

    RUN/CELL is a cell of an earlier run (an id, a path or `last`), whose very guest is booted again;
    of a run with one cell, RUN is enough. It ends with the shell; nothing of it is kept. The kernel has
    proven what it is before."""
    from orchestrator.core.store import open_store
    from orchestrator.debug import shell as shells
    from orchestrator.report import terminal as report

    say = _saying(report.console(stderr=True), context)
    if cell is not None:
        from orchestrator.debug import reopen

        alone(context, cell, "cell", "out", "accel", why="its guest is booted as it was")
        found = reopen.find(Path(given["out"]), cell)
        sys.exit(shells.open_again(found, open_store(), say, asked=given["accel"]))
    sys.exit(
        shells.open_shell(
            choices_from_options.choices(given), open_store(), say, named=bool(given["variants"])
        )
    )


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@click.argument("cell", metavar="RUN/CELL", shell_complete=completion.cells)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- GDB...]")
@options(RUNS)
@click.option(
    "--accel",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "kvm", "tcg"]),
    help="That of the cell, or one by force.",
)
@click.option(
    "--vmlinux",
    metavar="FILE",
    shell_complete=completion.files,
    help="Symbols from this file; it must be of the very kernel.",
)
@click.option("--print", "only_print", is_flag=True, help="Print gdb's command, and wait for Ctrl-C.")
@click.pass_context
def gdb(context: click.Context, /, cell: str, words: tuple[str, ...], **given: Any) -> None:
    """Boot a cell's guest again, halted, with gdb attached.

    RUN/CELL is as for `orchestrate shell`. What follows `--` goes to gdb. Both end together."""
    from orchestrator.core.store import open_store
    from orchestrator.debug import gdb as debugger
    from orchestrator.debug import reopen
    from orchestrator.report import terminal as report

    say = _saying(report.console(stderr=True), context)
    found = reopen.find(Path(given["out"]), cell)
    vmlinux = Path(given["vmlinux"]) if given["vmlinux"] else None
    code = debugger.attach(
        found,
        open_store(),
        say,
        asked=given["accel"],
        vmlinux=vmlinux,
        words=words,
        only_print=given["only_print"],
    )
    sys.exit(code)


@cli.command(cls=config.Verb, epilog=_EXIT_CODES)
@click.argument("cell", metavar="RUN/CELL", shell_complete=completion.cells)
@options(RUNS)
@click.option(
    "--vmlinux",
    metavar="FILE",
    shell_complete=completion.files,
    help="Take the lines from this file; it must be of the very kernel.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Compile jobs. Default: one a CPU.")
@click.pass_context
def decode(context: click.Context, /, cell: str, **given: Any) -> None:
    """Give a cell's stack traces file and line, and what was inlined.

    RUN/CELL is as for `orchestrate shell`. A kernel without line numbers is built once more with them,
    which takes as long as its first build; that is kept."""
    from orchestrator.core.store import open_store
    from orchestrator.debug import reopen
    from orchestrator.report import terminal as report

    say = _saying(report.console(stderr=True), context)
    found = reopen.find(Path(given["out"]), cell)
    vmlinux = Path(given["vmlinux"]) if given["vmlinux"] else None
    decoded = reopen.decode(found, open_store(), say, vmlinux=vmlinux, jobs=given["jobs"] or 0)
    for case in decoded.cases:
        click.echo(f"{case.id}: {case.reason}\n{case.detail}\n")
    for path in decoded.files:
        click.echo(path)
    if not decoded.files and not decoded.cases:
        say(f"there is no stack trace in the consoles of {found.cell}")


@cli.command(name="list")
def list_() -> None:
    """Architectures, variants and suites there are."""
    from orchestrator.core import arch
    from orchestrator.kernel import compile_only, flavor, kconfig
    from orchestrator.suites import catalog

    click.echo("architectures:  " + "  ".join(arch.names()))
    click.echo("variants:       " + "  ".join(kconfig.variants()))
    click.echo(click.wrap_text("  ".join(flavor.names()), 80, "flavors:        ", " " * 16))
    click.echo("also built:     " + "  ".join(compile_only.names()))
    click.echo("suites:")
    for name in catalog.names():
        suite = catalog.load(name)
        default = " (default)" if name in catalog.DEFAULT else ""
        click.echo(f"  {name:<17}{suite.description}{default}")


@cli.command(epilog=_EXIT_CODES, short_help="What this host lacks, and the command that mends it.")
@click.option(
    "--arch",
    "arches",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.arches,
    help="x86_64, arm64 or all; may be repeated. Default: all.",
)
@click.option("--network", is_flag=True, help="Ask the Debian mirror too; takes 20 s at most.")
def doctor(arches: tuple[str, ...], network: bool) -> None:
    """What this host can do, what is missing, and the command that mends it."""
    from orchestrator import doctor as doctors
    from orchestrator.core import arch
    from orchestrator.core.store import default_cache
    from orchestrator.report import terminal as report

    names = arch.names() if "all" in arches or not arches else dict.fromkeys(arches)
    checks = doctors.check([arch.load(name) for name in names], default_cache(), network=network)
    doctors.render(checks, report.console())
    sys.exit(doctors.exit_code(checks))


@cli.command(epilog=_EXIT_CODES)
@click.argument("log", shell_complete=completion.files)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, [] for a clean console.")
def console(log: str, as_json: bool) -> None:
    """Find kernel reports in the console LOG; - reads standard input.

    For each: its class, title, function, fingerprint and lines. Exits with 0 for a
    clean console and 1 for one with splats."""
    from orchestrator.report import splats
    from orchestrator.splat import file

    found = file.read(log)
    click.echo(splats.as_json(found.splats) if as_json else splats.as_text(found))
    sys.exit(1 if found.splats or found.dropped else 0)


@cli.command(name="completion")
@click.argument("shell", required=False, type=click.Choice(completion.SHELLS))
def completion_(shell: str | None) -> None:
    """Print what makes bash, zsh or fish complete `orchestrate`.

    Without a name it is for the shell in $SHELL."""
    click.echo(completion.script(shell or completion.users_shell(), cli), nl=False)


def _saying(console: Console, context: click.Context) -> Callable[[str], None]:
    """What prints a line of progress; the first one tells which file has given options."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    if used := context.meta.get(config.META):
        say(f"options from {used}")
    return say


def main() -> None:
    """Run a verb; what goes wrong is a line or two and an exit code, never a traceback."""
    carry_out(cli)


if __name__ == "__main__":
    main()
