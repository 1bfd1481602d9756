# SPDX-License-Identifier: GPL-2.0-only
"""A series and its results: the content of ``series.json``, from which all reports are made."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from orchestrator.analysis.regression import MetricChange
from orchestrator.analysis.stats import Ratio
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import Case, CellResult

#: The version of ``series.json``; a later one is not resumed.
SERIES_VERSION = 1

#: The checks of each patch besides its suites.
BUILD, WARNINGS, BOOT, BENCH = "build", "warnings", "boot", "bench"
APPLIES, COMPILE = "applies", "compile"


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """One commit of the series; number 0 is the base. A ``merge`` stands for all commits that it merged."""

    number: int
    commit: str
    subject: str = ""
    merge: bool = False

    def __str__(self) -> str:
        name = "the base" if self.number == 0 else f"patch {self.number}"
        return f"{name} ({self.commit[:12]} {self.subject!r})"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A check of every patch. ``check`` is ``applies``, ``build``, ``boot`` … or the name of a suite."""

    check: str
    arch: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        """``build arm64 mmap-lock``, and the key in ``series.json``."""
        return " ".join(filter(None, (self.check, self.arch, self.variant)))

    @property
    def own(self) -> bool:
        """Whether the check is not a suite. Such a row cannot make a series green."""
        return self.check in (APPLIES, BUILD, WARNINGS, BOOT, COMPILE)


class KernelId(NamedTuple):
    """An arch and a variant: each patch has one kernel for each."""

    arch: str
    variant: str

    @classmethod
    def of(cls, cell: CellResult | CellPlan) -> KernelId:
        """The kernel of a cell."""
        return cls(cell.arch, cell.variant)

    @classmethod
    def parse(cls, key: str) -> KernelId:
        """The kernel of a key in ``series.json``."""
        return cls(*key.split())

    @property
    def key(self) -> str:
        """``arm64 mmap-lock``: the key in ``series.json``."""
        return f"{self.arch} {self.variant}"

    def row(self, check: str) -> Row:
        """A check of this kernel."""
        return Row(check=check, arch=self.arch, variant=self.variant)


class RowResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a check of one patch. ``same``: it is that of the patch before, whose image is equal.

    ``run`` is the folder of its run, relative to the series's folder.
    """

    cases: tuple[Case, ...]
    same: bool = False
    run: str = ""


class PatchKernel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A kernel of a patch; ``image`` is the digest of its image, empty if there is none."""

    image: str = ""
    release: str = ""
    toolchain: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The results of one patch: ``rows`` by name, ``kernels`` by ``arch variant``, ``machines`` by arch."""

    number: int
    rows: dict[str, RowResult] = {}
    kernels: dict[str, PatchKernel] = {}
    machines: dict[str, str] = {}
    finished: bool = msgspec.field(name="done", default=False)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of the tip over that of the base: 0.5 means that the series halves it.

    ``better`` is ``lower`` or ``higher``, ``says`` what the boots show. If it is perhaps worse or better,
    ``boots`` a side could decide.
    """

    arch: str
    variant: str
    suite: str
    metric: str
    better: str
    base: float
    tip: float
    ratio: Ratio
    says: MetricChange
    boots: int = 0


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a series is and how it is tested, so that it can be resumed.

    ``choices`` are for the run of each patch, with the base as source. ``folder`` is the user's repository,
    ``name`` the user's name for the series. ``inputs`` are the copies of its mails, relative to the series's
    folder; none for a range. ``also`` are the configurations that are only compiled, ``bench`` the
    benchmarks that compare base and tip.
    """

    choices: Choices
    folder: str
    name: str = msgspec.field(name="given")
    inputs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    bench: tuple[str, ...] = ()


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``series.json``. ``patches`` start with the base; ``steps`` are those so far.

    ``notes`` are sentences about how the series was read. ``digests`` are of the inputs besides the kernels.
    """

    version: int = SERIES_VERSION
    id: str
    scope: Scope = msgspec.field(name="asked")
    patches: tuple[Patch, ...]
    rows: tuple[Row, ...]
    steps: tuple[Step, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = {}
    started_at: str = ""
    finished_at: str = ""
    interrupted: bool = False
