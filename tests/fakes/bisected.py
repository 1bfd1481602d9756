# SPDX-License-Identifier: GPL-2.0-only
"""Made-up histories, and an oracle that knows their culprit; what it does it writes down, as the real one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from paths import DATA

from orchestrator.bisect.journal import BuildStep, Subject
from orchestrator.bisect.oracle import Boot
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict
from orchestrator.splat import file

CASE = "maps/reads"
LOGS = DATA / "splat"


def reports(name: str) -> tuple[str, ...]:
    """Fingerprints of the kernel reports in a log of ours, each once, as the scanner makes them."""
    return tuple(dict.fromkeys(splat.fingerprint for splat in file.read(str(LOGS / name)).splats))


BAD_RSS = next(f for f in reports("mm-bugs.log") if "rss" in f)
REFCOUNT, BAD_LIST = reports("refcount-and-list.log")
(START_READ,) = reports("x86-warning-7.2.log")
(MARK_DETACHED,) = reports("x86-warning-6.12-panic-on-warn.log")


def history(count: int, *, merges: bool = True, seed: int = 1) -> dict[str, tuple[str, ...]]:
    """Commits, oldest first, with their parents: a trunk with side branches that come back."""
    dice = random.Random(seed)
    parents: dict[str, tuple[str, ...]] = {}
    trunk: str | None = None
    side: list[str] = []
    for number in range(count):
        name = f"{number:040x}"
        last = number == count - 1
        if merges and side and trunk and (last or dice.random() < 0.15):
            parents[name] = (trunk, side.pop())
            trunk, side = name, []
        elif merges and trunk and not last and dice.random() < 0.4:
            parents[name] = (side[-1] if side else trunk,)
            side = [name]
        else:
            parents[name] = (trunk,) if trunk else ("good",)
            trunk = name
    return parents


def result(
    verdict: Verdict,
    *,
    case: str = CASE,
    fingerprint: str = "",
    further: tuple[str, ...] = (),
    reason: str = "",
    **more: object,
) -> CellResult:
    """A cell with one case."""
    suite = case.partition("/")[0]
    found = Case(
        id=case,
        verdict=verdict,
        reason=reason,
        fingerprint=fingerprint,
        further_fingerprints=further,
        blame=Blame.NONE,
    )
    given: dict[str, object] = {
        "cell": "x",
        "cases": (Case(id="boot", verdict=Verdict.PASS),),
        "suites": (SuiteResult(suite=suite, cases=(found,)),),
    }
    return CellResult(**{**given, **more})  # type: ignore[arg-type]


def metric(value: float) -> CellResult:
    """A cell with one number."""
    suite = SuiteResult(suite="map-latency", kind="benchmark", metrics={"p99_us_scanned": value})
    return CellResult(cell="x", cases=(Case(id="boot", verdict=Verdict.PASS),), suites=(suite,))


class FakeOracle:
    """Judges in no time.

    :param tell: what the ``number``-th boot of a commit comes to; an exception of its is raised.
    :param broken: commits that do not build, with what the compiler says.
    :param images: commits whose kernel is another one's.
    :param work_s: what a build and a boot take; the file ``work`` has when they begin and end.
    """

    def __init__(
        self,
        folder: Path,
        tell: Callable[[Subject, int], CellResult],
        *,
        broken: Mapping[str, str] | None = None,
        images: Mapping[str, str] | None = None,
        work_s: float = 0.0,
    ) -> None:
        self._folder = folder
        self._tell = tell
        self._broken = broken or {}
        self._images = images or {}
        self._work_s = work_s
        self.prefetched: list[str] = []
        self.cases: list[str] = []

    def _done(self, name: str, make: Callable[[], object]) -> bytes:
        path = self._folder / "done" / name
        if not path.exists():
            self._write(f"begin {name}")
            time.sleep(self._work_s)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp")
            fresh.write_bytes(msgspec.json.encode(make()))
            fresh.replace(path)
            self._write(f"end {name}")
        return path.read_bytes()

    def _write(self, line: str) -> None:
        with (self._folder / "work").open("a") as stream:
            stream.write(f"{line}\n")

    def build(self, subject: Subject) -> BuildStep:
        """See ``Oracle.build``."""

        def make() -> BuildStep:
            if error := self._broken.get(subject.commit):
                return BuildStep(subject=subject, error=error, kernels_fault=True, seconds=5)
            image = self._images.get(subject.commit, subject.commit) + subject.without
            return BuildStep(subject=subject, image=image, seconds=60)

        return msgspec.json.decode(
            self._done(f"build-{subject.name}-{subject.commit[-8:]}", make), type=BuildStep
        )

    def boot(self, subject: Subject, number: int, case: str = "") -> Boot:
        """See ``Oracle.boot``."""
        self.cases.append(case)
        name = f"boot-{subject.name}-{subject.commit[-8:]}-{number}"
        content = self._done(name, lambda: self._tell(subject, number))
        return Boot(result=msgspec.json.decode(content, type=CellResult), run=name, seconds=30)

    def discard(self, subject: Subject, number: int) -> None:
        """See ``Oracle.discard``."""
        (self._folder / "done" / f"boot-{subject.name}-{subject.commit[-8:]}-{number}").unlink()

    def prefetch(self, subjects: Sequence[Subject]) -> None:
        """See ``Oracle.prefetch``."""
        self.prefetched += [each.commit for each in subjects]

    def work(self) -> list[str]:
        """What was begun and ended, in order."""
        path = self._folder / "work"
        return path.read_text().splitlines() if path.exists() else []


def shows(parents: Mapping[str, Sequence[str]], culprit: str) -> set[str]:
    """The commits that have the culprit."""
    found = {culprit}
    for commit, of in parents.items():
        if found & set(of):
            found.add(commit)
    return found


def teller(
    parents: Mapping[str, Sequence[str]], culprit: str, rate: float = 1.0, seed: int = 0
) -> Callable[[Subject, int], CellResult]:
    """FAIL where the culprit is, at that rate."""
    bad = shows(parents, culprit)

    def tell(subject: Subject, number: int) -> CellResult:
        dice = random.Random(json.dumps([seed, subject.commit, subject.without, number]))
        is_bad = subject.commit in bad and subject.without != culprit
        return result(Verdict.FAIL if is_bad and dice.random() < rate else Verdict.PASS)

    return tell
