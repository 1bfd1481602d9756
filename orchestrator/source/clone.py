# SPDX-License-Identifier: GPL-2.0-only
"""Revisions of a user's git repository, checked out in private shared clones.

The user's repository is only read, and of its and the user's configuration nothing runs: no hook, no
filter, no alias. Never `git worktree`, which writes into the repository.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.text import clean_str
from orchestrator.source import archive, git, identity
from orchestrator.source.git import INCOMPLETE, GitError, run_git
from orchestrator.source.model import Say, Tree, quiet


class _Repository(msgspec.Struct, frozen=True):
    """What a clone needs from a repository; paths are absolute."""

    path: Path
    objects: Path
    shallow: Path | None
    object_format: str


def split(spec: str) -> tuple[str, str] | None:
    """Folder and revision of ``DIR@REV``: the longest DIR that exists; ``None`` if none does.

    Both may contain a ``@``: a folder's name may, and ``HEAD@{1}`` is a revision.
    """
    for at in reversed([match.start() for match in re.finditer("@", spec)]):
        if at and Path(spec[:at]).expanduser().is_dir():
            return spec[:at], spec[at + 1 :]
    return None


def resolve_revision(folder: Path, revision: str, spec: str, *, cache: Path, say: Say = quiet) -> Tree:
    """The tree of one revision, in a clone of its own below ``cache/sources``.

    :param folder: top of a work tree (linked ones too), a bare repository, or a ``.git``; shallow ones too.
    :param revision: whatever git resolves to a commit.
    :raises UserError: no git repository, no such revision, or no kernel tree.
    :raises InfraError: no git, no space, or objects of the repository that cannot be read.
    """
    folder = folder.resolve()
    commit = commit_of(folder, revision, spec)
    digest = identity.digest_of_commit(commit)
    what = f"{folder}@{revision}"

    def make(tmp: Path) -> None:
        say(f"checking out {what}")
        start(tmp, folder, what)
        check_out(tmp, commit, what)
        verify(tmp / "tree", commit, what)
        identity.check_tree(tmp / "tree", what)

    tree = archive.keep(make, digest, cache=cache, what=what, say=say)
    relink(tree, folder, commit)
    version = identity.makefile_version(tree)
    name = "" if commit.startswith(revision) else f" ({revision})"
    return Tree(
        path=tree,
        spec=spec,
        kind="revision",
        digest=digest,
        commit=commit,
        version=version,
        describe=f"{version}-g{commit[:12]}{clean_str(name)}",
        base_spec=f"{folder}@{commit}",
    )


def start(tmp: Path, origin: Path, what: str) -> None:
    """Make ``tmp/tree`` a clone of a repository that shares its objects, with nothing checked out.

    :raises UserError: ``origin`` cannot be cloned.
    :raises InfraError: no git, no space.
    """
    # in a file, because upload-pack does not get options: the repository may belong to another user
    config = tmp / "gitconfig"
    config.write_text("[safe]\n\tdirectory = *\n")
    tree = tmp / "tree"
    try:
        repository = _repository(origin)
        if repository.shallow:
            # git itself copies the objects of a shallow repository, and only those that a branch or tag
            # reaches
            run_git(
                tmp, "init", "-q", "--template=", f"--object-format={repository.object_format}", str(tree)
            )
            _share(tree, repository)
        else:
            argv = ["clone", "-q", "--shared", "--no-checkout", "--template=", "--", str(origin), str(tree)]
            run_git(tmp, *argv, config=config, env={"GIT_ALLOW_PROTOCOL": "file"})
    except GitError as error:
        raise UserError(f"{what}: git cannot clone {origin}: {error.first}") from error
    config.unlink()


def check_out(tmp: Path, commit: str, what: str) -> None:
    """Check a commit out in the clone at ``tmp/tree``, all of it.

    :raises UserError: objects are missing in the repository.
    :raises InfraError: no space.
    """
    try:
        git.check_out(tmp / "tree", commit)
    except GitError as error:
        raise UserError(
            f"{what}: git cannot check it out: {error.first}",
            remedy=INCOMPLETE,
        ) from error


def verify(tree: Path, commit: str, what: str, *, stat_cache: Path | None = None) -> None:
    """Demand that the files of a clone are those of a commit, byte for byte.

    :raises InfraError: they are not.
    """
    if changed := sorted(identity.differences(tree, commit, stat_cache=stat_cache)):
        raise InfraError(
            f"{what}: {len(changed)} files in {tree} are not as in the commit, such as"
            f" {clean_str(os.fsdecode(changed[0]))}",
            remedy="the cache needs a file system that keeps upper and lower case, links and executable bits",
        )


def relink(tree: Path, folder: Path, commit: str) -> None:
    """Point a clone to this repository if its original is gone."""
    if _has(tree, f"{commit}^{{tree}}"):
        return
    try:
        _share(tree, _repository(folder))
    except GitError as error:
        raise InfraError(f"{folder}: git cannot read it: {error.first}", remedy=INCOMPLETE) from error


def check_repository(folder: Path, spec: str) -> None:
    """Demand that a folder is the top of a git repository.

    :raises UserError: it is not.
    :raises InfraError: there is no git.
    """
    try:
        run_git(folder, "rev-parse", "--git-dir")
    except GitError as error:
        raise UserError(
            f"{spec}: {folder} is not the top of a git repository: {error.first}",
            remedy="name a clone of Linux, or the directory without @REV",
        ) from error


def commit_of(folder: Path, revision: str, spec: str) -> str:
    """The full name of the commit that a revision names.

    :param spec: what the user wrote, for the message.
    :raises UserError: no git repository, or no such commit in it.
    """
    if not revision:
        raise UserError(f"{spec}: no revision after the @", remedy="write DIR@REV, or DIR alone")
    check_repository(folder, spec)
    try:
        # two steps, since ":/text" would take a suffix as part of the text
        name = run_git(folder, "rev-parse", "--verify", "--end-of-options", revision).decode().strip()
    except GitError as error:
        raise _no_revision(folder, revision, spec, error) from error
    try:
        return run_git(folder, "rev-parse", "--verify", f"{name}^{{commit}}").decode().strip()
    except GitError as error:
        if re.fullmatch("[0-9a-f]{40,64}", revision) and not _has(folder, name):
            raise _no_revision(folder, revision, spec, error) from error
        raise UserError(
            f"{spec}: {revision} is not a commit", remedy="name a commit, tag or branch"
        ) from error


def _has(folder: Path, name: str) -> bool:
    try:
        run_git(folder, "cat-file", "-e", name)
    except GitError:
        return False
    return True


def _no_revision(folder: Path, revision: str, spec: str, error: GitError) -> UserError:
    why = f": {error.first}" if "ambiguous" in error.first else ""
    try:
        names = run_git(
            folder, "for-each-ref", "--format=%(refname:short)", "refs/tags", "refs/heads", "refs/remotes"
        )
        near = difflib.get_close_matches(revision, names.decode("utf-8", "replace").split(), n=3)
        shallow = run_git(folder, "rev-parse", "--is-shallow-repository").strip() == b"true"
    except GitError:
        near, shallow = [], False
    remedy = f"similar names: {', '.join(near)}" if near else f"`git -C {folder} tag` lists tags"
    if shallow:
        remedy += "; the repository is shallow, older history is not in it"
    return UserError(f"{spec}: {folder} has no revision {revision!r}{why}", remedy=remedy)


def _repository(path: Path) -> _Repository:
    items = ["--git-path", "objects", "--git-path", "shallow", "--show-object-format"]
    answer = run_git(path, "rev-parse", "--path-format=absolute", *items).decode("utf-8", "surrogateescape")
    objects, shallow, object_format = answer.splitlines()
    return _Repository(path, Path(objects), Path(shallow) if Path(shallow).is_file() else None, object_format)


def _share(tree: Path, repository: _Repository) -> None:
    """Make a clone use the objects of a repository, and its list of shallow commits."""
    write_atomically(tree / ".git/objects/info/alternates", os.fsencode(repository.objects) + b"\n")
    if repository.shallow:
        shutil.copyfile(repository.shallow, tree / ".git/shallow")
    else:
        (tree / ".git/shallow").unlink(missing_ok=True)
