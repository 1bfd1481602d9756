# SPDX-License-Identifier: GPL-2.0-only
"""How likely it is that a commit cannot be judged, given others that could not be.

One commit breaks the kernels for a test, and a later one fixes them, so commits that cannot be judged come in
stretches. The scale of their length is unknown: P(length > n) is proportional to 1 / n. A stretch of which L
commits are known extends for d more commits with the probability L / (L + d). If it ends before a judged
commit that is D > d away, that is L / (L + d) * (D - d) / D. A commit between two of one stretch can be
judged only if one stretch ends and another begins between them, which is rare.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from orchestrator.bisect.graph import History

Floats = NDArray[np.float64]
#: The probability for a commit between two that cannot be judged, without a judged one between them.
_BETWEEN = 0.95


class Stretches:
    """Stretches of commits that cannot be judged, in one history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._distances: dict[str | None, NDArray[np.int32]] = {}

    def chance(self, skipped: Collection[str], judged: Collection[str]) -> Floats:
        """For each commit, the probability that it cannot be judged; 0 if nothing was skipped.

        :param judged: commits; good ends may be among them.
        """
        chances = np.zeros(len(self._history))
        places = sorted(self._history.index(commit) for commit in skipped)
        if not places:
            return chances
        references = {commit if commit not in self._history.goods else None for commit in judged} | {None}
        to_judged = np.stack([self._to(commit) for commit in references])
        for place in places:
            away, end = self._to(self._history.commits[place]), to_judged[:, place, None]
            # How much longer the path over a judged commit is: 0 if that lies between.
            detour = end + to_judged - away
            extent = 1 + max(away[other] for other in places if detour[:, other].all())
            continues = (detour / (2 * end)).min(axis=0)
            chances = np.maximum(chances, extent / (extent + away) * continues)
        return np.where(self._between(skipped, judged), np.maximum(chances, _BETWEEN), chances)

    def _between(self, skipped: Collection[str], judged: Collection[str]) -> NDArray[np.bool_]:
        """Which commits lie between two skipped ones, without a judged one between them."""
        inside = [commit for commit in judged if commit not in self._history.goods]
        after, before = np.zeros((2, len(self._history)), bool)
        for commit in skipped:
            later, earlier = self._history.column(commit), self._history.row(commit)
            for other in inside:
                if later[self._history.index(other)]:
                    later = later & ~self._history.column(other)
                if earlier[self._history.index(other)]:
                    earlier = earlier & ~self._history.row(other)
            after |= later
            before |= earlier
        return after & before

    def _to(self, commit: str | None) -> NDArray[np.int32]:
        if commit not in self._distances:
            self._distances[commit] = self._history.distances(commit)
        return self._distances[commit]
