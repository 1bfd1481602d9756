# SPDX-License-Identifier: GPL-2.0-only
"""Planted histories of Linux 7.2 (make test-long TARGET=bisect_long): bisect must name the planted commit.

Each has some 70 commits: most touch documents or drivers that are not compiled, some touch compiled code
harmlessly, side branches come back in merges, a stretch does not build, and another one has a warning of its
own. What it took is printed beside what plain `git bisect run` takes on the same history.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from fakes.processes import kill_run
from fakes.trees import git
from paths import RUNS, TESTS
from under_test import FIX_GAP, LINUX_7_2, ORCHESTRATE, orchestrate, results

from orchestrator import source
from orchestrator.bisect.journal import BootStep, BuildStep, Step
from orchestrator.bisect.setup import CONCLUSION, Conclusion
from orchestrator.core.store import default_cache

pytestmark = pytest.mark.long

#: Compiled files that nobody else touches: one for the trunk, one for each side branch.
TRUNK = "fs/proc/version.c"
SIDES = ("fs/proc/uptime.c", "fs/proc/loadavg.c", "fs/proc/cmdline.c", "fs/proc/devices.c", "fs/proc/stat.c")
MAPS = "fs/proc/task_mmu.c"
NOT_COMPILED = "drivers/gpu/drm/drm_file.c"
COUNT = 46
#: Numbers on the trunk: first and last of the stretches.
BROKEN, WARNS = (12, 16), (30, 36)

Change = Callable[[Path], None]


def edit(name: str, old: str, new: str) -> Change:
    """Replace text in a file, once."""

    def change(tree: Path) -> None:
        text = (tree / name).read_text()
        assert old in text, f"{name} of this tree has no {old!r}"
        (tree / name).write_text(text.replace(old, new, 1))

    return change


def append(name: str, text: str) -> Change:
    """Put a line at a file's end."""

    def change(tree: Path) -> None:
        with (tree / name).open("a") as stream:
            stream.write(f"{text}\n")

    return change


def apply(patch: Path) -> Change:
    """Apply a patch, its lines where they have come to be."""

    def change(tree: Path) -> None:
        argv = ["patch", "-p1", "-s", "--no-backup-if-mismatch", "-i", str(patch)]
        subprocess.run(argv, cwd=tree, check=True)

    return change


M_START = "static void *m_start(struct seq_file *m, loff_t *ppos)\n{\n"
WARNING = edit(MAPS, M_START, f"{M_START}\tWARN_ON_ONCE(*ppos == 0);\n")
NO_WARNING = edit(MAPS, "\tWARN_ON_ONCE(*ppos == 0);\n", "")
BREAK, MEND = append(TRUNK, "#error planted"), edit(TRUNK, "#error planted\n", "")

ANSWER = "|| vma->vm_start <= addr)"
FUNCTIONAL = edit(MAPS, ANSWER, "|| vma)")
INCLUDE = "#include <linux/pagewalk.h>\n"


def flaky(tree: Path) -> None:
    """The same in one guest of four."""
    mood = (
        "#include <linux/random.h>\n"
        "static int planted_mood = -1;\n"
        "static bool planted(void)\n{\n"
        "\tif (planted_mood < 0)\n\t\tplanted_mood = !get_random_u32_below(4);\n"
        "\treturn planted_mood;\n}\n"
    )
    edit(MAPS, ANSWER, f"{ANSWER[:-1]} || planted())")(tree)
    last = "#include <asm/tlbflush.h>\n"
    edit(MAPS, last, f"{last}{mood}")(tree)


def slow(us: int) -> Change:
    """A delay in each mmap(), under the lock."""

    def change(tree: Path) -> None:
        edit("mm/util.c", "\t\tret = do_mmap(", f"\t\tudelay({us});\n\t\tret = do_mmap(")(tree)
        edit("mm/util.c", "#include <linux/mm.h>\n", "#include <linux/mm.h>\n#include <linux/delay.h>\n")(
            tree
        )

    return change


#: A mistake that the console tells, of which suite, and a word of its fingerprint. It shows in about two
#: boots of three, often behind other reports, which vary.
SPLAT = TESTS / "broken/27-query-puts-mm-twice.patch"
SPLAT_SUITE, SPLAT_WORD = "procmap-query", "rss"

FREEABLE = "static noinline void __init kernel_init_freeable(void)\n{\n"
NO_BOOT = edit("init/main.c", FREEABLE, f'{FREEABLE}\tpanic("planted");\n')


@dataclass
class Planted:
    """A history, its ends, and its culprit."""

    repository: Path
    good: str
    bad: str = ""
    culprit: str = ""
    unbuildable: list[str] = field(default_factory=list)

    def commit(self, subject: str, *changes: Change) -> str:
        """Make changes and commit them."""
        for change in changes:
            change(self.repository)
        git(self.repository, "commit", "-q", "--all", "--allow-empty", "-m", subject)
        return git(self.repository, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """Linux 7.2 without its known gap, in a repository with one commit."""
    # the same place in every session, for ccache
    place = default_cache() / "planted" / "linux"
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", source.resolve(LINUX_7_2, cache=default_cache()).path, place], check=True)
    subprocess.run(["patch", "-p1", "-s", "-i", FIX_GAP], cwd=place, check=True)
    git(place, "init", "-q", "-b", "base")
    # it would be at it for minutes, beside what is measured
    git(place, "config", "gc.auto", "0")
    git(place, "add", "-A", "-f")
    git(place, "commit", "-q", "-m", "Linux 7.2")
    yield place
    shutil.rmtree(place)


def plant(base: Path, name: str, culprit: Change, at: int, *, side: bool) -> Planted:
    """A branch with the culprit at that number of the trunk, or on the side branch that begins there."""
    git(base, "checkout", "-q", "-f", "-B", name, "base")
    planted = Planted(base, git(base, "rev-parse", "HEAD").strip())
    sides = iter(SIDES)
    for number in range(COUNT):
        if number == at and not side:
            planted.culprit = planted.commit("The culprit", culprit)
        elif number == BROKEN[0]:
            planted.unbuildable.append(planted.commit("Break the build", BREAK))
        elif number == BROKEN[1] + 1:
            planted.commit("Mend the build", MEND)
        elif number == WARNS[0]:
            planted.commit("Warn of nothing", WARNING)
        elif number == WARNS[1]:
            planted.commit("Warn no longer", NO_WARNING)
        else:
            made = planted.commit(f"Harmless {number}", _harmless(number))
            if BROKEN[0] < number <= BROKEN[1]:
                planted.unbuildable.append(made)
        if number % 9 == 4:
            # it leaves here, and comes back when the trunk has moved on
            there = culprit if side and number >= at and not planted.culprit else None
            made_there = _side(planted, name, next(sides), there)
            if BROKEN[0] <= number <= BROKEN[1]:
                planted.unbuildable += made_there
        if number % 9 == 8:
            git(base, "merge", "-q", "--no-ff", "-m", f"Merge at {number}", f"{name}-side")
            git(base, "branch", "-q", "-D", f"{name}-side")
    planted.bad = git(base, "rev-parse", "HEAD").strip()
    count = int(git(base, "rev-list", "--count", f"{planted.good}..{planted.bad}"))
    merges = int(git(base, "rev-list", "--count", "--merges", f"{planted.good}..{planted.bad}"))
    assert planted.culprit
    assert count >= 60
    assert merges >= 4
    return planted


def _harmless(number: int) -> Change:
    if number % 3 == 0:
        return append("Documentation/index.rst", f".. {number}")
    if number % 3 == 1:
        return append(NOT_COMPILED, f"/* {number} */")
    return append(TRUNK, f"const int planted_{number} = {number};")


def _side(planted: Planted, name: str, file: str, culprit: Change | None) -> list[str]:
    """A side branch of four commits from here."""
    git(planted.repository, "checkout", "-q", "-b", f"{name}-side")
    made = []
    for number in range(4):
        if culprit and number == 2:
            made.append(planted.commit("The culprit", culprit))
            planted.culprit = made[-1]
        else:
            text = f"const int planted_{Path(file).stem}_{number} = 1;"
            made.append(planted.commit(f"Beside {number}", append(file, text)))
    git(planted.repository, "checkout", "-q", name)
    return made


def asked(planted: Planted, name: str, *words: str) -> list[str]:
    """The words of a bisect between the ends, in an empty folder."""
    out = RUNS / "planted" / name
    shutil.rmtree(out, ignore_errors=True)
    ends = ["--source", str(planted.repository), "--good", planted.good, "--bad", planted.bad]
    return ["bisect", *ends, "--out", str(out), *words]


def concluded(folder: Path) -> Conclusion:
    """What a bisect came to."""
    return msgspec.json.decode((folder / CONCLUSION).read_bytes(), type=Conclusion)


def bisect(planted: Planted, name: str, *words: str) -> Conclusion:
    """What `orchestrate bisect` finds; what it took is printed."""
    done = orchestrate(*asked(planted, name, *words))
    (folder,) = (RUNS / "planted" / name).glob("bisect-*")
    assert done.returncode == 0
    found = concluded(folder)
    steps = plain_steps(planted)
    rate = found.shown_bad / found.boots_bad if found.boots_bad else 1.0
    repeats = 1 if rate == 1 else math.ceil(math.log(0.03 / steps) / math.log(1 - rate))
    each = found.minutes / max(1, found.builds)
    with (RUNS / "planted" / "table.md").open("a") as table:
        line = (
            f"| {name} | {found.commits} commits | {found.judged} judged, {found.boots} boots,"
            f" {found.builds} builds, {found.minutes:.0f} min with ends and re-checks | git bisect run:"
            f" {steps} judged, {steps * repeats} boots, {steps} builds, about {steps * each:.0f} min"
            " without ends and re-checks |\n"
        )
        table.write(line)
        print(line)
    return found


def plain_steps(planted: Planted) -> int:
    """How many commits `git bisect run` tests, were each told rightly."""
    broken = " ".join(planted.unbuildable)
    script = (
        'h=$(git rev-parse BISECT_HEAD); echo x >>"$COUNT"; '
        f'case " {broken} " in *" $h "*) exit 125;; esac; '
        f"git merge-base --is-ancestor {planted.culprit} $h && exit 1; exit 0"
    )
    count = planted.repository / ".git/planted-count"
    count.unlink(missing_ok=True)
    git(planted.repository, "bisect", "start", "--no-checkout", planted.bad, planted.good)
    try:
        subprocess.run(
            ["git", "-C", str(planted.repository), "bisect", "run", "sh", "-c", script],
            env={**os.environ, "COUNT": str(count)},
            check=True,
            capture_output=True,
        )
    finally:
        git(planted.repository, "bisect", "reset")
    return len(count.read_text().split())


def within(found: Conclusion) -> bool:
    """Whether it took no more than three commits more than a bisection of that many must."""
    return found.judged <= math.ceil(math.log2(found.commits)) + 3


def test_a_functional_regression(base: Path) -> None:
    planted = plant(base, "functional", FUNCTIONAL, 20, side=True)
    found = bisect(planted, "functional", "--arch", "x86_64", "--case", "maps/proc-pid-vm")
    assert found.culprit == planted.culprit
    assert within(found)


def test_a_functional_regression_on_arm64(base: Path) -> None:
    planted = plant(base, "arm64", FUNCTIONAL, 40, side=False)
    found = bisect(planted, "arm64", "--arch", "arm64", "--case", "procmap-query/*answers/*")
    assert found.culprit == planted.culprit
    assert within(found)


def test_one_that_shows_in_a_quarter_of_the_boots(base: Path) -> None:
    planted = plant(base, "flaky", flaky, 26, side=False)
    found = bisect(planted, "flaky", "--arch", "x86_64", "--case", "maps/proc-pid-vm", "--ends", "12")
    assert found.culprit == planted.culprit


def test_one_that_is_named_by_its_splat(base: Path, tmp_path: Path) -> None:
    """From a real console through `orchestrate console --json` to the culprit, by a beginning."""
    planted = plant(base, "splat", apply(SPLAT), 20, side=False)
    orchestrate(
        *("run", "--source", f"{base}@{planted.bad}", "--arch", "x86_64", "--variant", "per-vma-lock"),
        *("--suite", SPLAT_SUITE, "--times", "4", "--out", tmp_path),
    )
    printed = set[str]()
    for log in (tmp_path / "latest").glob("cells/*/console*.log"):
        splats = json.loads(orchestrate("console", "--json", log).stdout)
        printed |= {splat["fingerprint"] for splat in splats}
    (fingerprint,) = (each for each in printed if SPLAT_WORD in each)
    beginning = fingerprint.rpartition("-")[0]
    assert [each for each in printed if each.startswith(beginning)] == [fingerprint]
    question = ("--suite", SPLAT_SUITE, "--splat", beginning, "--ends", "8")
    found = bisect(planted, "splat", "--arch", "x86_64", *question)
    assert found.culprit == planted.culprit
    assert found.predicate == f"the splat {fingerprint} is seen"
    assert within(found)


def test_one_of_performance(base: Path, tmp_path: Path) -> None:
    git(base, "checkout", "-q", "-f", "base")
    orchestrate(
        *("run", "--source", f"{base}@base", "--arch", "x86_64", "--variant", "per-vma-lock"),
        *("--suite", "map-latency", "--boots", "4", "--out", tmp_path),
    )
    means = [s.metrics["mean_us_scanned"] for c in results(tmp_path).cells for s in c.suites if s.metrics]
    delay_us = max(1, round(sorted(means)[len(means) // 2] * 0.4))
    planted = plant(base, "slow", slow(delay_us), 20, side=True)
    found = bisect(planted, "slow", "--arch", "x86_64", "--metric", "map-latency/mean_us_scanned")
    assert found.culprit == planted.culprit


def test_one_that_does_not_boot(base: Path) -> None:
    planted = plant(base, "boot", NO_BOOT, 7, side=False)
    found = bisect(planted, "boot", "--arch", "x86_64", "--boot")
    assert found.culprit == planted.culprit
    assert within(found)


def test_one_that_does_not_build(base: Path) -> None:
    planted = plant(base, "build", append("fs/proc/meminfo.c", "#error the culprit"), 38, side=False)
    found = bisect(planted, "build", "--arch", "x86_64", "--build")
    assert found.culprit == planted.culprit


def test_killed_ten_times_and_resumed(base: Path, tmp_path: Path) -> None:
    """kill -9 in builds, boots and between: nothing that was done is done again, and the culprit is found."""
    planted = plant(base, "killed", FUNCTIONAL, 29, side=False)
    words = asked(planted, "killed", "--arch", "x86_64", "--case", "maps/proc-pid-vm")
    dice = random.Random(10)
    kept: dict[Path, tuple[int, int]] = {}
    journal = b""
    for number in range(10):
        running, folder = _under_way(words, tmp_path / f"{number}.log")
        wanted = journal.count(b"\n") + dice.randint(0, 2)
        while (folder / "journal.ndjson").read_bytes().count(b"\n") < wanted:
            assert running.poll() is None, f"it was over before it was killed {number + 1} times"
            time.sleep(0.2)
        time.sleep(dice.uniform(0, 15))
        assert running.poll() is None, f"it was over before it was killed {number + 1} times"
        kill_run(running, folder)
        print(number, (tmp_path / f"{number}.log").read_text().splitlines()[-1])
        assert _unchanged(kept)
        before, journal = journal, (folder / "journal.ndjson").read_bytes()
        assert journal.startswith(before[: before.rfind(b"\n") + 1])
        done = [*folder.glob("boots/*/cells/*/result.json"), *folder.glob("builds/*.json")]
        kept = {path: _state(path) for path in done}
        words = ["bisect", "--resume", str(folder)]
    assert orchestrate(*words).returncode == 0
    assert _unchanged(kept)
    assert concluded(folder).culprit == planted.culprit
    lines = (folder / "journal.ndjson").read_bytes().splitlines()
    steps = [msgspec.json.decode(line, type=Step) for line in lines]
    boots = Counter((s.subject, s.number) for s in steps if isinstance(s, BootStep))
    builds = Counter(s.subject for s in steps if isinstance(s, BuildStep))
    assert {*boots.values(), *builds.values()} == {1}
    print(len(steps), "steps", len(boots), "boots", len(builds), "builds")


def _under_way(words: list[str], log: Path) -> tuple[subprocess.Popen[str], Path]:
    """A bisect that has begun or gone on, and its folder."""
    with log.open("w") as stream:
        running = subprocess.Popen(
            [*ORCHESTRATE, *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    while "results in" not in log.read_text():
        assert running.poll() is None, log.read_text()
        time.sleep(0.2)
    (folder,) = (RUNS / "planted" / "killed").glob("bisect-*")
    (folder / "journal.ndjson").touch()
    return running, folder


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_mtime_ns, path.stat().st_ino


def _unchanged(kept: dict[Path, tuple[int, int]]) -> bool:
    return all(_state(path) == state for path, state in kept.items())
