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
    """git failed; ``output`` is its whole message, ``first`` the first line, for users."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output
        self.first = re.sub("^(?:error|fatal): ", "", output.partition("\n")[0])[:300]


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
    digest = identity.digest_of_text("git", commit, "")
    what = f"{folder}@{revision}"

    def make(tmp: Path) -> None:
        say(f"checking out {what}")
        start(tmp, folder, what)
        check_out(tmp, commit, what)
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


def run_git(
    where: Path,
    *argv: str,
    env: Mapping[str, str] | None = None,
    data: bytes | None = None,
    config: Path | None = None,
) -> bytes:
    """Run git in a repository; returns its standard output.

    It reads that repository's configuration, not the user's nor the host's. It runs no hook, fetches nothing,
    and ignores repositories above ``where``.

    :param config: a file in place of the user's configuration. Unlike options, git's child processes read it
        too.
    :raises GitError: it failed.
    :raises InfraError: there is no git, or the disk is to blame.
    """
    try:
        process = subprocess.run(
            _command(where, *argv),
            env=_environment(where, config) | dict(env or {}),
            input=data or b"",
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise InfraError("git is not installed", remedy=_NO_GIT) from error
    if process.returncode:
        raise _failure(f"git {argv[0]}", process.stderr, f"status {process.returncode}", where)
    return process.stdout


def is_ancestor(folder: Path, old: str, new: str) -> bool:
    """Whether a commit is another's ancestor, or is it.

    :raises UserError: the history between them cannot be read.
    """
    try:
        return not run_git(folder, "rev-list", "-n1", old, "--not", new).strip()
    except GitError as error:
        raise UserError(f"{folder}: git cannot read its history: {error.first}", remedy=INCOMPLETE) from error


def merge_base(folder: Path, one: str, other: str) -> str:
    """The merge base of two commits; empty if they have no common history."""
    try:
        return run_git(folder, "merge-base", one, other).decode().split()[0]
    except (GitError, IndexError):
        return ""


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
        # files may be hard-linked into a patched tree later, which changes only their ctime
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
    """Run a program that may take minutes and fills ``tmp``; it ends when this process does.

    :raises GitError: it failed.
    :raises InfraError: the disk is to blame, or it was killed.
    """
    # not in tmp: the message of a program that fills its disk would be lost
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        log = Path(folder) / "log"
        child = Supervised(argv, limit_s=_LIMIT_S, output=log, env=_environment(tmp, None))
        outcome = child.to_end()
        output = log.read_bytes() if log.exists() else b""
    if outcome.exit is None:
        raise InfraError(f"{argv[0]} was ended: {outcome}", remedy="try again")
    if outcome.exit:
        raise _failure(argv[0], output, str(outcome), tmp)


def relink(tree: Path, folder: Path, commit: str) -> None:
    """Point a clone to this repository if its original is gone."""
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
        # git has defaults for these in the home directory
        "core.attributesFile=/dev/null",
        "core.excludesFile=/dev/null",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
    ):
        command += ["-c", setting]
    return [*command, *argv]


def _environment(where: Path, config: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return environment | {
        "GIT_CONFIG_GLOBAL": str(config or os.devnull),
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(where.resolve().parent),
        "GIT_OPTIONAL_LOCKS": "0",
        # a partial clone would fetch missing objects into the user's repository; older git knows only the
        # last
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "TZ": "UTC",
    }


def _failure(program: str, stderr: bytes, how: str, place: Path) -> Exception:
    message = clean(stderr).strip()
    lines = [line for line in message.splitlines() if not line.startswith("hint: ")]
    if (not message or re.search("writ|creat|space", message)) and _is_full(place):
        # git does not always print why it could not write, and on a full disk its message may be lost
        lines.append("No space left on device")
    # other lines may quote a patch
    complaints = [line for line in lines if re.match("error|fatal|warning|cp|No space", line)]
    trouble = [line for line in complaints if any(sign in line for sign in archive.HOST_TROUBLE)]
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
