# SPDX-License-Identifier: GPL-2.0-only
"""Copy the few files of a tree that patches touch, and write them for `git fast-import`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from orchestrator.source.git import run_git
from orchestrator.source.model import Tree


def extract(base: Tree, names: Iterable[str], into: Path) -> None:
    """Copy those of the named files that a tree has; from a git tree as of its commit.

    A file or link in place of a directory on the way to a name is copied too, so that later work on the names
    fails as it would in the whole tree.

    :param names: relative, none leads out of the tree.
    :raises GitError: a file is not in the repository.
    """
    paths = {str(part) for name in names for part in (PurePosixPath(name), *PurePosixPath(name).parents)}
    paths.discard(".")
    if base.commit:
        _from_commit(base, paths, into)
        return
    through: set[Path] = set()
    for name in sorted(map(PurePosixPath, paths), key=lambda path: len(path.parts)):
        origin = base.path / name
        if not through.isdisjoint(origin.parents) or (origin.is_dir() and not origin.is_symlink()):
            continue
        if os.path.lexists(origin):
            through.add(origin)
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, into / name, follow_symlinks=False)
            if not origin.is_symlink():
                (into / name).chmod(0o755 if origin.stat().st_mode & 0o100 else 0o644)


def commit(
    place: Path, names: Iterable[str], ref: str, parent: str, author: str, committer: str, message: bytes
) -> bytes:
    """A commit of the named files as they are now, in the language of `git fast-import`.

    :param parent: the commit to begin with, or empty to continue from the ref.
    :param author: with its date, as in a commit object; so is ``committer``.
    """
    lines = [b"commit " + ref.encode(), b"author " + os.fsencode(author), b"committer " + committer.encode()]
    text = b"\n".join(lines) + b"\n" + _data(message)
    if parent:
        text += b"from " + parent.encode() + b"\n"
    for name in sorted(names):
        path, quoted = place / name, _quoted(os.fsencode(name))
        if path.is_symlink():
            # Not Path.readlink, which tidies the text.
            target = os.fsencode(os.readlink(path))  # noqa: PTH115
            text += b"M 120000 inline " + quoted + b"\n" + _data(target)
        elif path.is_file():
            mode = b"100755" if path.stat().st_mode & 0o100 else b"100644"
            text += b"M " + mode + b" inline " + quoted + b"\n" + _data(path.read_bytes())
        else:
            text += b"D " + quoted + b"\n"
    return text


def _from_commit(base: Tree, paths: set[str], into: Path) -> None:
    listing = run_git(base.path, "ls-tree", "-r", "-z", "--full-tree", base.commit)
    blobs: list[tuple[str, bytes, bytes]] = []
    for record in listing.split(b"\0"):
        fields, _, raw = record.partition(b"\t")
        if os.fsdecode(raw) in paths and fields.split()[1] == b"blob":
            mode, _kind, blob = fields.split()
            blobs.append((os.fsdecode(raw), mode, blob))
    request = b"".join(blob + b"\n" for _, _, blob in blobs)
    output = run_git(base.path, "cat-file", "--batch", data=request) if blobs else b""
    at = 0
    for name, mode, _ in blobs:
        header, _, _ = output[at : at + 200].partition(b"\n")
        start = at + len(header) + 1
        size = int(header.split()[2])
        content = output[start : start + size]
        at = start + size + 1
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == b"120000":
            path.symlink_to(os.fsdecode(content))
        else:
            path.write_bytes(content)
            path.chmod(0o755 if mode == b"100755" else 0o644)


def _data(content: bytes) -> bytes:
    return b"data %d\n" % len(content) + content + b"\n"


def _quoted(name: bytes) -> bytes:
    for raw, escaped in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n")):
        name = name.replace(raw, escaped)
    return b'"' + name + b'"'
