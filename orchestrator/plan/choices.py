# SPDX-License-Identifier: GPL-2.0-only
"""The user's choices for a run: data in the plan, so that the run can be resumed."""

from __future__ import annotations

import msgspec


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel: a source (empty ``spec``: the default one) or a prebuilt ``image``.

    ``patches`` are applied on top, in order. ``prepare`` replaces an empty ``label``.
    """

    spec: str = ""
    label: str = ""
    sha256: str = ""
    patches: tuple[str, ...] = ()
    image: str = ""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The user's choices. Without ``suites`` and ``commands``, kernels are only built.

    ``times`` is the number of fresh boots of each functional cell; with ``until_fail`` the
    repeats of a kernel stop at the first failure. ``flavors`` combine into one kernel. ``known`` are files of
    known failures; ``strict``: they count as ordinary failures. ``decode``: a kernel that crashed is built
    again with line numbers. ``sandboxed``: makefiles of the kernels' trees run in a sandbox.
    """

    arches: tuple[str, ...]
    variants: tuple[str, ...]
    sources: tuple[Source, ...] = (Source(),)
    suites: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    put: tuple[str, ...] = ()
    selftests_from: str = ""
    times: int = 1
    until_fail: bool = False
    vsyscall: str = ""
    boots: int = 0
    smp: int = 2
    mem_mib: int = 512
    cmdline: tuple[str, ...] = ()
    accel: str = "auto"
    toolchain: str = "gcc"
    flavors: tuple[str, ...] = ()
    kconfig: tuple[str, ...] = ()
    config: str = ""
    known: tuple[str, ...] = ()
    strict: bool = False
    decode: bool = False
    jobs: int = 0
    sandboxed: bool = False
