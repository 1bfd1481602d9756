# SPDX-License-Identifier: GPL-2.0-only
"""Bad input and odd places, through the command: one clear line or two, the right exit code.

A disk that is full, kernels that are too old and symbols that are lost in real trees:
guest/test_whole_path.py and guest/test_main_job.py. Newer schemas and two runs in one directory:
run/test_execute.py and guest/test_resume.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command import Command, Said
from fakes.linux import make_linux
from fakes.mounts import READ_ONLY, mounted
from under_test import ORCHESTRATE

from orchestrator.plan.plan import PLAN_VERSION

pytestmark = pytest.mark.slow

Call = Callable[..., Said]


@pytest.fixture
def process(tmp_path: Path) -> Call:
    """The command as a process of its own, for what is about one."""

    def run(*words: str | Path, env: dict[str, str] | None = None) -> Said:
        done = subprocess.run(
            [*ORCHESTRATE, *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env={**os.environ, "ORCHESTRATE_CACHE": str(tmp_path / "cache"), **(env or {})},
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return lambda *words, env=None: sane(run(*words, env=env))


@pytest.fixture
def call(call: Command) -> Call:
    """The command in this process."""
    return lambda *words, env=None: sane(call(*words, env=env))


def sane(done: Said) -> Said:
    """It met no fault of its own."""
    assert "Traceback" not in done.out + done.err
    assert "a fault of its own" not in done.err
    return done


def refused(done: Said, code: int, *says: str) -> None:
    """It ended with that code and one message of at most two lines that has these words."""
    assert done.code == code, done
    for words in says:
        assert words in done.err
    message = done.err[done.err.index("orchestrate: ") :]
    assert len(message.splitlines()) <= 2, message


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    return make_linux(tmp_path / "linux").path


def _commit(tree: Path) -> None:
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "tree"], check=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arch", "vax"], "unknown architecture 'vax'"),
        (["--variant", "no-lock"], "unknown variant 'no-lock'"),
        (["--suite", "nosuch"], "unknown suite 'nosuch'"),
        (["--suite", "./nosuch"], "no such folder"),
        (["--patch", "nosuch=x.mbox"], "no --source called 'nosuch'"),
        (["--source", "a b=x"], "cannot be a label"),
        (["--kernel", "nosuch"], "nosuch: No such file"),
        (["--kernel", "~nosuchuser/bzImage"], "no such home folder"),
        (["--cmd", "true", "--put", "~nosuchuser/x"], "no such home folder"),
        (["--config", "~nosuchuser/x"], "no such home folder"),
        (["--put", "/etc/passwd"], "--put needs a --cmd"),
        (["--cmd", " "], "the command is empty"),
        (["--cmdline", "nokaslr quiet"], "--cmdline quiet: boots and crashes are read from the console"),
        (["--selftests-from", "nosuch", "--suite", "maps"], "nosuch"),
        (["--resume", "nosuch"], "there is no run 'nosuch'"),
        (["--resume", ""], "there is no run ''"),
        (["--resume", "~nosuchuser/x"], "no such home folder"),
    ],
    ids=" ".join,
)
def test_unknown_names(call: Call, linux: Path, words: list[str], says: str) -> None:
    mine = [] if words[0] in ("--source", "--kernel", "--resume") else ["--source", linux]
    refused(call("run", *mine, *words), 2, says)


def test_what_is_no_kernel_tree(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("run", "--source", "empty"), 2, "is not a kernel tree")
    (tmp_path / "file.txt").write_text("not a tarball")
    refused(call("run", "--source", "file.txt"), 2, "file.txt")


def test_no_such_revision(call: Call, linux: Path) -> None:
    refused(call("run", "--source", f"{linux}@v9.9"), 2, "v9.9")
    _commit(linux)
    refused(call("run", "--source", f"{linux}@v9.9"), 2, "v9.9")


def test_truncated_tarball(call: Call, linux: Path, tmp_path: Path) -> None:
    whole = tmp_path / "linux.tar.xz"
    with tarfile.open(whole, "w:xz") as archive:
        archive.add(linux, "linux-7.2.1")
    torn = tmp_path / "torn.tar.xz"
    torn.write_bytes(whole.read_bytes()[:-400])
    refused(call("run", "--source", "torn.tar.xz"), 2, "torn.tar.xz")
    assert not list((tmp_path / "cache").glob("sources/*/tree"))


def test_wrong_digest(call: Call, linux: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "linux.tar", "w") as archive:
        archive.add(linux, "linux-7.2.1")
    refused(call("run", "--source", "linux.tar", "--sha256", "0" * 64), 2, "linux.tar")
    refused(call("run", "--source", "linux.tar", "--sha256", "xyz"), 2, "xyz")


@pytest.mark.parametrize("symbol", ["CONFIG_NO_SUCH_SYMBOL=y", "CONFIG_NO_SUCH=n\nCONFIG_NONE=y"])
def test_fragment_with_an_unknown_symbol(call: Call, linux: Path, tmp_path: Path, symbol: str) -> None:
    (tmp_path / "mine.config").write_text(symbol + "\n")
    done = call(
        "build", "--configure-only", "--source", linux, "--kconfig", "mine.config", "--arch", "x86_64"
    )
    assert done.code == 2
    assert symbol.splitlines()[-1].partition("=")[0] in done.err
    assert "mine.config" in done.err


def test_suite_that_the_kernel_is_too_old_for(call: Call, linux: Path, tmp_path: Path) -> None:
    shutil.rmtree(linux / "tools/testing", ignore_errors=True)
    words = ("--suite", "maps", "--arch", "x86_64", "--variant", "mmap-lock")
    done = call("run", "--source", linux, *words)
    assert done.code == 4, done.out + done.err
    assert "too old for this suite; --selftests-from takes it from another tree" in (
        (tmp_path / "runs/latest/junit.xml").read_text()
    )


def _path_without(folder: Path, *names: str) -> str:
    """A PATH on which these programs are not."""
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).glob("*") if Path(place).is_dir() else ():
            link = folder / program.name
            if program.name not in names and not link.exists():
                link.symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("names", "arch", "says"),
    [
        (("qemu-system-x86_64",), "x86_64", "apt-get install qemu-system-x86"),
        (("qemu-system-aarch64",), "arm64", "apt-get install qemu-system-arm"),
        (("aarch64-linux-gnu-gcc",), "arm64", "aarch64-linux-gnu-gcc"),
        (("gcc",), "x86_64", "gcc"),
    ],
)
def test_missing_programs(
    call: Call, linux: Path, tmp_path: Path, names: tuple[str, ...], arch: str, says: str
) -> None:
    env = {"PATH": _path_without(tmp_path / "bin", *names)}
    refused(call("run", "--source", linux, "--arch", arch, env=env), 3, says)
    assert not (tmp_path / "runs").exists()


def test_read_only_results(linux: Path, tmp_path: Path, call: Call) -> None:
    place = tmp_path / "ro"
    place.mkdir()
    done = mounted(
        READ_ONLY,
        place,
        [*ORCHESTRATE, "run", "--source", linux, "--out", place],
        env={**os.environ, "ORCHESTRATE_CACHE": str(tmp_path / "cache")},
    )
    said = Said(done.returncode, done.stdout, done.stderr)
    refused(said, 2, f"cannot write results to {place}: Read-only file system", "--out")


@pytest.mark.parametrize(
    "words",
    [
        ["--vsyscall", "foo", "--arch", "x86_64"],
        ["--smp", "1"],
        ["--kconfig", "nosuch.config"],
        ["--config", "nosuch"],
        ["--patch", "nosuch.mbox"],
        ["--out", "/proc/nosuch"],
        ["--junit", "/proc/nosuch/all.xml"],
        ["--kernel", "nosuch", "--kconfig", "CONFIG_A=y"],
    ],
    ids=" ".join,
)
def test_mistakes_show_before_anything_is_fetched(call: Call, words: list[str]) -> None:
    done = call("run", *words)
    refused(done, 2)
    assert done.out == ""


def test_all_that_is_missing_is_named_at_once(call: Call, linux: Path, tmp_path: Path) -> None:
    env = {"PATH": _path_without(tmp_path / "bin", "gcc", "flex", "qemu-system-x86_64")}
    done = call("run", "--source", linux, "--arch", "x86_64", env=env)
    refused(done, 3, "not installed: gcc, qemu-system-x86_64, flex", "orchestrate doctor")


def test_a_run_of_a_newer_version(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "20300101-000000-aaaa"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(f'{{"version": {PLAN_VERSION + 1}}}')
    refused(call("run", "--resume", "last"), 2, "newer orchestrate")


@pytest.mark.parametrize("option", [["--suite", "maps"], ["--arch", "arm64"], ["--times", "3"]])
def test_a_resumed_run_cannot_be_changed(call: Call, tmp_path: Path, option: list[str]) -> None:
    refused(call("run", "--resume", "last", *option), 2, option[0], "--resume")


def test_tree_in_a_path_that_make_refuses(call: Call, tmp_path: Path) -> None:
    tree = make_linux(tmp_path / "my linux").path
    refused(call("run", "--source", tree), 2, "spaces or colons", "DIR@REV")
    _commit(tree)
    done = call("build", "--configure-only", "--source", f"{tree}@HEAD", "--arch", "x86_64")
    assert done.code == 0, done.err


def test_cache_in_a_path_that_make_refuses(call: Call, linux: Path, tmp_path: Path) -> None:
    env = {"ORCHESTRATE_CACHE": str(tmp_path / "my cache")}
    refused(call("run", "--source", linux, env=env), 2, "spaces or colons", "ORCHESTRATE_CACHE")


def test_odd_places(process: Call, tmp_path: Path) -> None:
    """Locale C, a path that is not ASCII, no terminal."""
    tree = make_linux(tmp_path / "линукс-ü").path
    env = {"LC_ALL": "C", "LANG": "C"}
    done = process("build", "--configure-only", "--source", tree, "--arch", "x86_64", env=env)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2
    assert "\x1b" not in done.out + done.err
    done = process("run", "--source", f"{tree}-nosuch", env=env)
    assert done.code == 2


def test_home_that_cannot_be_written(process: Call, linux: Path) -> None:
    env = {"HOME": "/proc/nosuch", "XDG_CACHE_HOME": "", "ORCHESTRATE_CACHE": ""}
    refused(process("run", "--source", linux, env=env), 3, "/proc/nosuch", "ORCHESTRATE_CACHE")
    assert process("list", env=env).code == 0


@pytest.mark.parametrize("words", [["--nosuch"], ["--arch", "vax"], ["--source", "nosuch"]])
def test_wrong_usage_stops_git_bisect(call: Call, words: list[str]) -> None:
    assert call("run", "--bisect-exit", *words).code >= 128


def test_git_bisect_that_an_options_file_asks_for(call: Call, tmp_path: Path) -> None:
    (tmp_path / "orchestrate.toml").write_text("[run]\nbisect-exit = true\n")
    assert call("run", "--source", "nosuch").code >= 128


def test_a_series_that_does_not_apply_is_skipped_by_git_bisect(
    call: Call, linux: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.patch").write_text(
        "--- a/Makefile\n+++ b/Makefile\n@@ -1,1 +1,1 @@\n-nosuch line\n+another\n"
    )
    words = ["--source", linux, "--patch", "x.patch", "--suite", "maps"]
    assert call("run", "--bisect-exit", *words).code == 125
    refused(call("run", *words), 2, "x.patch", "Makefile")


def test_name_that_is_not_utf8(process: Call, tmp_path: Path) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xff")
    Path(odd).write_bytes(b"")
    refused(process("run", "--cmd", "true", "--put", odd), 2, "is not UTF-8")


def test_what_cannot_be_judged_is_skipped_by_git_bisect(call: Call, linux: Path) -> None:
    words = ["--kconfig", "CONFIG_NO_SUCH_SYMBOL=y", "--arch", "x86_64", "--suite", "maps"]
    done = call("run", "--bisect-exit", "--source", linux, *words)
    assert done.code == 125, done.err
    assert "CONFIG_NO_SUCH_SYMBOL" in done.err
