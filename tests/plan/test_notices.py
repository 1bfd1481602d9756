# SPDX-License-Identifier: GPL-2.0-only
"""What a run says of how it builds, before it builds."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from orchestrator.core import environment, sandbox
from orchestrator.core.errors import InfraError
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.notices import notices
from orchestrator.plan.options import Options, choose

BUILT = Choices(arches=("x86_64",), variants=("mmap-lock",))
PATCHED = msgspec.structs.replace(BUILT, sources=(Source(spec="x", patches=("p.mbox",)),))
PREBUILT = msgspec.structs.replace(BUILT, sources=(Source(image="bzImage"),))


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(environment, "ignored", lambda: "")
    monkeypatch.setattr(sandbox, "missing", lambda: "")


def test_an_ordinary_run_says_nothing() -> None:
    assert list(notices(BUILT)) == []


def test_root_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (line,) = notices(BUILT)
    assert line.startswith("running as root: ")
    assert list(notices(PREBUILT)) == [], "nothing is built"


def test_variables_that_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ignored", lambda: "builds ignore ARCH")
    assert list(notices(BUILT)) == ["builds ignore ARCH"]


def test_a_sandbox_and_the_lack_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    boxed = msgspec.structs.replace(PATCHED, sandboxed=True)
    assert list(notices(boxed)) == ["builds run in a sandbox: no network, no home, the tree is read-only"]
    (line,) = notices(PATCHED)
    assert line.startswith("builds run without a sandbox: --sandbox off; ")
    assert list(notices(BUILT, untrusted=True)) == [line], "a series from mails"
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap is not installed")
    (line,) = notices(PATCHED)
    assert "bubblewrap is not installed (apt-get install bubblewrap)" in line


def test_patches_go_into_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.mbox").touch()
    options = Options(sources=(str(tmp_path),), patches=(str(tmp_path / "p.mbox"),))
    assert choose(options).sandboxed
    assert not choose(msgspec.structs.replace(options, sandbox="off")).sandboxed
    assert not choose(msgspec.structs.replace(options, patches=())).sandboxed
    assert choose(msgspec.structs.replace(options, patches=(), sandbox="on")).sandboxed
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap is not installed")
    assert not choose(options).sandboxed
    with pytest.raises(InfraError, match="--sandbox on: bubblewrap is not installed"):
        choose(msgspec.structs.replace(options, sandbox="on"))
