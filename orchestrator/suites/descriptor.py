# SPDX-License-Identifier: GPL-2.0-only
"""The content of a ``suite.toml``, and a loaded suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.suites import files as folders

#: The descriptor's name in its folder.
FILE = "suite.toml"

# values that the guest's runner can parse
_Word = Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")]
_Variable = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z")]
_Seconds = Annotated[float, Meta(ge=0, le=86400)]
_Version = Annotated[str, Meta(pattern=r"\A(\d+(\.\d+)*)?\Z")]
_Package = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9+.-]+\Z")]
_FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z", max_length=100)]
_Cpus = Annotated[str, Meta(pattern=r"\A(\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*)?\Z")]
_Count = Annotated[int, Meta(ge=1)]


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One program of a suite.

    ``script`` is a file of the folder, copied as it is; else ``sources`` in C are compiled, with ``cflags``
    in place of the suite's. ``timeout_s`` 0 means the suite's; it is for a machine that boots in a second,
    and is scaled by the measured speed. ``cpus`` and ``nice`` are set for the process and read back.
    ``vsyscall``: the ``vsyscall=`` boot parameter matters to it. ``kernel_since``: older kernels lack the
    feature that it tests. ``widen`` names points of the kernel (``guest/widen.toml``) that are delayed while
    it runs; it runs only if the kernel's flavor has the module for that.
    """

    name: _FileName
    script: str = ""
    sources: tuple[str, ...] = ()
    cflags: tuple[_Word, ...] = ()
    argv: tuple[_Word, ...] = ()
    env: Annotated[dict[_Variable, _Word], Meta(max_length=128)] = {}
    parser: Literal["exit", "ktap", "benchmark"] = "exit"
    timeout_s: _Seconds = 0.0
    cpus: _Cpus = ""
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    vsyscall: bool = False
    widen: tuple[str, ...] = ()
    kernel_since: _Version = ""


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The expected result of a program on kernels from ``since`` up to but without ``until``.

    ``arch`` empty means all. ``outcome`` "skip": the test itself refuses, for ``reason``; "any": it may pass
    or skip. ``skips`` are patterns of the cases that may skip while others must not, below the program's
    name: ``query/*``.
    """

    program: str
    since: _Version = ""
    until: _Version = ""
    arch: tuple[str, ...] = ()
    outcome: Literal["pass", "skip", "any"] = "pass"
    reason: str = ""
    cases: _Count = 1
    skips: tuple[str, ...] = ()


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a suite's C programs are compiled: one static binary each; ``library``: with selftests/lib."""

    sources: tuple[str, ...] = ()
    cflags: tuple[_Word, ...] = ("-O2",)
    library: bool = False


class Descriptor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``suite.toml``; see docs/reference/suite-descriptor.md for the meaning of each field."""

    name: str
    description: str
    kind: Literal["functional", "benchmark"] = "functional"
    origin: Literal["own", "tree"] = "own"
    directory: str = ""
    all_programs: bool = False
    packages: tuple[_Package, ...] = ()
    files: tuple[str, ...] = ()
    alone: bool = False
    races: bool = False
    boots: _Count = 1
    min_cpus: _Count = 1
    timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    build: Build = Build()
    program: tuple[Program, ...] = ()
    expect: tuple[Expectation, ...] = ()


class Suite(Descriptor, frozen=True):
    """A loaded suite.

    ``folder`` is the absolute folder of descriptor and sources. ``user``: it is the user's, not one of
    orchestrate. A suite made by ``command`` has its ``commands`` and the
    files to ``put`` beside them.
    """

    folder: Path = Path()
    user: bool = False
    commands: tuple[str, ...] = ()
    put: tuple[Path, ...] = ()

    def limit_s(self, program: Program) -> float:
        """The program's own time-out, or the suite's."""
        return program.timeout_s or self.timeout_s

    def program_or_default(self, name: str) -> Program:
        """The program of that name; with defaults if the descriptor has none."""
        return next((p for p in self.program if p.name == name), Program(name=name))

    def sources_of(self, program: Program) -> tuple[str, ...]:
        """The C files of a program, relative to the folder; its own, the suite's, or the one of its name."""
        return program.sources or self.build.sources or (f"{program.name}.c",)

    def files_beside(self) -> dict[str, Path]:
        """Further files for the guest, by their paths beside the programs.

        :raises UserError: they changed after the suite was loaded, and cannot be read.
        """
        if self.commands:
            return folders.files_to_put(self.put)
        return folders.files_of_suite(self.folder, self.files, what=f"{self.folder / FILE}: files")
