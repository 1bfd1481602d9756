# SPDX-License-Identifier: GPL-2.0-only
"""``orchestrate bisect``: from options to a setup, and from a setup to the account of what was found.

<out>/bisect-ID/bisect.json journal.ndjson events.ndjson conclusion.json
                bisect.log report.md report.html
                builds/ logs/ boots/        see ``oracle``
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from rich.console import Console

from orchestrator import arch as arches
from orchestrator import prepare
from orchestrator.bisect import account, asked, gitlog, oracle, relevance, setup
from orchestrator.bisect.bench import Bench
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import Journal
from orchestrator.bisect.oracle import KernelOracle
from orchestrator.bisect.predicate import BuildFails, MetricWorse
from orchestrator.bisect.session import Session
from orchestrator.bisect.setup import Conclusion, Mend, Setup
from orchestrator.cell_state import Target
from orchestrator.engine.local import LocalEngine
from orchestrator.errors import Interrupted, UserError
from orchestrator.estimate import cpus
from orchestrator.events import Events
from orchestrator.kernel import build as kernels
from orchestrator.plan import Choices, Source
from orchestrator.report import bisect as report
from orchestrator.source import workshop
from orchestrator.source.classify import classify
from orchestrator.source.clone import GitError, run_git
from orchestrator.source.workshop import Fix, Workshop
from orchestrator.store import Store, absolute
from orchestrator.vm.overlay import write_atomically

Say = Callable[[str], None]


# --- a bisect on disk


def fresh(out: Path) -> Path:
    """The folder of a new bisect; nothing is made yet."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return absolute(out) / f"bisect-{stamp}-{secrets.token_hex(2)}"


def existing(out: Path, name: str) -> Path:
    """The folder of a bisect that was begun.

    :param name: its id, with or without ``bisect-``, its path, or ``last``.
    :raises UserError: there is none.
    """
    out = absolute(out)
    begun = sorted(path.parent for path in out.glob(f"*/{setup.SETUP}"))
    if name == "last" and begun:
        return begun[-1]
    for path in (out / name, out / f"bisect-{name}", absolute(Path(name))):
        if name and (path / setup.SETUP).is_file():
            return path
    known = ", ".join(path.name for path in reversed(begun[-5:]))
    raise UserError(
        f"there is no bisect {name!r} in {out}",
        remedy=f"The newest are: {known}." if known else "Name the folder of the bisects with --out.",
    )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder.name} is being carried out by another process",
            remedy="Wait for its end, or end it; then go on.",
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.parent}: {error.strerror}", remedy="Name another folder with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


# --- carrying it out


def carry_out(
    folder: Path,
    wanted: Setup,
    history: History,
    store: Store,
    engine: LocalEngine,
    console: Console,
    say: Say,
) -> Conclusion:
    """Carry a bisect out, or on; its account is printed and in the folder.

    :raises UserError: an end that cannot be used; an input is not what it was.
    :raises OrchestrateError: it cannot go on, or an end is not what was claimed.
    """
    resumed = (folder / setup.SETUP).is_file()
    repository = Path(wanted.repository)
    suites = asked.suites_in(wanted.choices)
    with _held(folder), workshop.opened(repository, cache=store.root, say=say) as shop:
        target = _target(shop, wanted)
        choices = oracle.once(wanted.choices, target.source)
        shared = prepare.context(
            choices, [target], suites, store, folder, cancelled=engine.cancelled, say=say
        )
        wanted = _with_inputs(wanted, prepare.inputs(shared), resumed)
        if not resumed:
            write_atomically(
                folder / setup.SETUP, msgspec.json.format(msgspec.json.encode(wanted)), mode=0o644
            )
        subject = functools.cache(functools.partial(account.subject_of, repository))
        with (
            Events(console, folder / "events.ndjson") as events,
            KernelOracle(
                folder,
                shop,
                shared,
                suites,
                engine,
                events,
                fixes=[_made(repository, mend) for mend in wanted.fixes],
                parallel=_has_room(choices) and not isinstance(wanted.predicate, MetricWorse),
            ) as judge,
        ):
            journal = Journal(folder / "journal.ndjson")
            events.emit("", "", _opening(wanted, history, folder, len(journal)))
            bench = Bench(journal, judge, wanted.predicate, lambda text: events.emit("", "", text))
            session = Session(
                wanted,
                history,
                bench,
                parents_of=functools.partial(_parents, repository),
                prior=lambda: _weights(folder, shop, judge, history),
                subject_of=subject,
            )
            try:
                found = session.run()
            except Interrupted:
                again = f"orchestrate bisect --resume {shlex.quote(str(folder))}"
                raise Interrupted("interrupted", remedy=f"What was done is kept. Go on: {again}") from None
            finally:
                with contextlib.suppress(OSError):
                    _write_log(folder, wanted, session, "", subject)
        _write_log(folder, wanted, session, found.culprit, subject)
        told = account.account(folder.name, wanted, journal.steps, found, subject)
    for name, content in (
        (setup.CONCLUSION, msgspec.json.format(msgspec.json.encode(found)).decode()),
        ("report.md", report.markdown(told)),
        ("report.html", report.html(told)),
    ):
        write_atomically(folder / name, content.encode(), mode=0o644)
    console.print()
    for line in [*report.terminal(told), f"report: {folder / 'report.html'}"]:
        console.print(line, soft_wrap=True, markup=False)
    return found


def _opening(wanted: Setup, history: History, folder: Path, steps: int) -> str:
    kept = f", {steps} steps are there" if steps else ""
    return f"{len(history)} commits, bad is: {wanted.predicate}{kept}; results in {folder}"


def _target(shop: Workshop, wanted: Setup) -> Target:
    tree = shop.check_out(wanted.bad)
    return Target(label="bad", tree=tree, tree_class=classify(tree.path), source=Source(spec=tree.base_spec))


def _with_inputs(wanted: Setup, inputs: dict[str, str], resumed: bool) -> Setup:
    if not resumed:
        return msgspec.structs.replace(wanted, inputs=inputs)
    for name in {*wanted.inputs, *inputs}:
        if wanted.inputs.get(name) != inputs.get(name):
            raise UserError(
                f"{name} is not what it was when the bisect began",
                remedy="Bring it back to that state, or begin a new bisect.",
            )
    return wanted


def _made(repository: Path, mend: Mend) -> Fix:
    listed = run_git(repository, "rev-list", mend.revisions).decode().split()
    return Fix(commit=mend.commit, within=frozenset(listed))


def _has_room(choices: Choices) -> bool:
    return (os.cpu_count() or 1) >= 2 * choices.smp


def _parents(repository: Path, commit: str) -> tuple[str, ...]:
    return tuple(run_git(repository, "rev-parse", f"{commit}^@").decode().split())


def _weights(folder: Path, shop: Workshop, judge: KernelOracle, history: History) -> dict[str, float]:
    """What is believed of commits beforehand; found out once, since it depends on what is built just then."""
    path = folder / "prior.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    found: dict[str, float] = {}
    with contextlib.suppress(GitError, OSError):
        files = relevance.compiled(judge.objects, shop.path) if judge.objects is not None else ()
        found = relevance.weights(shop.path, history, files)
    write_atomically(path, msgspec.json.encode(found), mode=0o644)
    return found


def _write_log(
    folder: Path, wanted: Setup, session: Session, culprit: str, subject: Callable[[str], str]
) -> None:
    text = gitlog.write(wanted.good, wanted.bad, session.verdicts(), culprit, subject)
    write_atomically(folder / "bisect.log", text.encode(), mode=0o644)


# --- beforehand


def estimate(wanted: Setup, history: History, store: Store, out: Path) -> list[str]:
    """What a bisect would cost, in lines for people; by what builds and boots have cost here.

    :param out: the folder of earlier runs.
    """
    from orchestrator.estimate import boot_seconds

    arch = arches.load(wanted.choices.arches[0])
    steps = max(1, math.ceil(math.log2(len(history) + 1)))
    builds = steps + len(wanted.good) + 1 + 3
    boots = (
        0 if isinstance(wanted.predicate, BuildFails) else steps + wanted.ends * (1 + len(wanted.good)) + 6
    )
    if isinstance(wanted.predicate, MetricWorse):
        boots += 2 * steps * 9
    suites = asked.suites_in(wanted.choices)
    lines = [
        f"{len(history)} commits, bad is: {wanted.predicate}.",
        f"About {steps} commits to judge, if it shows in every boot: {builds} builds, {boots} boots.",
    ]
    cold, warm = (kernels.usual_cost_s(arch, store, warm=each) for each in (False, True))
    jobs = cpus(wanted.choices.jobs)
    if cold is None:
        lines.append("What a build costs here is not known yet.")
    else:
        each = warm if warm is not None else cold
        minutes = (cold + each * (builds - 1)) / jobs / 60
        kind = "" if warm is not None else " at most"
        lines.append(f"Builds: {minutes:.0f} min on {jobs} CPUs{kind}.")
    usual = boot_seconds(out, arch.name, wanted.choices.variants[0], [suite.name for suite in suites])
    if boots:
        took = "not known yet" if usual is None else f"{boots * usual / 60:.0f} min"
        lines.append(f"Boots: {took}.")
    return [*lines, "Nothing was run."]
