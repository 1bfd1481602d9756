# SPDX-License-Identifier: GPL-2.0-only
"""Check this host: what works, what is missing, and the one command that installs it.

May import the rooms from core to debug. All checks run at once, each in its own thread, and a slow one does
not delay the others.
"""

from __future__ import annotations

import functools
import importlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.arch import Arch
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.text import one_line
from orchestrator.doctor import checks as look
from orchestrator.doctor.checks import Check

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Check", "check", "exit_code", "install_command", "render"]

#: The limit of a check; the one over the network has its own, and must start apt.
_LIMIT_S = 12.0
_MIRROR_S = look.NETWORK_S + 10.0


def check(
    arches: Sequence[Arch],
    cache: Path,
    *,
    optional: Sequence[Arch] = (),
    try_kvm: look.TryKvm = look.try_kvm,
    network: bool = False,
    limit_s: float = _LIMIT_S,
) -> tuple[Check, ...]:
    """Run all checks at once; changes nothing, and raises nothing.

    :param optional: architectures of which only a note says whether they could be used.
    :param network: also fetch a release file from the Debian mirror, for at most 20 s.
    :param limit_s: a check that has not ended by then counts as missing.
    """
    functions: dict[str, Callable[[], Iterable[Check]]] = {"python": look.python}
    for arch in arches:
        functions[f"QEMU {arch.name}"] = functools.partial(look.qemu, arch)
    for arch in arches:
        if arch.native:
            functions["KVM"] = functools.partial(look.kvm, arch, cache, try_kvm)
    for arch in arches:
        functions[f"compiler {arch.name}"] = functools.partial(look.compiler, arch)
    functions |= {
        "host compiler": functools.partial(look.host_compiler, arches),
        "for series": look.only_compiled,
        **{arch.name: functools.partial(look.optional, arch) for arch in optional},
        "build tools": look.build_tools,
        "ccache": look.ccache,
        "sandbox": look.sandbox,
        "apt": look.apt,
        "certificates": look.certificates,
        "cache": functools.partial(look.cache, cache),
        "disk": functools.partial(look.disk, cache),
        "home": functools.partial(look.home, cache),
        "machine": look.machine,
    }
    if network:
        functions["mirror"] = look.mirror
    return _all_at_once(functions, limit_s)


def exit_code(checks: Iterable[Check]) -> int:
    """0 if nothing is missing, else 3."""
    return 3 if any(each.status == "missing" for each in checks) else 0


def install_command(checks: Iterable[Check]) -> str:
    """The one command that installs every package that the checks name; empty if there are none."""
    packages = list(dict.fromkeys(package for each in checks for package in each.packages))
    return look.install(packages) if packages else ""


def render(checks: Sequence[Check], console: Console) -> None:
    """Print the table and, below it, what to do; fits 80 columns, and does not depend on colours."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "yellow", "missing": "bold red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in ("status", "name", "found"):
        table.add_column(column, no_wrap=column == "status", overflow="fold")
    for each in checks:
        status = "MISSING" if each.status == "missing" else each.status
        what = (
            f"{each.text} (for {each.needed_for})" if each.needed_for and each.status != "ok" else each.text
        )
        table.add_row(Text(status, style=styles[each.status]), Text(each.name), Text(what))
    console.print(table)
    for each in checks:
        if each.remedy and not each.packages:
            console.print(f"{each.name}: {each.remedy}", soft_wrap=True)
    missing = [each for each in checks if each.status == "missing"]
    packages = list(dict.fromkeys(package for each in checks for package in each.packages))
    if packages and not shutil.which("apt-get"):
        console.print("No apt-get here. Install with this host's own tools what Debian calls:")
        console.print("  " + " ".join(packages), soft_wrap=True)
    elif packages:
        optional = not any(each.packages for each in missing)
        console.print("To install what is optional:" if optional else "To install all that is missing:")
        console.print("  " + look.install(packages), soft_wrap=True)
    console.print(f"{len(missing)} missing" if missing else "Nothing is missing.")


def _all_at_once(functions: dict[str, Callable[[], Iterable[Check]]], limit_s: float) -> tuple[Check, ...]:
    """Run each check in its own thread; one that hangs counts as missing."""
    arrived: dict[str, tuple[Check, ...]] = {}

    def run_check(name: str, function: Callable[[], Iterable[Check]]) -> None:
        try:
            arrived[name] = tuple(function())
        except Exception as error:
            # on odd hosts a check may raise; the others still count
            what = (
                error.message if isinstance(error, OrchestrateError) else f"{type(error).__name__}: {error}"
            )
            arrived[name] = (Check(name, "missing", f"check failed: {one_line(what, limit=160)}"),)

    # import these first: threads that import modules in a cycle deadlock
    importlib.import_module("orchestrator.kernel.compile_only")
    importlib.import_module("orchestrator.debian.apt")
    importlib.import_module("orchestrator.vm.accel")
    threads = {
        name: threading.Thread(target=run_check, args=(name, function), daemon=True)
        for name, function in functions.items()
    }
    for thread in threads.values():
        thread.start()
    start = time.monotonic()
    for name, thread in threads.items():
        limit = _MIRROR_S if name == "mirror" else limit_s
        thread.join(max(0.0, start + limit - time.monotonic()))
    late = f"no answer within {limit_s:.0f} s"
    # an answer that comes from now on is too late
    answers = dict(arrived)
    return tuple(each for name in functions for each in answers.get(name, (Check(name, "missing", late),)))
