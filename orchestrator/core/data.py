# SPDX-License-Identifier: GPL-2.0-only
"""The folders kconfigs/, guest/ and selftests/: the only module that knows where they are.

In a checkout they are beside the package; a wheel has them inside it, below ``_data``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.core.errors import InfraError, unknown

_PACKAGE = Path(__file__).resolve().parents[1]


def kconfigs() -> Path:
    """The folder of kconfig fragments: ``base.config``, ``<arch>.config``, ``variants/``, ``flavors/``."""
    return _folder("kconfigs")


def guest() -> Path:
    """The folder of what goes into the guest: templates, ``packages.toml``, ``orc-exec.c``."""
    return _folder("guest")


def selftests() -> Path:
    """The folder of suites: C sources with one ``suite.toml`` each."""
    return _folder("selftests")


def library() -> Path:
    """The folder of C sources that suites share, ``selftests/lib``; no suite itself."""
    return selftests() / "lib"


def variants() -> dict[str, Path]:
    """Fragments by the name of the variant: ``{"mmap-lock": …/mmap-lock.config}``."""
    return listing(kconfigs() / "variants", ".config")


def flavors() -> dict[str, Path]:
    """Fragments by the name of the flavor; empty if there are none."""
    return listing(kconfigs() / "flavors", ".config")


def also() -> dict[str, Path]:
    """Configurations that are only compiled, by their name."""
    return listing(kconfigs() / "also", ".toml")


def suites() -> dict[str, Path]:
    """Folders with a ``suite.toml`` by their name."""
    return {path.parent.name: path.parent for path in sorted(selftests().glob("*/suite.toml"))}


def listing(folder: Path, suffix: str) -> dict[str, Path]:
    """Files of ``folder`` by their name without ``suffix``, sorted; empty if there is no such folder."""
    return {path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))}


def choose(kind: str, name: str, choices: Mapping[str, Path]) -> Path:
    """The choice that the user named.

    :param kind: what it is, for the message: ``variant``.
    :raises UserError: there is no such choice; the remedy lists the existing ones.
    """
    if name not in choices:
        raise unknown(kind, name, sorted(choices))
    return choices[name]


def _folder(name: str) -> Path:
    installed = _PACKAGE / "_data"
    path = (installed if installed.is_dir() else _PACKAGE.parent) / name
    if not path.is_dir():
        raise InfraError(
            f"this installation of orchestrate lacks its folder '{name}' (looked at {path})",
            remedy="install it again, or run it from a complete checkout",
        )
    return path
