# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of errors, each with a sentence about what to do next.

Design rule 2: blame is the kernel's, the test's or the infrastructure's. A mistake of the *user* is none of
these; it never reaches a verdict and ends the command at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Names that a message lists although it proposes one of them.
_LISTED = 16
_SHOWN = 60


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


def unknown(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    where: str = "",
    aliases: Mapping[str, str] | None = None,
    otherwise: str = "",
) -> UserError:
    """The error for a name that nothing has: it proposes the nearest one, and lists those that there are.

    :param kind: what it would be, such as ``suite``.
    :param where: the file or the option in which it stands.
    :param aliases: what people call some of them otherwise.
    :param otherwise: what may be given in place of a name; an imperative clause.
    """
    names = list(known)
    guess = did_you_mean(name, names, aliases)
    shown = repr(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…")
    listed = "" if guess and len(names) > _LISTED else f"Known are: {', '.join(names) or 'none'}"
    remedy = "; ".join(part for part in (listed, otherwise) if part)
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} {shown}{guess}", remedy=f"{remedy}." if remedy else "")


def did_you_mean(name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """The end of a message that names the nearest of some names; empty where none is near."""
    found = near(name, known, aliases)
    return f", did you mean {found[0]!r}?" if found else ""


def near(
    name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, *, most: int = 1
) -> list[str]:
    """Those of some names that are written much like this one, the nearest first.

    Upper and lower case, and ``_`` and ``-``, are alike.
    """
    import difflib

    # a longer one is no name that somebody mistyped, and comparing would take its time
    written = _plain(name[: 4 * _SHOWN])
    meant = {_plain(alias): of for alias, of in (aliases or {}).items()} | {_plain(n): n for n in known}
    return list(dict.fromkeys(meant[each] for each in difflib.get_close_matches(written, meant, n=most)))


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
