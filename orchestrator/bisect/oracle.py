# SPDX-License-Identifier: GPL-2.0-only
"""Test one commit once: checkout, kernel, one fresh boot, by the same code as a run.

    <bisect>/builds/NAME.json       the kernel, or why there is none
             logs/NAME.log          the log of a build that failed
             patches/…              fixes and reverts on top of a commit
             boots/NAME-N/…         one run directory per boot

Existing builds and boots are not repeated. A bisect that was killed loses only the build or boot at work.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from orchestrator.bisect.journal import BuildStep, Subject
from orchestrator.core import codec
from orchestrator.core.errors import InfraError, Interrupted, KernelError, OrchestrateError, UserError
from orchestrator.core.events import Events
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store, digest_of, file_digest
from orchestrator.engine.protocol import Engine
from orchestrator.kernel import build as kernels
from orchestrator.kernel import objdir
from orchestrator.kernel.spec import Kernel
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs, kernel_spec, not_applicable
from orchestrator.plan.target import Target, target_of
from orchestrator.results.model import CellResult
from orchestrator.run.directory import RunDirectory
from orchestrator.run.execute import execute
from orchestrator.source.checkout import Checkout, Fix
from orchestrator.suites import catalog


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one boot; ``run`` is its run directory, relative to the bisect's folder."""

    result: CellResult
    run: str
    seconds: float


class Oracle(Protocol):
    """Builds and boots commits. A repeated request returns the earlier result."""

    def build(self, subject: Subject) -> BuildStep:
        """The kernel of a commit. :raises InfraError: the host failed it. :raises Interrupted: cancelled."""
        ...

    def boot(self, subject: Subject, number: int, case: str = "") -> Boot:
        """The ``number``-th boot of a kernel that was built. :raises InfraError, Interrupted: as above.

        :param case: the pattern of the cases to look at; programs without such a case need not run.
        """
        ...

    def discard(self, subject: Subject, number: int) -> None:
        """Set aside a boot that the host disturbed, so that it can be repeated."""
        ...

    def prefetch(self, subjects: Sequence[Subject]) -> None:
        """Build what may come next while the next boot runs, if the host has room for that."""
        ...


class _BuildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file in ``builds``."""

    built: BuildStep
    key: str = ""
    target: Target | None = None


class KernelOracle:
    """The oracle of real kernels and guests. A context manager: at its end no build is running.

    :param inputs: for all boots; each boot gets its own target.
    :param parallel: whether kernels are built while guests run.
    """

    def __init__(
        self,
        folder: Path,
        checkout: Checkout,
        inputs: Inputs,
        store: Store,
        engine: Engine,
        events: Events,
        *,
        fixes: Sequence[Fix] = (),
        parallel: bool = False,
    ) -> None:
        self._folder = folder
        self._checkout = checkout
        self._inputs = inputs
        self._store = store
        self._engine = engine
        self._events = events
        self._fixes = fixes
        self._parallel = parallel
        self._next: list[Subject] = []
        self._worker: threading.Thread | None = None
        self._closed = False
        #: the object folder of the last build
        self.objects: Path | None = None

    @property
    def tree(self) -> Path:
        """The tree that commits are checked out to."""
        return self._checkout.path

    def __enter__(self) -> KernelOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._next, self._closed = [], True
        if self._worker is not None and self._worker.is_alive():
            from orchestrator.core import process

            process.end_all()
            self._worker.join()

    # --- kernels

    def build(self, subject: Subject) -> BuildStep:
        """See ``Oracle.build``."""
        record = self._record(subject)
        if record is not None and (record.built.error or self._in_cache(record)):
            return record.built
        with self._checkout.lock:
            return self._build(subject).built

    def _build(self, subject: Subject, jobs: int = 0) -> _BuildRecord:
        """Check out and build, with the checkout's lock held."""
        record = self._record(subject)
        if record is not None and (record.built.error or self._in_cache(record)):
            return record
        self._check_interrupted()
        since = time.monotonic()
        log = self._folder / "logs" / f"{subject.name}.log"
        try:
            record = self._make(subject, log, jobs)
        except InfraError:
            self._check_interrupted()
            raise
        except OrchestrateError as error:
            self._check_interrupted()
            record = _BuildRecord(built=self._failed(subject, error, log))
        seconds = round(time.monotonic() - since, 1)
        record = msgspec.structs.replace(record, built=msgspec.structs.replace(record.built, seconds=seconds))
        write_atomically(self._path(subject), codec.encode(record))
        return record

    def _make(self, subject: Subject, log: Path, jobs: int) -> _BuildRecord:
        choices = self._inputs.choices
        (arch,), (variant,) = choices.arches, choices.variants
        tree = self._checkout.check_out(
            subject.commit, self._fixes, without=subject.without, keep=self._folder / "patches"
        )
        source = Source(spec=tree.base_spec, patches=tree.patches)
        target = target_of(subject.name, tree, source)
        inputs = self._with_target(target)
        if reason := not_applicable(inputs, target, variant):
            return _BuildRecord(built=BuildStep(subject=subject, error=f"not applicable: {reason}"))
        spec = kernel_spec(inputs, target.label, arch, variant)
        place = self._checkout.objects(
            arch, variant, choices.flavors, choices.kconfig, digest_of(inputs.base), spec.toolchain.version
        )
        spec = msgspec.structs.replace(spec, workplace=place)
        self.objects = objdir.place_of(place, sandboxed=spec.sandboxed) / "o"
        # configure both legs now: later the tree may be at another commit
        kernels.pair_difference(spec, self._store)
        kernel = kernels.build(
            spec,
            self._store,
            say=lambda text: self._events.emit(subject.name, "build", text),
            log=log,
            jobs=jobs or choices.jobs,
        )
        step = BuildStep(subject=subject, image=_image(kernel), cached=kernel.cached)
        return _BuildRecord(built=step, key=kernel.key, target=target)

    def _failed(self, subject: Subject, error: OrchestrateError, log: Path) -> BuildStep:
        return BuildStep(
            subject=subject,
            error=error.message,
            kernels_fault=isinstance(error, KernelError),
            log=str(log.relative_to(self._folder)) if log.is_file() else "",
        )

    def _check_interrupted(self) -> None:
        if self._engine.cancelled() or self._closed:
            raise Interrupted("interrupted")

    def _path(self, subject: Subject) -> Path:
        return self._folder / "builds" / f"{subject.name}.json"

    def _record(self, subject: Subject) -> _BuildRecord | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return codec.decode(self._path(subject).read_bytes(), _BuildRecord)
        return None

    def _in_cache(self, record: _BuildRecord) -> bool:
        return self._store.find("kernels", record.key) is not None

    def _with_target(self, target: Target) -> Inputs:
        return msgspec.structs.replace(self._inputs, targets={target.label: target})

    # --- boots

    def boot(self, subject: Subject, number: int, case: str = "") -> Boot:
        """See ``Oracle.boot``."""
        suites = [catalog.only(suite, case) for suite in self._inputs.suites.values()]
        directory = RunDirectory(self._folder / "boots" / f"{subject.name}-{number}")
        name = str(directory.path.relative_to(self._folder))
        record = self._record(subject)
        if record is None or not self._in_cache(record):
            with self._checkout.lock:
                record = self._build(subject)
        target = record.target
        if target is None:
            raise InfraError(f"{subject.name}: its kernel cannot be built any more: {record.built.error}")
        choices = once(self._inputs.choices, target.source)
        plan = prepare.plan(choices, [target], suites)
        results = directory.results(plan) if directory.path.exists() else {}
        since = time.monotonic()
        if len(results) < len(plan.cells):
            self._check_interrupted()
            inputs = msgspec.structs.replace(
                self._with_target(target), choices=choices, suites={suite.name: suite for suite in suites}
            )
            with _host_trouble():
                directory.create()
                with directory.lock():
                    self._begin_prefetch()
                    execute(plan, inputs, directory, self._engine, self._events, earlier=results)
            self._check_interrupted()
            results = directory.results(plan)
        result = merged([results[cell.id] for cell in plan.cells])
        if (key := result.properties.get("kernel", record.key)) != record.key:
            raise InfraError(
                f"{subject.name}: kernel {key} was booted instead of {record.key}",
                remedy="Something changed the cache during the boot. Continue with --resume.",
            )
        return Boot(result=result, run=name, seconds=round(time.monotonic() - since, 1))

    def discard(self, subject: Subject, number: int) -> None:
        """See ``Oracle.discard``."""
        path = self._folder / "boots" / f"{subject.name}-{number}"
        if path.is_dir():
            earlier = sum(1 for _ in path.parent.glob(f"{path.name}-spoiled-*"))
            path.rename(path.with_name(f"{path.name}-spoiled-{earlier + 1}"))

    # --- meanwhile

    def prefetch(self, subjects: Sequence[Subject]) -> None:
        """See ``Oracle.prefetch``."""
        self._next = list(subjects) if self._parallel else []

    def _begin_prefetch(self) -> None:
        """Start to build what comes next. A boot calls this once it no longer reads the tree."""
        if self._next and (self._worker is None or not self._worker.is_alive()):
            self._worker = threading.Thread(target=self._work, name="prefetch", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        choices = self._inputs.choices
        jobs = max(1, min(choices.jobs or os.cpu_count() or 1, (os.cpu_count() or 1) - choices.smp))
        while self._next and not self._closed and not self._engine.cancelled():
            subject = self._next.pop(0)
            # an error will show again when its turn comes
            with contextlib.suppress(OrchestrateError, OSError), self._checkout.lock:
                self._build(subject, jobs)


@contextlib.contextmanager
def _host_trouble() -> Iterator[None]:
    """Errors of a boot after the ends have booted are trouble of the host, not wrong usage."""
    try:
        yield
    except UserError as error:
        raise InfraError(error.message, remedy="Fix that. Continue with --resume.") from error
    except OSError as error:
        raise InfraError(
            f"{error.filename or 'the results'}: {error.strerror}",
            remedy="Free some space. Continue with --resume.",
        ) from error


def once(choices: Choices, source: Source) -> Choices:
    """The choices for one boot of one kernel."""
    return msgspec.structs.replace(
        choices, sources=(source,), times=1, boots=1, until_fail=False, decode=False
    )


def _image(kernel: Kernel) -> str:
    """The digest of all that is booted or loaded: kernels with equal digests behave alike."""
    return digest_of(file_digest(kernel.image), file_digest(kernel.module) if kernel.module else "")


def merged(cells: Sequence[CellResult]) -> CellResult:
    """Join the cells of one boot of all suites: benchmarks have their own guest."""
    first = cells[0]
    return msgspec.structs.replace(
        first,
        duration_s=sum(cell.duration_s for cell in cells),
        interrupted=any(cell.interrupted for cell in cells),
        cases=tuple(case for cell in cells for case in cell.cases),
        suites=tuple(suite for cell in cells for suite in cell.suites),
    )
