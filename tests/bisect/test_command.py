# SPDX-License-Identifier: GPL-2.0-only
"""From the command line of bisect to its report: a made-up kernel in a real git repository, real builds.

No guest is booted: where boots are needed, a cell's outcome is read from a file of the tree that was built.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from fakes.bisected import CASE, LOGS, reports, result
from fakes.linux import commit_file, make_linux_repository, path_with_fault
from fakes.processes import alive, until
from fakes.trees import git
from under_test import ORCHESTRATE

from orchestrator.bisect import setup
from orchestrator.bisect.setup import Conclusion
from orchestrator.cell import lifecycle
from orchestrator.cell.state import CellState
from orchestrator.cli.main import main
from orchestrator.debug import reopen
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.results.model import CellResult, SuiteResult, Verdict
from orchestrator.run.directory import RunDirectory
from orchestrator.verdict import crash
from orchestrator.vm import accel, qemu

pytestmark = pytest.mark.slow

needs_make = pytest.mark.skipif(
    not all(map(shutil.which, ("make", "gcc", "python3", "bc", "bison", "flex"))),
    reason="make, gcc or what kernels need is not installed",
)


class Yard:
    """A repository, a cache and a folder of bisects."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: Path) -> None:
        shutil.copytree(configs, tmp_path / "cache" / configs.name)
        self.repository = make_linux_repository(tmp_path / "linux")
        self.out = tmp_path / "runs"
        self.commits: list[str] = []
        monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        self._patch = monkeypatch

    def add(self, name: str, text: str, subject: str = "more") -> str:
        self.commits.append(commit_file(self.repository, name, text, subject))
        return self.commits[-1]

    def bisect(self, *words: str | Path) -> int:
        """The exit code of `orchestrate bisect`."""
        own = () if "--resume" in words else ("--source", self.repository)
        argv = ["orchestrate", "bisect", *own, "--out", self.out, *words]
        self._patch.setattr(sys, "argv", list(map(str, argv)))
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    @property
    def folder(self) -> Path:
        """The one bisect."""
        (found,) = self.out.glob("bisect-*")
        return found

    def conclusion(self) -> Conclusion:
        return msgspec.json.decode((self.folder / setup.CONCLUSION).read_bytes(), type=Conclusion)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux_configs: Path) -> Yard:
    return Yard(tmp_path, monkeypatch, linux_configs)


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Cells without guests: each says what its kernel is. What a bad one prints is ``console``, if given."""
    booted: list[str] = []
    console: list[str] = []

    def cell_result(cell: CellState) -> CellResult:
        target = cell.target
        assert next(cell.host.store.root.glob("kernels/*/vmlinux"))
        assert target.tree is not None
        booted.append(target.tree.commit)
        show = git(Path(target.tree.base_spec.rpartition("@")[0]), "show", f"{target.tree.commit}:fs/a.c")
        bad = "FAULT" in show and "-" not in target.label
        if bad and console:
            watch = ConsoleWatch()
            watch.feed((LOGS / console[0]).read_bytes())
            case = crash.new_console_case(CASE, watch)
            assert case is not None
            return msgspec.structs.replace(
                result(Verdict.PASS),
                cell=cell.plan.id,
                suites=(SuiteResult(suite="maps", cases=(case,)),),
            )
        return msgspec.structs.replace(
            result(Verdict.FAIL if bad else Verdict.PASS, reason="because" if bad else ""),
            cell=cell.plan.id,
        )

    monkeypatch.setattr(lifecycle, "_result", cell_result)
    monkeypatch.setattr(qemu, "program", lambda arch: "qemu")
    monkeypatch.setattr(accel, "choose", lambda *_: None)
    return {"booted": booted, "console": console}


@needs_make
def test_a_build_that_breaks(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    good = yard.add("fs/a.c", "int a = 1;\n")
    for number in range(5):
        yard.add(f"Documentation/{number}", "words\n")
    culprit = yard.add("fs/a.c", "int a = nothing;\n", "Break <it> all & sundry")
    for number in range(4):
        yard.add(f"fs/b{number}.c", f"int b{number};\n")
    assert yard.bisect("--good", good, "--build") == 0
    said = capsys.readouterr().out
    assert f'Fixes: {culprit[:12]} ("Break <it> all & sundry")' in said
    found = yard.conclusion()
    assert (found.culprit, found.boots) == (culprit, 0)
    assert [each.what for each in found.rechecks] == ["the culprit", "its parent", "the bad end without it"]
    assert all(each.holds for each in found.rechecks)
    assert "Break &lt;it&gt; all &amp; sundry" in (yard.folder / "report.html").read_text()
    assert "Break \\<it\\> all & sundry" in (yard.folder / "report.md").read_text()
    assert (yard.folder / "logs" / f"{culprit[:12]}.log").stat().st_size
    # git takes our log, and comes to the same
    replayed = subprocess.run(
        ["git", "-C", str(yard.repository), "bisect", "replay", str(yard.folder / "bisect.log")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{culprit} is the first bad commit" in replayed.stdout
    steps = (yard.folder / "journal.ndjson").read_text()
    assert yard.bisect("--resume", "last") == 0
    assert (yard.folder / "journal.ndjson").read_text() == steps, "a step was done again"


@needs_make
def test_a_case_that_fails(
    yard: Yard, guests: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    good = yard.add("fs/a.c", "int a = 1;\n")
    yard.add("fs/a.c", "int a = 2;\n")
    yard.add("Documentation/x", "words\n")
    culprit = yard.add("fs/a.c", "int a = 3; /* FAULT */\n", "Bring it in")
    yard.add("Documentation/y", "words\n")
    yard.add("fs/b.c", "int b;\n")
    assert (
        yard.bisect("--good", good, "--case", CASE, "--suite", "maps", "--selftests-from", yard.repository)
        == 0
    )
    found = yard.conclusion()
    assert found.culprit == culprit
    assert found.judged <= 3
    assert len(guests["booted"]) == found.boots
    assert json.loads((yard.folder / "bisect.json").read_text())["choices"]["variants"] == ["per-vma-lock"]
    boots = sorted(path.name for path in (yard.folder / "boots").iterdir())
    assert f"{culprit[:12]}-1" in boots
    assert (yard.folder / "boots" / f"{culprit[:12]}-1" / "junit.xml").is_file()
    told = json.loads((yard.folder / "boots" / f"{culprit[:12]}-1" / "results.json").read_text())
    assert told["sources"][0]["maps_read_under_vma_locks"] is False, "what the tree says of itself is lost"
    # the scripts of kernels that are no commit as it stands name what was changed on top
    (without,) = (yard.folder / "boots").glob(f"*-without-{culprit[:12]}-1/cells/*/reproduce.sh")
    patch = yard.folder / "patches" / f"without-{culprit[:12]}.patch"
    assert f"{patch}" in without.read_text()
    assert "-int a = 3; /* FAULT */\n" in patch.read_text()
    for script in (yard.folder / "boots").glob(f"{culprit[:12]}-1/cells/*/reproduce.sh"):
        assert "--patch" not in script.read_text()
    assert "shown in 3 of 3 boots of the bad end" in capsys.readouterr().out


@needs_make
def test_a_splat_from_a_console_to_the_culprit(
    yard: Yard, guests: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """What `orchestrate console --json` prints, or its beginning, is what `--splat` is given."""
    guests["console"].append("refcount-and-list.log")
    log = str(LOGS / guests["console"][0])
    done = subprocess.run([*ORCHESTRATE, "console", "--json", log], capture_output=True, text=True)
    behind = json.loads(done.stdout)[1]["fingerprint"]
    good = yard.add("fs/a.c", "int a = 1;\n")
    culprit = yard.add("fs/a.c", "int a = 2; /* FAULT */\n")
    yard.add("fs/b.c", "int b;\n")
    words: list[str | Path] = ["--good", good, "--suite", "maps", "--selftests-from", yard.repository]
    assert yard.bisect(*words, "--splat", behind[:6].upper()) == 0
    assert f"bad is: the splat {behind} is seen" in capsys.readouterr().out
    assert yard.conclusion().culprit == culprit
    # a boot's folder is a run, whose cell can be looked at
    boot = yard.folder / "boots" / f"{culprit[:12]}-1"
    assert reopen.find(yard.out, str(boot)).root == boot
    shutil.rmtree(yard.folder)
    guests["console"][0] = "lockdep-kinds.log"
    assert yard.bisect(*words, "--splat", "lockdep-WARNING") == 2
    said = capsys.readouterr().err
    several = [each for each in reports("lockdep-kinds.log") if each.startswith("lockdep-WARNING")]
    assert f"the bad end shows {len(several)} reports that start like that: {', '.join(several)}" in said
    shutil.rmtree(yard.folder)
    assert yard.bisect(*words, "--splat", behind) == 4
    assert "the bad end does not show the fault: " in (said := capsys.readouterr().err)
    assert "It showed lockdep-WARNING-held-lock-freed, " in said


# --- what is asked wrongly


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--good", "HEAD", "--bad", "HEAD~1"], "the ends are swapped"),
        (["--good", "side", "--bad", "HEAD"], "good side is not an ancestor of bad HEAD: both descend from"),
        (["--good", "HEAD"], "the same commit"),
        (["--good", "nothing"], "has no commit 'nothing'"),
        ([], "no good commit is given"),
        (["--good", "HEAD~1", "--boot", "--build"], "only one of these can say what is bad"),
        (["--good", "HEAD~1", "--case", "word"], "a case is SUITE/PATH"),
        (["--good", "HEAD~1", "--case", "nosuch/x"], "unknown suite 'nosuch'"),
        (["--good", "HEAD~1", "--case", "cmd/cmd"], "needs a command"),
        (["--good", "HEAD~1", "--splat", "3f9c2a1b"], "--splat 3f9c2a1b: no fingerprint starts like"),
        (["--good", "HEAD~1", "--metric", "map-latency"], "a metric is SUITE/METRIC"),
        (
            ["--good", "HEAD~1", "--variant", "mmap-lock", "--variant", "per-vma-lock"],
            "one kernel per commit",
        ),
        (["--good", "HEAD~1", "--build", "--suite", "maps"], "--build boots nothing"),
        (["--good", "HEAD~1", "--fix", "HEAD"], "is not COMMIT:A..B"),
        (["--good", "HEAD~1", "--fix", "nothing:HEAD~1..HEAD"], "has no commit 'nothing'"),
        (["--good", "HEAD~1", "--replay", "missing"], "--replay missing: No such file"),
        (["--resume", "nothing"], "there is no bisect 'nothing'"),
        (["--resume", "last", "--good", "HEAD"], "--good cannot be changed with --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_2(
    yard: Yard, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    git(yard.repository, "checkout", "-q", "-b", "side")
    yard.add("fs/s.c", "int s;\n")
    git(yard.repository, "checkout", "-q", "main")
    yard.add("fs/a.c", "int a;\n")
    assert yard.bisect(*words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) <= 3
    assert not yard.out.exists()


def test_a_shallow_clone(yard: Yard, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(4):
        yard.add("fs/a.c", f"int a{number};\n")
    git(yard.repository, "tag", "old", "HEAD~3")
    git(tmp_path, "clone", "-q", "--depth=2", f"file://{yard.repository}", "shallow")
    git(tmp_path / "shallow", "fetch", "-q", "--depth=1", "origin", "tag", "old")
    assert yard.bisect("--source", tmp_path / "shallow", "--good", "old", "--build") == 2
    said = capsys.readouterr().err
    assert "shallow is shallow: its history is cut off between old and HEAD" in said
    assert "git fetch --unshallow" in said


@needs_make
def test_local_changes_are_no_part_of_it(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    yard.add("fs/a.c", "int a;\n")
    (yard.repository / "fs/a.c").write_text("int mine;\n")
    assert yard.bisect("--good", "HEAD~1", "--build", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "has local changes; they are not part of any commit" in said
    assert "1 commits, bad is: the kernel does not build." in said


def test_a_directory_that_is_no_repository(
    yard: Yard, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    assert yard.bisect("--source", tmp_path / "plain", "--good", "x") == 2
    assert "is not the top of a git repository" in capsys.readouterr().err
    assert yard.bisect("--source", f"{yard.repository}@HEAD", "--good", "x") == 2
    assert "not a directory" in capsys.readouterr().err


@needs_make
def test_what_is_refused_leaves_no_folder(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    good = yard.add("fs/a.c", "int a;\n")
    git(yard.repository, "rm", "-q", "Makefile")
    yard.add("fs/a.c", "int nothing;\n")
    assert yard.bisect("--good", good, "--build") == 2
    assert "is not a kernel tree" in capsys.readouterr().err
    assert not yard.out.exists()


@needs_make
def test_a_fix_that_does_not_apply(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    good = yard.add("fs/a.c", "int a;\n")
    git(yard.repository, "checkout", "-q", "-b", "side")
    yard.add("fs/b.c", "int b;\n")
    fix = yard.add("fs/b.c", "int mended;\n")
    git(yard.repository, "checkout", "-q", "main")
    yard.add("fs/a.c", "int nothing = a;\n")
    assert yard.bisect("--good", good, "--boot", "--fix", f"{fix}:HEAD~1..HEAD") == 2
    assert f"the bad end cannot be built: {yard.commits[-1][:12]}: the fix {fix[:12]} does not apply" in (
        capsys.readouterr().err
    )


@needs_make
def test_a_bisect_is_carried_out_once_at_a_time(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    yard.add("fs/a.c", "int a = nothing;\n")
    assert yard.bisect("--good", "HEAD~1", "--build") == 0
    with RunDirectory(yard.folder).lock():
        assert yard.bisect("--resume", "last") == 2
    assert "is being executed by another process" in capsys.readouterr().err


@needs_make
def test_an_end_that_is_not_as_claimed(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    yard.add("fs/a.c", "int a;\n")
    assert yard.bisect("--good", "HEAD~1", "--build") == 4
    assert f"the bad end {yard.commits[-1][:12]} builds" in capsys.readouterr().err


@needs_make
def test_a_full_disk_stops_it_and_it_goes_on(
    yard: Yard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = yard.add("fs/a.c", "int a;\n")
    yard.add("fs/a.c", "int b;\n")
    culprit = yard.add("fs/a.c", "int a = nothing;\n")
    monkeypatch.setenv("PATH", path_with_fault(yard.out.parent / "fault", "full"))
    assert yard.bisect("--good", good, "--build") == 3
    assert "the disk is full" in capsys.readouterr().err
    monkeypatch.setenv("PATH", path_with_fault(yard.out.parent / "fault", "none"))
    assert yard.bisect("--resume", yard.folder.name) == 0
    assert yard.conclusion().culprit == culprit


@needs_make
def test_ctrl_c_and_on(yard: Yard, monkeypatch: pytest.MonkeyPatch, marker: str) -> None:
    good = yard.add("fs/a.c", "int a;\n")
    culprit = yard.add("fs/a.c", "int a = nothing;\n")
    argv = [*ORCHESTRATE, "bisect", "--source", str(yard.repository)]
    argv += ["--out", str(yard.out), "--good", good, "--build"]
    slow = {**os.environ, "PATH": path_with_fault(yard.out.parent / "fault", "slow", marker)}
    with subprocess.Popen(
        argv, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert until(lambda: alive(marker), 120)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"Resume: orchestrate bisect --resume {yard.folder}" in said
    assert alive(marker) == []
    assert yard.bisect("--resume", yard.folder) == 0
    assert yard.conclusion().culprit == culprit
