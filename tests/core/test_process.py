# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor with real processes: nothing outlives its limit or its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.processes import alive, until

from orchestrator.core import process
from orchestrator.core.errors import InfraError
from orchestrator.core.process import Outcome, Supervised, require, tool

# they wait for processes and clocks
pytestmark = pytest.mark.slow

#: A tree that is hard to end: deaf to SIGTERM, with a daemon in a session of its own.
STUBBORN = """
trap '' TERM
(setsid bash -c "trap '' TERM; (exec -a {0}-daemon sleep 300) & wait" &)
(exec -a {0}-child sleep 300) &
exec -a {0} sleep 300
"""


def start(tmp_path: Path, *argv: str, limit_s: float = 60.0, **options: Any) -> Supervised:
    return Supervised(argv, limit_s=limit_s, output=tmp_path / "output", **options)


def start_stubborn(tmp_path: Path, marker: str, **options: Any) -> Supervised:
    child = start(tmp_path, "bash", "-c", STUBBORN.format(marker), **options)
    assert until(lambda: len(alive(marker)) >= 4), "the tree did not come up"
    return child


@pytest.mark.parametrize(
    ("script", "outcome", "text"),
    [
        ("exit 0", Outcome(0, None, "ended"), "exit status 0"),
        ("exit 3", Outcome(3, None, "ended"), "exit status 3"),
        ("kill -SEGV $$", Outcome(None, 11, "ended"), "signal 11"),
        ("kill -KILL $$", Outcome(None, 9, "ended"), "signal 9"),
    ],
)
def test_how_it_ended(tmp_path: Path, script: str, outcome: Outcome, text: str) -> None:
    child = start(tmp_path, "sh", "-c", f"ulimit -c 0; {script}")
    assert child.wait(30) == outcome
    assert str(outcome) == text
    assert child.poll() == child.wait() == outcome
    child.kill()
    assert child.wait() == outcome


def test_output_is_appended(tmp_path: Path) -> None:
    for word in ("one", "two"):
        start(tmp_path, "sh", "-c", f"echo {word}; echo {word} >&2").wait(30)
    assert (tmp_path / "output").read_text() == "one\none\ntwo\ntwo\n"


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    assert start(tmp_path, "/nonexistent/program").wait(30) == Outcome(127, None, "ended")
    assert (tmp_path / "output").read_text() == "/nonexistent/program: No such file or directory\n"


def test_arguments_folder_and_environment_arrive_as_given(tmp_path: Path) -> None:
    script = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['WORD'])"
    argv = ["--limit", "--", "-x", "a b", ""]
    child = start(
        tmp_path, sys.executable, "-c", script, *argv, cwd=tmp_path, env={**os.environ, "WORD": "w"}
    )
    assert child.wait(30) == Outcome(0, None, "ended")
    assert (tmp_path / "output").read_text() == f"{argv} {tmp_path} w\n"


def test_a_descriptor_is_the_childs_alone(tmp_path: Path) -> None:
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.write_text("word")
    kept.touch()
    with given.open() as stream, kept.open():
        number = stream.fileno()
        script = f"cat <&{number}; while [ ! -e {tmp_path}/seen ]; do sleep 0.02; done"
        child = start(tmp_path, "bash", "-c", script, pass_fds=(number,))
        assert until(lambda: (tmp_path / "output").exists() and (tmp_path / "output").read_text() == "word")

        def opened(pid: int) -> set[str]:
            return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}

        assert str(given) in opened(child.pid)
        assert str(kept) not in opened(child.pid)
        assert not {str(given), str(kept)} & opened(child._supervisor.pid)
        (tmp_path / "seen").touch()
        assert child.wait(30) == Outcome(0, None, "ended")
        assert os.fstat(number), "ours stays open"


def test_signals_of_the_child_are_as_by_default(tmp_path: Path) -> None:
    # as a shell has it for what it starts in the background, and nohup
    ignored = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1]
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        start(tmp_path, "cat", "/proc/self/status").wait(30)
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    masks = dict(
        line.split(":\t") for line in (tmp_path / "output").read_text().splitlines() if "Sig" in line
    )
    # signals 32 and 33 are the C library's own: what a parent did to them cannot be undone through it
    standard = 0x7FFFFFFF
    assert int(masks["SigBlk"], 16) & standard == int(masks["SigIgn"], 16) & standard == 0


def test_cpu_time_counts_grandchildren(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    child = start(tmp_path, "sh", "-c", f"{sys.executable} -S -c '{burn}'; true")
    child.wait(60)
    assert 0.3 <= child.cpu_s < 5


def test_the_limit_ends_a_tree_that_will_not_go(tmp_path: Path, marker: str) -> None:
    child = start_stubborn(tmp_path, marker, limit_s=3.0, grace_s=0.2)
    assert child.wait(30) == Outcome(None, 9, "limit")
    assert alive(marker) == []


def test_grace_is_a_chance_to_end_well(tmp_path: Path) -> None:
    child = start(
        tmp_path, "bash", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done", grace_s=20
    )
    output = tmp_path / "output"
    assert until(lambda: output.exists() and output.read_text() == "up\n")
    child.kill()
    assert child.wait() == Outcome(5, None, "parent")


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path, marker: str) -> None:
    script = f"setsid bash -c 'exec -a {marker} sleep 300' & while ! pgrep -f '^{marker}'; do :; done"
    child = start(tmp_path, "bash", "-c", script)
    assert child.wait(30) == Outcome(0, None, "ended")
    assert (tmp_path / "output").read_text().strip(), "the daemon did not come up"
    assert alive(marker) == []


def test_kill_ends_all_and_cleans_up(tmp_path: Path, marker: str) -> None:
    folder = tmp_path / "private"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/socket").touch()
    child = start_stubborn(tmp_path, marker, cleanup=folder)
    assert child.poll() is None
    child.kill()
    assert child.wait() == Outcome(None, 9, "parent")
    assert alive(marker) == []
    assert not folder.exists()


SLOW_TO_START = f"""
import os, runpy, time
setsid = os.setsid
os.setsid = lambda: (time.sleep(0.5), setsid())
runpy.run_path({str(process._SUPERVISOR)!r}, run_name="__main__")
"""


def test_killed_the_moment_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it leads a group of its own, a signal to that group would miss it."""
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_TO_START)
    monkeypatch.setattr(process, "_SUPERVISOR", slow)
    child = start(tmp_path, "sleep", "300")
    child.end()
    assert child.wait(10) == Outcome(None, 9, "parent")


def test_asked_to_end(tmp_path: Path, marker: str) -> None:
    child = start_stubborn(tmp_path, marker)
    os.kill(child._supervisor.pid, signal.SIGTERM)
    assert child.wait(30) == Outcome(None, 9, "terminated")
    assert alive(marker) == []


def test_all_at_once(tmp_path: Path, marker: str) -> None:
    children = [start(tmp_path, "bash", "-c", f"exec -a {marker} sleep 300") for _ in range(3)]
    process.end_all()
    assert {child.wait(30) for child in children} == {Outcome(None, 9, "parent")}
    assert alive(marker) == []


PARENT = """
import sys, time
from pathlib import Path
from orchestrator.core.process import Supervised
folder = Path(sys.argv[1])
argv = ["bash", "-c", sys.argv[2]]
child = Supervised(argv, limit_s=300, output=folder / "out", cleanup=folder / "private")
time.sleep(300)
"""


def test_a_parent_killed_with_sigkill_leaves_nothing_behind(tmp_path: Path, marker: str) -> None:
    (tmp_path / "private").mkdir()
    argv = [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN.format(marker)]
    with subprocess.Popen(argv) as parent:
        # four, the parent itself and the supervisor
        assert until(lambda: len(alive(marker)) >= 6), "the tree did not come up"
        parent.kill()
    assert until(lambda: alive(marker) == [])
    assert until(lambda: not (tmp_path / "private").exists())


def test_a_killed_supervisor_takes_its_child_along(tmp_path: Path, marker: str) -> None:
    child = start(tmp_path, "bash", "-c", f"exec -a {marker} sleep 300")
    assert until(lambda: psutil.Process(child.pid).cmdline()[0] == marker)
    os.kill(child._supervisor.pid, signal.SIGKILL)
    assert child.wait(30) == Outcome(None, 9, "supervisor died")
    assert until(lambda: alive(marker) == [])


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Supervised] = []
    thread = threading.Thread(target=lambda: started.append(start(tmp_path, "sleep", "300")))
    thread.start()
    thread.join()
    assert started[0].wait(0.3) is None
    started[0].kill()


def test_a_supervisor_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SUPERVISOR", tmp_path / "missing.py")
    with pytest.raises(InfraError, match="supervisor of true did not start"):
        start(tmp_path, "true")


def test_a_supervisor_that_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "late.py"
    late.write_text(
        "import runpy, time\ntime.sleep(1)\n"
        f"runpy.run_path({str(process._SUPERVISOR)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(process, "_SUPERVISOR", late)
    monkeypatch.setattr(process, "_START_S", 0.0)
    with pytest.raises(InfraError, match="supervisor of sleep did not start"):
        start(tmp_path, "sleep", "300")


def test_tools() -> None:
    assert tool(["echo", "word"]) == "word\n"
    with pytest.raises(InfraError, match="sh -c echo no >&2; exit 1 failed: no") as caught:
        tool(["sh", "-c", "echo no >&2; exit 1"], remedy="Do this.")
    assert caught.value.remedy == "Do this."
    with pytest.raises(InfraError, match="nonexistent-tool is not installed"):
        tool(["nonexistent-tool"])
    with pytest.raises(InfraError, match="did not end within 0 s"):
        tool(["sleep", "60"], timeout_s=0.1)


def test_required_programs() -> None:
    assert Path(require("sh", remedy="")).name == "sh"
    with pytest.raises(InfraError, match="nonexistent-tool is not installed") as caught:
        require("nonexistent-tool", remedy="Install it.")
    assert caught.value.remedy == "Install it."


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path, marker: str) -> None:
    """As kill -9 or the OOM killer does it: the child dies of PDEATHSIG, and its children by the guard."""
    (tmp_path / "private").mkdir()
    script = f"(exec -a {marker}-one sleep 300) & (bash -c '(exec -a {marker}-two sleep 300) & wait') & wait"
    child = start(tmp_path, "bash", "-c", script, cleanup=tmp_path / "private")
    assert until(lambda: len(alive(f"{marker}-")) >= 2)
    supervisor = psutil.Process(child.pid).parent()
    assert supervisor
    supervisor.kill()
    assert child.wait(30) == Outcome(None, 9, "supervisor died")
    assert until(lambda: not alive(marker), 10)
    assert until(lambda: not (tmp_path / "private").exists(), 10)


def test_the_guard_ends_with_the_child(tmp_path: Path) -> None:
    child = start(tmp_path, "sleep", "0.2")
    supervisor = psutil.Process(child.pid).parent()
    assert supervisor
    family = supervisor.children(recursive=True)
    assert len(family) == 2
    assert child.wait(30) == Outcome(0, None, "ended")
    assert until(lambda: not any(each.is_running() for each in family), 10)


def test_output_without_end_is_cut(tmp_path: Path) -> None:
    script = "echo first; yes | head -c 90000000; echo last; echo error >&2"
    assert start(tmp_path, "bash", "-c", script).wait(60) == Outcome(0, None, "ended")
    text = (tmp_path / "output").read_bytes()
    assert text.startswith(b"first\ny\n")
    assert text.endswith(b"y\nlast\nerror\n")
    assert b" bytes cut ...]\n" in text
    assert (64 << 20) < len(text) < (67 << 20)


def test_a_flood_does_not_keep_a_build_from_its_limit(tmp_path: Path) -> None:
    child = start(tmp_path, "bash", "-c", "trap '' TERM; yes", limit_s=1.0, grace_s=0.5)
    outcome = child.wait(30)
    assert outcome is not None
    assert outcome.reason == "limit"
    assert (tmp_path / "output").stat().st_size < (67 << 20)


def test_a_log_that_cannot_be_written_is_said() -> None:
    child = Supervised(["bash", "-c", "echo x; exit 2"], limit_s=60, output=Path("/dev/full"))
    outcome = child.wait(30)
    assert str(outcome) == "exit status 2 (its log cannot be written: No space left on device)"
