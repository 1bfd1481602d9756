# SPDX-License-Identifier: GPL-2.0-only
"""The data folders inside the wheel, as ``orchestrator/_data``; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("kconfigs", "guest", "selftests")


class BuildWithData(build_py):
    """Puts the folders beside the package into it, where `orchestrator/core/data.py` looks first."""

    def run(self) -> None:
        """Copy them, unless the installation is editable."""
        super().run()
        if self.editable_mode:
            return  # the checkout itself is used, and a copy in it would hide it
        place = Path(self.build_lib) / "orchestrator" / "_data"
        # what an earlier build left there may be gone from the checkout
        shutil.rmtree(place, ignore_errors=True)
        for name in FOLDERS:
            shutil.copytree(name, place / name, ignore=_not_data)


def _not_data(folder: str, names: Iterable[str]) -> list[str]:
    """What lies about in a checkout: caches, editors' leavings, programs built by hand."""
    return [
        n for n in names if n.startswith((".", "__")) or n.endswith(("~", ".o")) or _program(Path(folder, n))
    ]


def _program(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


setup(cmdclass={"build_py": BuildWithData})
