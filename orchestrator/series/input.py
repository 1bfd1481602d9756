# SPDX-License-Identifier: GPL-2.0-only
"""Turn a series into commits: a range, an mbox, a folder of patches, or a message-id."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.process import require, tool
from orchestrator.core.store import absolute
from orchestrator.core.text import clean_str, one_line
from orchestrator.series.model import Patch
from orchestrator.source import clone, mbox, patches, prerequisites
from orchestrator.source.checkout import Checkout
from orchestrator.source.git import GitError, first_parents_between, is_ancestor, merge_base, run_git
from orchestrator.source.mbox import MailSeries
from orchestrator.source.model import Say, quiet

FORMS = "an mbox, a folder of patches, BASE..TIP of the repository, or a message-id that b4 can fetch"
#: More patches are a mistake: swapped ends, or a whole release.
MOST = 500
_B4_S = 600.0
#: Of files with mails.
_SUFFIXES = (".mbox", ".mbx", ".patch", ".diff", ".eml", ".gz")
#: git allows neither a name that begins or ends with a slash, nor one with two dots.
_RANGE = re.compile(r"(?!/)[^\s]*?(?<!/)\.\.\.?(?!/)[^\s]*")


class SeriesSource(msgspec.Struct, frozen=True, kw_only=True):
    """A series before its patches are commits.

    ``mails`` are files to apply on ``base``; without them the series is the range up to ``tip``. ``notes``
    are sentences about how it was read. ``title`` is that of its cover letter, ``version`` is like ``v2``.
    """

    folder: Path
    base: str
    tip: str = ""
    mails: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    version: str = ""
    prerequisites: tuple[str, ...] = ()


def read(source: str, series: str, work: Path, say: Say) -> SeriesSource:
    """Find out which series the user means.

    :param source: ``DIR`` or ``DIR@BASE``.
    :param work: a folder for mails to fetch.
    :raises UserError: no repository, no series, no base, or a base that the repository does not have.
    :raises InfraError: b4 is not installed or fails.
    """
    folder, revision = _repository(source)
    path = absolute(Path(series)) if series.strip() else None
    if path is not None and path.exists():
        return _of_mails(folder, revision, [path], ())
    is_range = _RANGE.fullmatch(series) is not None and Path(series).suffix not in _SUFFIXES
    is_message = _is_message(series, folder)
    if is_range and "..." in series and not is_message:
        raise UserError(
            f"{series}: a series is a range of commits",
            remedy=f"Write two dots: {series.replace('...', '..')}",
        )
    if is_message:
        fetched = _fetch(series, work, say)
        mboxes = [file for file in fetched if file.suffix != ".cover"]
        return _of_mails(folder, revision, mboxes, [f for f in fetched if f.suffix == ".cover"])
    if is_range:
        return _of_range(folder, revision, series)
    raise UserError(
        f"{series!r} is not a series: there is no such file or folder",
        remedy=f"Give {FORMS}.",
    )


def _is_message(series: str, folder: Path) -> bool:
    """Whether a word is the address or the id of a mail, and not a range of names with an ``@`` in them."""
    if re.match(r"https?://", series):
        return True
    if not re.fullmatch(r"<?[^\s@/<>]+@[^\s@/<>{}]+>?", series):
        return False
    ends = series.split("..")
    return len(ends) == 1 or not all(_is_revision(folder, end or "HEAD") for end in ends)


def _is_revision(folder: Path, name: str) -> bool:
    try:
        run_git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
    except GitError:
        return False
    return True


def commits(source: SeriesSource, checkout: Checkout, work: Path, say: Say = quiet) -> tuple[Patch, ...]:
    """The base and the patches as commits that can be checked out.

    :param work: an empty folder for temporary files.
    :param say: is told what is unusual about a patch.
    :raises UserError: a patch does not apply; there is no patch, or more than ``MOST``.
    """
    if source.mails:
        series = _apply(source, checkout, work, say)
    else:
        chain = first_parents_between(source.folder, source.base, source.tip)
        series = _list(source.folder, list(chain))
    if not series:
        raise UserError(
            f"there is no patch between {source.base[:12]} and {source.tip[:12]}",
            remedy="Name the older commit first: BASE..TIP.",
        )
    if len(series) > MOST:
        raise UserError(
            f"there are {len(series)} commits between {source.base[:12]} and {source.tip[:12]}",
            remedy=f"A series has at most {MOST}. Check the base.",
        )
    (first,) = _list(checkout.path, [source.base])
    base = Patch(number=0, commit=source.base, subject=first.subject)
    return (base, *(msgspec.structs.replace(p, number=n) for n, p in enumerate(series, 1)))


def _repository(source: str) -> tuple[Path, str]:
    """The repository and the revision, or an empty one, of ``DIR[@BASE]``."""
    if not source:
        raise UserError("no repository is given", remedy="Name it with --source DIR or DIR@BASE.")
    path = Path(source).expanduser()
    split = None if path.exists() else clone.split(source)
    folder, revision = (Path(split[0]).expanduser(), split[1]) if split else (path, "")
    if split and not revision:
        raise UserError(f"{source}: no revision after the @", remedy="Write DIR@BASE, or DIR alone.")
    if not folder.is_dir():
        raise UserError(
            f"--source {source}: not a folder, and a series needs a git repository",
            remedy="Name a git repository of Linux: DIR, or DIR@BASE.",
        )
    folder = folder.resolve()
    clone.check_repository(folder, source)
    return folder, revision


def _of_range(folder: Path, revision: str, series: str) -> SeriesSource:
    first, _, last = series.partition("..")
    if first and revision:
        raise UserError(f"the base is named twice: {revision} and {first}", remedy="Omit one of them.")
    if not first and not revision:
        raise UserError(f"{series} has no base", remedy="Write BASE..TIP, or --source DIR@BASE.")
    base = clone.commit_of(folder, first or revision, f"{folder}@{first or revision}")
    tip = clone.commit_of(folder, last or "HEAD", f"{folder}@{last or 'HEAD'}")
    if not is_ancestor(folder, base, tip):
        meets = merge_base(folder, base, tip)
        swapped = is_ancestor(folder, tip, base)
        remedy = "Swap them." if swapped else "Rebase the series, or name another base."
        if meets and not swapped:
            remedy = f"They fork at {meets[:12]}: the series is {meets[:12]}..{last or 'HEAD'}."
        raise UserError(f"{series}: {tip[:12]} does not come after {base[:12]}", remedy=remedy)
    notes = []
    chain = first_parents_between(folder, base, tip)
    if count := sum(len(parents) > 1 for parents in chain.values()):
        notes.append(
            f"{count} of its commits {'is a merge' if count == 1 else 'are merges'}: each is one patch, "
            "with all commits that it merged"
        )
    return SeriesSource(folder=folder, base=base, tip=tip, notes=tuple(notes))


def _of_mails(folder: Path, revision: str, files: Sequence[Path], covers: Sequence[Path]) -> SeriesSource:
    """A series of mails.

    :param covers: cover letters that were fetched as files; the base may be in one of them only.
    """
    names = ", ".join(clean_str(file.name) for file in files)
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as work:
        parts = [mbox.parse(mbox.read(file), file, Path(work) / str(n)) for n, file in enumerate(files)]
        series = [*parts, *(mbox.cover(source) for file in covers for source in mbox.read(file))]
        bases = tuple(dict.fromkeys(base for each in series for base in each.bases))
        base = _base(folder, revision, names, bases)
        needs = tuple(dict.fromkeys(each for part in series for each in part.prerequisites))
        whole = MailSeries(tuple(p for part in parts for p in part.patches), bases=bases, prerequisites=needs)
        lacking = prerequisites.missing(whole, folder, base)
    notes = [note for part in parts for note in part.notes]
    if revision and bases and base not in bases:
        notes.append(f"the series was made on {bases[0][:12]}, but is tested on {base[:12]}")
    # a sentence behind Depends-on: cannot be looked up
    if any(each.kind != "series" for each in lacking) and not revision:
        raise UserError(
            f"{names}: {prerequisites.sentence(lacking)}",
            remedy=f"Apply them to a branch, and name its tip: --source {shlex.quote(f'{folder}@BRANCH')}.",
        )
    return SeriesSource(
        folder=folder,
        base=base,
        mails=tuple(files),
        notes=(*notes, *([f"{names}: {prerequisites.sentence(lacking)}"] if lacking else ())),
        title=next((each.title for each in series if each.title), ""),
        version=parts[0].version if len(parts) == 1 else "",
        prerequisites=tuple(map(str, needs)),
    )


def _base(folder: Path, revision: str, names: str, bases: Sequence[str]) -> str:
    """The commit on which a series of mails is tested."""
    if revision:
        return clone.commit_of(folder, revision, f"{folder}@{revision}")
    if not bases:
        raise UserError(
            f"{names} does not name its base (no base-commit: line)",
            remedy=f"Name the base: --source {shlex.quote(f'{folder}@BASE')}.",
        )
    if len(bases) > 1:
        raise UserError(
            f"{names} names {len(bases)} bases: {', '.join(each[:12] for each in bases)}",
            remedy=f"Name the right one: --source {shlex.quote(f'{folder}@BASE')}.",
        )
    try:
        return clone.commit_of(folder, bases[0], f"{folder}@{bases[0]}")
    except UserError as error:
        raise UserError(
            f"{names} was made on {bases[0][:12]}, which {folder} does not have",
            remedy=f"Fetch it there, or name another base: --source {shlex.quote(f'{folder}@BASE')}.",
        ) from error


def _fetch(word: str, work: Path, say: Say) -> list[Path]:
    """Fetch a series with b4; returns its files."""
    require(
        "b4",
        remedy="Install it (apt-get install b4, or pip install b4), or save the series as an mbox.",
    )
    message = word.strip("<>")
    if message.startswith("-"):
        raise UserError(f"{word!r} is not a message-id")
    work.mkdir(parents=True, exist_ok=True)
    say(f"b4 fetches {message}")
    remedy = "Run `b4 am` yourself, or save the series as an mbox and name that."
    # in a folder without a repository: its b4 configuration is not meant for this
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as empty:
        tool(["b4", "am", "-o", str(work), message], timeout_s=_B4_S, cwd=Path(empty), remedy=remedy)
    files = sorted(path for path in work.iterdir() if path.suffix in (".mbx", ".mbox", ".cover"))
    if not any(path.suffix != ".cover" for path in files):
        raise InfraError(f"b4 fetched no patch of {message}", remedy=remedy)
    return files


def _apply(source: SeriesSource, checkout: Checkout, work: Path, say: Say) -> list[Patch]:
    base = checkout.check_out(source.base)
    commits = patches.as_commits(base, source.mails, work, say)
    return [Patch(number=0, commit=commit, subject=one_line(subject)) for commit, subject in commits]


def as_file(patch: Patch, where: Path) -> bytes:
    """A patch as a mail for `git am`."""
    words = ("--stdout", "--no-stat", "--no-signature", "--full-index", "--binary", "-1")
    return run_git(where, "format-patch", *words, patch.commit)


def _list(where: Path, names: Sequence[str]) -> list[Patch]:
    """Commits with their subjects."""
    argv = ["rev-list", "--no-walk=unsorted", "--stdin", "--format=%H%x00%P%x00%s"]
    output = run_git(where, *argv, data="".join(f"{name}\n" for name in names).encode())
    series = []
    for line in output.decode("utf-8", "replace").splitlines():
        if "\0" in line:
            commit, parents, subject = line.split("\0", 2)
            series.append(Patch(number=0, commit=commit, subject=one_line(subject), merge=" " in parents))
    return series


def copy_names(source: SeriesSource) -> tuple[str, ...]:
    """The names of the copies of a series's mails, relative to its folder."""
    return tuple(f"input/{number:02}-{path.name}" for number, path in enumerate(source.mails, 1))


def copy_mails(source: SeriesSource, folder: Path) -> None:
    """Copy the mails of a series to its folder; a resumed series reads the copies."""
    for name, path in zip(copy_names(source), source.mails, strict=True):
        (folder / "input").mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, folder / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, folder / name)
