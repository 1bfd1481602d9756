# SPDX-License-Identifier: GPL-2.0-only
"""What the user must know about how kernels are built, before the first makefile runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.core import environment, sandbox
from orchestrator.plan.check import builds_kernels
from orchestrator.plan.choices import Choices


def notices(choices: Choices, *, untrusted: bool = False) -> Iterator[str]:
    """A line each: variables that are ignored, builds as root, and the sandbox or the lack of one.

    :param untrusted: a series from mails; patches of ``--patch`` are in the choices.
    """
    if not builds_kernels(choices):
        return
    if line := environment.ignored():
        yield line
    untrusted = untrusted or any(source.patches for source in choices.sources)
    if choices.sandboxed:
        yield "builds run in a sandbox: no network, no home, the tree is read-only"
        return
    if untrusted:
        why = sandbox.missing() or "--sandbox off"
        remedy = f" (apt-get install {sandbox.PACKAGE})" if sandbox.missing() else ""
        yield f"builds run without a sandbox: {why}{remedy}; the makefiles of these patches act as you"
    if os.geteuid() == 0:
        yield "running as root: makefiles run as root too, unless --sandbox on is given"
