# SPDX-License-Identifier: GPL-2.0-only
"""Options whose values are more than a word or a number."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import config, requests
from orchestrator.cli.main import cli as whole
from orchestrator.cli.options import GUEST, options
from orchestrator.core.errors import UserError
from orchestrator.plan.options import choose


@click.group()
def cli() -> None: ...


@cli.command(cls=config.Verb, name="run")
@options(GUEST)
def run_(**_: Any) -> None: ...


def mem(*argv: str) -> Any:
    with cli.make_context("orchestrate", ["run", *argv]) as above:
        return run_.make_context("run", list(argv), parent=above).params["mem"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATE_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("word", "mib"),
    [
        ("512", 512),
        ("512M", 512),
        ("512MiB", 512),
        ("2G", 2048),
        ("2GiB", 2048),
        ("1g", 1024),
        ("700mib", 700),
        (" 0512 ", 512),
        ("256", 256),
    ],
)
def test_memory(word: str, mib: int) -> None:
    assert mem("--mem", word) == mib


@pytest.mark.parametrize(
    ("words", "mib"),
    [
        ([], 512),
        (["--flavor", "lockdep"], 512),
        (["--flavor", "kasan"], 1024),
        (["--flavor", "kasan", "--mem", "700"], 700),
    ],
)
def test_memory_by_default(words: list[str], mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.plan.options.check", lambda *_: None)
    context = whole.commands["run"].make_context("run", words, parent=click.Context(whole))
    assert choose(requests.options(context.params)).mem_mib == mib


@pytest.mark.parametrize(
    "word", ["", "M", "2T", "512MB", "512K", "1.5G", "-512", "2 G B", "0x200", "1_000", "٥١٢", "9" * 5000]
)
def test_what_is_no_amount_of_memory(word: str) -> None:
    with pytest.raises(click.BadParameter) as error:
        mem(f"--mem={word}")
    assert "give MiB (512, 512M, 512MiB) or GiB (2G, 2GiB)" in error.value.message
    assert len(error.value.message) < 200


@pytest.mark.parametrize("word", ["0", "2", "255M", "0G"])
def test_too_little_memory(word: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{word}' is less than 256 MiB: give MiB"):
        mem("--mem", word)


@given(st.text(max_size=12))
def test_whatever_is_said_it_is_an_amount_or_wrong_usage(word: str) -> None:
    with contextlib.suppress(click.BadParameter):
        assert 256 <= mem(f"--mem={word}") < 1 << 63


def test_memory_in_a_file_is_a_number_of_mib(tmp_path: Path) -> None:
    (tmp_path / "orchestrate.toml").write_text("[run]\nmem = 700\n")
    assert mem() == 700
    assert mem("--mem", "1G") == 1024


@pytest.mark.parametrize(("value", "mib"), [('"2GiB"', 2048), ('"700"', 700), ("700", 700)])
def test_memory_in_a_file(tmp_path: Path, value: str, mib: int) -> None:
    (tmp_path / "orchestrate.toml").write_text(f"[run]\nmem = {value}\n")
    assert mem() == mib


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("true", "expected an integer or a string, not true"),
        ("2.0", "expected an integer or a string, not 2.0"),
        ('"2T"', "'2T' is not an amount of memory"),
        ("2", "'2' is less than 256 MiB"),
    ],
)
def test_no_memory_in_a_file(tmp_path: Path, value: str, said: str) -> None:
    (tmp_path / "orchestrate.toml").write_text(f"[run]\nmem = {value}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        mem()


def test_the_help_says_what_is_accepted() -> None:
    said = " ".join(run_.get_help(click.Context(run_)).split())
    assert "--mem SIZE Guest memory in MiB, or with a unit: 512M, 2GiB." in said
    assert "Default: 512, or what the flavor needs. [x>=256]" in said
