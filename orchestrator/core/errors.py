# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of errors, each with a sentence about what to do next.

Design rule 2: blame is the kernel's, the test's or the infrastructure's. A mistake of the *user* is none of
these; it never reaches a verdict and ends the command at once.
"""

from __future__ import annotations


class OrchestrateError(Exception):
    """Base of every error that a user may see; never shown as a traceback.

    :param message: what happened, and to which input.
    :param remedy: what to do next; an imperative sentence, or empty.
    """

    exit_code = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UserError(OrchestrateError):
    """The command line, a file or a tree that the user named cannot be used (exit 2)."""

    exit_code = 2


class InfraError(OrchestrateError):
    """The host, the network, QEMU, SSH or a tool failed (exit 3); never a regression."""

    exit_code = 3


class KernelError(OrchestrateError):
    """The kernel under test is at fault: it does not build, boot or behave (exit 1)."""

    exit_code = 1


class Inconclusive(OrchestrateError):
    """A proof is missing, so nothing may be claimed either way (exit 4)."""

    exit_code = 4


class Interrupted(OrchestrateError):
    """The user asked to stop; results so far are kept (exit 130)."""

    exit_code = 130
