# SPDX-License-Identifier: GPL-2.0-only
"""How every verb ends: broken pipes, full and closed streams, no home, no folder, odd names, signals.

Most tests call the command in a forked child: it has real streams, but starts in no time.
"""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import pytest
from fakes.command import Command
from fakes.images import bzimage
from rich.console import Console
from under_test import ORCHESTRATE

import orchestrator
from orchestrator.cli import main
from orchestrator.core import files
from orchestrator.core.events import Events
from orchestrator.results.model import SCHEMA_VERSION, Case, CellResult, Verdict
from orchestrator.run import start
from orchestrator.run.summary import RunResult

VERBS = sorted(main.cli.commands)
for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
    # once, and not in each child; migrations are scripts that alembic runs
    if ".migrations" not in module.name:
        importlib.import_module(module.name)
#: What each verb prints to standard output with little work.
TALK = {verb: [verb, "--help"] for verb in VERBS} | {
    "list": ["list"],
    "console": ["console", "log"],
    "completion": ["completion", "bash"],
}
#: What each verb that can fail complains about.
COMPLAIN = {verb: [verb, "--nosuch"] for verb in VERBS}
INTERRUPTED, BROKEN_PIPE = 130, 141


class End(NamedTuple):
    """How a command ended; a negative code is a signal."""

    code: int
    out: str
    err: str


class Child:
    """The command in a forked child; ``before`` is called in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"ORCHESTRATE_CACHE": str(folder / "cache"), "HOME": str(folder), "TMPDIR": str(folder)}

    def __call__(
        self,
        words: list[str],
        *,
        out: str | int | None = "",
        err: str | int | None = "",
        stdin: str | None = os.devnull,
        before: Callable[[], None] = lambda: None,
    ) -> End:
        """``out``, ``err``: a file, a descriptor, or None for a closed one; "" captures it."""
        places = [self.folder / "out", self.folder / "err"]
        targets = [
            place if target == "" else target for place, target in zip(places, (out, err), strict=True)
        ]
        for place in places:
            place.write_bytes(b"")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._become(words, stdin, targets, before)
        _, status = os.waitpid(pid, 0)
        said = [place.read_bytes().decode(errors="surrogateescape") for place in places]
        done = End(os.waitstatus_to_exitcode(status), *said)
        assert "Traceback" not in done.out + done.err, done.err
        assert "internal error" not in done.err, done.err
        return done

    def _become(
        self, words: list[str], stdin: str | None, targets: list[Any], before: Callable[[], None]
    ) -> None:
        code = 99
        try:
            os.chdir(self.folder)
            os.environ.update(self.env)
            sys.argv = ["orchestrate", *words]
            for descriptor, target in enumerate((stdin, *targets)):
                if target is None:
                    continue
                if not isinstance(target, int):
                    target = os.open(target, os.O_WRONLY if descriptor else os.O_RDONLY)
                os.dup2(target, descriptor)
            for descriptor, target in enumerate((stdin, *targets)):
                if target is None:
                    os.close(descriptor)
            # as the interpreter starts
            for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
                given = (stdin, *targets)[descriptor] is not None
                stream = os.fdopen(descriptor, mode, closefd=False) if given else None
                setattr(sys, name, stream)
                setattr(sys, f"__{name}__", stream)
            before()
            try:
                main.main()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except BaseException:
            with Path(self.folder / "err").open("a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(code)


@pytest.fixture
def child(tmp_path: Path) -> Child:
    (tmp_path / "log").write_text("clean\n")
    return Child(tmp_path)


@pytest.fixture
def broken() -> Iterator[int]:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("verb", VERBS)
def test_a_broken_pipe_is_that_of_a_shell(child: Child, broken: int, verb: str) -> None:
    done = child(TALK[verb], out=broken)
    assert (done.code, done.err) == (BROKEN_PIPE, "")
    assert child([*COMPLAIN[verb]], err=broken).code == BROKEN_PIPE


@pytest.mark.parametrize("verb", VERBS)
def test_full_output_is_named(child: Child, verb: str) -> None:
    done = child(TALK[verb], out="/dev/full")
    assert done.code == 3
    assert done.err == "orchestrate: standard output: No space left on device\n"
    assert child(COMPLAIN[verb], err="/dev/full").code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_closed_streams_change_no_code(child: Child, verb: str) -> None:
    assert child(TALK[verb], out=None) == (0, "", "")
    assert child(COMPLAIN[verb], out=None, err=None, stdin=None).code == 2


@pytest.mark.parametrize("closed", ["out", "err", "stdin"])
def test_one_closed_stream(child: Child, closed: str) -> None:
    none: dict[str, Any] = {closed: None}
    usual, done = child(["list"]), child(["list"], **none)
    assert done == (0, "" if closed == "out" else usual.out, "")
    assert child(["run", "--nosuch"], **none).code == 2


def test_no_file_takes_the_number_of_a_closed_stream(child: Child) -> None:
    """A child of the command would write into it."""

    def before() -> None:
        main.cli.callback = lambda: os._exit(min(3, os.open(child.folder / "log", os.O_RDONLY)))

    assert child(["list"], out=None, err=None, stdin=None, before=before).code == 3


def test_a_closed_input_is_no_clean_console(child: Child) -> None:
    done = child(["console", "-"], stdin=None)
    assert (done.code, "Bad file descriptor" in done.err) == (2, True)
    assert child(["console", "-"]).code == 0


def test_a_pipe_that_does_not_block_gets_everything(child: Child) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(b"".join(iter(lambda: os.read(reader, 4096), b""))))
    (child.folder / "log").write_bytes(b"BUG: unable to handle page fault for address: 0000\n" * 9)

    def printing() -> None:
        main.cli.callback = lambda: print("x" * 300_000)

    thread.start()
    done = child(["list"], out=writer, before=printing)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert done.code == 0
    assert len(read[0]) > 300_000


def _pathlib(place: Path) -> None:
    place.write_bytes(bytes(9999))


def _stream(place: Path) -> None:
    with place.open("wb", buffering=0) as file:
        for _ in range(2):
            file.write(bytes(5000))


def _atomic(place: Path) -> None:
    with files.replacing(place) as stream:
        stream.write(bytes(99999))


def _events(place: Path) -> None:
    with Events(Console(quiet=True), place) as events:
        events.emit("", "", "x" * 9999)
        events.emit("", "", "x")


@pytest.mark.parametrize("write", [_pathlib, _stream, _atomic, _events])
def test_a_disk_error_names_the_file(child: Child, write: Callable[[Path], None]) -> None:
    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        main.cli.callback = lambda: write(child.folder / "results")

    done = child(["list"], before=before)
    assert done == (3, "", f"orchestrate: {child.folder / 'results'}: File too large\n")


# --- whatever is said -------------------------------------------------------------------------------------

ABSURD = ("", " ", "-1", "nan", "inf", "1e400", "٣", "x" * 5000, "\x1b[31m", "a\nb", "café\udce9", "=", "/")
#: So that nothing is fetched: the first mistake that is met ends it.
NOWHERE = {verb: ["nosuch"] for verb in VERBS if verb not in ("completion", "list")} | {
    "bisect": ["--source", "/nosuch"],
    "build": ["--source", "/nosuch"],
    "console": ["/nosuch"],
    "run": ["--source", "/nosuch"],
    "series": ["/nosuch", "--source", "/nosuch"],
    "shell": ["--source", "/nosuch"],
    "doctor": ["--arch", "nosuch"],
}


@pytest.mark.parametrize("verb", sorted(NOWHERE))
def test_absurd_values_end_in_a_line(call: Command, verb: str, tmp_path: Path) -> None:
    """Each option with some of the values, each value with some of the options."""
    values = itertools.cycle(ABSURD)
    for parameter in main.cli.commands[verb].params:
        if not isinstance(parameter, click.Option) or parameter.is_flag:
            continue
        for value in itertools.islice(values, 4):
            # the option's own value comes last, and counts where only one is taken
            done = call(verb, *NOWHERE[verb], f"{parameter.opts[0]}={value}")
            assert done.code == 2, (parameter.opts, value, done)
            assert "internal error" not in done.err, (parameter.opts, value, done)
            assert len(done.err.splitlines()) <= 5, (parameter.opts, value, done)
            assert len(done.err) < 1500, (parameter.opts, value, done)
            assert "\x1b" not in done.err, (parameter.opts, value, done)
    assert not (tmp_path / "runs").exists()


# --- a run ------------------------------------------------------------------------------------------------


def _bad() -> RunResult:
    case = Case(id="maps/x", verdict=Verdict.FAIL, reason="broken")
    cells = (CellResult(cell="c", cases=(case,)),)
    return RunResult(schema_version=SCHEMA_VERSION, id="x", sources=(), started_at="", cells=cells)


@pytest.mark.parametrize("out", ["pipe", "/dev/full"])
@pytest.mark.parametrize("early", [True, False], ids=["while it runs", "in the summary"])
@pytest.mark.parametrize("option", [[], ["--bisect-exit"]], ids=["", "bisect"])
def test_output_that_is_lost_never_says_bad(
    child: Child,
    broken: int,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    early: bool,
    option: list[str],
) -> None:
    """Least of all to `git bisect run`."""

    def execute(*words: Any, **_: Any) -> RunResult:
        if early:
            print("cell: boot", flush=True)
        return _bad()

    monkeypatch.setattr(start, "prepare_run", lambda request, *_: _Prepared(request, execute))
    (child.folder / "bzImage").write_bytes(bzimage())
    words = ["run", "--cmd", "true", "--kernel", "bzImage", *option]
    done = child(words, out=broken if out == "pipe" else out)
    assert done.code == (BROKEN_PIPE if out == "pipe" else 125 if option else 3)
    assert done.err == ("" if out == "pipe" else "orchestrate: standard output: No space left on device\n")


class _Prepared:
    def __init__(self, request: Any, execute: Callable[..., RunResult]) -> None:
        self.request = request
        self.execute = execute
        self.directory = SimpleNamespace(path=Path("runs/x"))
        self.plan = SimpleNamespace(cells=(), choices=request.choices)


# --- the place --------------------------------------------------------------------------------------------


def nobody() -> None:
    """A user that no list has, as in many containers."""
    del os.environ["HOME"]
    os.getuid = lambda: 12345


#: What each verb needs to come as far as it can here.
WORK = {verb: [verb, "nosuch"] for verb in VERBS} | {
    "bisect": ["bisect", "--good", "HEAD"],
    "build": ["build", "--configure-only", "--source", "nosuch"],
    "completion": ["completion", "bash"],
    "console": ["console", "log"],
    "doctor": ["doctor", "--arch", "nosuch"],
    "list": ["list"],
    "run": ["run", "--source", "nosuch"],
    "shell": ["shell", "--source", "nosuch"],
}
NEED_A_CACHE = ("bisect", "build", "run", "series", "shell")


@pytest.mark.parametrize(("verb", "home"), [*((verb, None) for verb in VERBS), ("run", "")])
def test_without_a_home(child: Child, verb: str, home: str | None) -> None:
    child.env["ORCHESTRATE_CACHE"] = ""

    def before() -> None:
        nobody()
        if home is not None:
            os.environ["HOME"] = home

    done = child(WORK[verb], before=before)
    if verb in NEED_A_CACHE:
        assert done.code == 2
        assert re.fullmatch(
            "orchestrate: there is no place for the cache: .*\n.*ORCHESTRATE_CACHE.\n", done.err
        )
    else:
        usual = child(WORK[verb])
        assert done == usual


@pytest.mark.parametrize("verb", VERBS)
def test_with_a_cache_nobody_needs_a_home(child: Child, verb: str) -> None:
    assert child(WORK[verb], before=nobody).code in (0, 2)


@pytest.mark.parametrize("verb", [*sorted(NEED_A_CACHE), "gdb", "decode"])
def test_a_configuration_in_an_unknown_home(child: Child, verb: str) -> None:
    child.env["ORCHESTRATE_CONFIG"] = "~/x"
    assert child(WORK[verb], before=nobody) == (
        2,
        "",
        "orchestrate: ~/x: no such home folder\n",
    )
    child.env["ORCHESTRATE_CONFIG"] = "~nosuch/x"
    assert child(WORK[verb]) == (2, "", "orchestrate: ~nosuch/x: no such home folder\n")


@pytest.mark.parametrize("verb", VERBS)
def test_in_a_folder_that_is_deleted(child: Child, verb: str) -> None:
    def before() -> None:
        gone = child.folder / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    done = child(WORK[verb], before=before)
    if verb in ("list", "completion"):
        assert done == child(WORK[verb])
    else:
        assert (done.code, len(done.err.splitlines())) == (2, 2), done.err
    assert child([verb, "--help"], before=before).code == 0


@pytest.mark.parametrize(
    ("verb", "encoding"), [*((verb, "ascii") for verb in VERBS), ("run", "latin-1"), ("run", "utf-16")]
)
def test_in_any_encoding(child: Child, verb: str, encoding: str) -> None:
    def before() -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            stream.reconfigure(encoding=encoding)

    assert child([verb, "--help"], before=before).code == 0
    assert child(COMPLAIN[verb], before=before).code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_names_that_are_not_utf8(child: Child, verb: str) -> None:
    odd = os.fsdecode(b"caf\xe9")
    where = child.folder / odd
    where.mkdir()
    assert child(WORK[verb], before=lambda: os.chdir(where)).code in (0, 2)
    done = child([*WORK[verb][:1], odd])
    assert (done.code, len(done.err.splitlines()) <= 5) == (2, True), done.err


def test_a_fault_is_told_where_its_traceback_cannot_be_written(child: Child) -> None:
    def before() -> None:
        import tempfile

        tempfile.tempdir = "/nosuch"
        main.cli.callback = lambda: [][1]

    with pytest.raises(AssertionError, match=r"error: IndexError.*\n.*cannot be written: No such file"):
        child(["list"], before=before)


# --- signals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "name"), [*((verb, "SIGINT") for verb in VERBS), ("run", "SIGTERM"), ("run", "SIGHUP")]
)
def test_a_signal_is_an_interruption(child: Child, verb: str, name: str) -> None:
    def before() -> None:
        main.cli.callback = lambda: signal.raise_signal(signal.Signals[name])

    done = child(WORK[verb], before=before)
    assert (done.code, done.out, done.err) == (INTERRUPTED, "", "orchestrate: interrupted\n")


def test_a_second_signal_ends_it_at_once(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the first one is dealt with."""
    monkeypatch.setattr("orchestrator.core.process.end_all", lambda: signal.raise_signal(signal.SIGINT))

    def before() -> None:
        main.cli.callback = lambda: signal.raise_signal(signal.SIGINT)

    assert child(["list"], before=before) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", INTERRUPTED),
        ("SIGTERM", INTERRUPTED),
        ("SIGHUP", INTERRUPTED),
        ("SIGQUIT", -signal.SIGQUIT),
    ],
)
def test_a_process_that_waits_for_input(child: Child, name: str, code: int) -> None:
    reader, writer = os.pipe()
    pipe = f"/proc/{os.getpid()}/fd/{reader}"

    def before() -> None:
        os.close(writer)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.Signals[name]))
        main.cli.callback = lambda: signal.setitimer(signal.ITIMER_REAL, 0.02)

    done = child(["console", "-"], stdin=pipe, before=before)
    os.close(reader)
    os.close(writer)
    assert done.code == code


def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.entry", "list"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(main.__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_shell_sees_it_too() -> None:
    """The process itself, with the interpreter's own end."""
    command = " ".join(ORCHESTRATE)
    script = f"{command} list | true; echo ${{PIPESTATUS[0]}}; {command} list >&- 2>&- <&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{BROKEN_PIPE}\n0\n", "")
