# SPDX-License-Identifier: GPL-2.0-only
"""Files of the user's for a guest. A descriptor can only name files in its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.core.errors import UserError
from orchestrator.core.store import absolute

#: Limits of one suite: the guest has its files in memory, twice while it boots.
LIMIT_MIB = 64
LIMIT_FILES = 4096


def inside(folder: Path, word: str, *, what: str) -> Path:
    """The path of ``word`` in a suite's folder.

    :param what: describes the word, for the message: ``/…/suite.toml: script of program 'p'``.
    :raises UserError: it leads out of the folder, by itself or through a link, or nothing is there.
    """
    pure = PurePosixPath(word)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or not word.isprintable():
        raise UserError(
            f"{what}: {word!r} is not a path below the suite's folder",
            remedy="Name it relative to the folder, without '..'.",
        )
    path = folder / pure
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links form a loop"
        raise UserError(f"{what}: {path}: {reason}") from None
    if not real.is_relative_to(folder.resolve()):
        raise UserError(
            f"{what}: {path} is a link that leads out of the suite's folder, to {real}",
            remedy="Copy into the folder what the suite needs.",
        )
    return path


def files_of_suite(folder: Path, words: Sequence[str], *, what: str) -> dict[str, Path]:
    """The files that a suite's ``files`` name, by their paths in its folder; folders are copied whole.

    Empty folders are among them.

    :raises UserError: as ``inside``, or a file that cannot be read, or too many.
    """

    def items() -> Iterator[tuple[str, Path]]:
        for word in words:
            for name, _ in _below(inside(folder, word, what=what), str(PurePosixPath(word)), what):
                yield name, inside(folder, name, what=what)

    return _gather(items(), what)


def files_to_put(paths: Sequence[Path]) -> dict[str, Path]:
    """The files that ``--put`` names, by their names beside the command; folders are copied whole.

    Empty folders are among them.

    :raises UserError: one cannot be read, two have the same name, or there are too many.
    """
    by_name: dict[str, Path] = {}
    for argument in paths:
        path = absolute(argument)
        if not path.name:
            raise UserError(f"--put {argument}: it has no name", remedy="Name a folder below it.")
        if path.name in by_name:
            raise UserError(
                f"--put: {by_name[path.name]} and {path} are both called {path.name!r}",
                remedy="Rename one, or put the folder that holds them.",
            )
        by_name[path.name] = path
    return _gather((item for name, path in by_name.items() for item in _below(path, name, "--put")), "--put")


def _below(path: Path, name: str, what: str) -> Iterator[tuple[str, Path]]:
    """A file, or the files and empty folders below a folder, each with its name in the guest."""
    if not path.name.isprintable():
        raise UserError(f"{what}: {str(path)!r} has no printable name", remedy="Rename it.")
    if path.is_dir():
        children = sorted(path.iterdir())
        if not children:
            yield name, path
        for child in children:
            if child.is_symlink() and child.is_dir():
                raise UserError(
                    f"{what}: {child} is a link to a folder, which could lead anywhere",
                    remedy="Put a real folder in its place.",
                )
            yield from _below(child, f"{name}/{child.name}", what)
        return
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{what}: {path} is neither a file nor a folder")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what}: {path} cannot be read", remedy="Change its permissions.")
    yield name, path


def _gather(items: Iterator[tuple[str, Path]], what: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    size = 0
    try:
        for name, path in items:
            files[name] = path
            size += path.stat().st_size if path.is_file() else 0
            if size > LIMIT_MIB << 20 or len(files) > LIMIT_FILES:
                raise UserError(
                    f"{what}: more than the limit of a guest: {LIMIT_FILES} files, {LIMIT_MIB} MiB",
                    remedy="Name only what the programs need.",
                )
    except OSError as error:
        raise UserError(f"{what}: {error.filename}: {error.strerror}") from None
    return files
