# SPDX-License-Identifier: GPL-2.0-only
"""The made-up kernel tree of ``fakes/linux``, which knows every symbol that this project asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator import data
from orchestrator.kernel.kconfig import Fragment
from orchestrator.source.classify import classify
from orchestrator.source.model import Tree

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
