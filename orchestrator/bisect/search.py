# SPDX-License-Identifier: GPL-2.0-only
"""Bayesian search for the commit that introduced a fault: which commit to boot next, and when to stop.

Pure: no git, no clock, no randomness. The same observations in the same order give the same answers.
docs/explanation/bisect-search.md has the mathematics and the results of simulations.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from orchestrator.bisect.graph import History
from orchestrator.bisect.untestable import Stretches
from orchestrator.core.errors import Inconclusive

Floats = NDArray[np.float64]

#: Priors: a fault shows in each boot of a bad kernel; it never shows in a good one.
_ALWAYS, _NEVER = 0.5, 0.99
#: Beta priors of the rate of a fault that does not always show, and of the rate of false alarms.
_RATE, _FALSE = (0.5, 1.0), (1.0, 1.0)
#: If the good end had no false alarm, false alarms are assumed to be this much rarer than the fault.
#: Otherwise "it shows everywhere, the good end was lucky" would stay possible: no later commit can disprove
#: that.
_RARER = 20.0
#: The least prior of a commit, relative to the likeliest: "touches nothing compiled" may be wrong.
_FLOOR = 1e-6
#: A probability too small to matter.
_NOTHING = 1e-9
#: Numbers of boots in a row to plan for, if further boots of a kernel are cheaper than the first.
_AHEAD = (1, 2, 4, 8, 16, 32)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How often the ends showed the fault, in boots.

    ``other_bad``: further boots of the bad end, which could not be judged.
    """

    shown_bad: int
    boots_bad: int
    shown_good: int
    boots_good: int
    other_bad: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.shown_bad <= self.boots_bad and 0 <= self.shown_good <= self.boots_good):
            raise ValueError(f"{self}: more shown than booted")


class Finish(enum.StrEnum):
    """Why a search is over."""

    #: one commit has the required probability
    SURE = "sure"
    #: a group of commits has it, and no kernel that can be judged distinguishes them
    HIDDEN = "hidden"


class Search:
    """The probability of each commit to be the culprit, given the observations.

    If the good end shows the fault nearly as often as the bad one, a search may never finish: check the
    ends first, and limit the boots.

    :param confidence: the probability from which a commit is the culprit. With 0.985, at least 97 of 100
        culprits were right at each simulated rate; the uncertainty of the rate takes the rest.
    :param prior: weights of commits before any observation, by default 1. A commit that touches nothing
        compiled gets 0, which counts as one millionth: it may matter after all.
    :raises ValueError: a confidence outside (0, 1), a weight that is negative or not finite, all weights 0.
    """

    def __init__(
        self,
        history: History,
        rates: Rates,
        *,
        confidence: float = 0.985,
        prior: Mapping[str, float] | None = None,
    ) -> None:
        if not 0 < confidence < 1:
            raise ValueError(f"confidence {confidence} is not between 0 and 1")
        weights = np.array([(prior or {}).get(commit, 1.0) for commit in history.commits])
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError("a prior needs weights that are finite, not negative and not all 0")
        self.history = history
        self.confidence = confidence
        self._log_prior = np.log(np.maximum(weights, weights.max() * _FLOOR))
        # If each commit were the culprit: boots of bad and of good kernels that showed the fault or did not.
        count = len(history)
        self._bad = np.full((2, count), [[rates.shown_bad], [rates.boots_bad - rates.shown_bad]])
        self._good = np.full((2, count), [[rates.shown_good], [rates.boots_good - rates.shown_good]])
        rate = (rates.shown_bad + 0.5) / (rates.boots_bad + 1)
        self._false = _FALSE if rates.shown_good else (1.0, _RARER / rate)
        self._testable = np.ones(count, np.bool_)
        self._stretches = Stretches(history)
        self._judged, self._skipped = frozenset((history.bad, *history.goods)), frozenset[str]()
        self._probabilities: Floats | None = None

    def observe(self, commit: str, shown: bool) -> None:
        """Add the outcome of one boot. :raises KeyError: neither in the history nor a good end."""
        after, outcome = self.history.row(commit), int(not shown)
        self._bad[outcome] += after
        self._good[outcome] += ~after
        self._judged |= {commit}
        self._probabilities = None

    def skip(self, commit: str) -> None:
        """Never select a commit that cannot be judged, and avoid those near it. It stays a suspect.

        :raises KeyError: it is not in the history.
        """
        self.exclude(commit)
        self._skipped |= {commit}

    def exclude(self, commit: str) -> None:
        """Never select a commit that needs no other look. :raises KeyError: it is not in the history."""
        self._testable[self.history.index(commit)] = False

    def same(self, commit_a: str, commit_b: str) -> None:
        """Add that two commits, one of them perhaps a good end, make the same kernel.

        Both show the fault or neither does, so a commit that is in only one of them is not the culprit.
        Without those, an observation of one commit equals one of the other.

        :raises KeyError: one is neither in the history nor a good end.
        :raises Inconclusive: no suspect would be left. Nothing is added then.
        """
        log_prior = np.where(
            self.history.row(commit_a) == self.history.row(commit_b), self._log_prior, -np.inf
        )
        if not np.isfinite(log_prior).any():
            raise Inconclusive(
                f"the kernels of {commit_a[:12]} and {commit_b[:12]} are equal, which leaves no commit that"
                " could have introduced the fault",
                remedy="Check whether the fault is in a module, a test or the guest image instead.",
            )
        self._log_prior, self._probabilities = log_prior, None
        if self._judged & {commit_a, commit_b}:
            self._judged |= {commit_a, commit_b}

    def probabilities(self) -> Floats:
        """The probability of each commit to be the culprit, in the order of the history. Read-only."""
        if self._probabilities is None:
            logs = self._log_prior + self._log_bad() + self._log_good()
            likelihoods = np.exp(logs - logs.max())
            self._probabilities = likelihoods / likelihoods.sum()
        return self._probabilities

    def posterior(self) -> dict[str, float]:
        """The probability of each commit to be the culprit; they sum to 1."""
        return dict(zip(self.history.commits, self.probabilities().tolist(), strict=True))

    def culprit(self) -> str | None:
        """The commit that has the required probability, if there is one."""
        likeliest = int(self.probabilities().argmax())
        sure = self.probabilities()[likeliest] >= self.confidence
        return self.history.commits[likeliest] if sure else None

    def suspects(self, mass: float = 0.985) -> list[tuple[str, float]]:
        """The fewest commits that together have this probability, each with its own, likeliest first."""
        return [(self.history.commits[i], float(self.probabilities()[i])) for i in self._likeliest(mass)]

    def _likeliest(self, mass: float) -> NDArray[np.intp]:
        p = self.probabilities()
        order = np.argsort(-p, kind="stable")
        order = order[p[order] > 0]
        enough = int(np.searchsorted(np.cumsum(p[order]), mass * (1 - 1e-12)))
        return order[: enough + 1]

    @property
    def finished(self) -> Finish | None:
        """Why the search is over, or ``None``."""
        if self.culprit() is not None:
            return Finish.SURE
        if self._testable.all():
            return None
        p, names = self.probabilities(), self.history.commits
        likely = self._likeliest(self.confidence)
        # A commit that can be judged distinguishes itself from others, so a group has at most one.
        if len(likely) > 1 + np.count_nonzero(~self._testable):
            return None
        first = self.history.column(names[likely[0]])[self._testable]
        hidden = 0.0
        for i in likely:
            if np.array_equal(self.history.column(names[i])[self._testable], first):
                hidden += p[i]
        return Finish.HIDDEN if hidden >= self.confidence * (1 - 1e-9) else None

    def candidates(
        self, cost: Callable[[str], float], n: int = 1, *, again: float | None = None
    ) -> list[str]:
        """The commits to boot next: most expected information per minute first.

        A commit near one that could not be judged may not be judged either, which lowers the expectation.
        Boot the first commit now. The others come next after each of its outcomes, likeliest first: they are
        worth building ahead. The list is empty if no boot gives information.

        :param cost: minutes of one boot of the commit's kernel, with its build if it is not built.
        :param again: minutes of each further boot of a built kernel. If given, the boots that will follow the
            first are taken into account, which matters for expensive builds and rare faults. The commit
            should still be booted only once before the next call.
        """
        minutes = np.full(len(self.history), np.inf)
        for i in np.flatnonzero(self._testable):
            minutes[i] = cost(self.history.commits[i])
        commits: list[str] = []
        tick = itertools.count()
        ahead: list[tuple[float, int, Search]] = [(-1.0, next(tick), self)]
        for _ in range(3 * n):
            if not ahead or len(commits) == n:
                break
            weight, _, state = heapq.heappop(ahead)
            skips = state._stretches.chance(state._skipped - state._judged, state._judged)
            best = state._best(minutes, again, 1 - skips)
            if best is None:
                continue
            commit = self.history.commits[best]
            if commit not in commits:
                commits.append(commit)
            if n > 1:
                skip, shows = skips[best], state.chance(commit)
                for shown, chance in (
                    (True, shows * (1 - skip)),
                    (False, (1 - shows) * (1 - skip)),
                    (None, skip),
                ):
                    if weighed := weight * chance:
                        heapq.heappush(ahead, (weighed, next(tick), state._after(commit, shown)))
        return commits

    def chance(self, commit: str) -> float:
        """The probability that the next boot of a commit shows the fault."""
        after = self.history.row(commit)
        shows = np.where(after, 1 - self._missed_bad(1), 1 - self._missed_good(1))
        return float(self.probabilities() @ shows)

    def _after(self, commit: str, shown: bool | None) -> Search:
        """The search after one more boot; ``None``: the boot cannot be judged."""
        other = object.__new__(Search)
        copies = {name: getattr(self, name).copy() for name in ("_bad", "_good", "_testable")}
        other.__dict__ = self.__dict__ | copies
        if shown is None:
            other.skip(commit)
        else:
            other.observe(commit, shown)
        return other

    def _log_bad(self, more_missed: int = 0) -> Floats:
        """For each culprit, the log likelihood of the boots of bad kernels, with more that miss the fault."""
        shown, missed = self._bad[0], self._bad[1] + more_missed
        return _log_mixture(_ALWAYS, missed == 0, _RATE, shown, missed)

    def _log_good(self, more_missed: int = 0) -> Floats:
        shown, missed = self._good[0], self._good[1] + more_missed
        return _log_mixture(_NEVER, shown == 0, self._false, shown, missed)

    def _missed_bad(self, boots: int) -> Floats:
        """For each culprit, the probability that this many boots of a bad kernel all miss the fault."""
        return np.exp(self._log_bad(boots) - self._log_bad())

    def _missed_good(self, boots: int) -> Floats:
        return np.exp(self._log_good(boots) - self._log_good())

    def _best(self, minutes: Floats, again: float | None, judgeable: Floats) -> int | None:
        testable = np.flatnonzero(self._testable)
        if not len(testable):
            return None
        minutes = minutes[testable]
        gain, informative = np.full(len(testable), -np.inf), False
        for boots in _AHEAD if again is not None else (1,):
            bits = self._information(boots)[testable]
            gain = np.maximum(gain, bits / (minutes + (boots - 1) * (again or 0.0)))
            informative |= bool(bits.max() > 1e-9)
        if not informative:
            return None
        gain *= judgeable[testable]
        # the last bits of a sum depend on the machine: they must not decide between equals
        rounded = np.round(gain / gain.max(), 5)
        return int(testable[np.lexsort((minutes, -rounded))[0]])

    def _information(self, boots: int) -> Floats:
        """For each commit, the expected bits about the culprit from this many boots of it.

        The entropy of a posterior needs sums of w log w over a commit's ancestors and over the other commits;
        w is the joint probability of a culprit and an outcome.
        """
        p = self.probabilities()
        p = np.where(p > _NOTHING, p, 0.0)  # soon only few are above, which is faster
        bad, good = self._missed_bad(boots), self._missed_good(boots)
        outcomes = []
        for on_bad, on_good in ((p * bad, p * good), (p * (1 - bad), p * (1 - good))):
            outcomes += [on_bad - on_good, _w_log_w(on_bad) - _w_log_w(on_good)]
            outcomes += [on_good, _w_log_w(on_good)]
        columns = np.stack([outcomes[0], outcomes[1], outcomes[4], outcomes[5]], axis=1)
        sums = self.history.sums(columns)
        remaining = np.zeros(len(p))
        for at, rest in ((0, 2), (2, 6)):
            total = np.maximum(sums[:, at] + outcomes[rest].sum(), 0.0)
            remaining += _w_log_w(total) - (sums[:, at + 1] + outcomes[rest + 1].sum())
        information: Floats = np.maximum(-_w_log_w(p).sum() - remaining, 0.0)
        return information


def _w_log_w(w: Floats) -> Floats:
    product: Floats = w * np.log2(np.where(w > 0, w, 1.0))
    return product


def _log_mixture(
    plain: float,
    possible: NDArray[np.bool_],
    beta: tuple[float, float],
    shown: NDArray[np.int64],
    missed: NDArray[np.int64],
) -> Floats:
    """Log likelihood of boots: all of one outcome, or at an unknown rate, which is integrated over."""
    a, b = beta
    rate: Floats = np.log(1 - plain) + betaln(a + shown, b + missed) - betaln(a, b)
    mixture: Floats = np.logaddexp(np.where(possible, np.log(plain), -np.inf), rate)
    return mixture
