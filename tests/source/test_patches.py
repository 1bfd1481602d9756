# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import gzip
import lzma
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.mounts import READ_ONLY, SMALL, mounted
from fakes.trees import git, make_git_tree, make_tarball, make_tree, snapshot, trusting

from orchestrator.core.errors import InfraError, UserError
from orchestrator.source import Tree, patches, resolve
from orchestrator.source import mbox as mails
from orchestrator.source.identity import content_digest

pytestmark = pytest.mark.slow

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts read-only: needs root")
KINDS = ["git directory", "revision", "tarball", "directory"]
LONG = "".join(f"int line{n};\n" for n in range(1, 61))


def _add(tree: Path) -> None:
    (tree / "mm/long.c").write_text(LONG)
    (tree / "scripts/keep.sh").write_text("#!/bin/sh\n")
    (tree / "scripts/keep.sh").chmod(0o755)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository whose second commit, v7.2, has a file long enough for several hunks."""
    path = make_git_tree(tmp_path / "linux")
    _add(path)
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "long")
    git(path, "tag", "v7.2")
    return path


@pytest.fixture
def work(tmp_path: Path, repo: Path) -> Path:
    """Somebody's clone in which the series is made: three commits on top of v7.2."""
    path = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(repo), str(path))
    (path / "mm/memory.c").write_text("int memory;\n/* one */\n")
    git(path, "commit", "-q", "-a", "-m", "mm: one")
    # Needs the first; the third needs neither.
    (path / "mm/memory.c").write_text("int memory;\n/* one */\n/* two */\n")
    (path / "mm/new.c").write_text("int two;\n")
    (path / "scripts/keep.sh").write_text("#!/bin/sh\n:\n")
    (path / "scripts/new.sh").write_text("#!/bin/sh\n")
    (path / "scripts/new.sh").chmod(0o755)
    (path / "mm/mmap_lock.c").unlink()
    (path / "scripts/run.sh").chmod(0o644)
    git(path, "mv", "fs/proc/task_mmu.c", "fs/proc/task.c")
    git(path, "add", "-A")
    author = ["-c", "user.name=Jörg Ä. Öhm", "-c", "user.email=j@example.invalid"]
    git(path, *author, "commit", "-q", "-m", "mm: zwei ü", "-m", "Body.\n\nSigned-off-by: J")
    (path / "mm/long.c").write_text(LONG.replace("line5;", "five;").replace("line55;", "fiftyfive;"))
    git(path, "commit", "-q", "-a", "-m", "mm: three")
    return path


def _mbox(work: Path, *argv: str) -> str:
    return git(work, "format-patch", "--stdout", *argv, "v7.2..HEAD")


@pytest.fixture
def series(tmp_path: Path, work: Path) -> Path:
    path = tmp_path / "series.mbox"
    path.write_text(_mbox(work, "--cover-letter"))
    return path


def _base(kind: str, repo: Path, tmp_path: Path) -> Tree:
    spec = str(repo)
    if kind == "revision":
        spec = f"{repo}@v7.2"
    elif kind != "git directory":
        plain = tmp_path / "plain"
        if not plain.exists():
            make_tree(plain)
            _add(plain)
        spec = str(plain if kind == "directory" else make_tarball(tmp_path / "linux.tar", plain))
    return resolve(spec, cache=tmp_path / "cache")


def _apply(tree: Tree, tmp_path: Path, *files: Path, say: Callable[[str], None] = print) -> Tree:
    return patches.apply(tree, files, cache=tmp_path / "cache", say=say)


def _entries(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache/sources").glob("*") if path.suffix != ".lock"}


def _content(tree: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """What a write into files changes."""
    found = {}
    for name, (inode, size, mtime, _, content) in snapshot(tree).items():
        found[name] = (inode, size, mtime, content)
    return found


def _diff_of(mbox: str, subject: str) -> str:
    """One mail of an mbox."""
    return next(mail for mail in re.split(r"(?m)^(?=From [0-9a-f]{40} )", mbox) if subject in mail)


# --- what comes out


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_on_every_kind_of_tree(
    tmp_path: Path, repo: Path, work: Path, series: Path, kind: str
) -> None:
    base, said = _base(kind, repo, tmp_path), list[str]()
    before, ours = snapshot(repo), _content(base.path)
    tree = _apply(base, tmp_path, series, say=said.append)
    assert said == [f"preparing {base.describe} with 3 patches"]
    assert (snapshot(repo), _content(base.path)) == (before, ours), "the base was written"
    assert content_digest(tree.path) == content_digest(work)
    assert tree.path == tmp_path / "cache/sources" / tree.digest / "tree"
    assert tree.describe == f"{base.describe} + 3 patches (series.mbox, {tree.digest[:12]})"
    assert tree.patches == (str(series),)
    assert (tree.kind, tree.spec, tree.base_spec) == (base.kind, base.spec, base.base_spec)
    assert (tree.archive_sha256, tree.version) == (base.archive_sha256, "7.2.1")
    assert bool(tree.commit) == bool(base.commit)
    assert {path.name for path in tree.path.parent.iterdir()} == {
        *("tree", "manifest.json", "applied.json", "stat.msgpack"),
    }
    # Once more, and nothing happens.
    kept = snapshot(tree.path)
    assert _apply(base, tmp_path, series, say=said.append) == tree
    assert len(said) == 1
    assert snapshot(tree.path) == kept


@pytest.mark.parametrize("kind", ["git directory", "revision"])
def test_on_a_commit_patches_become_commits(
    tmp_path: Path, repo: Path, work: Path, series: Path, kind: str
) -> None:
    base = _base(kind, repo, tmp_path)
    # git looks at whole seconds.
    time.sleep(1.1)
    tree = _apply(base, tmp_path, series)
    # git need not read files again, neither in the copy nor in a base that it is linked to.
    assert git(tree.path, "diff-files") == ""
    assert kind != "revision" or git(base.path, "diff-files") == ""
    form = ["log", "--format=%an <%ae> %ad|%s|%b", "v7.2..HEAD"]
    assert git(tree.path, *form) == git(work, *form)
    assert git(tree.path, "rev-parse", "HEAD").strip() == tree.commit
    assert git(tree.path, "rev-parse", "HEAD^{tree}") == git(work, "rev-parse", "HEAD^{tree}")
    assert git(tree.path, "status", "--porcelain") == ""
    start = int(git(repo, "log", "-1", "--format=%ct"))
    committed = git(tree.path, "log", "--format=%cn <%ce> %ct", "v7.2..HEAD").splitlines()
    assert committed == [f"orchestrate <orchestrate@localhost> {start + n}" for n in (3, 2, 1)]
    # The same ids elsewhere, at another time.
    again = patches.apply(base, [series], cache=tmp_path / "other", say=print)
    assert (again.commit, again.digest) == (tree.commit, tree.digest)


def test_two_files_are_applied_in_order_and_the_digest_tells(tmp_path: Path, repo: Path, work: Path) -> None:
    mbox = _mbox(work)
    first, second = tmp_path / "1.patch", tmp_path / "2.patch"
    first.write_text(_diff_of(mbox, "mm: one"))
    second.write_text(_diff_of(mbox, "mm: three"))
    base = _base("revision", repo, tmp_path)
    both = _apply(base, tmp_path, first, second)
    assert "+ 2 patches (1.patch, 2.patch, " in both.describe
    swapped = _apply(base, tmp_path, second, first)
    one = _apply(base, tmp_path, first)
    assert f"+ 1 patch (1.patch, {one.digest[:12]})" in one.describe
    # On top of a patched tree
    two = _apply(one, tmp_path, second)
    assert two.patches == both.patches == (str(first), str(second))
    assert content_digest(two.path) == content_digest(both.path) == content_digest(swapped.path)
    assert len({base.digest, both.digest, swapped.digest, one.digest, two.digest}) == 5
    assert git(two.path, "log", "--format=%s", "-2").split("\n")[:2] == ["mm: three", "mm: one"]
    second.write_text(second.read_text() + "\n")
    assert _apply(one, tmp_path, second).digest != two.digest
    assert _apply(base, tmp_path) is base


def test_what_was_left_out_is_said_each_time(tmp_path: Path, repo: Path, work: Path) -> None:
    path = tmp_path / "1.patch"
    path.write_text(_diff_of(_mbox(work), "mm: one"))
    base, note = _base("tarball", repo, tmp_path), "is one patch of a series: the others are not applied"
    for _ in range(2):
        said: list[str] = []
        _apply(base, tmp_path, path, say=said.append)
        assert said[-1] == f"1.patch: '[PATCH 1/3] mm: one' {note}"
    assert len(said) == 1


def test_the_makefiles_version_is_read_again(tmp_path: Path, repo: Path) -> None:
    diff = tmp_path / "v.diff"
    (repo / "Makefile").write_text(
        (repo / "Makefile").read_text().replace("EXTRAVERSION =", "EXTRAVERSION = -rc1")
    )
    diff.write_text(git(repo, "diff"))
    git(repo, "checkout", "-q", "Makefile")
    assert _apply(_base("git directory", repo, tmp_path), tmp_path, diff).version == "7.2.1-rc1"


# --- forms of patches


def _as_format_patch(work: Path, folder: Path) -> Path:
    folder.mkdir()
    git(work, "format-patch", "-q", "--cover-letter", "-o", str(folder), "v7.2..HEAD")
    return folder


def _as_directory(work: Path, tmp_path: Path) -> Path:
    return _as_format_patch(work, tmp_path / "dir")


def _as_quilt(work: Path, tmp_path: Path) -> Path:
    folder = _as_format_patch(work, tmp_path / "patches")
    names = ["zzz.patch", "sub/b.diff", "a.patch"]
    (folder / "sub").mkdir()
    for old, new in zip(sorted(folder.glob("000[123]*")), names, strict=True):
        old.rename(folder / new)
    # p0: the third is written without a/ and b/
    text = (folder / "a.patch").read_text()
    (folder / "a.patch").write_text(re.sub(r"\b[ab]/(?=mm/)", "", text))
    (folder / "series").write_text("# a comment\nzzz.patch\n\nsub/b.diff -p1 # why\na.patch -p0\n")
    return folder


def _as_crlf(work: Path, tmp_path: Path) -> Path:
    path = tmp_path / "crlf.mbox"
    path.write_bytes(_mbox(work).encode().replace(b"\n", b"\r\n"))
    return path


def _as_diff(work: Path, tmp_path: Path) -> Path:
    path = tmp_path / "all.diff"
    path.write_text(git(work, "diff", "v7.2..HEAD"))
    return path


def _as_described_diff(work: Path, tmp_path: Path) -> Path:
    path = tmp_path / "all.patch"
    path.write_text("What it does.\n\nMore.\n---\n" + git(work, "diff", "--binary", "v7.2..HEAD"))
    return path


def _as_base64(work: Path, tmp_path: Path) -> Path:
    path = tmp_path / "b64.mbox"
    path.write_text(_mbox(work, "--attach"))
    return path


def _as_thread(work: Path, tmp_path: Path) -> Path:
    """As an archive has it: out of order, with a reply that quotes, and mail headers of the archive."""
    mbox = _mbox(work, "--cover-letter")
    mail = [_diff_of(mbox, subject) for subject in [f"PATCH {n}/3" for n in range(4)]]
    quoted = re.sub("(?m)^", "> ", mail[1].partition("\n\n")[2])
    start = mail[1].partition("\n")[0]
    reply = f"{start}\nFrom: R <r@x>\nSubject: Re: [PATCH 1/3] mm: one\n\n{quoted}\nNo.\n\n"
    path = tmp_path / "t.mbox"
    path.write_text("".join([mail[0], mail[2], mail[1], reply, mail[3]]))
    return path


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (_as_directory, 3),
        (_as_quilt, 3),
        (_as_crlf, 3),
        (_as_diff, 1),
        (_as_described_diff, 1),
        (_as_base64, 3),
        (_as_thread, 3),
    ],
)
@pytest.mark.parametrize("kind", ["revision", "tarball"])
def test_forms(
    tmp_path: Path, repo: Path, work: Path, form: Callable[[Path, Path], Path], count: int, kind: str
) -> None:
    tree = _apply(_base(kind, repo, tmp_path), tmp_path, form(work, tmp_path))
    assert content_digest(tree.path) == content_digest(work)
    assert f" + {count} patch" in tree.describe


def test_a_raw_mail_whose_author_git_does_not_take(tmp_path: Path, repo: Path, work: Path) -> None:
    mail = _diff_of(_mbox(work), "mm: one").partition("\n")[2]
    path = tmp_path / "raw"
    path.write_text(re.sub(r"(?m)^(From|Date): .*$", r"\1: ,", mail))
    tree = _apply(_base("revision", repo, tmp_path), tmp_path, path)
    assert git(tree.path, "log", "-1", "--format=%an|%s").strip() == "orchestrate|mm: one"


# --- a patch that does not apply


@pytest.mark.parametrize("kind", KINDS)
def test_the_patch_and_the_hunk_are_named_and_nothing_is_left(
    tmp_path: Path, repo: Path, series: Path, kind: str
) -> None:
    base = _base(kind, repo, tmp_path)
    entries, before, ours = _entries(tmp_path), snapshot(repo), _content(base.path)
    text = series.read_text()
    # The second of the hunks of the third patch
    series.write_text(text.replace(" int line54;", " int elsewhere;"))
    with pytest.raises(UserError) as caught:
        _apply(base, tmp_path, series)
    assert caught.value.message == (
        f"{series}: patch 3 of 3 ('mm: three') does not apply to {base.describe}: mm/long.c:52, hunk #2"
    )
    assert "rebase it onto 7.2.1" in caught.value.remedy
    assert _entries(tmp_path) == entries
    assert (snapshot(repo), _content(base.path)) == (before, ours)
    series.write_text(text)
    assert _apply(base, tmp_path, series).patches == (str(series),)


def test_many_hunks_are_counted(tmp_path: Path, repo: Path) -> None:
    for n in range(1, 60, 8):
        (repo / "mm/long.c").write_text((repo / "mm/long.c").read_text().replace(f"line{n};", f"was{n};"))
    diff = tmp_path / "x.diff"
    diff.write_text(git(repo, "diff", "-U1").replace("-int line", "-int other"))
    git(repo, "checkout", "-q", "mm/long.c")
    with pytest.raises(UserError) as caught:
        _apply(_base("git directory", repo, tmp_path), tmp_path, diff)
    where = "mm/long.c:1, hunk #1; mm/long.c:8, hunk #2; mm/long.c:16, hunk #3; and 5 more"
    assert caught.value.message.endswith(f": {where}")
    assert caught.value.message.startswith(f"{diff}: patch 1 of 1 does not apply")


@pytest.mark.parametrize("kind", ["revision", "tarball"])
def test_a_file_that_is_not_there(tmp_path: Path, repo: Path, work: Path, kind: str) -> None:
    path = tmp_path / "x.patch"
    path.write_text(_diff_of(_mbox(work), "mm: one").replace("mm/memory.c", "mm/nosuch.c"))
    with pytest.raises(
        UserError, match=r"patch 1 of 1 \('mm: one'\) .*: mm/nosuch.c: .*(No such|does not exist)"
    ):
        _apply(_base(kind, repo, tmp_path), tmp_path, path)


@pytest.mark.parametrize("kind", ["revision", "tarball"])
def test_what_is_in_the_tree_already(tmp_path: Path, repo: Path, work: Path, kind: str) -> None:
    path = tmp_path / "3.patch"
    path.write_text(_diff_of(_mbox(work), "mm: three"))
    tree = _apply(_base(kind, repo, tmp_path), tmp_path, path)
    with pytest.raises(UserError, match="patch 1 of 1") as caught:
        _apply(tree, tmp_path, path)
    assert caught.value.remedy == "this tree has it already: leave it out"


def test_the_base_commit_of_a_series_is_named(tmp_path: Path, repo: Path, work: Path) -> None:
    path = tmp_path / "series.mbox"
    path.write_text(_mbox(work, "--base=v7.2").replace("-int line5;", "-int other;"))
    wanted = git(repo, "rev-parse", "v7.2").strip()
    with pytest.raises(UserError, match="patch 3 of 3") as caught:
        _apply(_base("tarball", repo, tmp_path), tmp_path, path)
    assert f"its base is {wanted[:12]}" in caught.value.remedy
    with pytest.raises(UserError, match="patch 3 of 3") as caught:
        _apply(_base("revision", repo, tmp_path), tmp_path, path)
    assert "rebase it onto" in caught.value.remedy


def test_no_merge_by_what_the_repository_happens_to_hold(tmp_path: Path, repo: Path, work: Path) -> None:
    (repo / "mm/memory.c").write_text("int memory;\nint more;\n")
    git(repo, "commit", "-q", "-a", "-m", "more")
    path = tmp_path / "x.patch"
    path.write_text(_diff_of(_mbox(work), "mm: one"))
    with pytest.raises(UserError, match="does not apply"):
        _apply(_base("git directory", repo, tmp_path), tmp_path, path)


# --- hostile and broken patches

NEW = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+evil\n"
LINK = NEW.replace("100644", "120000").replace("+evil\n", "+{1}\n\\ No newline at end of file\n")


@pytest.mark.parametrize("kind", ["revision", "tarball"])
@pytest.mark.parametrize(
    "diff",
    [
        pytest.param(NEW.format("../../outside/evil"), id="dots"),
        pytest.param(NEW.format("mm/../../../outside/evil"), id="dots inside"),
        pytest.param(NEW.format("{outside}/evil").replace("a//", "//").replace("b//", "//"), id="absolute"),
        pytest.param(NEW.format("x/{outside}/evil"), id="absolute below"),
        pytest.param(NEW.format(".git/hooks/post-checkout"), id="git's own"),
        pytest.param(NEW.format("mm/.GIT/config"), id="git's own, nested"),
        pytest.param(LINK.format("mm/l", "{outside}"), id="link"),
        pytest.param(LINK.format("mm/l", "../../../../../outside"), id="relative link"),
        pytest.param(LINK.format("mm/l", "{outside}") + NEW.format("mm/l/evil"), id="through a link"),
        pytest.param(
            "diff --git a/../../outside/secret b/mm/secret\nsimilarity index 100%\n"
            "rename from ../../outside/secret\nrename to mm/secret\n",
            id="rename from outside",
        ),
    ],
)
def test_what_reaches_outside_is_refused(tmp_path: Path, repo: Path, kind: str, diff: str) -> None:
    base = _base(kind, repo, tmp_path)
    for outside in (tmp_path / "outside", tmp_path / "cache/outside", tmp_path / "cache/sources/outside"):
        outside.mkdir()
        (outside / "secret").write_text("s\n")
    entries, before = _entries(tmp_path), snapshot(tmp_path / "outside")
    path = tmp_path / "evil.patch"
    path.write_text(diff.replace("{outside}", str(tmp_path / "outside")))
    with pytest.raises(
        UserError, match=r"evil.patch: patch 1 of 1.*(writes outside the tree|cannot read it)"
    ):
        _apply(base, tmp_path, path)
    assert _entries(tmp_path) == entries
    assert snapshot(tmp_path / "outside") == before
    assert not list(tmp_path.rglob("evil"))


def test_a_link_inside_the_tree_is_fine(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "l.diff").write_text(LINK.format("mm/l", "../Makefile"))
    tree = _apply(_base("tarball", repo, tmp_path), tmp_path, tmp_path / "l.diff")
    assert (tree.path / "mm/l").read_bytes() == (tree.path / "Makefile").read_bytes()


def _mangled(work: Path) -> bytes:
    """As a mail program wraps it."""
    return _diff_of(_mbox(work), "mm: one").replace("\n int memory;", "\n int\nmemory;").encode()


@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        (lambda _: b"", "x.patch is empty", "name an mbox"),
        (lambda _: b" \n\n", "x.patch is empty", "name an mbox"),
        (lambda _: b"hello\n" * 1000, "x.patch: no diff in it", "name an mbox"),
        (lambda w: _diff_of(_mbox(w, "--cover-letter"), "PATCH 0/3").encode(), "x.patch: no diff in it", ""),
        (lambda _: os.urandom(4096) + b"\0", "x.patch is binary", "name an mbox"),
        (
            lambda _: os.urandom(65536).replace(b"\0", b""),
            "x.patch: (no diff|git cannot read)",
            "name an mbox",
        ),
        (lambda w: lzma.compress(_mbox(w).encode()), "x.patch is compressed", "unxz"),
        (lambda w: gzip.compress(_mbox(w).encode())[:-9], "x.patch is damaged", "again"),
        (_mangled, r"patch 1 of 1 \('mm: one'\): git cannot read it: corrupt patch", "raw form"),
        (
            lambda w: _mbox(w).replace("diff --git", "tiff --git").replace("\n---", "\n- -").encode(),
            "has no diff in it",
            "raw",
        ),
        (
            lambda w: _diff_of(_mbox(w), "mm: one").replace("Subject: ", "Subject: Re: ").encode(),
            r"the mail 'Re: \[PATCH 1/3\] mm: one' is a reply with a diff in it",
            "b4 am",
        ),
    ],
)
def test_what_is_no_patch(
    tmp_path: Path, repo: Path, work: Path, content: Callable[[Path], bytes], message: str, remedy: str
) -> None:
    base = _base("revision", repo, tmp_path)
    entries = _entries(tmp_path)
    path = tmp_path / "x.patch"
    path.write_bytes(content(work))
    with pytest.raises(UserError, match=message) as caught:
        _apply(base, tmp_path, path)
    assert str(path) in caught.value.message
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.message
    assert _entries(tmp_path) == entries


def test_no_file_a_fifo_a_large_one_and_empty_directories(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _base("revision", repo, tmp_path)
    with pytest.raises(UserError, match=r"nosuch\.mbox: no such file"):
        _apply(base, tmp_path, tmp_path / "nosuch.mbox")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="fifo is not a regular file"):
        _apply(base, tmp_path, tmp_path / "fifo")
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(UserError, match="empty: no patch in this directory"):
        _apply(base, tmp_path, folder)
    (folder / "series").write_text("a.patch\n")
    with pytest.raises(UserError, match=r"a\.patch: no such file"):
        _apply(base, tmp_path, folder)
    (folder / "series").write_text("a.patch -pab # what quilt itself understands\n")
    with pytest.raises(UserError, match=r"series: a\.patch: unknown option -pab"):
        _apply(base, tmp_path, folder)
    (tmp_path / "large").write_text("x" * 101)
    monkeypatch.setattr(mails, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="large: larger than"):
        _apply(base, tmp_path, tmp_path / "large")


def test_control_characters_of_a_subject_are_not_shown(tmp_path: Path, repo: Path, work: Path) -> None:
    path = tmp_path / "x.patch"
    mail = (
        _diff_of(_mbox(work), "mm: one").replace("mm: one", "mm: \x1b[31mred").replace("int memory", "int x")
    )
    path.write_text(mail)
    with pytest.raises(UserError, match=r"\('mm: red'\) does not apply"):
        _apply(_base("revision", repo, tmp_path), tmp_path, path)


def test_uncommitted_changes_are_no_base(tmp_path: Path, repo: Path, series: Path) -> None:
    (repo / "mm/memory.c").write_text("int dirty;\n")
    with pytest.raises(UserError, match="has uncommitted changes") as caught:
        _apply(_base("git directory", repo, tmp_path), tmp_path, series)
    # The remedy is one.
    spec = re.search("--source (.*)`", caught.value.remedy)
    assert spec
    tree = _apply(resolve(spec[1], cache=tmp_path / "cache"), tmp_path, series)
    assert tree.commit


# --- host, cache, concurrency


def test_a_directory_that_changes_meanwhile(tmp_path: Path, repo: Path, series: Path) -> None:
    base = _base("directory", repo, tmp_path)
    (base.path / "Kconfig").write_text("changed\n")
    with pytest.raises(UserError, match="changed while it was copied"):
        _apply(base, tmp_path, series)


def test_a_tree_shares_no_file_with_its_base(tmp_path: Path, repo: Path, series: Path) -> None:
    """What writes into one of them in place changes that one only."""
    for kind in ("directory", "tarball", "revision"):
        base = _base(kind, repo, tmp_path)
        tree = _apply(base, tmp_path, series)
        for name in ("Kconfig", "mm/memory.c", "mm/long.c"):
            assert not (tree.path / name).samefile(base.path / name), (kind, name)
        assert (base.path / "scripts/run.sh").stat().st_mode & 0o111
        assert not (tree.path / "scripts/run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("kind", ["revision", "tarball"])
def test_a_tree_that_was_written_to_in_the_cache_is_made_again(
    tmp_path: Path, repo: Path, work: Path, series: Path, kind: str
) -> None:
    tree = _apply(_base(kind, repo, tmp_path), tmp_path, series)
    file = tree.path / "mm/memory.c"
    for damage in (file.write_text, lambda text: (file.parent / "new.c").write_text(text)):
        damage("int other;\n")
        assert _apply(_base(kind, repo, tmp_path), tmp_path, series) == tree
        assert content_digest(tree.path) == content_digest(work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only directories")
def test_a_directory_without_write_permission_unprivileged(
    tmp_path: Path, repo: Path, work: Path, series: Path
) -> None:
    base = _base("directory", repo, tmp_path)
    for folder in [base.path, *(path for path in base.path.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    try:
        assert content_digest(_apply(base, tmp_path, series).path) == content_digest(work)
    finally:
        for name, _, _ in os.walk(base.path):
            Path(name).chmod(0o755)


def test_directories_of_the_copy_are_writable(tmp_path: Path, repo: Path, series: Path) -> None:
    base = _base("directory", repo, tmp_path)
    (base.path / "mm").chmod(0o555)
    try:
        assert (_apply(base, tmp_path, series).path / "mm").stat().st_mode & 0o700 == 0o700
    finally:
        (base.path / "mm").chmod(0o755)


@ROOT_ONLY
def test_a_read_only_mount_that_belongs_to_somebody_else(tmp_path: Path, repo: Path, series: Path) -> None:
    plain = _base("directory", repo, tmp_path).path
    script = (
        "import sys; from pathlib import Path; from orchestrator.source import patches, resolve\n"
        "path, cache = Path(sys.argv[1]), Path(sys.argv[3])\n"
        "try: (path / 'x').touch(); sys.exit('not read-only')\n"
        "except OSError: pass\n"
        "print(patches.apply(resolve(str(path), cache=cache), [Path(sys.argv[2])], cache=cache).path)\n"
    )
    for path in (repo, plain):
        for entry in [path, *path.rglob("*")]:
            os.chown(entry, 12345, 12345, follow_symlinks=False)
        before = snapshot(path)
        python: list[str | Path] = [sys.executable, "-c", script, path, series, tmp_path / "cache"]
        done = mounted(READ_ONLY, path, python, env=trusting(path))
        assert done.returncode == 0, done.stderr
        assert "/* one */" in (Path(done.stdout.strip()) / "mm/memory.c").read_text()
        assert snapshot(path) == before


def test_a_cache_inside_somebodys_repository(tmp_path: Path, repo: Path, work: Path, series: Path) -> None:
    # git apply passes over what lies outside of the repository around it, without a word.
    git(tmp_path, "init", "-q")
    tree = _apply(_base("tarball", repo, tmp_path), tmp_path, series)
    assert content_digest(tree.path) == content_digest(work)


def test_a_repository_that_moved(tmp_path: Path, repo: Path, series: Path) -> None:
    tree = _apply(_base("git directory", repo, tmp_path), tmp_path, series)
    moved = repo.rename(tmp_path / "moved")
    said: list[str] = []
    again = _apply(_base("git directory", moved, tmp_path), tmp_path, series, say=said.append)
    assert (again.path, said) == (tree.path, [])
    assert git(tree.path, "log", "--format=%s").split("\n")[:2] == ["mm: three", "mm: zwei ü"]


def test_without_git(tmp_path: Path, repo: Path, series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base("tarball", repo, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="git is not installed") as caught:
        _apply(base, tmp_path, series)
    assert caught.value.remedy == "install git"


def test_a_cache_that_cannot_be_written(tmp_path: Path, repo: Path, series: Path) -> None:
    base = _base("git directory", repo, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match="file"):
        patches.apply(base, [series], cache=tmp_path / "file")


@ROOT_ONLY
@pytest.mark.parametrize("kind", ["git directory", "directory"])
def test_no_space(tmp_path: Path, repo: Path, series: Path, kind: str) -> None:
    base = _base(kind, repo, tmp_path)
    (base.path / "noise").write_bytes(os.urandom(3_000_000))
    if base.commit:
        git(repo, "add", "noise")
        git(repo, "commit", "-q", "-m", "big")
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.source import patches, resolve; from orchestrator.core.errors import InfraError\n"
        "cache = Path(sys.argv[2]); tree = resolve(sys.argv[1], cache=cache)\n"
        "try: patches.apply(tree, [Path(sys.argv[3])], cache=cache)\n"
        "except InfraError as error: print(error, [*cache.glob('sources/.*-*')]); sys.exit(33)\n"
    )
    small = tmp_path / "small"
    small.mkdir()
    done = mounted(SMALL.format("1m"), small, [sys.executable, "-c", script, base.path, small, series])
    assert done.returncode == 33, done.stderr
    assert "No space left on device" in done.stdout
    assert done.stdout.strip().endswith("[]")
