# SPDX-License-Identifier: GPL-2.0-only
"""The wheel and the sdist: the same tool outside the checkout, with its data inside the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from under_test import ORCHESTRATE

from orchestrator import __file__ as package_file

ROOT = Path(package_file).resolve().parent.parent
DATA = ("kconfigs", "guest", "selftests")
#: What the sdist must hold besides the package and its data.
REST = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
    "setup.py",
    "requirements.lock",
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="no checkout: the tests run against an installed package"
)


def _call(argv: Sequence[str | Path], cwd: Path, **env: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _wheel(source: Path, out: Path) -> Path:
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "-w", str(out)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    _call([*pip, *options, str(source)], out.parent)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, since a build writes into it, with what lies about in one that is worked in."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    skip = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info")

    def ignore(folder: str, names: list[str]) -> set[str]:
        top = {"build", "dist", "runs"} if Path(folder) == ROOT else set()
        return set(skip(folder, names)) | (top & set(names))

    shutil.copytree(ROOT, copy, ignore=ignore, symlinks=True)
    (copy / "kconfigs/base.config~").write_text("an editor's")
    (copy / "selftests/map-latency/by-hand").write_bytes(b"\x7fELF and so on")
    # an earlier build, of a variant that is no more
    stale = copy / "build/lib/orchestrator/_data/kconfigs/variants/gone.config"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return _wheel(checkout, checkout.parent / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel unpacked, which is what installing a pure one means."""
    place = wheel.parent.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _data_files() -> set[str]:
    """The data of the checkout, named as in the wheel; a program built by hand is none of it."""
    return {
        f"orchestrator/_data/{path.relative_to(ROOT)}"
        for name in DATA
        for path in (ROOT / name).rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith("~")
        and path.read_bytes()[:4] != b"\x7fELF"
    }


def test_the_wheel_carries_the_data(wheel: Path) -> None:
    carried = {name for name in _names(wheel) if name.startswith("orchestrator/_data/")}
    assert carried == _data_files()
    assert "orchestrator/_data/kconfigs/variants/mmap-lock.config" in carried


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in _names(wheel)}
    assert "orchestrator" in tops
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"orchestrator"}


def test_the_wheel_installs_the_man_pages(wheel: Path) -> None:
    """Into share/man, where man finds them beside the command in PATH."""
    installed = {name.partition("/")[2] for name in _names(wheel) if ".data/" in name}
    pages = {path.name for path in (ROOT / "docs/man").iterdir()}
    assert "orchestrate.1" in pages
    assert installed == {f"data/share/man/man1/{name}" for name in pages}


@pytest.mark.slow
def test_pip_puts_the_man_pages_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    _call([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], tmp_path)
    python = tmp_path / "env/bin/python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    _call([*pip, "install", "-q", "--no-deps", "--no-index", "--no-cache-dir", wheel], tmp_path)
    installed = {path.name for path in (tmp_path / "env/share/man/man1").iterdir()}
    assert installed == {path.name for path in (ROOT / "docs/man").iterdir()}
    assert (tmp_path / "env/bin/orchestrate").is_file()


def test_the_wheel_has_all_modules_and_their_data(wheel: Path) -> None:
    package = ROOT / "orchestrator"
    wanted = [path for ending in ("py", "toml", "j2") for path in package.rglob(f"*.{ending}")]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= _names(wheel)


def test_the_installed_package_uses_its_own_data(installed: Path, tmp_path: Path) -> None:
    ask = (
        "from orchestrator.core import data as d; print(d.kconfigs()); print(d.guest()); print(d.selftests())"
    )
    said = _call([sys.executable, "-c", ask], tmp_path, PYTHONPATH=str(installed))
    assert said.split() == [str(installed / "orchestrator/_data" / name) for name in DATA]


def test_the_installed_tool_lists_the_same(installed: Path, tmp_path: Path) -> None:
    argv = [*ORCHESTRATE, "list"]
    assert _call(argv, tmp_path, PYTHONPATH=str(installed)) == _call(argv, ROOT, PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    ask = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    name = _call([sys.executable, "-c", ask, str(tmp_path)], checkout).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert set(REST) <= inside
    assert "tests/project/test_packaging.py" in inside
    assert not {name for name in inside if name.startswith(("build/", ".git/", ".venv/"))}
    (tmp_path / "out").mkdir()
    assert _names(_wheel(tmp_path / name, tmp_path / "out")) == _names(wheel)


@pytest.mark.slow
def test_an_editable_install_makes_no_copy(checkout: Path, tmp_path: Path) -> None:
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(tmp_path / "target")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    _call([*pip, *options, "-e", str(checkout)], tmp_path)
    assert not (checkout / "orchestrator/_data").exists()
