# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of errors, each with a sentence about what to do next.

Design rule 2: blame is the kernel's, the test's or the infrastructure's. A mistake of the *user* is none of
these; it never reaches a verdict and ends the command at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.core.text import clean_str

#: Names that a message lists although it proposes one of them.
_LISTED = 16
_SHOWN = 60


class OrchestrateError(Exception):
    """Base of every error that a user may see; never shown as a traceback.

    Its text is made safe to show (`orchestrator.core.text`).

    :param message: what happened, and to which input.
    :param remedy: what to do next; an imperative sentence, or empty.
    """

    exit_code = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        # it may quote a compiler, a guest or a patch
        self.message, self.remedy = clean_str(message), clean_str(remedy)
        super().__init__(self.message)

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
    choices: Iterable[str],
    *,
    where: str = "",
    aliases: Mapping[str, str] | None = None,
    otherwise: str = "",
) -> UserError:
    """The error for an unknown name: it proposes the nearest one, and lists the known ones.

    :param kind: the kind of name, such as ``suite``.
    :param where: the file or the option with the name.
    :param aliases: other names that people use for some of them.
    :param otherwise: an alternative to a name, as an imperative clause.
    """
    names = list(choices)
    guess = did_you_mean(name, names, aliases)
    quoted = repr(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…")
    listing = "" if guess and len(names) > _LISTED else f"Known are: {', '.join(names) or 'none'}"
    remedy = "; ".join(part for part in (listing, otherwise) if part)
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} {quoted}{guess}", remedy=f"{remedy}." if remedy else "")


def did_you_mean(name: str, choices: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """The end of a message that names the nearest of some names; empty if none is near."""
    nearest = near(name, choices, aliases)
    return f", did you mean {nearest[0]!r}?" if nearest else ""


def near(
    name: str, choices: Iterable[str], aliases: Mapping[str, str] | None = None, *, most: int = 1
) -> list[str]:
    """The names that are spelled similarly, the nearest first.

    Case does not matter, and ``_`` and ``-`` are equal.
    """
    import difflib

    # a longer text is not a mistyped name, and its comparison would be slow
    written = _plain(name[: 4 * _SHOWN])
    by_spelling = {_plain(alias): of for alias, of in (aliases or {}).items()} | {
        _plain(n): n for n in choices
    }
    return list(
        dict.fromkeys(by_spelling[each] for each in difflib.get_close_matches(written, by_spelling, n=most))
    )


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
