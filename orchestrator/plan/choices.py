# SPDX-License-Identifier: GPL-2.0-only
"""What the user chose for a run: data that a plan keeps, so that the run can be resumed."""

from __future__ import annotations

import msgspec


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel that the user named: a source (empty ``spec``: the default one) or a prebuilt ``image``.

    ``patches`` are applied on top, in order. An empty ``label`` is given one by ``prepare``.
    """

    spec: str = ""
    label: str = ""
    sha256: str = ""
    patches: tuple[str, ...] = ()
    image: str = ""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the user chose. No ``suites`` and no ``commands`` means a build only.

    ``times`` is the number of fresh boots of each functional cell; with ``until_fail`` a kernel's
    repeats end with the first that fails. ``flavors`` make one kernel together. ``known`` are files of
    known failures; ``strict``: they count as ordinary failures. ``decode``: a kernel that crashed is built
    again with line numbers.
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
