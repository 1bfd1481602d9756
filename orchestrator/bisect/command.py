# SPDX-License-Identifier: GPL-2.0-only
"""``orchestrate bisect``: from options to a setup, and from a setup to the account of what was found.

<out>/bisect-ID/bisect.json journal.ndjson events.ndjson conclusion.json
                bisect.log report.md report.html
                builds/ logs/ patches/ boots/        see ``oracle``
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from orchestrator.bisect import gitlog, oracle, relevance, report, request, setup, summary
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import Journal
from orchestrator.bisect.oracle import KernelOracle
from orchestrator.bisect.predicate import BuildFails, MetricWorse
from orchestrator.bisect.recorder import Bench
from orchestrator.bisect.session import Session
from orchestrator.bisect.setup import Conclusion, Mend, Setup
from orchestrator.cell.state import Target
from orchestrator.core import arch as arches
from orchestrator.core.errors import Interrupted
from orchestrator.core.events import Events
from orchestrator.core.store import Store
from orchestrator.engine.local import LocalEngine
from orchestrator.kernel import build as kernels
from orchestrator.plan import prepare
from orchestrator.plan.plan import Choices, Source
from orchestrator.run.estimate import boot_seconds, cpus
from orchestrator.run.execute import RunDirectory, check_inputs
from orchestrator.source import checkout
from orchestrator.source.checkout import Fix, Workshop
from orchestrator.source.clone import GitError, run_git
from orchestrator.vm.rootfs.overlay import write_atomically

Say = Callable[[str], None]


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
    suites = request.suites_in(wanted.choices)
    place = RunDirectory(folder)
    with contextlib.ExitStack() as held:
        if resumed:
            held.enter_context(place.held())
        shop = held.enter_context(checkout.opened(repository, cache=store.root, say=say))
        target = _target(shop, wanted)
        choices = oracle.once(wanted.choices, target.source)
        shared = prepare.context(
            choices, [target], suites, store, folder, cancelled=engine.cancelled, say=say
        )
        inputs = prepare.inputs(shared)
        if resumed:
            check_inputs(wanted.inputs, inputs, setup.KIND)
        else:
            # only now there is a folder: what is refused leaves none
            held.enter_context(place.held())
            wanted = msgspec.structs.replace(wanted, inputs=inputs)
            write_atomically(
                folder / setup.SETUP, msgspec.json.format(msgspec.json.encode(wanted)), mode=0o644
            )
        subject = functools.cache(functools.partial(summary.subject_of, repository))
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
        told = summary.account(folder.name, wanted, journal.steps, found, subject)
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
    return prepare.target_of("bad", tree, Source(spec=tree.base_spec))


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
    arch = arches.load(wanted.choices.arches[0])
    steps = max(1, math.ceil(math.log2(len(history) + 1)))
    builds = steps + len(wanted.good) + 1 + 3
    boots = (
        0 if isinstance(wanted.predicate, BuildFails) else steps + wanted.ends * (1 + len(wanted.good)) + 6
    )
    if isinstance(wanted.predicate, MetricWorse):
        boots += 2 * steps * 9
    suites = request.suites_in(wanted.choices)
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
