# SPDX-License-Identifier: GPL-2.0-only
"""The commits that may have introduced a fault, and their ancestry.

A commit c is the single culprit if exactly c and its descendants show the fault. That holds for merges too: a
merge has the changes of all its parents.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import UserError
from orchestrator.core.text import clean_str
from orchestrator.source.git import GitError, commits_between, is_ancestor, merge_base, run_git

#: Up to this many commits the matrix is also stored unpacked: 8 bytes an entry.
_DENSE = 1024
_BLOCK = 512


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """The bad end and its ancestors, without the good ends and theirs. Oldest first.

    ``ancestors`` is a matrix of bits, one row a commit: bit j of row i (``bitorder="little"``) says that
    commit j is an ancestor of commit i or is commit i. 15,000 commits take 28 MB. ``goods`` are the names of
    the good ends; they have no row, since no commit in the history is their ancestor.
    """

    commits: tuple[str, ...]
    goods: tuple[str, ...]
    ancestors: NDArray[np.uint8] = dataclasses.field(repr=False)
    _parents: Mapping[str, tuple[str, ...]] = dataclasses.field(repr=False)
    _index: Mapping[str, int] = dataclasses.field(repr=False)
    _dense: NDArray[np.float64] | None = dataclasses.field(repr=False)

    @classmethod
    def of(cls, parents: Mapping[str, Sequence[str]], *, goods: Sequence[str] = ()) -> History:
        """The history with these commits and parents; parents that are not a key are outside.

        :raises ValueError: no commits, a cycle, a commit that is good too, or not exactly one commit
            without children (the bad end).
        """
        inside = {commit: tuple(p for p in of if p in parents) for commit, of in parents.items()}
        order = _topological(inside)
        tips = set(order) - {parent for of in inside.values() for parent in of}
        if len(tips) != 1:
            raise ValueError(f"{len(tips)} commits without children; there must be one, the bad end")
        if both := set(order) & set(goods):
            raise ValueError(f"{min(both)} is both good and suspect")
        return cls._build(order, inside, goods)

    @classmethod
    def _build(
        cls, order: Sequence[str], parents: Mapping[str, tuple[str, ...]], goods: Sequence[str]
    ) -> History:
        index = {commit: i for i, commit in enumerate(order)}
        rows = np.zeros((len(order), (len(order) + 7) // 8), np.uint8)
        for i, commit in enumerate(order):
            for parent in parents[commit]:
                rows[i] |= rows[index[parent]]
            rows[i, i >> 3] |= 1 << (i & 7)
        dense = _unpacked(rows, len(order)).astype(np.float64, order="F") if len(order) <= _DENSE else None
        return cls(tuple(order), tuple(goods), rows, parents, index, dense)

    @classmethod
    def read(cls, repository: Path, good: Sequence[str], bad: str) -> History:
        """The commits of ``git rev-list bad --not good…``, whatever their dates.

        The repository is only read. Names are those that git resolves to a commit.

        :raises UserError: no such commit; a good one is not an ancestor of the bad one; they are the same
            commit; the history is shallow and cut off between them.
        :raises InfraError: git is not installed.
        """
        if not good:
            raise UserError("no good commit", remedy="Name one that does not show the fault.")
        end = resolve_commit(repository, bad)
        goods = tuple(resolve_commit(repository, name) for name in good)
        for name, commit in zip(good, goods, strict=True):
            _check_ends(repository, name, commit, bad, end)
        try:
            between = commits_between(repository, goods, end)
        except GitError as error:
            raise UserError(
                f"{repository}: git cannot read the history up to {bad}: {error.first}",
                remedy="Check the repository with `git fsck`.",
            ) from error
        if cut := sorted(between.keys() & _boundary(repository)):
            raise _cut_off(repository, f"between {', '.join(good)} and {bad}, at {cut[0][:12]}")
        parents = {commit: tuple(p for p in of if p in between) for commit, of in between.items()}
        return cls._build(list(between), parents, goods)

    def __len__(self) -> int:
        return len(self.commits)

    @property
    def bad(self) -> str:
        """The bad end."""
        return self.commits[-1]

    def index(self, commit: str) -> int:
        """The index of a commit in ``commits``. :raises KeyError: it is not there."""
        return self._index[commit]

    def parents(self, commit: str) -> tuple[str, ...]:
        """The parents of a commit in the history, in git's order. :raises KeyError: it is not in it."""
        return self._parents[commit]

    def is_ancestor(self, a: str, b: str) -> bool:
        """Whether ``a`` is an ancestor of ``b`` or is ``b``. :raises KeyError: one is not in the history."""
        i = self._index[a]
        return bool(self.ancestors[self._index[b], i >> 3] >> (i & 7) & 1)

    def row(self, commit: str) -> NDArray[np.bool_]:
        """For each commit, whether it is this one or its ancestor; all false for a good end.

        :raises KeyError: it is neither in the history nor a good end.
        """
        if commit in self._index:
            return _unpacked(self.ancestors[self._index[commit]], len(self)).astype(np.bool_)
        if commit in self.goods:
            return np.zeros(len(self), np.bool_)
        raise KeyError(commit)

    def column(self, commit: str) -> NDArray[np.bool_]:
        """For each commit, whether it is this one or its descendant. :raises KeyError: it is not in it."""
        i = self._index[commit]
        return (self.ancestors[:, i >> 3] >> (i & 7) & 1).astype(np.bool_)

    def distances(self, commit: str | None) -> NDArray[np.int32]:
        """For each commit, the number of commits that it or this one has as ancestors, but not both.

        A commit counts as its own ancestor. ``None`` is a good end. :raises KeyError: it is not in it.
        """
        row = np.uint8(0) if commit is None else self.ancestors[self._index[commit]]
        counts: NDArray[np.int32] = np.bitwise_count(self.ancestors ^ row).sum(axis=1, dtype=np.int32)
        return counts

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each commit, the sum of values over its ancestors and itself.

        :param values: one row a commit, any number of columns; the result has the same shape. With many
            commits it is exact to single precision only.
        """
        used = np.flatnonzero(values.any(axis=1))
        narrow = len(used) < len(self) // 8
        if self._dense is not None:
            return self._dense[:, used] @ values[used] if narrow else self._dense @ values
        weights = (values[used] if narrow else values).astype(np.float32)
        sums = np.empty_like(values)
        for start in range(0, len(self), _BLOCK):
            rows = self.ancestors[start : start + _BLOCK]
            bits = (
                rows[:, used >> 3] >> (used & 7).astype(np.uint8) & 1
                if narrow
                else _unpacked(rows, len(self))
            )
            sums[start : start + _BLOCK] = bits.astype(np.float32) @ weights
        return sums


def _unpacked(rows: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.unpackbits(rows, axis=-1, count=count, bitorder="little")


def _topological(parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Parents before children, otherwise as given."""
    order: dict[str, None] = {}
    for commit in parents:
        stack = [(commit, iter(parents[commit]))]
        open_: set[Any] = {commit}
        while stack:
            top, rest = stack[-1]
            if top in order or (below := next((p for p in rest if p not in order), None)) is None:
                order.setdefault(top)
                open_.discard(top)
                stack.pop()
            elif below in open_:
                raise ValueError(f"{below} is its own ancestor")
            else:
                open_.add(below)
                stack.append((below, iter(parents[below])))
    return list(order)


def resolve_commit(repository: Path, name: str, option: str = "") -> str:
    """The full name of a commit.

    :param option: where the user named it, for the message.
    :raises UserError: the repository has no such commit.
    """
    try:
        argv = ["rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}"]
        return run_git(repository, *argv).decode().strip()
    except GitError as error:
        raise UserError(
            f"{option}{': ' if option else ''}{repository} has no commit {clean_str(name)!r}: {error.first}",
            remedy=f"`git -C {shlex.quote(str(repository))} tag` lists tags.",
        ) from error


def _check_ends(repository: Path, good: str, good_commit: str, bad: str, bad_commit: str) -> None:
    good, bad = clean_str(good), clean_str(bad)
    if good_commit == bad_commit:
        raise UserError(
            f"good {good} and bad {bad} are the same commit {bad_commit[:12]}",
            remedy="Name an older commit with --good.",
        )
    if is_ancestor(repository, good_commit, bad_commit):
        return
    if is_ancestor(repository, bad_commit, good_commit):
        raise UserError(
            f"bad {bad} is an ancestor of good {good}: the ends are swapped",
            remedy=f"Swap them (--good {bad} --bad {good}). A bisect cannot search for a fix.",
        )
    base = merge_base(repository, good_commit, bad_commit)
    if not base:
        if _boundary(repository):
            raise _cut_off(repository, f"between {good} and {bad}")
        raise UserError(
            f"good {good} is not an ancestor of bad {bad}: they have no history in common",
            remedy="Name a good commit from the history of the bad one.",
        )
    raise UserError(
        f"good {good} is not an ancestor of bad {bad}: both descend from {base[:12]}",
        remedy=f"If that one is good, use it: --good {base}",
    )


def _boundary(repository: Path) -> set[str]:
    """The commits at which a shallow history is cut off."""
    output = run_git(repository, "rev-parse", "--path-format=absolute", "--git-path", "shallow").decode()
    path = Path(output.rstrip("\n"))
    return set(path.read_text().split()) if path.is_file() else set()


def _cut_off(repository: Path, where: str) -> UserError:
    return UserError(
        f"{repository} is shallow: its history is cut off {where}",
        remedy="Fetch the rest: git fetch --unshallow",
    )
