# SPDX-License-Identifier: GPL-2.0-only
"""Which commits touch what is compiled.

A hint, not a proof: what a kernel is made of is read from one build's dependency files, and other commits are
made of other files. A commit that touches none of them is not ruled out but believed in last, so it is looked
at only if nothing else explains what is seen. What two equal kernels prove is ``Search.same``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from orchestrator.bisect.graph import History
from orchestrator.source.clone import run_git

#: What is compiled how, and with which tools: no dependency file names it.
_ALWAYS = re.compile(r"(?:^|/)(?:Makefile|Kbuild|Kconfig)[^/]*$|^scripts/|\.(?:config|lds|sh|pl|py|awk|tbl)$")


def compiled(objects: Path, tree: Path) -> frozenset[str]:
    """The files of a tree, relative, that the kernels in a folder of objects were made of; or none.

    Kbuild leaves a ``.NAME.cmd`` beside each object, with the command and what the compiler read.
    """
    path = re.compile(re.escape(str(tree)).encode() + rb"/([\w./+-]+)")
    found: set[bytes] = set()
    for file in objects.rglob(".*.cmd"):
        found.update(path.findall(file.read_bytes()))
    return frozenset(str(PurePosixPath(name.decode())) for name in found)


def weights(repository: Path, history: History, files: Iterable[str]) -> dict[str, float]:
    """For each commit that touches none of the files, 0; the others are not in it.

    Of a merge counts what it changes against all its parents.

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
    known = set(history.commits)
    found = {}
    for record in run_git(repository, *argv).decode("utf-8", "surrogateescape").split("\0")[1:]:
        commit, *names = [line for line in record.splitlines() if line]
        if commit in known and not any(name in files or _ALWAYS.search(name) for name in names):
            found[commit] = 0.0
    # were they all harmless, none would be
    return found if len(found) < len(known) else {}
