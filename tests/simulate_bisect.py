# SPDX-License-Identifier: GPL-2.0-only
"""The search of a bisect against plain git bisect with repeats, over random histories.

python tests/simulate_bisect.py --graphs 400 --jobs 2 --out docs/explanation

writes the curves and the tables of docs/explanation/bisect-search.md. The same number of graphs and the same
seed give the same page.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, quantiles

import msgspec
import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.stats import wilson_interval
from orchestrator.bisect.graph import History
from orchestrator.bisect.search import Finish, Rates, Search

RATES = (1.00, 0.75, 0.50, 0.25, 0.10)
#: Boots of the bad end: at least so many, and until so many showed the fault; as many of the good one.
END_BOOTS, END_SHOWN, END_MOST = 16, 4, 200
#: Tests of one search, past which something is wrong with it.
MOST = 5000
#: Runs of a fixed scheme on each graph: it is quick, and its share of right answers should not be luck.
REPEATS = 5


class Case(msgspec.Struct, frozen=True):
    """One history with a culprit in it."""

    shape: str
    history: History
    excluded: frozenset[str]
    idle: frozenset[str]
    culprit: str


class Answer(msgspec.Struct, frozen=True):
    """What a scheme came to: ``right`` is ``None`` where it does not call one commit."""

    right: bool | None
    tests: int
    judged: int
    skipped: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scheme at one rate, over all cases."""

    rate: float
    scheme: str
    cases: int
    called: int
    right: int
    tests: float
    tests_p95: float
    judged: float
    skipped: float
    ends: float = 0.0

    @property
    def share(self) -> float:
        """Of those it calls, the share that is right."""
        return self.right / self.called if self.called else 0.0


# --- histories


def linear(rng: random.Random, count: int) -> dict[str, list[str]]:
    return {f"c{i}": [f"c{i - 1}"] for i in range(count)}


def topics(rng: random.Random, count: int) -> dict[str, list[str]]:
    """A main line that merges branches of others, which left it, or the good end, some time ago."""
    parents: dict[str, list[str]] = {"c0": []}
    main = ["c0"]
    while len(parents) < count:
        start = rng.choice(["outside", *main[-10:]])
        tip = start
        for _ in range(min(rng.choice((1, 2, 3, 5, 8, 13, 21)), count - len(parents))):
            parents[name := f"c{len(parents)}"] = [tip]
            tip = name
        for _ in range(rng.choice((0, 0, 1, 3))):
            parents[name := f"c{len(parents)}"] = [main[-1]]
            main.append(name)
        parents[name := f"c{len(parents)}"] = [main[-1], tip]
        main.append(name)
    return parents


def nested(
    rng: random.Random, count: int, base: str = "outside", into: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Branches of branches: a maintainer's tree holds what other maintainers merged."""
    parents: dict[str, list[str]] = {} if into is None else into
    tip, left = base, count
    while left > 0:
        if left >= 8 and rng.random() < 0.35:
            size = rng.randrange(3, max(4, left // 2))
            nested(rng, size, rng.choice((base, tip)), parents)
            theirs = next(reversed(parents))
            parents[name := f"c{len(parents)}"] = [tip, theirs] if theirs != tip else [tip]
            left -= size + 1
        else:
            parents[name := f"c{len(parents)}"] = [tip]
            left -= 1
        tip = name
    return parents


def tangle(rng: random.Random, count: int) -> dict[str, list[str]]:
    """Up to six lines that merge one another at random, and an octopus at the end."""
    parents: dict[str, list[str]] = {"c0": []}
    tips = ["c0"]
    for i in range(1, count - 1):
        name = f"c{i}"
        own = rng.randrange(len(tips))
        parents[name] = [tips[own]]
        if len(tips) > 1 and rng.random() < 0.3:
            parents[name].append(rng.choice([tip for tip in tips if tip != tips[own]]))
        if len(tips) < 6 and rng.random() < 0.2:
            tips.append(name)  # the old tip goes on too
        else:
            tips[own] = name
    tips = [tip for tip in parents if not any(tip in of for of in parents.values())]
    return parents | {f"c{len(parents)}": tips}


SHAPES: dict[str, Callable[[random.Random, int], dict[str, list[str]]]] = {
    "linear": linear,
    "topics": topics,
    "nested": nested,
    "tangle": tangle,
}


def make_cases(count: int, seed: int, *, least: int = 32, most: int = 1000, idle: float = 0.0) -> list[Case]:
    """Histories of ``least`` to ``most`` commits, each shape in turn; in half of them some cannot be judged.

    :param idle: share of commits that touch nothing compiled: none of them is the culprit.
    """
    rng = random.Random(seed)
    cases = []
    for i in range(count):
        shape = list(SHAPES)[i % len(SHAPES)]
        history = History.of(SHAPES[shape](rng, int(least * (most / least) ** rng.random())))
        names = history.commits[:-1]
        excluded: set[str] = set()
        if i // len(SHAPES) % 2:
            start = rng.randrange(len(names))
            excluded = {*names[start : start + rng.randrange(len(names) // 10 + 2)]}
            excluded |= {name for name in names if rng.random() < 0.03}
        unused = {name for name in history.commits if rng.random() < idle}
        suspect = [name for name in history.commits if name not in unused] or [history.bad]
        unused -= {history.bad}
        culprit = rng.choice(suspect)
        cases.append(Case(shape, history, frozenset(excluded), frozenset(unused), culprit))
    return cases


def commit_all(repository: Path, parents: Mapping[str, Sequence[str]]) -> Path:
    """A real repository of empty commits, parents before children, each with a tag of its name."""
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    lines = []
    for number, (name, of) in enumerate(parents.items(), 1):
        lines += [f"commit refs/tags/{name}", f"mark :{number}"]
        lines += [f"committer Somebody <somebody@example.org> {1_700_000_000 + number} +0000"]
        lines += [f"data {len(name)}", name]
        marks = [f":{list(parents).index(parent) + 1}" for parent in of if parent in parents]
        lines += [f"{'merge' if i else 'from'} {mark}" for i, mark in enumerate(marks)]
    argv = ["git", "-C", str(repository), "fast-import", "--quiet"]
    subprocess.run(argv, input="\n".join([*lines, ""]).encode(), check=True)
    # without one git bisect does not start
    argv = ["git", "-C", str(repository), "update-ref", "--no-deref", "HEAD", f"refs/tags/{name}"]
    subprocess.run(argv, check=True)
    return repository


# --- schemes


def measure_ends(rate: float, rng: random.Random) -> Rates:
    """Boot both ends until the rate is known well enough."""
    shown = boots = 0
    while boots < END_MOST and (boots < END_BOOTS or shown < END_SHOWN):
        shown += rng.random() < rate
        boots += 1
    return Rates(shown_bad=shown, boots_bad=boots, shown_good=0, boots_good=boots)


def search(case: Case, rate: float, ends: Rates, rng: random.Random) -> Answer:
    """Ours, each boot costing the same."""
    found = Search(case.history, ends, prior=dict.fromkeys(case.idle, 0.0))
    bad = case.history.column(case.culprit)
    judged: set[str] = set()
    skipped = 0
    for tests in range(MOST):
        if found.finished:
            right = found.culprit() == case.culprit if found.finished is Finish.SURE else None
            return Answer(right, tests, len(judged), skipped)
        (commit,) = found.candidates(lambda _: 1.0)
        if commit in case.excluded:
            skipped += 1
            found.skip(commit)
            continue
        judged.add(commit)
        found.observe(commit, bool(bad[case.history.index(commit)]) and rng.random() < rate)
    raise AssertionError(f"no end after {MOST} tests")


class Midpoints:
    """git bisect's choice: the commit whose ancestors are nearest to half of what is left.

    If that one was skipped, one of the others, drawn with a bias to those near half (skip_away in git's
    bisect.c).
    """

    def __init__(self, case: Case) -> None:
        self._rows = case.history.sums(np.eye(len(case.history))).astype(np.bool_)
        self._floats = self._rows.astype(np.float32)
        self._known: dict[bytes, NDArray[np.intp]] = {}

    def narrowed(self, left: NDArray[np.bool_], commit: int, bad: bool) -> NDArray[np.bool_]:
        row: NDArray[np.bool_] = self._rows[commit]
        return left & row if bad else left & ~row

    def next(self, left: NDArray[np.bool_], skipped: Collection[int] = ()) -> int | None:
        """``None`` if no commit that was not skipped tells any of those left from another."""
        order = self._order(left)
        if not skipped or not len(order) or order[0] not in skipped:
            return int(order[0]) if len(order) else None
        others = [int(commit) for commit in order if commit not in skipped]
        # git counts and may draw the bad end, too, and then takes the one before it
        at = _skip_away(len(others) + 1)
        return others[min(at, len(others) - 1)] if others else None

    def _order(self, left: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Those left, but for the bad end, nearest to half first; of equals the newest, as git lists them."""
        if (key := np.packbits(left).tobytes()) not in self._known:
            weight = self._floats @ left
            half = np.where(left, np.minimum(weight, left.sum() - weight), 0)
            newest = np.argsort(-half[::-1], kind="stable")
            self._known[key] = (len(half) - 1 - newest)[: np.count_nonzero(half)]
        return self._known[key]


def _skip_away(count: int) -> int:
    """Which of so many commits git takes when it has to leave the first: its own arithmetic."""
    drawn = ((count * 1103515245 + 12345) % 2**32) // 65536 % 32768
    return count * drawn // 32768 * math.isqrt(drawn) // math.isqrt(32768)


def fixed(
    case: Case, midpoints: Midpoints, rate: float, repeats: int, early: bool, rng: random.Random
) -> Answer:
    """Plain git bisect; a commit is bad if one of so many boots shows the fault, the last if ``early``."""
    left = np.ones(len(case.history), np.bool_)
    bad = case.history.column(case.culprit)
    tests = judged = 0
    skipped: set[int] = set()
    while (commit := midpoints.next(left, skipped)) is not None:
        if case.history.commits[commit] in case.excluded:
            tests += 1
            skipped.add(commit)
            continue
        shown = False
        judged += 1
        for _ in range(repeats):
            tests += 1
            shown |= bool(bad[commit]) and rng.random() < rate
            if shown and early:
                break
        left = midpoints.narrowed(left, commit, shown)
    (places,) = left.nonzero()
    right = case.history.commits[places[0]] == case.culprit if len(places) == 1 else None
    return Answer(right, tests, judged, len(skipped))


def row(rate: float, scheme: str, answers: list[Answer], ends: float = 0.0) -> Row:
    tests = [answer.tests for answer in answers]
    return Row(
        rate=rate,
        scheme=scheme,
        cases=len(answers),
        called=sum(answer.right is not None for answer in answers),
        right=sum(answer.right is True for answer in answers),
        tests=mean(tests),
        tests_p95=quantiles(tests, n=20)[-1],
        judged=mean(answer.judged for answer in answers),
        skipped=mean(answer.skipped for answer in answers),
        ends=ends,
    )


# --- all of it


def ours(cases: list[Case], rate: float) -> Row:
    answers, ends = [], []
    for number, case in enumerate(cases):
        rng = random.Random(f"ours/{rate}/{number}")
        ends.append(measure_ends(rate, rng))
        answers.append(search(case, rate, ends[-1], rng))
    return row(rate, "search", answers, mean(each.boots_bad for each in ends))


def plain(cases: list[Case], midpoints: list[Midpoints], rate: float, repeats: int, early: bool) -> Row:
    """git bisect with so many repeats, each case several times unless nothing is left to chance."""
    answers = [
        fixed(case, known, rate, repeats, early, random.Random(f"fixed/{rate}/{repeats}/{number}/{again}"))
        for number, (case, known) in enumerate(zip(cases, midpoints, strict=True))
        for again in range(REPEATS if rate < 1 else 1)
    ]
    how = ", stopping at the first that shows it" if early and repeats > 1 else ""
    return row(rate, f"git bisect × {repeats}{how}", answers)


def cheapest(cases: list[Case], midpoints: list[Midpoints], rate: float, share: float, early: bool) -> Row:
    """The fewest repeats with which git bisect is as often right."""
    too_few = 0
    while plain(cases, midpoints, rate, 2 * too_few or 1, early).share < share:
        too_few = 2 * too_few or 1
    candidates = (plain(cases, midpoints, rate, too_few + more, early) for more in itertools.count(1))
    return next(found for found in candidates if found.share >= share)


def simulate(cases: list[Case], rates: Sequence[float] = RATES) -> list[list[Row]]:
    """For each rate: ours, git bisect with the fewest repeats that do, early stop and without, and plain."""
    midpoints = [Midpoints(case) for case in cases]
    found = []
    for rate in rates:
        mine = ours(cases, rate)
        early = cheapest(cases, midpoints, rate, mine.share, early=True)
        full = cheapest(cases, midpoints, rate, mine.share, early=False)
        found.append([mine, early, full, plain(cases, midpoints, rate, 1, early=False)])
        for each in found[-1]:
            print(f"{rate:4.0%} {each.scheme:55} right {each.share:6.1%} tests {each.tests:6.1f}", flush=True)
    return found


def shortfalls(found: list[list[Row]]) -> list[str]:
    """What is not as it should be: 97 % right, fewer tests than the cheapest scheme that is as often right.

    Where a fault always shows, both halve, and there is nothing to gain: then no more than one in 50 more.
    """
    said = []
    for mine, *others in found:
        best = min(other.tests for other in others if other.share >= mine.share)
        if mine.share < 0.97:
            said.append(f"{mine.rate:.0%}: {mine.right} of {mine.called} right")
        if mine.tests >= best * (1.02 if mine.rate == 1 else 1):
            said.append(f"{mine.rate:.0%}: {mine.tests:.2f} tests, {best:.2f} do")
    return said


def table(found: list[list[Row]]) -> str:
    lines = [
        "| shows in | scheme | called | right of these (95 % interval) | tests | 95 % need | judged"
        " | skipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rows in found:
        # where one boot does, the schemes are one
        for each in {each.scheme: each for each in rows}.values():
            low, high = wilson_interval(each.right, each.called) if each.called else (0.0, 1.0)
            lines.append(
                f"| {each.rate:.0%} | {each.scheme} | {each.called} of {each.cases}"
                f" | {each.share:.1%} ({low:.1%} – {high:.1%})"
                f" | {each.tests:.2f} | {each.tests_p95:.0f} | {each.judged:.1f} | {each.skipped:.2f} |"
            )
    return "\n".join(lines)


def picture(found: list[list[Row]]) -> str:
    """Two panels over the rate: tests, on a logarithmic scale, and the share that is right."""
    width, height, left, top, gap = 300, 220, 56, 34, 80
    names = (
        "the search",
        "git bisect, fewest repeats as often right, stopping early",
        "the same, all repeats",
        "git bisect × 1",
    )
    colours = ("#c0392b", "#2471a3", "#7fb3d5", "#888888")
    most = max(each.tests for rows in found for each in rows)
    decades = next(n for n in itertools.count(1) if 10**n >= most)
    parts = []

    def panel(start: int, title: str, ticks: list[tuple[float, str]], value: Callable[[Row], float]) -> None:
        parts.append(f'<text x="{start}" y="{top - 14}" font-weight="bold">{title}</text>')
        for at, label in ticks:
            y = top + height * (1 - at)
            parts.append(f'<line x1="{start}" x2="{start + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{start - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for rows in found:
            x = start + width * rows[0].rate
            parts.append(
                f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{rows[0].rate:.0%}</text>'
            )
        for scheme, colour in reversed(list(enumerate(colours))):
            points = [
                (start + width * rows[scheme].rate, top + height * (1 - value(rows[scheme])))
                for rows in found
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)

    scale = [(n / decades, f"{10**n}") for n in range(decades + 1)]
    panel(left, "tests (boots), mean", scale, lambda each: math.log10(each.tests) / decades)
    shares = [(n / 100, f"{n} %") for n in (0, 25, 50, 75, 97)]
    panel(left + width + gap, "right, of those called", shares, lambda each: each.share)
    for scheme, (name, colour) in enumerate(zip(names, colours, strict=True)):
        y = top + height + 46 + 18 * scheme
        parts.append(f'<path d="M{left} {y - 4}h24" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 32}" y="{y}">{name}</text>')
    size = (left + 2 * width + gap + 20, top + height + 56 + 18 * len(names))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}"'
        ' font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def write(folder: Path, bare: list[list[Row]], informed: list[list[Row]]) -> None:
    """The picture, and the tables between their marks in the page."""
    (folder / "bisect-search.svg").write_text(picture(bare), encoding="utf-8")
    page = folder / "bisect-search.md"
    text = page.read_text(encoding="utf-8")
    ends = ["| shows in | boots of the bad end, mean |", "|---|---|"]
    ends += [f"| {mine.rate:.0%} | {mine.ends:.1f} |" for mine, *_ in bare]
    for name, made in (("bare", table(bare)), ("informed", table(informed)), ("ends", "\n".join(ends))):

        def insert(mark: re.Match[str], made: str = made) -> str:
            return f"{mark[1]}\n{made}\n\n{mark[2]}"

        text, times = re.subn(rf"(?s)(<!-- {name}: .*?-->\n).*?(<!-- end -->)", insert, text)
        if times != 1:
            raise SystemExit(f"{page} has {times} places for the table {name!r}")
    page.write_text(text, encoding="utf-8")


def one_rate(work: tuple[int, int, float, float]) -> list[Row]:
    graphs, seed, idle, rate = work
    (rows,) = simulate(make_cases(graphs, seed, idle=idle), (rate,))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graphs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the folder of bisect-search.md")
    given = parser.parse_args()
    work = [
        (given.graphs, given.seed + number, idle, rate)
        for number, idle in enumerate((0, 0.5))
        for rate in RATES
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        found = list(pool.map(one_rate, work))
    bare, informed = found[: len(RATES)], found[len(RATES) :]
    if given.out:
        write(given.out, bare, informed)
    for said in shortfalls(bare) + shortfalls(informed):
        print("NOT AS IT SHOULD BE:", said)


if __name__ == "__main__":
    main()
