# SPDX-License-Identifier: GPL-2.0-only
"""The result of resolving a source: a read-only tree and its identity."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

#: Takes one line for people: progress, or what was skipped and why.
Say = Callable[[str], None]


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel tree; it is only read, never written.

    ``digest`` (hex) identifies the whole content and is the key of every cache. ``dirty`` is the digest of
    local changes in a git tree, else empty. ``version`` is the Makefile's (``7.2.12``); ``describe`` is one
    line for people. ``patches`` are the files (absolute) whose patches were applied on top, in order;
    ``base_spec``, if not empty, names the tree below them from any directory and at any later time, for use
    in place of ``spec``. ``configured_by``, if not empty, is a digest of the
    inputs of a configuration: trees with the same digest are configured alike.
    """

    path: Path
    spec: str
    kind: str
    digest: str
    commit: str = ""
    dirty: str = ""
    archive_sha256: str = ""
    version: str = ""
    describe: str = ""
    patches: tuple[str, ...] = ()
    base_spec: str = ""
    configured_by: str = ""


def quiet(_line: str) -> None:
    """A ``Say`` that prints nothing."""


def version_numbers(version: str) -> tuple[int, ...]:
    """A kernel version for comparison: ``7.2-rc3`` and ``7.2.12-gabc`` both begin with ``(7, 2)``."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[-+~]", version)[0])[:3])


def within(version: str, since: str, until: str) -> bool:
    """Whether a kernel version is from ``since`` up to but without ``until``; empty is no limit."""
    at = version_numbers(version)
    return (not since or version_numbers(since) <= at) and (not until or at < version_numbers(until))
