# SPDX-License-Identifier: GPL-2.0-only
"""Apply patches on top of a tree, in a private copy of it; git reads and applies them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.text import clean_str
from orchestrator.source import archive, clone, diff, identity, misfit, prerequisites, scratch
from orchestrator.source.git import INCOMPLETE, GitError, commits_between, run_git
from orchestrator.source.mbox import Patch, Source, parse, read
from orchestrator.source.model import Say, Tree, quiet
from orchestrator.source.programs import SPACE, ProgramError, run_long

#: Part of every key: a new number when the same patches would give another tree.
_VERSION = "patches 2"
_COMMITTER = "orchestrate <orchestrate@localhost>"
_REF = "refs/orchestrate/patched"


class _Applied(msgspec.Struct, frozen=True):
    """The record beside a patched tree: the number of its patches, and its commit in a git tree.

    ``notes`` are sentences about how the patches were read.
    """

    count: int
    commit: str
    notes: tuple[str, ...] = ()


def apply(tree: Tree, files: Sequence[Path], *, cache: Path, say: Say = quiet) -> Tree:
    """The tree with patches on top, kept below ``cache/sources``; ``tree`` itself is never written.

    On a commit each patch becomes a commit, whose id depends on nothing but base and patches. Trees that
    are no git repository get none.

    :param files: each an mbox of one or more mails, a patch or diff, or a directory of ``*.patch``, in the
        order of its quilt ``series`` if it has one. Of a thread the newest version is applied; cover letters
        and replies are skipped.
    :raises UserError: not found, no patch in it, a patch that is missing, does not apply or leads out of the
        tree, or ``tree`` has local changes that are not committed.
    :raises InfraError: no git, no space.
    """
    if not files:
        return tree
    cache = cache.absolute()
    try:
        return _apply(tree, [file.expanduser().absolute() for file in files], cache, say)
    except OSError as error:
        raise InfraError(
            f"patches for {tree.describe}: {error.filename or cache}: {error.strerror or error}",
            remedy=f"check the cache directory {cache}: space, permissions",
        ) from error
    except GitError as error:
        raise InfraError(f"patches for {tree.describe}: git: {error.first}", remedy=INCOMPLETE) from error


def as_commits(base: Tree, files: Sequence[Path], work: Path, say: Say = quiet) -> list[tuple[str, str]]:
    """Make each patch a commit on top of the commit that a private clone has checked out.

    Their ids depend only on base and patches. None of them is checked out.

    :param base: its ``path`` is the clone, which is written to.
    :param files: as for ``apply``.
    :param work: an empty folder for temporary files.
    :returns: the commits in order, each with the subject of its patch.
    :raises UserError: as ``apply``.
    :raises InfraError: no git, no space.
    """
    try:
        patches, notes = _patches([(file, read(file)) for file in files], base, work)
        for note in notes:
            say(note)
        imported = _rehearse(patches, base, work)
        _check_links(patches, work / "scratch")
        run_git(base.path, "config", "fastimport.unpackLimit", "1")
        # forced: the ref may be there from a series on another base
        run_git(base.path, "fast-import", "--quiet", "--done", "--force", data=imported.read_bytes())
        tip = run_git(base.path, "rev-parse", "--verify", _REF).decode().strip()
        commits = commits_between(base.path, [base.commit], tip)
    except GitError as error:
        raise InfraError(f"patches for {base.describe}: git: {error.first}", remedy=INCOMPLETE) from error
    return [(commit, patch.subject) for commit, patch in zip(commits, patches, strict=True)]


def _apply(tree: Tree, files: Sequence[Path], cache: Path, say: Say) -> Tree:
    if tree.dirty:
        raise UserError(
            f"{tree.describe}: patches need a commit as their base, but {tree.path} has uncommitted changes",
            remedy=f"commit them, or leave them out with `--source {shlex.quote(f'{tree.path}@HEAD')}`",
        )
    sources_by_file = [(file, read(file)) for file in files]
    parts = [part for _, sources in sources_by_file for s in sources for part in (s.sha256, *s.options)]
    digest = identity.digest_of_text(_VERSION, tree.digest, *parts)
    names = ", ".join(clean_str(file.name) for file in files)
    what = f"{tree.describe} with {names}"

    def make(tmp: Path) -> None:
        patches, notes = _patches(sources_by_file, tree, tmp)
        say(f"preparing {tree.describe} with {patch_count(len(patches))}")
        imported = _rehearse(patches, tree, tmp)
        commit = ""
        if tree.commit:
            commit = _on_commit(imported, tree, tmp)
        else:
            _on_files(patches, tree, tmp, cache / "stat")
        _check_links(patches, tmp / "tree")
        identity.check_tree(tmp / "tree", what)
        for name in ("mails", "scratch"):
            shutil.rmtree(tmp / name)
        imported.unlink()
        (tmp / "applied.json").write_bytes(msgspec.json.encode(_Applied(len(patches), commit, notes)))

    path = archive.keep(make, digest, cache=cache, what=what, say=say)
    applied = msgspec.json.decode((path.parent / "applied.json").read_bytes(), type=_Applied)
    for note in applied.notes:
        say(note)
    if tree.commit:
        clone.relink(path, tree.path, tree.commit)
    return msgspec.structs.replace(
        tree,
        path=path,
        digest=digest,
        commit=applied.commit,
        version=identity.makefile_version(path),
        describe=f"{tree.describe} + {patch_count(applied.count)} ({names}, {digest[:12]})",
        patches=(*tree.patches, *map(str, files)),
        configured_by="",
    )


def patch_count(count: int) -> str:
    """A number of patches in words."""
    return f"{count} patch{'' if count == 1 else 'es'}"


def _patches(
    sources_by_file: Sequence[tuple[Path, Sequence[Source]]], base: Tree, work: Path
) -> tuple[list[Patch], tuple[str, ...]]:
    """The patches in files, ready to be applied, and sentences about how they were read."""
    patches: list[Patch] = []
    notes: list[str] = []
    for n, (file, sources) in enumerate(sources_by_file):
        series = parse(sources, file, work / "mails" / str(n))
        notes += series.notes
        lacking = prerequisites.missing(series, base.path, base.commit)
        doubts = [prerequisites.sentence(lacking)] if lacking else []
        notes += [f"{clean_str(file.name)}: {doubt}" for doubt in doubts]
        for patch in series.patches:
            level = _strip_level(patch, base)
            notes += [f"{patch}: its names have no prefix a/ and b/: it is read with -p0"] if level else []
            patches.append(
                msgspec.structs.replace(
                    patch, options=(*patch.options, *level), doubts=(*doubts, *patch.doubts)
                )
            )
    return patches, tuple(notes)


def _strip_level(patch: Patch, base: Tree) -> tuple[str, ...]:
    """The option for names without the prefixes ``a/`` and ``b/``."""
    if any(option.startswith("-p") for option in patch.options):
        return ()
    levels = diff.strip_levels(patch.diff.read_bytes(), base.path)
    if len(levels) > 1:
        raise UserError(
            f"{patch}: some of its names have a prefix like a/ and b/, others have none",
            remedy="make it again with git, or name it in a quilt `series` file with -p0 or -p1",
        )
    return ("-p0",) if levels == {0} else ()


# --- the patched tree


def _rehearse(patches: Sequence[Patch], base: Tree, tmp: Path) -> Path:
    """Apply patches to the few files that they touch, before 100,000 others are copied or checked out.

    :returns: the input for `git fast-import`: one commit a patch.
    """
    touched = [_names(patch, tmp) for patch in patches]
    place, imported = tmp / "scratch", tmp / "import"
    place.mkdir()
    try:
        scratch.extract(base, {name for names in touched for name in names}, place)
        seconds = _committed_at(base) if base.commit else 0
    except GitError as error:
        raise UserError(
            f"{base.path}: git cannot read {base.commit[:12]}: {error.first}", remedy=INCOMPLETE
        ) from error
    with imported.open("wb") as stream:
        for number, (patch, names) in enumerate(zip(patches, touched, strict=True), 1):
            _apply_one(patch, base, place)
            committer = f"{_COMMITTER} {seconds + number} +0000"
            author = _author(patch, place) or committer
            parent = "" if number > 1 else base.commit
            stream.write(scratch.commit(place, names, _REF, parent, author, committer, patch.message))
        stream.write(b"done\n")
    return imported


def _committed_at(base: Tree) -> int:
    # not `git log`: it may be configured to verify signatures with a program of the user's
    head = run_git(base.path, "cat-file", "commit", base.commit).partition(b"\n\n")[0]
    committer = next(line for line in head.splitlines() if line.startswith(b"committer "))
    return int(committer.split()[-2])


def _on_commit(imported: Path, base: Tree, tmp: Path) -> str:
    """Put base and patches at ``tmp/tree``, in a clone that shares its objects; the last commit."""
    to = tmp / "tree"
    clone.start(tmp, base.path, base.describe)
    # not `git am` nor `git commit`: they touch ("freshen") objects in the user's repository that they would
    # write anew. fast-import writes its own pack, if it may not turn small ones into files
    run_git(to, "config", "fastimport.unpackLimit", "1")
    run_git(to, "fast-import", "--quiet", "--done", data=imported.read_bytes())
    commit = run_git(to, "rev-parse", "--verify", _REF).decode().strip()
    clone.check_out(tmp, commit, base.describe)
    clone.verify(to, commit, base.describe)
    return commit


def _on_files(patches: Sequence[Patch], base: Tree, tmp: Path, stat_cache: Path) -> None:
    """Put base and patches at ``tmp/tree``, which is not a repository."""
    to = tmp / "tree"
    to.mkdir()
    names = [str(entry) for entry in base.path.iterdir() if entry.name != ".git"]
    # no hard links: what writes into one of the trees would change both
    argv = ["cp", "-dR", "--preserve=timestamps", "--reflink=auto", "-t", str(to), "--", *names]
    try:
        run_long(tmp, argv, {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)})
    except ProgramError as error:
        what = f"{base.path} cannot be copied into the cache: {error.first}"
        raise InfraError(what, remedy=SPACE) from error
    is_own = base.kind == "directory" and not base.patches
    before = base.digest if is_own else identity.content_digest(base.path, stat_cache=stat_cache)
    if identity.content_digest(to) != before:
        raise UserError(f"{base.path} changed while it was copied", remedy="try again while it is idle")
    _make_writable(to)
    for patch in patches:
        _apply_one(patch, base, to)


def _make_writable(tree: Path) -> None:
    for folder, _, _ in os.walk(tree):
        mode = Path(folder).stat().st_mode
        if mode & 0o700 != 0o700:
            Path(folder).chmod(mode & 0o7777 | 0o700)


# --- the patches


def _apply_one(patch: Patch, base: Tree, tree: Path) -> None:
    try:
        # outside a repository and without --3way: the result must not depend on other objects
        run_git(tree, *_APPLY, *patch.options, str(patch.diff))
    except GitError as error:
        invalid = re.search(
            r"invalid path '(.*)'|affected file '(.*)' is beyond a symbolic link", error.output
        )
        if invalid:
            raise _reaches_out(patch, invalid[1] or invalid[2]) from error
        raise _does_not_apply(patch, base, tree, error) from error


def _names(patch: Patch, where: Path) -> set[str]:
    """The files that a patch touches, by old and new name; none of them leads out of the tree."""
    argv = [*_APPLY, *patch.options, "--numstat", "-z"]
    try:
        both = [run_git(where, *argv, *way, str(patch.diff)) for way in ([], ["-R"])]
    except GitError as error:
        raise UserError(
            f"{patch}: git cannot read it: {error.first}", remedy="; ".join((*patch.doubts, misfit.RAW))
        ) from error
    count = diff.git_headers(patch.diff.read_bytes())
    if (read_ := both[0].count(b"\0")) < count:
        raise UserError(f"{patch}: git reads only {read_} of its {count} files", remedy=misfit.RAW)
    records = b"".join(both).split(b"\0")
    names = {os.fsdecode(record.split(b"\t", 2)[-1]) for record in records if record}
    for name in sorted(names):
        if name.startswith("/") or {"..", ".git"} & {part.lower() for part in Path(name).parts}:
            raise _reaches_out(patch, name)
    return names


def _check_links(patches: Sequence[Patch], tree: Path) -> None:
    """Refuse links of patches that lead out of the tree."""
    real = os.path.realpath(tree)
    for patch in patches:
        for name in _names(patch, tree):
            target = os.path.realpath(tree / name)
            if (tree / name).is_symlink() and not target.startswith(f"{real}/"):
                raise _reaches_out(patch, name)


_APPLY = ("apply", "--whitespace=nowarn")


def _reaches_out(patch: Patch, name: str) -> UserError:
    return UserError(
        f"{patch}: it writes outside the tree: {clean_str(name)}",
        remedy="nothing was applied; use another patch",
    )


def _does_not_apply(patch: Patch, base: Tree, tree: Path, error: GitError) -> UserError:
    """The error of a patch that fails, with the place and a remedy; changes the tree.

    git prints the number of a hunk only when it writes the others into files.
    """
    argv = [*_APPLY, *patch.options]
    is_applied = misfit.works(tree, *argv, "--check", "--reverse", str(patch.diff))
    damage = misfit.damage(patch.diff, tree, argv)
    try:
        run_git(tree, *argv, "--reject", str(patch.diff))
        message = error.output
    except GitError as again:
        message = again.output
    places = [
        f"{name}:{line}" for name, line in re.findall(r"^error: patch failed: (.*):([0-9]+)$", message, re.M)
    ]
    hunks = re.findall(r"^Rejected hunk #([0-9]+)\.$", message, re.M)
    if len(hunks) == len(places):
        places = [f"{place}, hunk #{hunk}" for place, hunk in zip(places, hunks, strict=True)]
    places += re.findall(r"^error: (.*: (?:No such file|already exists|does not exist).*)$", message, re.M)
    where = "; ".join(places[:3]) + (f"; and {len(places) - 3} more" if len(places) > 3 else "")
    if is_applied:
        remedy = "this tree has it already: leave it out"
    elif damage:
        remedy = f"{damage}; {misfit.RAW}"
    elif patch.doubts:
        remedy = "; ".join(patch.doubts)
    elif patch.base and patch.base != base.commit:
        remedy = f"its base is {patch.base[:12]}: name that with DIR@REV as the source, or rebase the patch"
    else:
        remedy = f"rebase it onto {base.version}, or name the source that it is for"
    return UserError(f"{patch} does not apply to {base.describe}: {where or error.first}", remedy=remedy)


def _author(patch: Patch, where: Path) -> str:
    """Author and date of a patch as git writes them into a commit; empty if git refuses them."""
    if not (patch.author and patch.date):
        return ""
    env = {"GIT_AUTHOR_NAME": patch.author, "GIT_AUTHOR_EMAIL": patch.email, "GIT_AUTHOR_DATE": patch.date}
    try:
        return os.fsdecode(run_git(where, "var", "GIT_AUTHOR_IDENT", env=env)).strip()
    except GitError:
        return ""
