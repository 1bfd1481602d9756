# SPDX-License-Identifier: GPL-2.0-only
"""The made-up kernel tree of ``fakes/linux``, which knows every symbol that this project asks for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from orchestrator.core import data
from orchestrator.kernel.kconfig import Fragment
from orchestrator.source.classify import classify
from orchestrator.source.model import Tree

from .trees import git

_TREE = Path(__file__).with_name("linux")


def make_linux(path: Path, *, without: str = "", more: str = "") -> Tree:
    """Put the tree there.

    :param without: a symbol of ours that it does not know; ``more``: further Kconfig text.
    """
    shutil.copytree(_TREE, path)
    own = (path / "mm/Kconfig").read_text()
    asked = {
        request.symbol: request.value
        for file in sorted(data.kconfigs().rglob("*.config"))
        for request in Fragment(file.name, file.read_text()).requests()
        if f"config {request.symbol}\n" not in own and request.symbol != without
    }
    kinds = {"y": "bool", "n": "bool"}
    text = [f'config {s}\n\t{kinds.get(v, "int")} "{s}"\n' for s, v in asked.items()]
    (path / "Kconfig.ours").write_text("\n".join([*text, more]))
    digest = f"{path.name}-{without}-{more}"
    tree = Tree(
        path=path, spec=str(path), kind="directory", digest=digest, version="7.2.1", describe="made up"
    )
    assert classify(path) == "selectable"
    return tree


def path_with_fault(folder: Path, name: str, marker: str = "") -> str:
    """A PATH with which the tree's build fails, in the way that ``scripts/build.sh`` calls that.

    :param folder: where the program that names the fault is put.
    :param marker: the name of a process of a slow build.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "fake-linux-fault"
    program.write_text(f"#!/bin/sh\necho {name} {marker}\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def make_linux_repository(path: Path) -> Path:
    """The same tree, committed; what is compiled is ``mm/mmap_lock.c`` and ``fs/*.c``."""
    make_linux(path)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    return path


def commit_file(repository: Path, name: str, text: str, subject: str = "more") -> str:
    """Commit a file with this text, and give the commit's name."""
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "--allow-empty", "-m", subject)
    return git(repository, "rev-parse", "HEAD").strip()
