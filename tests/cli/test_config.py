# SPDX-License-Identifier: GPL-2.0-only
"""Options out of orchestrate.toml: through a real click group, with the command line on top."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli import config
from orchestrator.cli import main as tool
from orchestrator.core.errors import UserError

Got = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git tree below a home, with us at its top."""
    home = tmp_path / "home"
    project = home / "project"
    (project / ".git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def write(place: Path) -> Write:
    def make(text: str, folder: Path = place, name: str = config.NAME) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(text)
        return path

    return make


def group(got: Got) -> click.Group:
    """Verbs with an option of each sort; what they are called with lands in ``got``."""

    @click.group()
    def cli() -> None: ...

    @cli.command(cls=config.Verb)
    @click.option("--arch", "arches", multiple=True)
    @click.option("--suite", "suites", multiple=True)
    @click.option("--source", "sources", multiple=True)
    @click.option("--patch", "patches", multiple=True)
    @click.option("--kconfig", multiple=True)
    @click.option("--number", "numbers", multiple=True, type=int)
    @click.option("--smp", default=2, type=click.IntRange(1, 64))
    @click.option("-j", "--jobs", default=0)
    @click.option("--scale", default=1.0)
    @click.option("--accel", default="auto", type=click.Choice(["auto", "kvm", "tcg"]))
    @click.option("--until-fail", is_flag=True)
    @click.option("--colour/--no-colour", default=True)
    @click.option("-v", "--verbose", count=True)
    @click.option("--cmdline", default="")
    @click.option("--out", default="runs")
    @click.option("--junit")
    @click.option("--token", required=True, default=None)
    @click.pass_context
    def run(ctx: click.Context, /, **given: Any) -> None:
        got.update(given)
        got["file"] = ctx.meta.get(config.META)

    @cli.command(cls=config.Verb)
    def build() -> None:
        got["built"] = True

    @cli.command()
    def doctor() -> None:
        got["looked"] = True

    return cli


def call(*argv: str) -> Got:
    got: Got = {}
    words = [*argv, "--token", "x"] if argv[0] == "run" and "token" not in "".join(argv) else argv
    result = CliRunner().invoke(group(got), words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return got


ALL = """
[run]
arch = ["x86_64", "arm64"]
suite = "maps"
number = [1, 2]
smp = 4
jobs = 3
scale = 2
accel = "tcg"
until-fail = true
colour = false
verbose = 2
cmdline = "quiet nokaslr"
"""


def test_every_sort_of_option_comes_from_the_file(write: Write) -> None:
    path = write(ALL)
    got = call("run")
    expected = {
        "arches": ("x86_64", "arm64"),
        "suites": ("maps",),
        "numbers": (1, 2),
        "smp": 4,
        "jobs": 3,
        "scale": 2.0,
        "accel": "tcg",
        "until_fail": True,
        "colour": False,
        "verbose": 2,
        "cmdline": "quiet nokaslr",
        "file": path,
    }
    assert {key: got[key] for key in expected} == expected


def test_the_command_line_wins(write: Write) -> None:
    write(ALL)
    got = call(
        *("run", "--arch", "arm64", "--smp", "1", "-j", "9", "--accel", "kvm", "--colour", "-v"),
        *("--cmdline", "", "--number", "7"),
    )
    assert got["arches"] == ("arm64",), "the list is replaced, not added to"
    assert (got["smp"], got["jobs"], got["accel"], got["colour"]) == (1, 9, "kvm", True)
    assert (got["verbose"], got["cmdline"], got["numbers"]) == (1, "", (7,))
    assert got["suites"] == ("maps",), "what was not given stays as the file has it"


def test_without_a_file_nothing_changes() -> None:
    got = call("run")
    assert (got["arches"], got["smp"], got["until_fail"], got["colour"]) == ((), 2, False, True)
    assert (got["accel"], got["out"], got["file"]) == ("auto", "runs", None)


def test_a_required_option_may_stand_in_the_file(write: Write) -> None:
    write('[run]\ntoken = "t"')
    got: Got = {}
    assert CliRunner().invoke(group(got), ["run"]).exit_code == 0
    assert got["token"] == "t"


@pytest.mark.parametrize("text", ["", "[run]\n", "[build]\n", "[run]\narch = []\n"])
def test_a_file_that_says_nothing(write: Write, text: str) -> None:
    write(text)
    assert call("run")["arches"] == ()


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("[rum]\nsmp = 4", "unknown verb 'rum', did you mean 'run'?", "Known are: build, doctor, run."),
        ("[zzzz]", "unknown verb 'zzzz'", "Known are: build, doctor, run."),
        ("smp = 4", "unknown verb 'smp'", "Known are"),
        ("run = 4", "run must be a table", "[run]"),
        (
            "[run]\nuntil_fail = true",
            "[run]: unknown option 'until_fail', did you mean 'until-fail'?",
            "",
        ),
        (
            "[run]\narches = []",
            "[run]: unknown option 'arches', did you mean 'arch'?",
            "",
        ),
        ("[run]\nj = 3", "unknown option 'j'", "jobs"),
        ("[run]\nhelp = true", "unknown option 'help'", ""),
        ('[run]\nsmp = "4"', "[run] smp: expected an integer, not '4'", ""),
        ("[run]\nsmp = true", "expected an integer, not true", ""),
        ("[run]\nsmp = 2.5", "expected an integer, not 2.5", ""),
        ("[run]\nsmp = [4]", "expected an integer, not a list", ""),
        ("[run]\nsmp = 65", "smp: 65 is not in the range", ""),
        ("[run]\narch = 4", "arch: expected a list of strings, not 4", ""),
        ('[run]\narch = ["a", 4]', "expected a list of strings, not 4", ""),
        ('[run]\narch = [["a"]]', "expected a list of strings, not a list", ""),
        ('[run]\nnumber = ["a"]', "expected a list of integers, not 'a'", ""),
        ("[run]\narch = {a = 1}", "expected a list of strings, not a table", ""),
        ('[run]\naccel = "hvf"', "accel: 'hvf' is not one of 'auto', 'kvm', 'tcg'", ""),
        ("[run]\nuntil-fail = 1", "expected true or false, not 1", ""),
        ('[run]\nuntil-fail = "no"', "expected true or false, not 'no'", ""),
        ('[run]\nscale = "fast"', "expected a number, not 'fast'", ""),
        ("[run]\ncmdline = 1", "expected a string, not 1", ""),
        ("[run]\ncmdline = 2026-11-20", "expected a string", ""),
        ('[run]\nverbose = "v"', "expected an integer, not 'v'", ""),
        ("[run]\nsmp = = 2\n", "is not TOML: Invalid value (at line 2, column 7)", "Correct"),
        ('[run]\n"s\\nmp" = 2\n', "[run]: unknown option 's\\nmp', did you mean 'smp'?", ""),
        ("[run", "is not TOML", "Correct"),
        ("[run]\narch = " + "[" * 5000, "is not TOML", "Correct"),
    ],
)
def test_what_is_wrong_is_named(write: Write, text: str, says: str, remedy: str) -> None:
    path = write(text)
    with pytest.raises(UserError) as error:
        call("run")
    assert error.value.message.startswith(str(path))
    assert says in error.value.message
    assert remedy in error.value.remedy
    assert "\n" not in error.value.message


def test_bytes_that_are_no_text(place: Path) -> None:
    (place / config.NAME).write_bytes(b'[run]\ncmdline = "\xff"')
    with pytest.raises(UserError, match="is not UTF-8"):
        call("run")


def test_a_folder_of_that_name(place: Path) -> None:
    (place / config.NAME).mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        call("run")


def test_a_dangling_link_is_no_silence(place: Path) -> None:
    (place / config.NAME).symlink_to(place / "nowhere")
    with pytest.raises(UserError, match="No such file"):
        call("run")


def test_a_broken_file_keeps_help_and_other_verbs(write: Write) -> None:
    write("[run")
    assert CliRunner().invoke(group({}), ["run", "--help"]).exit_code == 0
    assert call("doctor") == {"looked": True}
    with pytest.raises(UserError):
        call("build")


def test_nearest_file_up_to_the_top_of_the_tree(
    write: Write, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = place / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    write("[run]\nsmp = 9", place.parent)
    assert config.find(deep) is None, "what lies above the git tree is not ours"
    top = write("[run]\nsmp = 3")
    assert call("run")["smp"] == 3
    assert config.find(deep) == top
    near = write("[run]\nsmp = 5", place / "a")
    assert config.find(deep) == near
    assert call("run")["smp"] == 5


def test_up_to_home(write: Write, place: Path) -> None:
    other = place.parent / "other" / "deep"
    other.mkdir(parents=True)
    above = write("", place.parent.parent)
    assert config.find(other) is None
    above.unlink()
    own = write("", place.parent)
    assert config.find(other) == own


def test_outside_of_home_and_git_only_the_folder_itself(write: Write, tmp_path: Path) -> None:
    strange = tmp_path / "elsewhere" / "deep"
    write("", tmp_path / "elsewhere")
    strange.mkdir()
    assert config.find(strange) is None, "anybody may have put it there"
    own = write("", strange)
    assert config.find(strange) == own


def test_the_variable_names_one(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[run]\nsmp = 3")
    named = write("[run]\nsmp = 7", tmp_path / "ci ü", "night.toml")
    monkeypatch.setenv(config.VARIABLE, str(named))
    assert (call("run")["smp"], call("run")["file"]) == (7, named)
    monkeypatch.setenv(config.VARIABLE, "/dev/null")
    assert call("run")["smp"] == 2, "none at all"
    monkeypatch.setenv(config.VARIABLE, str(tmp_path / "nowhere.toml"))
    with pytest.raises(UserError, match=r"ORCHESTRATE_CONFIG names .*nowhere.toml, which is not a file"):
        call("run")


def test_no_home(write: Write, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", gone)
    path = write("")
    assert config.find(place) == path


def test_paths_are_relative_to_the_file(write: Write, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("linux", "deep", "suites/mine", "maps", "v6.18"):
        (place / name).mkdir(parents=True)
    (place / "my.config").touch()
    write(
        """
        [run]
        source = ["linux", "base=linux@v6.16", "base=../gone", "~/other@v6", "debian:trixie", "v6.17",
                  "v6.18", "/abs", "https://example.invalid/linux.tar.xz", "two=v6.12", "linux@a/b"]
        patch = ["fix.mbox", "base=fixes"]
        kconfig = ["my.config", "CONFIG_X=y", "./other.config", "CONFIG_LOCALVERSION=\\"linux\\""]
        suite = ["maps", "suites/mine", "./new", "nowhere/else"]
        out = "results"
        junit = "~/j.xml"
        cmdline = "linux"
        """
    )
    monkeypatch.chdir(place / "deep")
    got = call("run")
    home = place.parent
    assert got["sources"] == (
        f"{place}/linux",
        f"base={place}/linux@v6.16",
        f"base={home}/gone",
        f"{home}/other@v6",
        "debian:trixie",
        "v6.17",
        # what exists as a path wins over what reads like a version
        f"{place}/v6.18",
        "/abs",
        "https://example.invalid/linux.tar.xz",
        "two=v6.12",
        "linux@a/b",
    )
    assert got["patches"] == (f"{place}/fix.mbox", f"base={place}/fixes")
    assert got["kconfig"] == (
        f"{place}/my.config",
        "CONFIG_X=y",
        f"{place}/other.config",
        'CONFIG_LOCALVERSION="linux"',
    )
    assert got["suites"] == ("maps", f"{place}/suites/mine", f"{place}/new", "nowhere/else")
    assert (got["out"], got["junit"], got["cmdline"]) == (f"{place}/results", f"{home}/j.xml", "linux")
    assert call("run", "--out", "here")["out"] == "here", "of the command line: from where one is"


def test_which_options_are_paths_is_the_callers_to_say(write: Write, place: Path) -> None:
    write('[run]\nout = "o"\ncmdline = "c"')
    values, path = config.load(place, group({}), path_options={"cmdline"})
    assert values == {"run": {"out": "o", "cmdline": f"{place}/c"}}
    assert path == place / config.NAME


# The tool itself.


def test_options_of_the_tool(write: Write, place: Path) -> None:
    write(
        '[run]\narch = "arm64"\nsuite = ["maps"]\nsmp = 4\nout = "o"\n'
        "[build]\njobs = 2\nconfigure-only = true"
    )
    values, _ = config.load(place, tool.cli)
    assert values == {
        "run": {"arches": ["arm64"], "suites": ["maps"], "smp": 4, "out": f"{place}/o"},
        "build": {"jobs": 2, "configure_only": True},
    }


def test_every_path_option_exists() -> None:
    there = {
        o.removeprefix("--") for command in tool.cli.commands.values() for p in command.params for o in p.opts
    }
    assert {"source", "kconfig", "config", "out", "junit"} <= there & config.PATHS


def test_a_mistake_in_the_tools_own_file(write: Write, place: Path) -> None:
    write('[run]\nsiute = ["maps"]')
    with pytest.raises(UserError, match=r"\[run\]: unknown option 'siute', did you mean 'suite'"):
        config.load(place, tool.cli)


def test_the_import_is_light() -> None:
    code = (
        "import sys, orchestrator.cli.config;"
        "print([m for m in ('msgspec', 'rich', 'tomllib', 'difflib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
