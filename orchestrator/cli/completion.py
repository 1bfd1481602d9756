# SPDX-License-Identifier: GPL-2.0-only
"""Completion in bash, zsh and fish: the script of each, and the names that may follow an option."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from orchestrator.core.errors import UserError
from orchestrator.run import latest

SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "orchestrate"
_VARIABLE = "_ORCHESTRATE_COMPLETE"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


@add_completion_class
class _Bash(BashComplete):
    """click's own, but it also completes after ``--suite=``, of which bash makes two words."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        before = ["", *words]
        return [
            w for w, b in zip(words, before, strict=False) if w != "=" or not b.startswith("--")
        ], incomplete


def script(shell: str, cli: click.Command) -> str:
    """What the shell evaluates to complete ``orchestrate``."""
    found = get_completion_class(shell)
    assert found is not None, shell
    # not source(): for bash that starts one, to see how old it is
    complete = found(cli, {}, _PROGRAM, _VARIABLE)
    return complete.source_template % complete.source_vars()


def users_shell() -> str:
    """Which of the three ``$SHELL`` names.

    :raises UserError: none of them.
    """
    path = os.environ.get("SHELL", "")
    if (name := Path(path).name) in SHELLS:
        return name
    why = f"$SHELL is {path}" if path else "$SHELL is not set"
    raise UserError(
        f"which shell to complete in cannot be told: {why}",
        remedy=f"Name one of {', '.join(SHELLS)}: orchestrate completion {SHELLS[0]}",
    )


def _one_of(names: Callable[[], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        try:
            known = list(names())
        except Exception:
            # no error may end up in somebody's half-typed line
            return []
        # of an option that is given once this is its default, which may be chosen
        given = ctx.params.get(param.name or "") if param.multiple else ()
        return [CompletionItem(n) for n in known if n.startswith(incomplete) and n not in (given or ())]

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
    """Both families, each with the versions that are on the PATH, cross compilers' included."""
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
    """Suites by name; what looks like a path is completed as a folder."""
    if _is_path(incomplete):
        return [CompletionItem(incomplete, type="dir")]
    return _suite_names(ctx, param, incomplete)


def _begun(mark: str) -> Complete:
    """Folders with that file where ``--out`` says, newest first; what looks like a path as a folder."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        if _is_path(incomplete):
            return [CompletionItem(incomplete, type="dir")]

        def names() -> Iterable[str]:
            # the shell has not expanded a ~ yet
            folder = Path(ctx.params.get("out") or "runs").expanduser()
            begun = [path.name for path in reversed(latest.folders(folder, mark))]
            # others were renamed, and a shell would read more into them
            found = [name for name in begun if re.fullmatch(r"[\w.+-]+", name, re.ASCII)]
            return ["last", *found] if found else []

        return _one_of(names)(ctx, param, incomplete)

    return complete


runs = _begun(latest.PLAN)
bisects = _begun("bisect.json")
series = _begun("series.json")


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Runs; behind a run and a slash its cells; what else looks like a path as a folder."""
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
        found = [f for c in cases for f in (c.get("fingerprint"), *c.get("further_fingerprints", ())) if f]
        # a shell would read more into others
        return dict.fromkeys(name for name in found if re.fullmatch(r"[\w.+-]+", name, re.ASCII))

    return _one_of(names)(ctx, param, incomplete)


def _cases(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [*cell.get("cases", ()), *(c for suite in cell.get("suites", ()) for c in suite.get("cases", ()))]


def sources(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders and tarballs; after ``de`` also Debian's suites."""
    # with the colon typed bash has three words of it
    if len(incomplete) > 1 and "debian:".startswith(incomplete):
        try:
            from orchestrator.source import debian_tree
        except Exception:
            return []
        return [CompletionItem(f"debian:{suite}") for suite in (*debian_tree.BACKPORTS, *debian_tree.STABLE)]
    return [CompletionItem(incomplete, type="file")]


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Paths, for options that take the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Paths of folders."""
    return [CompletionItem(incomplete, type="dir")]
