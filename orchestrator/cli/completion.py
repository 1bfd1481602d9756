# SPDX-License-Identifier: GPL-2.0-only
"""Completion in bash, zsh and fish: the scripts, and the values of options."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    shell_complete,
)

from orchestrator.core.errors import UserError
from orchestrator.run import latest

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "orchestrate"
#: Set by the shell to ask for completions.
VARIABLE = "_ORCHESTRATE_COMPLETE"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


@add_completion_class
class _Bash(BashComplete):
    """click's own, but it also completes after ``--suite=``, which bash splits into words."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        before = ["", *words]
        return [
            w for w, b in zip(words, before, strict=False) if w != "=" or not b.startswith("--")
        ], incomplete


def script(shell: str, cli: click.Command) -> str:
    """The script that the shell evaluates to complete ``orchestrate``."""
    class_ = get_completion_class(shell)
    assert class_ is not None, shell
    # not source(): that starts a bash to check its version
    complete = class_(cli, {}, PROGRAM, VARIABLE)
    return complete.source_template % complete.source_vars()


def complete(cli: click.Command, instruction: str) -> int:
    """Print what the shell asks for in ``VARIABLE``; returns the exit code."""
    return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)


def users_shell() -> str:
    """The supported shell that ``$SHELL`` names.

    :raises UserError: it names none.
    """
    path = os.environ.get("SHELL", "")
    if (name := Path(path).name) in SHELLS:
        return name
    why = f"$SHELL is {path}" if path else "$SHELL is not set"
    raise UserError(
        f"the shell is not known: {why}",
        remedy=f"Name one of {', '.join(SHELLS)}: orchestrate completion {SHELLS[0]}",
    )


def _one_of(names: Callable[[], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        try:
            candidates = list(names())
        except Exception:
            # an error would end up in the user's command line
            return []
        # an option that is not repeated has its default here, which may be completed, too
        used = ctx.params.get(param.name or "") if param.multiple else ()
        return [CompletionItem(n) for n in candidates if n.startswith(incomplete) and n not in (used or ())]

    return complete


def _arches() -> Iterable[str]:
    from orchestrator.core import arch

    return (*arch.names(), "all")


def _variants() -> Iterable[str]:
    from orchestrator.core import data

    return sorted(data.variants(), reverse=True)


def _flavors() -> Iterable[str]:
    from orchestrator.core import data

    return data.flavors()


def _also() -> Iterable[str]:
    from orchestrator.core import data

    return (*data.also(), "none")


def _suites() -> Iterable[str]:
    from orchestrator.core import data

    return data.suites()


def _toolchains() -> Iterable[str]:
    """Both families, with the versions on the PATH, including cross compilers."""
    versions: dict[str, set[int]] = {"gcc": set(), "clang": set()}
    for folder in filter(None, os.environ.get("PATH", "").split(":")):
        with contextlib.suppress(OSError):
            for path in Path(folder).iterdir():
                if match := re.fullmatch(r"(?:\w+-linux-gnu-)?(gcc|clang)-([0-9]{1,3})", path.name):
                    versions[match[1]].add(int(match[2]))
    for name, compiler in (("gcc", "gcc"), ("llvm", "clang")):
        yield name
        yield from (f"{name}-{number}" for number in sorted(versions[compiler], reverse=True))


def _vsyscall() -> Iterable[str]:
    from orchestrator.core import arch

    return dict.fromkeys(("all", *(mode for name in arch.names() for mode in arch.load(name).vsyscall_modes)))


def _is_path(word: str) -> bool:
    return "/" in word or word.startswith((".", "~"))


arches = _one_of(_arches)
variants = _one_of(_variants)
flavors = _one_of(_flavors)
also = _one_of(_also)
toolchains = _one_of(_toolchains)
vsyscall = _one_of(_vsyscall)
_suite_names = _one_of(_suites)


def suites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Suites by name; a word that looks like a path is completed as a folder."""
    if _is_path(incomplete):
        return [CompletionItem(incomplete, type="dir")]
    return _suite_names(ctx, param, incomplete)


def _folders_with(mark: str) -> Complete:
    """The folders below ``--out`` that contain ``mark``, newest first; paths are completed as folders."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        if _is_path(incomplete):
            return [CompletionItem(incomplete, type="dir")]

        def names() -> Iterable[str]:
            # the shell has not expanded a ~ yet
            folder = Path(ctx.params.get("out") or "runs").expanduser()
            all_ids = [path.name for path in reversed(latest.folders(folder, mark))]
            # a shell would interpret other characters
            ids = [name for name in all_ids if re.fullmatch(r"[\w.+-]+", name, re.ASCII)]
            return ["last", *ids] if ids else []

        return _one_of(names)(ctx, param, incomplete)

    return complete


runs = _folders_with(latest.PLAN)
bisects = _folders_with("bisect.json")
series = _folders_with("series.json")


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Runs; after a run and a slash, its cells; other paths are completed as folders."""
    run, slash, _ = incomplete.rpartition("/")
    if not slash:
        return runs(ctx, param, incomplete)

    def names() -> Iterable[str]:
        folder = Path(ctx.params.get("out") or "runs").expanduser()
        if run in ("last", latest.NAME):
            plan = latest.folders(folder)[-1] / latest.PLAN
        else:
            plan = next(
                p for p in (folder / run / "plan.json", Path(run).expanduser() / "plan.json") if p.is_file()
            )
        return [f"{run}/{cell['id']}" for cell in json.loads(plan.read_bytes())["cells"]]

    return _one_of(names)(ctx, param, incomplete) or [CompletionItem(incomplete, type="dir")]


def fingerprints(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Fingerprints of the kernel reports in the newest run's results."""

    def names() -> Iterable[str]:
        folder = Path(ctx.params.get("out") or "runs").expanduser()
        results = json.loads((latest.folders(folder, "results.json")[-1] / "results.json").read_bytes())
        cases = [c for cell in results["cells"] for c in _cases(cell)]
        marks = [f for c in cases for f in (c.get("fingerprint"), *c.get("further_fingerprints", ())) if f]
        # a shell would interpret other characters
        return dict.fromkeys(name for name in marks if re.fullmatch(r"[\w.+-]+", name, re.ASCII))

    return _one_of(names)(ctx, param, incomplete)


def _cases(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [*cell.get("cases", ()), *(c for suite in cell.get("suites", ()) for c in suite.get("cases", ()))]


def sources(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders and tarballs; after ``de`` also Debian's suites."""
    # bash splits the word at the colon
    if len(incomplete) > 1 and "debian:".startswith(incomplete):
        try:
            from orchestrator.source import debian_tree
        except Exception:
            return []
        return [CompletionItem(f"debian:{suite}") for suite in (*debian_tree.BACKPORTS, *debian_tree.STABLE)]
    return [CompletionItem(incomplete, type="file")]


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Paths of files."""
    return [CompletionItem(incomplete, type="file")]


def folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Paths of folders."""
    return [CompletionItem(incomplete, type="dir")]
