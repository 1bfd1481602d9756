# SPDX-License-Identifier: GPL-2.0-only
"""One commit after another in the same clone, so that each build starts from the objects of the last one.

    <cache>/checkouts/<repository>-<n>/tree               a shared clone, checked out to one commit
                                       objects/<kernel>/  where its kernels are built (see ``kernel.build``)
                                       unfinished         exists while the clone is changed

A checkout touches only the files that differ, so that make compiles only those, and ccache sees the paths it
knows. A checkout has one user at a time; a second one on the same repository gets the next number.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import can_hold_builds, digest_of
from orchestrator.source import clone, identity
from orchestrator.source.git import GitError, is_ancestor, run_git
from orchestrator.source.model import Say, Tree, quiet

#: More at once on one repository are a mistake: each is a tree and its objects.
_MOST = 8


#: The inputs of a configuration, in the lines of `git ls-tree`: Kconfig files, the makefiles and scripts that
#: test the compiler, and the fragments of tinyconfig.
_CONFIGURES = re.compile(
    rb"[\t/]Kconfig[^/]*$|\tMakefile$|\tarch/[^/]+/Makefile|\tarch/[^/]+/configs/|\tkernel/configs/|\tscripts/"
)


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """A commit to apply on top of each commit of ``within`` (full names) that lacks it."""

    commit: str
    within: frozenset[str]


class DoesNotApply(UserError):
    """A fix does not apply to a commit in its range."""


class Checkout:
    """A clone of a repository and the folders of its builds; see ``opened``.

    Hold ``lock`` from a checkout to the end of its last reader: threads share the tree.
    """

    def __init__(self, place: Path, repository: Path) -> None:
        self.place = place
        self.repository = repository
        self.lock = threading.RLock()

    @property
    def path(self) -> Path:
        """The tree."""
        return self.place / "tree"

    def check_out(
        self, commit: str, fixes: Sequence[Fix] = (), *, without: str = "", keep: Path | None = None
    ) -> Tree:
        """The tree of a commit, until the next call.

        Without changes on top, its digest is that of ``DIR@COMMIT``: both share their cached kernels.

        :param commit: its full name.
        :param without: a commit to revert.
        :param keep: a folder for the changes on top, as patches; they reproduce the tree elsewhere
            (``Tree.patches``).
        :raises DoesNotApply: a fix does not apply, or a commit cannot be reverted.
        :raises UserError: not a kernel tree, or objects are missing in the repository.
        :raises InfraError: no space.
        """
        what = f"{self.repository}@{commit[:12]}"
        with self.lock:
            lacking = [
                fix
                for fix in fixes
                if commit in fix.within and not is_ancestor(self.path, fix.commit, commit)
            ]
            with self._changing():
                self._check_out(commit, what)
                changes_on_top = [
                    self._apply(fix.commit, f"the fix {fix.commit[:12]} does not apply to {what}", keep)
                    for fix in lacking
                ]
                if without:
                    else_ = f"{without[:12]} cannot be reverted in {what}"
                    changes_on_top.append(self._apply(without, else_, keep, back=True))
            identity.check_tree(self.path, what)
            version = identity.makefile_version(self.path)
        digest = identity.digest_of_commit(commit)
        if lacking or without:
            changes = (*(fix.commit for fix in lacking), f"-{without}")
            digest = identity.digest_of_text("fixed 1", digest, *changes)
        more = "".join(f" + {fix.commit[:12]}" for fix in lacking) + (f" - {without[:12]}" if without else "")
        return Tree(
            path=self.path,
            spec=f"{self.repository}@{commit}",
            kind="revision",
            digest=digest,
            commit=commit,
            version=version,
            describe=f"{version}-g{commit[:12]}{more}",
            patches=tuple(map(str, changes_on_top)) if keep is not None else (),
            base_spec=f"{self.repository}@{commit}",
            configured_by="" if lacking or without else self._configured_by(commit),
        )

    def _check_out(self, commit: str, what: str) -> None:
        stats = self.place / "stat"
        for index in (self.path / ".git/index", None):
            clone.check_out(self.place, commit, what)
            # a fix, or a killed process, may have left files
            run_git(self.path, "clean", "-ffdxq")
            if index is None or not identity.differences(self.path, commit, stat_cache=stats):
                break
            # git believed a time stamp
            index.unlink(missing_ok=True)
        clone.verify(self.path, commit, what, stat_cache=stats)

    def _configured_by(self, commit: str) -> str:
        """A digest of the inputs of a configuration, which few commits touch.

        If a tree reads more than these, the build notices: it compares its configuration before and after.
        """
        entries = run_git(self.path, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")
        return digest_of([line.decode("utf-8", "replace") for line in entries if _CONFIGURES.search(line)])

    def objects(self, *what: object) -> Path:
        """The folder in which kernels of one kind are built, one after another.

        :param what: what identifies the kind; equal values give the same folder.
        """
        return self.place / "objects" / digest_of(*what)

    def _apply(self, commit: str, else_: str, keep: Path | None, *, back: bool = False) -> Path | None:
        """Apply a commit, or with ``back`` revert it; returns the patch, if it is kept."""
        ends = [f"{commit}^1", commit]
        try:
            diff = run_git(self.path, "diff", "--binary", "--full-index", *(ends[::-1] if back else ends))
            # not --index: that would write objects, and freshen those of the user's repository
            run_git(self.path, "apply", "--whitespace=nowarn", "-", data=diff)
        except GitError as error:
            raise DoesNotApply(
                f"{else_}: {error.first}",
                remedy="Narrow its range, or name another commit with the same fix.",
            ) from error
        if keep is None:
            return None
        keep.mkdir(parents=True, exist_ok=True)
        file = keep / f"{'without-' if back else ''}{commit[:12]}.patch"
        file.write_bytes(f"Subject: {'Without' if back else 'With'} {commit}\n\n---\n".encode() + diff)
        return file

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Mark the clone as unfinished while it changes; after a crash every file is written anew."""
        mark = self.place / "unfinished"
        try:
            if mark.exists():
                for name in ("index", "index.lock", "HEAD.lock"):
                    (self.path / ".git" / name).unlink(missing_ok=True)
            mark.touch()
            yield
            mark.unlink()
        except DoesNotApply:
            # git wrote nothing
            mark.unlink()
            raise
        except GitError as error:
            raise InfraError(f"{self.path}: git: {error.first}", remedy="Try again.") from error
        except OSError as error:
            raise InfraError(
                f"{error.filename or self.place}: {error.strerror}",
                remedy="Free some space, or name another place with ORCHESTRATE_CACHE.",
            ) from error

    def _make(self) -> None:
        if (self.place / "made").is_file():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        clone.start(self.place, self.repository, str(self.repository))
        (self.place / "made").touch()


@contextlib.contextmanager
def opened(repository: Path, *, cache: Path, say: Say = quiet) -> Iterator[Checkout]:
    """A checkout for the commits of a repository, for this process alone.

    :param repository: top of a work tree, a bare repository, or a ``.git``.
    :raises UserError: no git repository; so many checkouts of it are in use that something must be wrong.
    :raises InfraError: no git, no space.
    """
    repository, cache = repository.resolve(), cache.absolute()
    folder, name = cache / "checkouts", digest_of(str(repository))[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not can_hold_builds(folder):
            raise UserError(f"the cache {folder}: the kernel's makefiles refuse a path with spaces or colons")
        for number in range(1, _MOST + 1):
            lock = FileLock(folder / f"{name}-{number}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            break
        else:
            raise UserError(
                f"{_MOST} checkouts of {repository} are in use at once",
                remedy="Wait until one of them is free.",
            )
    except OSError as error:
        raise InfraError(
            f"cannot write to the cache {folder}: {error.strerror}",
            remedy="Free some space, or name another place with ORCHESTRATE_CACHE.",
        ) from error
    try:
        place = folder / f"{name}-{number}"
        if number > 1:
            say(f"another process uses {repository}: using the checkout {place.name}")
        place.mkdir(exist_ok=True)
        checkout = Checkout(place, repository)
        checkout._make()
        yield checkout
    finally:
        lock.release()
