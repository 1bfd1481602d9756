# SPDX-License-Identifier: GPL-2.0-only
"""The options that verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from orchestrator.cli import completion
from orchestrator.core.errors import UserError
from orchestrator.plan import UNTIL_FAIL_TIMES

_F = TypeVar("_F", bound=Callable[..., Any])


class Memory(click.IntRange):
    """An amount of memory as whole MiB: ``512``, ``512M``, ``512MiB``, ``2G``, ``2GiB``, in any case.

    It is a range of integers, so that a file may give a number as it stands.
    """

    def __init__(self) -> None:
        super().__init__(min=256)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The MiB of a word such as ``512``, ``512M`` or ``2G``."""
        # digits beyond these neither are anybody's memory nor fit the plan
        match = re.fullmatch(r"0*([0-9]{1,12}) *(?:(M|G)(?:iB)?)?", str(value).strip(), re.ASCII | re.I)
        mib = int(match[1]) * (1024 if (match[2] or "").upper() == "G" else 1) if match else -1
        if self.min is not None and mib < self.min:
            shown = repr(str(value) if len(str(value)) <= 40 else f"{str(value)[:39]}…")
            wrong = f"is less than {self.min} MiB" if match else "is no amount of memory"
            self.fail(f"{shown} {wrong}: give MiB (512, 512M, 512MiB) or GiB (2G, 2GiB).", param, ctx)
        return mib


def resume(kind: str, complete: completion.Complete) -> Callable[[_F], _F]:
    """The option that goes on with work of a kind."""
    return click.option(
        "--resume",
        metavar="ID",
        shell_complete=complete,
        help=f"Go on with a {kind} that was interrupted or killed (or `last`); with --out.",
    )


SOURCES = (
    click.option(
        "--source",
        "sources",
        shell_complete=completion.sources,
        multiple=True,
        metavar="[NAME=]SPEC",
        help="Kernel: a directory, DIR@REV, a tarball or its URL, debian:SUITE, or vX.Y[.Z]; may be "
        "repeated. Default: the tree you are in, else Debian's newest.",
    ),
    click.option(
        "--patch",
        "patches",
        shell_complete=completion.files,
        multiple=True,
        metavar="[NAME=]FILE",
        help="An mbox, a patch or a directory of them, on top of the first --source or that of the name.",
    ),
    click.option(
        "--sha256",
        "digests",
        multiple=True,
        metavar="[NAME=]HEX",
        help="The digest that the archive must have.",
    ),
)

#: How kernels are built, whatever they are built from.
BUILT = (
    click.option(
        "--arch",
        "arches",
        shell_complete=completion.arches,
        multiple=True,
        metavar="NAME",
        help="One of `orchestrate list`, or all; may be repeated. Default: this host's.",
    ),
    click.option(
        "--variant",
        "variants",
        shell_complete=completion.variants,
        multiple=True,
        metavar="NAME",
        help="per-vma-lock, mmap-lock; may be repeated. Default: both.",
    ),
    click.option(
        "--kconfig",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE|CONFIG_X=y",
        help="A further kconfig fragment; may be repeated.",
    ),
    click.option(
        "--flavor",
        "flavors",
        shell_complete=completion.flavors,
        multiple=True,
        metavar="NAME",
        help="A kernel made for diagnosis (see `orchestrate list`); several make one kernel together.",
    ),
    click.option(
        "--config",
        default="",
        metavar="FILE",
        shell_complete=completion.files,
        help="A .config as the base, in place of ours.",
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
        "-j",
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Compile jobs. Default: one a CPU.",
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
        help="A kernel that is built already (bzImage, Image); its variant is read from the guest.",
    ),
)

#: The machine that a guest runs on.
MACHINE = (
    click.option(
        "--accel",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "kvm", "tcg"]),
        help="KVM where it works, or one by force.",
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
    click.option("--cmdline", default="", metavar="WORDS", help="Further kernel parameters."),
)

GUEST = (
    *MACHINE,
    click.option(
        "--put",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE",
        help="A file or folder for --cmd (or the shell), in its working directory and PATH; may be repeated.",
    ),
)

RUNS = (
    click.option(
        "--out",
        default="runs",
        show_default=True,
        metavar="DIR",
        shell_complete=completion.folders,
        help="Where runs are kept.",
    ),
)

_SUITE = click.option(
    "--suite",
    "suites",
    shell_complete=completion.suites,
    multiple=True,
    metavar="NAME|DIR",
    help="A suite (see `orchestrate list`), or the folder of one of your own; may be repeated. "
    "Default: those that the list calls so.",
)

_SELFTESTS = click.option(
    "--selftests-from",
    shell_complete=completion.sources,
    default="",
    metavar="SPEC",
    help="Take the kernel's selftests from this source instead of the kernel's own tree.",
)

_KNOWN = (
    click.option(
        "--known",
        shell_complete=completion.files,
        multiple=True,
        metavar="FILE",
        help="Known failures, beside those of the suites; may be repeated.",
    ),
    click.option("--strict", is_flag=True, help="A known failure is one like any other."),
)

#: What is tested, without how often and on which boots.
TESTED = (
    _SUITE,
    click.option(
        "--cmd",
        "commands",
        multiple=True,
        metavar="COMMAND",
        help="A shell command to run in every guest, good if it ends with 0; may be repeated. Alone it "
        "takes the place of the default suites.",
    ),
    _SELFTESTS,
)

#: Suites and what is known of them, without commands and repeats.
SUITES = (_SUITE, _SELFTESTS, *_KNOWN)

TESTS = (
    *TESTED,
    click.option(
        "--times",
        metavar="N",
        type=click.IntRange(1),
        help="Fresh boots of each functional cell; reports failure rates.",
    ),
    click.option(
        "--until-fail",
        is_flag=True,
        help=f"End a kernel's repeats at the first failure (up to --times, else {UNTIL_FAIL_TIMES}).",
    ),
    click.option(
        "--vsyscall",
        default="",
        shell_complete=completion.vsyscall,
        metavar="MODE",
        help="Boot with vsyscall=MODE where there is such a page, or with `all` of them.",
    ),
    *_KNOWN,
    click.option(
        "--decode",
        is_flag=True,
        help="Build a kernel that crashed once more, with line numbers for its stack traces.",
    ),
    click.option(
        "--boots",
        metavar="N",
        type=click.IntRange(1),
        help="Boots a variant for benchmarks. Default: the suite's.",
    ),
)

BISECT = (
    click.option(
        "--source",
        "source",
        default="",
        shell_complete=completion.folders,
        metavar="DIR",
        help="The git repository. Default: the tree you are in.",
    ),
    click.option(
        "--good", "goods", multiple=True, metavar="REV", help="A commit without the fault; may be repeated."
    ),
    click.option("--bad", default="", metavar="REV", help="A commit with it. Default: HEAD."),
    click.option("--case", default="", metavar="SUITE/PATH", help="Bad is: this case fails; * and ? match."),
    click.option(
        "--splat",
        default="",
        shell_complete=completion.fingerprints,
        metavar="FINGERPRINT",
        help="Bad is: the kernel report with this fingerprint (see `orchestrate console`) is on the console. "
        "Its beginning is enough.",
    ),
    click.option(
        "--metric",
        default="",
        metavar="SUITE/METRIC",
        help="Bad is: this number of a benchmark is nearer to that of --bad than to that of --good.",
    ),
    click.option("--boot", is_flag=True, help="Bad is: it does not boot."),
    click.option("--build", is_flag=True, help="Bad is: it does not compile."),
    click.option(
        "--fix",
        "fixes",
        multiple=True,
        metavar="COMMIT:A..B",
        help="Make this commit's change on top of each commit in that range; may be repeated.",
    ),
    click.option(
        "--ends",
        default=3,
        show_default=True,
        metavar="N",
        type=click.IntRange(1, 100),
        help="Boots of each end, at least.",
    ),
    click.option(
        "--confidence",
        default=0.985,
        show_default=True,
        metavar="P",
        type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
        help="Probability from which a commit is the culprit.",
    ),
    click.option(
        "--replay",
        default="",
        metavar="FILE",
        shell_complete=completion.files,
        help="Take in what `git bisect log` has written.",
    ),
    resume("bisect", completion.bisects),
    click.option("--dry-run", is_flag=True, help="Say how many steps and minutes it would take, and end."),
)

SERIES = (
    click.option(
        "--source",
        default="",
        metavar="DIR[@BASE]",
        shell_complete=completion.sources,
        help="The git repository, and the commit that the series goes on top of. Default: the tree you are "
        "in, and what the mails say (base-commit:).",
    ),
    click.option(
        "--also-build",
        "also",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.also,
        help="A configuration to compile only (see `orchestrate list`), or none; may be repeated. "
        "Default: all.",
    ),
    click.option("--no-bench", is_flag=True, help="Do not measure base against tip."),
    click.option(
        "--boots",
        metavar="N",
        type=click.IntRange(1),
        help="Boots of base and of tip to measure. Default: 5.",
    ),
    resume("series", completion.series),
)


def options(*groups: Sequence[Callable[[_F], _F]]) -> Callable[[_F], _F]:
    """A decorator that adds groups of options in their order."""

    def add(function: _F) -> _F:
        for group in reversed(groups):
            for option in reversed(group):
                function = option(function)
        return function

    return add


def alone(
    context: click.Context, with_: str, *these: str, why: str = "the run goes on as it was planned"
) -> None:
    """Demand that no other parameters are given than these.

    :param with_: what forbids the others, for the message.

    :raises UserError: another one was given on the command line.
    """
    from click.core import ParameterSource

    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in these:
            raise UserError(
                f"{parameter.opts[0]} cannot be changed with {with_}: {why}",
                remedy=f"Leave {parameter.opts[0]} out, or begin a new run.",
            )
