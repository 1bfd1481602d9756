# SPDX-License-Identifier: GPL-2.0-only
"""How likely it is that a commit cannot be judged, by those near it that could not be.

What makes kernels useless for a question is brought in by one commit and mended by another, so such commits
come in stretches, of a length whose scale is unknown: that it is more than n goes with 1 / n. So a stretch
that was seen to be L long goes on for d more with the probability L / (L + d), or, given that it has ended
before a judged commit that is D > d away, L / (L + d) * (D - d) / D. Between two commits of one stretch
only another stretch's end and another one's beginning could make one that can be judged: that is rare.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from orchestrator.bisect.graph import History

Floats = NDArray[np.float64]
#: A commit between two that cannot be judged, and none that was judged on the way, cannot either.
_BETWEEN = 0.95


class Stretches:
    """Stretches of commits that cannot be judged, in one history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._distances: dict[str | None, NDArray[np.int32]] = {}

    def chance(self, skipped: Collection[str], judged: Collection[str]) -> Floats:
        """For each commit, the probability that it cannot be judged; 0 while none was met that cannot.

        :param judged: good ends may be among them.
        """
        found = np.zeros(len(self._history))
        places = sorted(self._history.index(commit) for commit in skipped)
        if not places:
            return found
        known = {commit if commit not in self._history.goods else None for commit in judged} | {None}
        to_judged = np.stack([self._to(commit) for commit in known])
        for place in places:
            away, end = self._to(self._history.commits[place]), to_judged[:, place, None]
            # What a way over a judged commit is longer; nothing if it lies between, and the stretch with it.
            detour = end + to_judged - away
            extent = 1 + max(away[other] for other in places if detour[:, other].all())
            goes_on = (detour / (2 * end)).min(axis=0)
            found = np.maximum(found, extent / (extent + away) * goes_on)
        return np.where(self._between(skipped, judged), np.maximum(found, _BETWEEN), found)

    def _between(self, skipped: Collection[str], judged: Collection[str]) -> NDArray[np.bool_]:
        """Which commits come after one that was skipped and before another, and no judged one on the way."""
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
