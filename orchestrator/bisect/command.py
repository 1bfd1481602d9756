# SPDX-License-Identifier: GPL-2.0-only
"""``orchestrate bisect``: execute a setup and report the conclusion.

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

from orchestrator.bisect import gitlog, relevance, report, request, summary
from orchestrator.bisect import setup as setups
from orchestrator.bisect.graph import History
from orchestrator.bisect.journal import Journal
from orchestrator.bisect.oracle import KernelOracle, once
from orchestrator.bisect.predicate import BuildFails, MetricWorse
from orchestrator.bisect.recorder import Recorder
from orchestrator.bisect.session import Session
from orchestrator.bisect.setup import Conclusion, FixRange, Setup
from orchestrator.core import arch as arches
from orchestrator.core.errors import Interrupted
from orchestrator.core.events import Events
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store
from orchestrator.engine.protocol import Engine
from orchestrator.plan import inputs as run_inputs
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.target import target_of
from orchestrator.run.directory import RunDirectory, check_inputs
from orchestrator.run.estimate import boot_seconds, incremental_builds
from orchestrator.source import checkout
from orchestrator.source.checkout import Fix
from orchestrator.source.git import GitError, commits_between, run_git

Say = Callable[[str], None]


def execute(
    folder: Path,
    setup: Setup,
    history: History,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
) -> Conclusion:
    """Execute or resume a bisect, and write its report to the folder and the terminal.

    :raises UserError: an end cannot be used; an input has changed.
    :raises OrchestrateError: an end is not as claimed, or the bisect cannot continue.
    """
    repository = Path(setup.repository)
    subject = functools.cache(functools.partial(summary.subject_of, repository))
    with contextlib.ExitStack() as resources:
        setup, judge, events = _prepare(folder, setup, store, engine, console, say, resources)
        journal = Journal(folder / "journal.ndjson")
        events.emit("", "", _opening(setup, history, folder, len(journal)))
        session = Session(
            setup,
            history,
            Recorder(journal, judge, setup.predicate, lambda text: events.emit("", "", text)),
            parents_of=functools.partial(_parents, repository),
            prior=lambda: _weights(folder, judge, history),
            subject_of=subject,
        )
        conclusion = _search(folder, setup, session, subject)
    _publish(folder, setup, conclusion, journal, subject, console)
    return conclusion


def _prepare(
    folder: Path,
    setup: Setup,
    store: Store,
    engine: Engine,
    console: Console,
    say: Say,
    resources: contextlib.ExitStack,
) -> tuple[Setup, KernelOracle, Events]:
    """The bisect's folder, clone and oracle; ``resources`` releases them."""
    resumed = (folder / setups.SETUP).is_file()
    place = RunDirectory(folder)
    if resumed:
        resources.enter_context(place.lock())
    clone = resources.enter_context(checkout.opened(Path(setup.repository), cache=store.root, say=say))
    tree = clone.check_out(setup.bad)
    target = target_of("bad", tree, Source(spec=tree.base_spec))
    choices = once(setup.choices, target.source)
    suites = request.suites_in(setup.choices)
    inputs = prepare.inputs(choices, [target], suites, store, say)
    digests = run_inputs.digests(inputs)
    if resumed:
        check_inputs(setup.inputs, digests, setups.KIND)
    else:
        # only now the folder is made: a refused bisect leaves none
        resources.enter_context(place.lock())
        setup = msgspec.structs.replace(setup, inputs=digests)
        place.write(setups.SETUP, msgspec.json.format(msgspec.json.encode(setup)))
    events = resources.enter_context(Events(console, folder / "events.ndjson"))
    judge = KernelOracle(
        folder,
        clone,
        inputs,
        Store(store.root, engine.cancelled),
        engine,
        events,
        fixes=[_fix(setup, fix) for fix in setup.fixes],
        parallel=_has_room(choices) and not isinstance(setup.predicate, MetricWorse),
    )
    return setup, resources.enter_context(judge), events


def _search(folder: Path, setup: Setup, session: Session, subject: Callable[[str], str]) -> Conclusion:
    """Run the session to its conclusion; write its `git bisect log` in any case."""
    culprit = ""
    try:
        conclusion = session.run()
        culprit = conclusion.culprit
        return conclusion
    except Interrupted:
        command = f"orchestrate bisect --resume {shlex.quote(str(folder))}"
        raise Interrupted("interrupted", remedy=f"Finished steps are kept. Resume: {command}") from None
    finally:
        with contextlib.suppress(OSError):
            log = gitlog.write(setup.good, setup.bad, session.verdicts(), culprit, subject)
            RunDirectory(folder).write("bisect.log", log.encode())


def _publish(
    folder: Path,
    setup: Setup,
    conclusion: Conclusion,
    journal: Journal,
    subject: Callable[[str], str],
    console: Console,
) -> None:
    account = summary.account(folder.name, setup, journal.steps, conclusion, subject)
    place = RunDirectory(folder)
    place.write(setups.CONCLUSION, msgspec.json.format(msgspec.json.encode(conclusion)))
    place.write("report.md", report.markdown(account).encode())
    place.write("report.html", report.html(account).encode())
    console.print()
    for line in [*report.terminal(account), f"report: {folder / 'report.html'}"]:
        console.print(line, soft_wrap=True, markup=False)


def _opening(setup: Setup, history: History, folder: Path, steps: int) -> str:
    progress = f", {steps} steps are done" if steps else ""
    return f"{len(history)} commits, bad is: {setup.predicate}{progress}; results in {folder}"


def _fix(setup: Setup, fix: FixRange) -> Fix:
    first, _, last = fix.revisions.partition("..")
    return Fix(commit=fix.commit, within=frozenset(commits_between(Path(setup.repository), [first], last)))


def _has_room(choices: Choices) -> bool:
    return (os.cpu_count() or 1) >= 2 * choices.smp


def _parents(repository: Path, commit: str) -> tuple[str, ...]:
    return tuple(run_git(repository, "rev-parse", f"{commit}^@").decode().split())


def _weights(folder: Path, judge: KernelOracle, history: History) -> dict[str, float]:
    """The prior weight of each commit. Computed once, since it depends on the objects of the first build."""
    path = folder / "prior.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    weights: dict[str, float] = {}
    with contextlib.suppress(GitError, OSError):
        files = relevance.compiled(judge.objects, judge.tree) if judge.objects is not None else ()
        weights = relevance.weights(judge.tree, history, files)
    write_atomically(path, msgspec.json.encode(weights))
    return weights


def estimate(setup: Setup, history: History, store: Store, out: Path) -> list[str]:
    """The cost of a bisect in words, estimated from earlier builds and boots on this host.

    :param out: the folder of earlier runs.
    """
    arch = arches.load(setup.choices.arches[0])
    steps = max(1, math.ceil(math.log2(len(history) + 1)))
    builds = steps + len(setup.good) + 1 + 3
    boots = 0 if isinstance(setup.predicate, BuildFails) else steps + setup.ends * (1 + len(setup.good)) + 6
    if isinstance(setup.predicate, MetricWorse):
        boots += 2 * steps * 9
    suites = request.suites_in(setup.choices)
    lines = [
        f"{len(history)} commits, bad is: {setup.predicate}.",
        f"About {steps} commits to judge, if the fault shows in every boot: {builds} builds, {boots} boots.",
    ]
    cost = incremental_builds(arch, store, cold=1, warm=builds - 1, jobs=setup.choices.jobs)
    lines.append(f"Builds: {cost}.")
    usual = boot_seconds(out, arch.name, setup.choices.variants[0], [suite.name for suite in suites])
    if boots:
        duration = "not known yet" if usual is None else f"{boots * usual / 60:.0f} min"
        lines.append(f"Boots: {duration}.")
    return [*lines, "Nothing was built or booted."]
