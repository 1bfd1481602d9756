# SPDX-License-Identifier: GPL-2.0-only
"""Finding the data folders, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import data
from orchestrator.core.errors import InfraError, UserError


def test_in_a_checkout() -> None:
    assert (data.kconfigs() / "base.config").is_file()
    assert (data.guest() / "init.j2").is_file()
    assert data.selftests().is_dir()


def test_listings_are_the_folders() -> None:
    assert {"mmap-lock", "per-vma-lock"} <= set(data.variants())
    assert all(path.is_file() for path in data.variants().values())
    for name, folder in data.suites().items():
        assert folder.name == name
        assert (folder / "suite.toml").is_file()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, in a site-packages that has a `guest` of somebody else's."""
    package = tmp_path / "site-packages/orchestrator"
    package.mkdir(parents=True)
    (package.parent / "guest").mkdir()
    (package / "_data/guest").mkdir(parents=True)
    monkeypatch.setattr(data, "_PACKAGE", package)
    return package


def test_in_a_wheel(package: Path) -> None:
    assert data.guest() == package / "_data/guest"


def test_what_is_missing_is_named(package: Path) -> None:
    with pytest.raises(InfraError, match="lacks its folder 'selftests'") as caught:
        data.selftests()
    assert str(package) in str(caught.value)
    assert caught.value.remedy


def test_a_new_file_is_a_new_choice(package: Path) -> None:
    folder = package / "_data/kconfigs/variants"
    folder.mkdir(parents=True)
    assert data.variants() == {}
    (folder / "b.config").touch()
    (folder / "a.config").touch()
    (folder / "a.config~").touch()
    assert list(data.variants()) == ["a", "b"]
    assert data.flavors() == {}


def test_choosing() -> None:
    assert data.choose("variant", "mmap-lock", data.variants()).name == "mmap-lock.config"
    with pytest.raises(UserError, match="unknown variant 'nonesuch'") as caught:
        data.choose("variant", "nonesuch", data.variants())
    assert "mmap-lock" in caught.value.remedy
