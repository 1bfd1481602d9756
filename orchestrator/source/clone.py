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
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.process import Supervised
from orchestrator.core.text import clean, clean_str
from orchestrator.source import archive, identity
from orchestrator.source.model import Say, Tree, quiet

#: No file system on which kernels are built is slower than this.
_LIMIT_S = 3600.0
_NO_GIT = "install git"
INCOMPLETE = (
    "`git fsck` there tells whether the repository is whole; one cloned with --filter lacks files until its"
    " own git checks that revision out"
)


class GitError(Exception):
    """git ended with an error; ``said`` is all of its own words, ``first`` their first line, to be shown."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said
        self.first = re.sub("^(?:error|fatal): ", "", said.partition("\n")[0])[:300]


class _Repository(msgspec.Struct, frozen=True):
    """What a clone needs to know of a repository; paths are absolute."""

    path: Path
    objects: Path
    shallow: Path | None
    object_format: str


def split(spec: str) -> tuple[str, str] | None:
    """Folder and revision of ``DIR@REV``: the longest DIR that exists; ``None`` if none does.

    Both may hold a ``@``: folders are called so, and ``HEAD@{1}`` is a revision.
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
    digest = identity.digest_of_text("git", commit, "")
    what = f"{folder}@{revision}"

    def make(tmp: Path) -> None:
        say(f"checking out {what}")
        start(tmp, folder, what)
        check_out(tmp, commit, what)
        identity.check_tree(tmp / "tree", what)

    tree = archive.keep(make, digest, cache=cache, what=what, say=say)
    mend(tree, folder, commit)
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


def run_git(
    where: Path,
    *argv: str,
    env: Mapping[str, str] | None = None,
    data: bytes | None = None,
    config: Path | None = None,
) -> bytes:
    """Run git in a repository and give what it printed.

    It sees that repository's configuration and none of the user's or the host's, runs no hook, fetches
    nothing, and finds no repository above ``where``.

    :param config: a file in place of the user's configuration; other git processes that this one starts
        read it too, which they do not do with options.
    :raises GitError: it failed.
    :raises InfraError: there is no git, or the disk is to blame.
    """
    try:
        done = subprocess.run(
            _command(where, *argv),
            env=_environment(where, config) | dict(env or {}),
            input=data or b"",
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise InfraError("git is not installed", remedy=_NO_GIT) from error
    if done.returncode:
        raise _failure(f"git {argv[0]}", done.stderr, f"status {done.returncode}", where)
    return done.stdout


def is_ancestor(folder: Path, old: str, new: str) -> bool:
    """Whether a commit is another's ancestor, or is it.

    :raises UserError: the history between them cannot be read.
    """
    try:
        return not run_git(folder, "rev-list", "-n1", old, "--not", new).strip()
    except GitError as error:
        raise UserError(f"{folder}: git cannot read its history: {error.first}", remedy=INCOMPLETE) from error


def merge_base(folder: Path, one: str, other: str) -> str:
    """Where two commits part; empty if they have no history in common."""
    try:
        return run_git(folder, "merge-base", one, other).decode().split()[0]
    except (GitError, IndexError):
        return ""


def start(tmp: Path, origin: Path, what: str) -> None:
    """Make ``tmp/tree`` a clone of a repository that shares its objects, with nothing checked out.

    :raises UserError: ``origin`` cannot be cloned.
    :raises InfraError: no git, no space.
    """
    # In a file, because upload-pack is not told of options: the repository may belong to somebody else.
    config = tmp / "gitconfig"
    config.write_text("[safe]\n\tdirectory = *\n")
    tree = tmp / "tree"
    try:
        repository = _repository(origin)
        if repository.shallow:
            # git itself copies the objects of a shallow repository, and only what a branch or tag reaches.
            run_git(
                tmp, "init", "-q", "--template=", f"--object-format={repository.object_format}", str(tree)
            )
            _share(tree, repository)
        else:
            argv = ["clone", "-q", "--shared", "--no-checkout", "--template=", "--", str(origin), str(tree)]
            run_git(tmp, *argv, config=config, env={"GIT_ALLOW_PROTOCOL": "file"})
        # Files may be linked into a patched tree later, which changes their ctime and nothing else.
        run_git(tree, "config", "core.trustctime", "false")
    except GitError as error:
        raise UserError(f"{what}: git cannot clone {origin}: {error.first}") from error
    config.unlink()


def check_out(tmp: Path, commit: str, what: str) -> None:
    """Check a commit out in the clone at ``tmp/tree``, all of it.

    :raises UserError: objects are missing in the repository.
    :raises InfraError: no space.
    """
    try:
        run_long(tmp, _command(tmp / "tree", "checkout", "-q", "--force", "--detach", commit))
    except GitError as error:
        raise UserError(
            f"{what}: git cannot check it out: {error.first}",
            remedy=INCOMPLETE,
        ) from error


def run_long(tmp: Path, argv: list[str]) -> None:
    """Run what may take a minute and fills ``tmp``, so that it ends when we do.

    :raises GitError: it failed.
    :raises InfraError: the disk is to blame, or it was killed.
    """
    # Not in tmp: on a disk that it fills there is no room for its last words.
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        log = Path(folder) / "log"
        child = Supervised(argv, limit_s=_LIMIT_S, output=log, env=_environment(tmp, None))
        outcome = child.to_end()
        said = log.read_bytes() if log.exists() else b""
    if outcome.exit is None:
        raise InfraError(f"{argv[0]} was ended: {outcome}", remedy="try again")
    if outcome.exit:
        raise _failure(argv[0], said, str(outcome), tmp)


def mend(tree: Path, folder: Path, commit: str) -> None:
    """Point a clone to this repository if the one that it was made from is gone."""
    if _has(tree, f"{commit}^{{tree}}"):
        return
    try:
        _share(tree, _repository(folder))
    except GitError as error:
        raise InfraError(f"{folder}: git cannot read it: {error.first}", remedy=INCOMPLETE) from error


def _command(where: Path, *argv: str) -> list[str]:
    command = ["git", "--no-optional-locks", "-C", str(where), "-c", "safe.directory=*"]
    for setting in (
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.untrackedCache=false",
        # they have a place in the home directory even without a configuration
        "core.attributesFile=/dev/null",
        "core.excludesFile=/dev/null",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
    ):
        command += ["-c", setting]
    return [*command, *argv]


def _environment(where: Path, config: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_GLOBAL": str(config or os.devnull),
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(where.resolve().parent),
        "GIT_OPTIONAL_LOCKS": "0",
        # A partial clone fetches what it lacks, into the user's repository; older git knows only the last.
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "TZ": "UTC",
    }


def _failure(program: str, stderr: bytes, how: str, place: Path) -> Exception:
    said = clean(stderr).strip()
    lines = [line for line in said.splitlines() if not line.startswith("hint: ")]
    if (not said or re.search("writ|creat|space", said)) and _is_full(place):
        # git does not always say why it could not write, and on a full disk its words may be lost.
        lines.append("No space left on device")
    # Other lines may quote a patch.
    said_so = [line for line in lines if re.match("error|fatal|warning|cp|No space", line)]
    trouble = [line for line in said_so if any(sign in line for sign in archive.HOST_TROUBLE)]
    if trouble:
        return InfraError(f"{program}: {trouble[0]}", remedy=archive.SPACE)
    return GitError("\n".join(lines) or how)


def _is_full(place: Path) -> bool:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize < 1 << 20 or bool(disk.f_files and disk.f_favail < 16)


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
        raise UserError(f"{spec}: no revision behind the @", remedy="write DIR@REV, or DIR alone")
    check_repository(folder, spec)
    try:
        # Two steps, since some forms (":/text") end at the end of the word only.
        found = run_git(folder, "rev-parse", "--verify", "--end-of-options", revision).decode().strip()
    except GitError as error:
        raise _no_revision(folder, revision, spec, error) from error
    try:
        return run_git(folder, "rev-parse", "--verify", f"{found}^{{commit}}").decode().strip()
    except GitError as error:
        if re.fullmatch("[0-9a-f]{40,64}", revision) and not _has(folder, found):
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
    remedy = f"near it are {', '.join(near)}" if near else f"`git -C {folder} tag` lists tags"
    if shallow:
        remedy += "; the repository is shallow, older history is not in it"
    return UserError(f"{spec}: {folder} has no revision {revision!r}{why}", remedy=remedy)


def _repository(path: Path) -> _Repository:
    asked = ["--git-path", "objects", "--git-path", "shallow", "--show-object-format"]
    found = run_git(path, "rev-parse", "--path-format=absolute", *asked).decode("utf-8", "surrogateescape")
    objects, shallow, object_format = found.splitlines()
    return _Repository(path, Path(objects), Path(shallow) if Path(shallow).is_file() else None, object_format)


def _share(tree: Path, repository: _Repository) -> None:
    """Make a clone use the objects of a repository, and know where its history is cut off."""
    write_atomically(tree / ".git/objects/info/alternates", os.fsencode(repository.objects) + b"\n")
    if repository.shallow:
        shutil.copyfile(repository.shallow, tree / ".git/shallow")
    else:
        (tree / ".git/shallow").unlink(missing_ok=True)
