# SPDX-License-Identifier: GPL-2.0-only
"""The verbs. Parses, calls, prints; imports late, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.errors import OrchestrateError

if TYPE_CHECKING:
    from orchestrator.plan import Choices
    from orchestrator.source.model import Tree

_F = TypeVar("_F", bound=Callable[..., Any])

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


def _kernel_options(function: _F) -> _F:
    """The options that say which kernels are meant; shared by the verbs that build."""
    for option in reversed(
        (
            click.option(
                "--source",
                metavar="SPEC",
                help="Kernel: a directory, a tarball or its URL, "
                "debian:SUITE, or vX.Y[.Z]. Default: the tree you are in, else Debian's newest.",
            ),
            click.option("--sha256", metavar="HEX", help="The digest that the archive must have."),
            click.option(
                "--arch",
                "arches",
                multiple=True,
                metavar="NAME",
                help="x86_64, arm64 or all; may be repeated. Default: this host's.",
            ),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="NAME",
                help="per-vma-lock, mmap-lock; may be repeated. Default: both.",
            ),
            click.option(
                "--kconfig",
                multiple=True,
                metavar="FILE|CONFIG_X=y",
                help="A further kconfig fragment; may be repeated.",
            ),
            click.option(
                "--config", default="", metavar="FILE", help="A .config as the base, in place of ours."
            ),
            click.option(
                "--toolchain", default="gcc", show_default=True, metavar="NAME", help="gcc, gcc-N or llvm."
            ),
            click.option("-j", "--jobs", default=0, metavar="N", help="Compile jobs. Default: one a CPU."),
        )
    ):
        function = option(function)
    return function


@cli.command(epilog=_EXIT_CODES)
@_kernel_options
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="A suite (see `orchestrate list`); may be repeated. Default: maps, map-latency.",
)
@click.option(
    "--vsyscall", default="", metavar="MODE", help="x86_64: boot with vsyscall=MODE, or `all` of them."
)
@click.option("--boots", default=0, metavar="N", help="Boots a variant for benchmarks. Default: the suite's.")
@click.option(
    "--accel",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "kvm", "tcg"]),
    help="KVM where it works, or one by force.",
)
@click.option(
    "--smp", default=2, show_default=True, metavar="N", type=click.IntRange(1, 64), help="Virtual CPUs."
)
@click.option(
    "--mem", default=512, show_default=True, metavar="MIB", type=click.IntRange(256), help="Guest memory."
)
@click.option("--cmdline", default="", metavar="WORDS", help="Further kernel parameters.")
@click.option("--out", default="runs", show_default=True, metavar="DIR", help="Where runs are kept.")
@click.option("--junit", metavar="FILE", help="Write the JUnit file here too.")
def run(**given: Any) -> None:
    """Build, boot and test; the main job."""
    from orchestrator import run as runs
    from orchestrator.engine.local import LocalEngine
    from orchestrator.events import Events
    from orchestrator.report import terminal as report
    from orchestrator.store import Store, default_cache

    console = report.console()
    store = Store(default_cache())
    choices = _choices(given)
    engine = LocalEngine()
    tree = _tree(given, store.root, lambda text: console.print(text, soft_wrap=True, markup=False))
    the_plan = runs.plan(choices, tree)
    directory = runs.RunDirectory(Path(given["out"]))
    shared = runs.context(choices, tree, store, directory.path, engine)
    directory.create()
    with Events(console, directory.path / "events.ndjson") as events, _interrupts(engine.cancel):
        events.emit("", "", f"{tree.describe}: {len(the_plan.cells)} cells, results in {directory.path}")
        junit = Path(given["junit"]) if given["junit"] else None
        result = runs.carry_out(the_plan, shared, directory, engine, events, junit_path=junit)
    report.closing(console, result, directory.path)
    sys.exit(result.exit_code())


@cli.command(epilog=_EXIT_CODES)
@_kernel_options
@click.option(
    "--configure-only", is_flag=True, help="Classify the tree and configure; print the .config's path."
)
def build(**given: Any) -> None:
    """Build kernels and print where their images are."""
    from orchestrator import run as runs
    from orchestrator.report import terminal as report
    from orchestrator.store import Store, default_cache

    store = Store(default_cache())
    progress = report.console(stderr=True)

    def say(text: str) -> None:
        progress.print(text, soft_wrap=True, markup=False)

    choices = _choices(given, suites=())
    tree = _tree(given, store.root, say)
    codes = set()
    for line, error in runs.build_all(choices, tree, store, say=say, configure_only=given["configure_only"]):
        click.echo(line, err=error is not None)
        codes.add(error.exit_code if error else 0)
    # the order in which exit codes win, see docs/verdicts.md; a tree that has none of the kernels is 4
    sys.exit(next((code for code in (130, 1, 3, 4, 0) if code in codes), 4))


@cli.command(name="list")
def list_() -> None:
    """Architectures, variants and suites there are."""
    from orchestrator import arch
    from orchestrator.kernel import kconfig
    from orchestrator.suites import catalog

    click.echo("architectures:  " + "  ".join(arch.names()))
    click.echo("variants:       " + "  ".join(kconfig.variants()))
    click.echo("suites:")
    for name in catalog.names():
        suite = catalog.load(name)
        default = " (default)" if name in catalog.DEFAULT else ""
        click.echo(f"  {name:<14}{suite.description}{default}")


@contextlib.contextmanager
def _interrupts(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) cancels and lets results be written; a second one is not waited for."""

    def cancelled(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel()

    signal.signal(signal.SIGINT, cancelled)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _choices(given: dict[str, Any], suites: tuple[str, ...] | None = None) -> Choices:
    from orchestrator import arch
    from orchestrator.kernel import kconfig
    from orchestrator.plan import Choices
    from orchestrator.suites import catalog

    asked = given["arches"] or (arch.host().name,)
    arches = arch.names() if "all" in asked else tuple(dict.fromkeys(asked))
    chosen = (given.get("suites") or catalog.DEFAULT) if suites is None else suites
    # before a kernel is fetched
    for name in arches:
        arch.load(name)
        for variant in given["variants"]:
            kconfig.own_fragments(name, variant)
    for name in chosen:
        catalog.load(name)
    return Choices(
        arches=arches,
        variants=tuple(dict.fromkeys(given["variants"])) or kconfig.variants(),
        suites=tuple(dict.fromkeys(chosen)),
        vsyscall=given.get("vsyscall", ""),
        boots=given.get("boots", 0),
        smp=given.get("smp", 2),
        mem_mib=given.get("mem", 512),
        cmdline=tuple(given.get("cmdline", "").split()),
        accel=given.get("accel", "auto"),
        toolchain=given["toolchain"],
        kconfig=tuple(given["kconfig"]),
        config=given["config"],
        jobs=given["jobs"],
    )


def _tree(given: dict[str, Any], cache: Path, say: Callable[[str], None]) -> Tree:
    from orchestrator import source

    spec = given["source"]
    if spec is None and (Path.cwd() / "scripts/kconfig").is_dir() and Path("Kbuild").is_file():
        spec = str(Path.cwd())
        say(f"source: the kernel tree you are in, {spec}")
    if spec is None:
        return source.default_source(cache=cache, say=say)
    return source.resolve(spec, cache=cache, sha256=given["sha256"], say=say)


def main() -> None:
    """Run a verb; what goes wrong is a line or two and an exit code, never a traceback."""
    # a batch system's way of saying Ctrl-C; guests and builds go down and results are kept likewise
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except OrchestrateError as error:
        click.echo(f"orchestrate: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        from orchestrator import process

        process.end_all()
        click.echo("orchestrate: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        from orchestrator import process

        process.end_all()
        click.echo(f"orchestrate: {error.filename or 'input or output'}: {error.strerror or error}", err=True)
        sys.exit(3)
    except Exception as error:
        from orchestrator import process

        process.end_all()
        _bug(error)
        sys.exit(3)


def _bug(error: Exception) -> None:
    """A fault of our own: keep the traceback for the report, show the user one line."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="orchestrate-", suffix=".traceback", delete=False) as kept:
        traceback.print_exception(error, file=kept)
    click.echo(f"orchestrate: a fault of its own: {type(error).__name__}: {error}", err=True)
    click.echo(f"  Please report it with {kept.name}.", err=True)


if __name__ == "__main__":
    main()
