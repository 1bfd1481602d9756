# SPDX-License-Identifier: GPL-2.0-only
"""A series and what came of it: what ``series.json`` holds and everything else is drawn from."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from orchestrator.analysis.stats import Ratio, Says
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import Case, CellResult

#: The version of ``series.json``; a later one is not resumed.
SERIES_VERSION = 1

#: Checks that are made once for each arch and variant of a patch, besides those of suites.
BUILD, WARNINGS, BOOT, BENCH = "build", "warnings", "boot", "bench"
APPLIES, COMPILE = "applies", "compile"


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """One commit of the series; number 0 is the base. ``merge``: it is one, and brings all that it merged."""

    number: int
    commit: str
    subject: str = ""
    merge: bool = False

    def __str__(self) -> str:
        name = "the base" if self.number == 0 else f"patch {self.number}"
        return f"{name} ({self.commit[:12]} {self.subject!r})"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A check of every patch: ``check`` is one of ours (``build``, ``boot`` …) or the name of a suite."""

    check: str
    arch: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        """``build arm64 mmap-lock``, and the key in ``series.json``."""
        return " ".join(filter(None, (self.check, self.arch, self.variant)))

    @property
    def own(self) -> bool:
        """Whether it is no suite: such a row makes nothing green."""
        return self.check in (APPLIES, BUILD, WARNINGS, BOOT, COMPILE)


class KernelId(NamedTuple):
    """An arch and a variant: of each patch there is one kernel for each."""

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
    """The result of a check of one patch. ``same``: taken over from the patch before, whose image is equal.

    ``run`` is the run that it came of, relative to the series's folder.
    """

    cases: tuple[Case, ...]
    same: bool = False
    run: str = ""


class PatchKernel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A kernel of a patch; ``image`` is the digest of its image, empty where there is none."""

    image: str = ""
    release: str = ""
    toolchain: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one patch. ``rows`` by their names, ``kernels`` by ``arch variant``."""

    number: int
    rows: dict[str, RowResult] = {}
    kernels: dict[str, PatchKernel] = {}
    machines: dict[str, str] = {}
    done: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of the tip over that of the base: 0.5 means that the series halves it.

    ``better`` is ``lower`` or ``higher``, ``says`` what the interval allows to say. ``judged``: a worse
    value of this one is a fault of the series.
    """

    arch: str
    variant: str
    suite: str
    metric: str
    better: str
    base: float
    tip: float
    ratio: Ratio
    says: Says
    judged: bool = False


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a series is and what is tested of it, so that it can be resumed.

    ``choices`` are those of each patch's run; its source is the base. ``folder`` is the user's repository,
    ``name`` the series as the user named it, ``inputs`` the copies of its mails (relative to the series's
    folder) where it was not a range. ``also`` are the configurations that are only compiled, ``bench`` the
    benchmarks in which base and tip are compared.
    """

    choices: Choices
    folder: str
    name: str = msgspec.field(name="given")
    inputs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    bench: tuple[str, ...] = ()


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What ``series.json`` holds. ``patches`` begin with the base, ``steps`` go as far as it has come.

    ``notes`` are sentences about how the series was read. ``digests`` are of what it reads besides its
    kernels.
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
