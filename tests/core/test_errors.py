# SPDX-License-Identifier: GPL-2.0-only
"""A name that nothing has: the nearest one is proposed, wherever a name is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main as cli
from orchestrator.core import data
from orchestrator.core.errors import UserError, did_you_mean, near, unknown
from orchestrator.kernel import compile_only

SUITES = ("maps", "maps-coherency", "map-latency", "proc")


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("map-latncy", "map-latency"),
        ("MAP_LATENCY", "map-latency"),
        ("Maps", "maps"),
        ("nosuch", ""),
        ("", ""),
        ("x" * 1_000_000, ""),
    ],
)
def test_the_nearest_name_is_proposed(name: str, guess: str) -> None:
    error = unknown("suite", name, SUITES)
    assert error.message.startswith("unknown suite ")
    assert error.message.endswith(f", did you mean {guess!r}?" if guess else error.message[-1])
    assert ("did you mean" in error.message) is bool(guess)
    assert error.remedy == "Known are: maps, maps-coherency, map-latency, proc."
    assert len(error.message) < 200
    assert error.exit_code == 2


def test_where_it_stands_and_what_else_may_be_given() -> None:
    error = unknown("suite", "mapz", SUITES, where="a.toml: [run]", otherwise="or name a folder")
    assert error.message == "a.toml: [run]: unknown suite 'mapz', did you mean 'maps'?"
    assert error.remedy.endswith("proc; or name a folder.")


def test_of_many_names_only_the_nearest_is_told() -> None:
    names = [f"name-{number}" for number in range(40)]
    assert unknown("x", "nmae-7", names).remedy == ""
    assert unknown("x", "other", names).remedy.endswith("name-39.")
    assert unknown("x", "other", ()).remedy == "Known are: none."


def test_names_under_which_others_know_it() -> None:
    aliases = {"amd64": "x86_64", "aarch64": "arm64"}
    assert near("amd64", ("arm64", "x86_64"), aliases) == ["x86_64"]
    assert near("aarch-64", ("arm64", "x86_64"), aliases) == ["arm64"]
    assert did_you_mean("amd64", ("arm64", "x86_64")) == ", did you mean 'arm64'?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--suite", "map-latncy"], "unknown suite 'map-latncy', did you mean 'map-latency'?"),
        (["run", "--arch", "arm46"], "unknown architecture 'arm46', did you mean 'arm64'?"),
        (["run", "--arch", "amd64"], "unknown architecture 'amd64', did you mean 'x86_64'?"),
        (["run", "--arch", "aarch64"], "unknown architecture 'aarch64', did you mean 'arm64'?"),
        (["doctor", "--arch", "x86-64"], "unknown architecture 'x86-64', did you mean 'x86_64'?"),
        (["build", "--variant", "mmap_lock"], "unknown variant 'mmap_lock', did you mean 'mmap-lock'?"),
        (["run", "--flavor", "lokdep"], "unknown flavor 'lokdep', did you mean 'lockdep'?"),
        (["build", "--toolchain", "gcc12"], "unknown toolchain 'gcc12', did you mean 'gcc-12'?"),
        (["build", "--toolchain", "lvm"], "unknown toolchain 'lvm', did you mean 'llvm'?"),
        (["run", "--vsyscall", "emulat"], "unknown vsyscall mode 'emulat', did you mean 'emulate'?"),
        (["run", "--vsyscall", "al"], "unknown vsyscall mode 'al', did you mean 'all'?"),
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "--variannt", "x"], "No such option '--variannt'. Did you mean '--variant'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_option_with_names_does_so(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is typed, and before anything is fetched or built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["orchestrate", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("**/sources/*"))


def test_configurations_that_are_only_compiled_too() -> None:
    with pytest.raises(UserError, match="unknown configuration 'riscv_nomu', did you mean 'riscv-nommu'"):
        compile_only.check_names(("riscv_nomu",))


def test_each_suite_is_the_nearest_to_its_own_name_but_for_a_letter() -> None:
    for name in data.suites():
        assert near(name[:-1], data.suites())[0] in (name, name[:-1])
