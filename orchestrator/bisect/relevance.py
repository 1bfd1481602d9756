# SPDX-License-Identifier: GPL-2.0-only
"""Which commits touch files that are compiled.

A hint, not a proof: the files of a kernel come from the dependency files of one build, and other commits
compile other files. A commit that touches none of them stays a suspect with a tiny weight, so it is tested
only if nothing else explains the observations. ``Search.same`` handles proofs of equal kernels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from orchestrator.bisect.graph import History
from orchestrator.source.git import run_git

#: Build rules and tools; dependency files do not name them.
_ALWAYS = re.compile(r"(?:^|/)(?:Makefile|Kbuild|Kconfig)[^/]*$|^scripts/|\.(?:config|lds|sh|pl|py|awk|tbl)$")


def compiled(objects: Path, tree: Path) -> frozenset[str]:
    """The files of a tree, relative to it, that were compiled into a folder of objects.

    Kbuild leaves a ``.NAME.cmd`` beside each object, with the command and what the compiler read.
    """
    path = re.compile(re.escape(str(tree)).encode() + rb"/([\w./+-]+)")
    names: set[bytes] = set()
    for file in objects.rglob(".*.cmd"):
        names.update(path.findall(file.read_bytes()))
    return frozenset(str(PurePosixPath(name.decode())) for name in names)


def weights(repository: Path, history: History, files: Iterable[str]) -> dict[str, float]:
    """A weight of 0 for each commit that touches none of the files.

    For a merge, the files that differ from all its parents count.

    :raises GitError: the history cannot be read.
    """
    files = frozenset(files)
    if not files:
        return {}
    argv = [
        "log",
        "-c",
        "--no-renames",
        "--name-only",
        "--format=%x00%H",
        history.bad,
        "--not",
        *history.goods,
    ]
    commits = set(history.commits)
    result = {}
    for record in run_git(repository, *argv).decode("utf-8", "surrogateescape").split("\0")[1:]:
        commit, *names = [line for line in record.splitlines() if line]
        if commit in commits and not any(name in files or _ALWAYS.search(name) for name in names):
            result[commit] = 0.0
    # if no commit touches a file, the list of files is wrong
    return result if len(result) < len(commits) else {}
