# SPDX-License-Identifier: GPL-2.0-only
"""The options that verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from orchestrator.cli import completion
from orchestrator.cli.types import Memory
from orchestrator.core.errors import UserError
from orchestrator.plan import UNTIL_FAIL_TIMES

_F = TypeVar("_F", bound=Callable[..., Any])


#: The last lines of the help of most verbs.
EXIT_CODES = """\b
Exit codes: 0 all good · 1 the kernel or a test is at fault · 2 wrong usage ·
3 infrastructure · 4 inconclusive, or nothing passed · 130 interrupted"""


def resume(kind: str, complete: completion.Complete) -> Callable[[_F], _F]:
    """The option that resumes an earlier run, bisect or series."""
    return click.option(
        "--resume",
        metavar="ID",
        shell_complete=complete,
        help=f"Resume an interrupted or killed {kind}: its ID in --out, or `last`.",
    )


SOURCES = (
    click.option(
        "--source",
        "sources",
        shell_complete=completion.sources,
        multiple=True,
        metavar="[NAME=]SPEC",
        help="A kernel source: a directory, DIR@REV, a tarball or its URL, debian:SUITE, or vX.Y[.Z]; may be "
        "repeated. Default: the tree in the current directory, else the newest in Debian.",
    ),
    click.option(
        "--patch",
        "patches",
        shell_complete=completion.files,
        multiple=True,
        metavar="[NAME=]FILE",
        help="An mbox, a patch or a directory of patches, applied to the first --source or to NAME; may be "
        "repeated.",
    ),
    click.option(
        "--sha256",
        "digests",
        multiple=True,
        metavar="[NAME=]HEX",
        help="The expected digest of the archive.",
    ),
)

#: How kernels are built from any source.
BUILT = (
    click.option(
        "--arch",
        "arches",
        shell_complete=completion.arches,
        multiple=True,
        metavar="NAME",
        help="An architecture of `orchestrate list`, or all; may be repeated. Default: this host's.",
    ),
    click.option(
        "--variant",
        "variants",
        shell_complete=completion.variants,
        multiple=True,
        metavar="NAME",
        help="per-vma-lock or mmap-lock; may be repeated. Default: both.",
    ),
    click.option(
        "--kconfig",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE|CONFIG_X=y",
        help="An additional kconfig fragment or symbol; may be repeated.",
    ),
    click.option(
        "--flavor",
        "flavors",
        shell_complete=completion.flavors,
        multiple=True,
        metavar="NAME",
        help="Build for diagnosis (see `orchestrate list`). Several flavors combine into one kernel.",
    ),
    click.option(
        "--config",
        default="",
        metavar="FILE",
        shell_complete=completion.files,
        help="A .config to start from, instead of the default one.",
    ),
    click.option(
        "--toolchain",
        default="gcc",
        show_default=True,
        shell_complete=completion.toolchains,
        metavar="NAME",
        help="gcc, gcc-N, llvm or llvm-N.",
    ),
    click.option(
        "--sandbox",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "on", "off"]),
        help="Build without network, home and write access to the tree (bubblewrap). auto: for patches of "
        "--patch and for series from mails, if bubblewrap is installed.",
    ),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Compile jobs. Default: one per CPU.",
    ),
)

KERNEL = (*SOURCES, *BUILT)

PREBUILT = (
    click.option(
        "--kernel",
        "kernels",
        shell_complete=completion.files,
        multiple=True,
        metavar="[NAME=]IMAGE",
        help="A prebuilt kernel (bzImage, Image); its variant is read from the guest. May be repeated.",
    ),
)

#: The machine that a guest runs on.
MACHINE = (
    click.option(
        "--accel",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "kvm", "tcg"]),
        help="auto uses KVM if it works, else TCG.",
    ),
    click.option(
        "--smp", default=2, show_default=True, metavar="N", type=click.IntRange(1, 64), help="Virtual CPUs."
    ),
    click.option(
        "--mem",
        metavar="SIZE",
        type=Memory(),
        help="Guest memory in MiB, or with a unit: 512M, 2GiB. Default: 512, or what the flavor needs.",
    ),
    click.option("--cmdline", default="", metavar="WORDS", help="Additional kernel parameters."),
)

GUEST = (
    *MACHINE,
    click.option(
        "--put",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE",
        help="Copy a file or folder to the working directory and PATH of --cmd or the shell; may be "
        "repeated.",
    ),
)

RUNS = (
    click.option(
        "--out",
        default="runs",
        show_default=True,
        metavar="DIR",
        shell_complete=completion.folders,
        help="The folder of runs.",
    ),
)

_SUITE = click.option(
    "--suite",
    "suites",
    shell_complete=completion.suites,
    multiple=True,
    metavar="NAME|DIR",
    help="A suite of `orchestrate list`, or the folder of your own; may be repeated. "
    "Default: those marked (default) in `orchestrate list`.",
)

_SELFTESTS = click.option(
    "--selftests-from",
    shell_complete=completion.sources,
    default="",
    metavar="SPEC",
    help="Build the kernel's selftests from this source instead of the kernel's own tree.",
)

_KNOWN = (
    click.option(
        "--known",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE",
        help="A file of known failures, in addition to those of the suites; may be repeated.",
    ),
    click.option("--strict", is_flag=True, help="Treat known failures as ordinary failures."),
)

#: What is tested, without the number of boots.
TESTED = (
    _SUITE,
    click.option(
        "--cmd",
        "commands",
        multiple=True,
        metavar="COMMAND",
        help="A shell command to run in every guest; it passes if it exits with 0. May be repeated. Without "
        "--suite, it replaces the default suites.",
    ),
    _SELFTESTS,
)

#: Suites and known failures, without commands and repeats.
SUITES = (_SUITE, _SELFTESTS, *_KNOWN)

TESTS = (
    *TESTED,
    click.option(
        "--times",
        metavar="N",
        type=click.IntRange(1),
        help="Boot each functional cell N times and report failure rates.",
    ),
    click.option(
        "--until-fail",
        is_flag=True,
        help=f"Stop repeating a kernel at its first failure. Limit: --times, else {UNTIL_FAIL_TIMES}.",
    ),
    click.option(
        "--vsyscall",
        default="",
        shell_complete=completion.vsyscall,
        metavar="MODE",
        help="Boot with vsyscall=MODE, or once with each mode (`all`), on architectures that have it.",
    ),
    *_KNOWN,
    click.option(
        "--decode",
        is_flag=True,
        help="If a kernel crashes, build it again with line numbers for its stack traces.",
    ),
    click.option(
        "--boots",
        metavar="N",
        type=click.IntRange(1),
        help="Boots per variant for benchmarks. Default: set by the suite.",
    ),
)

BISECT = (
    click.option(
        "--source",
        "source",
        default="",
        shell_complete=completion.folders,
        metavar="DIR",
        help="The git repository. Default: the current directory.",
    ),
    click.option(
        "--good", "goods", multiple=True, metavar="REV", help="A commit without the fault; may be repeated."
    ),
    click.option("--bad", default="", metavar="REV", help="A commit with the fault. Default: HEAD."),
    click.option("--case", default="", metavar="SUITE/PATH", help="Bad if this case fails; * and ? match."),
    click.option(
        "--splat",
        default="",
        shell_complete=completion.fingerprints,
        metavar="FINGERPRINT",
        help="Bad if a kernel report with this fingerprint (see `orchestrate console`) is on the console. "
        "A prefix is enough.",
    ),
    click.option(
        "--metric",
        default="",
        metavar="SUITE/METRIC",
        help="Bad if this metric is closer to its value at --bad than at --good.",
    ),
    click.option("--boot", is_flag=True, help="Bad if the kernel does not boot."),
    click.option("--build", is_flag=True, help="Bad if the kernel does not compile."),
    click.option(
        "--fix",
        "fixes",
        multiple=True,
        metavar="COMMIT:A..B",
        help="Apply this commit on top of each commit of the range; may be repeated.",
    ),
    click.option(
        "--ends",
        default=3,
        show_default=True,
        metavar="N",
        type=click.IntRange(1, 100),
        help="Boot each end at least N times.",
    ),
    click.option(
        "--confidence",
        default=0.985,
        show_default=True,
        metavar="P",
        type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
        help="The probability at which a commit is the culprit.",
    ),
    click.option(
        "--replay",
        default="",
        metavar="FILE",
        shell_complete=completion.files,
        help="Start from the observations in a `git bisect log`.",
    ),
    resume("bisect", completion.bisects),
    click.option("--dry-run", is_flag=True, help="Print the estimated steps and minutes; run nothing."),
)

SERIES = (
    click.option(
        "--source",
        default="",
        metavar="DIR[@BASE]",
        shell_complete=completion.sources,
        help="The git repository, and the base of the series. Default: the tree in the current directory, "
        "and base-commit: in the mails.",
    ),
    click.option(
        "--also-build",
        "also",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.also,
        help="A configuration of `orchestrate list` to compile only, or none; may be repeated. Default: all.",
    ),
    click.option("--no-bench", is_flag=True, help="Do not run benchmarks on base and tip."),
    click.option(
        "--boots",
        metavar="N",
        type=click.IntRange(1),
        help="Boots of base and of tip for benchmarks. Default: 5.",
    ),
    resume("series", completion.series),
    click.option(
        "--dry-run", is_flag=True, help="Print the patches and the estimated cost; build and boot nothing."
    ),
)


def options(*groups: Sequence[Callable[[_F], _F]]) -> Callable[[_F], _F]:
    """A decorator that adds groups of options in this order."""

    def add(function: _F) -> _F:
        for group in reversed(groups):
            for option in reversed(group):
                function = option(function)
        return function

    return add


def alone(
    context: click.Context, with_: str, *these: str, why: str = "a resumed run keeps its options"
) -> None:
    """Check that no other parameters are on the command line.

    :param with_: the option or argument that excludes the others, for the message.

    :raises UserError: another one is on the command line.
    """
    from click.core import ParameterSource

    for parameter in context.command.params:
        name = parameter.name or ""
        is_set = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_set and name not in these:
            raise UserError(
                f"{parameter.opts[0]} cannot be changed with {with_}: {why}",
                remedy=f"Omit {parameter.opts[0]}, or start a new run.",
            )
