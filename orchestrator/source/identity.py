# SPDX-License-Identifier: GPL-2.0-only
"""The identity of a kernel tree: its version, its commit and local changes, or a digest of its content.

Identity is bytes. A commit stands for a tree only where each file on the disk has the bytes that the commit
has; what git's index, its filters or the user's configuration make of them does not count.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from orchestrator.core import contents
from orchestrator.core.errors import InfraError, UserError
from orchestrator.source.git import INCOMPLETE, GitError, run_git
from orchestrator.source.model import Say, quiet

#: What editors and indexers leave in a tree, if git ignores it: no build reads it, and it changes often.
_LEFT_BY_TOOLS = (
    *("*~", ".*.sw?", ".#*", "#*#", "*.orig", "*.rej", "*.pyc", "compile_commands.json"),
    *("tags", "TAGS", "cscope.*", "ncscope.*", "GPATH", "GRTAGS", "GSYMS", "GTAGS"),
)
_FOLDERS_OF_TOOLS = ("__pycache__", ".cache", ".ccls-cache", ".clangd", ".idea", ".vscode")


class GitState(msgspec.Struct, frozen=True):
    """The commit of a git tree (full name), and digests of what differs from it; empty where nothing does.

    ``dirty`` is of local changes, ``ignored`` of files that ``.gitignore`` files in the tree hide from git.
    """

    commit: str
    dirty: str
    ignored: str = ""

    @property
    def digest(self) -> str:
        """The digest of the tree (64 hex)."""
        return digest_of_commit(self.commit, self.dirty, self.ignored)


def check_tree(path: Path, what: str) -> None:
    """Demand that ``path`` is the top of a kernel tree.

    :raises UserError: it is not; ``what`` names it in the message.
    """
    missing = [name for name in ("Makefile", "Kconfig") if not (path / name).is_file()]
    missing += [f"{name}/" for name in ("scripts/kconfig",) if not (path / name).is_dir()]
    if not missing and not makefile_version(path):
        missing = ["VERSION in Makefile"]
    if missing:
        raise UserError(
            f"{what} is not a kernel tree: no {', '.join(missing)}",
            remedy="name the top directory of a Linux source tree",
        )


def check_clean(path: Path, what: str, *, remedy: str = "") -> None:
    """Demand that no kernel was configured or built inside the tree: such a tree refuses ``make O=``.

    :param remedy: what to do, if the tree is not the user's own at ``path``.
    :raises UserError: it holds a ``.config`` or generated headers.
    """
    built = [name for name in (".config", "include/config", "include/generated") if (path / name).exists()]
    arches = sorted(path.glob("arch/*/include/generated"))
    if not built and not arches:
        return
    first = built[0] if built else str(arches[0].relative_to(path))
    # mrproper cleans one architecture
    place = shlex.quote(str(path))
    make = f"make -C {place} " + (f"ARCH={arches[0].parts[-3]} " if arches else "") + "mrproper"
    raise UserError(
        f"{what}: the source tree is not clean, a kernel was configured or built in it ({first} is there)",
        remedy=remedy
        or f"run `{make}` (it deletes .config too), or name a clean clone (`git clone --shared {place} DIR`)",
    )


def makefile_version(path: Path) -> str:
    """``VERSION.PATCHLEVEL.SUBLEVEL`` and ``EXTRAVERSION`` of the Makefile, or empty if it has none."""
    try:
        with (path / "Makefile").open("rb") as stream:
            head = stream.read(8192).decode("utf-8", "replace")
    except OSError:
        return ""
    values: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", head, re.M)
    )
    if not values.get("VERSION", "").isdigit():
        return ""
    numbers = [values["VERSION"], values.get("PATCHLEVEL", ""), values.get("SUBLEVEL", "")]
    return ".".join(number for number in numbers if number) + values.get("EXTRAVERSION", "")


def git_state(path: Path, *, stat_cache: Path | None = None, say: Say = quiet) -> GitState | None:
    """Commit and local changes if ``path`` is the top of a git work tree with a commit, else ``None``.

    :param stat_cache: a folder for the digests of files; with it a second call reads only changed files.
    :raises UserError: git refuses the repository of another user; a file cannot be read.
    :raises InfraError: git answers for the commit but fails afterwards.
    """
    if not os.path.lexists(path / ".git"):
        return None
    try:
        commit = run_git(path, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except (GitError, InfraError) as error:
        why = error.first if isinstance(error, GitError) else error.message
        say(f"{path} counts as a plain folder: git cannot name its commit ({why})")
        return None
    try:
        changed = differences(path, commit, stat_cache=stat_cache)
        hidden = _ignored(path, changed)
    except GitError as error:
        raise InfraError(f"{path}: git cannot read it: {error.first}", remedy=INCOMPLETE) from error
    local = sorted(changed - hidden)
    unseen = sorted(hidden - _left_by_tools(path, hidden))
    return GitState(commit, _digest(path, b"dirty", local), _digest(path, b"ignored", unseen))


def differences(path: Path, commit: str, *, stat_cache: Path | None = None) -> set[bytes]:
    """The files of a work tree that are not byte for byte those of a commit, or are not in it, or are gone.

    No filter and no conversion counts, nor does git's index. A submodule that is not checked out does not
    differ.

    :raises GitError: git cannot read the commit.
    :raises UserError: a file cannot be read.
    """
    algorithm = "sha256" if len(commit) == 64 else "sha1"
    expected = _files_of(path, commit)
    cache = _cache_file(path, stat_cache, algorithm)
    describe = functools.partial(contents.description, algorithm=algorithm, blob=True)
    found = contents.files(path, stat_cache=cache, describe=describe)
    return {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}


def content_digest(path: Path, *, stat_cache: Path | None = None) -> str:
    """A digest (64 hex) over every file of a tree; see ``contents.digest``.

    :param stat_cache: a folder for the digests of files; with it a second call reads only changed files.
    :raises UserError: a file cannot be read, or changes while it is read.
    """
    return contents.digest(path, stat_cache=_cache_file(path, stat_cache, "content"))


def digest_of_commit(commit: str, dirty: str = "", ignored: str = "") -> str:
    """The digest (64 hex) of a tree that is a commit, with these differences."""
    return digest_of_text("git", commit, dirty, *([ignored] if ignored else []))


def digest_of_text(*parts: str) -> str:
    """A digest (64 hex) of a few strings, that differs for each way to split the same text."""
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part.encode()) for part in parts)).hexdigest()


def _cache_file(path: Path, folder: Path | None, kind: str) -> Path | None:
    if folder is None:
        return None
    return folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}-{kind}.msgpack"


def _digest(path: Path, kind: bytes, names: list[bytes]) -> str:
    """A digest of the content of some files; empty if there are none."""
    if not names:
        return ""
    return contents.combine(kind, zip(names, contents.descriptions(path, names), strict=True))


def _files_of(path: Path, commit: str) -> Mapping[bytes, bytes]:
    """The files of a commit as ``contents.description`` describes them; a submodule has none."""
    files: dict[bytes, bytes] = {}
    for record in run_git(path, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        fields, _, name = record.partition(b"\t")
        mode, kind, blob = fields.split()
        if kind == b"blob":
            letter = b"l" if mode == b"120000" else b"x" if int(mode, 8) & 0o100 else b"f"
            files[name] = letter + bytes.fromhex(blob.decode())
    return files


def _ignored(path: Path, names: set[bytes]) -> set[bytes]:
    """Those of the files that git does not track, and that ``.gitignore`` files in the tree name.

    What only ``.git/info/exclude`` or the user's configuration names is not among them.
    """
    if not names:
        return set()
    argv = ("ls-files", "-z", "--others", "--ignored", "--exclude-per-directory=.gitignore")
    return names & set(run_git(path, *argv).split(b"\0"))


def _left_by_tools(path: Path, names: set[bytes]) -> set[bytes]:
    """The ignored files that no build reads: of an editor or indexer, or in the folder of a `make O=`."""

    @functools.cache
    def is_output(folder: Path) -> bool:
        if folder == path:
            return False
        # kbuild links its output to the tree
        is_kbuilds = (folder / "source").is_symlink() and (folder / "include/config").is_dir()
        return folder.name in _FOLDERS_OF_TOOLS or is_kbuilds or is_output(folder.parent)

    return {
        name
        for name, file in ((name, path / os.fsdecode(name)) for name in names)
        if any(fnmatchcase(file.name, pattern) for pattern in _LEFT_BY_TOOLS) or is_output(file.parent)
    }
