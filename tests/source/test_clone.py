# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.mounts import READ_ONLY, SMALL, mounted
from fakes.processes import alive, until
from fakes.trees import git, make_git_tree, make_tree, snapshot, trusting

from orchestrator.core.errors import InfraError, UserError
from orchestrator.source import Tree, archive, checkout, clone, resolve
from orchestrator.source.identity import content_digest

# they wait for processes and clocks
pytestmark = pytest.mark.slow

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and changes owners: needs root")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two commits; the first is tagged v7.1, the second is what is checked out, plus local changes."""
    path = make_git_tree(tmp_path / "linux")
    git(path, "tag", "v7.1")
    (path / "mm/memory.c").write_text("int second;\n")
    git(path, "commit", "-q", "-a", "-m", "two")
    git(path, "tag", "-a", "-m", "annotated", "v7.2")
    (path / "mm/memory.c").write_text("int dirty;\n")
    (path / ".config").write_text("CONFIG_SMP=y\n")
    return path


def _at(repo: Path, revision: str, tmp_path: Path, say: Callable[[str], None] = print) -> Tree:
    return resolve(f"{repo}@{revision}", cache=tmp_path / "cache", say=say)


def _left(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache/sources"
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"] if folder.exists() else []


def _sha(repo: Path, revision: str) -> str:
    return git(repo, "rev-parse", f"{revision}^{{commit}}").strip()


# --- which revision


@pytest.mark.parametrize(
    ("revision", "same"),
    [
        ("v7.1", "v7.1"),
        ("v7.2", "HEAD"),
        ("HEAD", "HEAD"),
        ("@", "HEAD"),
        ("HEAD~1", "v7.1"),
        ("HEAD@{1}", "v7.1"),
        ("main", "HEAD"),
        ("refs/tags/v7.1", "v7.1"),
        (":/two", "HEAD"),
        ("v7.2^{}", "HEAD"),
    ],
)
def test_whatever_git_resolves(repo: Path, tmp_path: Path, revision: str, same: str) -> None:
    git(repo, "branch", "-f", "main")
    tree = _at(repo, revision, tmp_path)
    assert tree.commit == _sha(repo, same)
    text = (tree.path / "mm/memory.c").read_text()
    assert text == {"HEAD": "int second;\n", "v7.1": "int memory;\n"}[same]


def test_what_a_tree_says_of_itself(repo: Path, tmp_path: Path) -> None:
    tree, sha = _at(repo, "v7.1", tmp_path), _sha(repo, "v7.1")
    assert tree == Tree(
        path=tmp_path / "cache/sources" / tree.digest / "tree",
        spec=f"{repo}@v7.1",
        kind="revision",
        digest=tree.digest,
        commit=sha,
        version="7.2.1",
        describe=f"7.2.1-g{sha[:12]} (v7.1)",
        base_spec=f"{repo}@{sha}",
    )
    assert _at(repo, sha[:9], tmp_path).describe == f"7.2.1-g{sha[:12]}"
    # What is named for later finds the same tree, though tags may move.
    git(repo, "tag", "-d", "v7.1")
    assert resolve(tree.base_spec, cache=tmp_path / "cache").digest == tree.digest


def test_a_kernel_is_shared_with_a_clean_directory_at_that_commit(repo: Path, tmp_path: Path) -> None:
    git(repo, "checkout", "-q", "-f", "v7.1")
    (repo / ".config").unlink()
    directory = resolve(str(repo), cache=tmp_path / "cache")
    revision = _at(repo, "v7.1", tmp_path)
    assert (directory.digest, directory.base_spec) == (revision.digest, revision.base_spec)
    assert content_digest(revision.path) == content_digest(repo)
    (repo / "mm/memory.c").write_text("int dirty;\n")
    assert resolve(str(repo), cache=tmp_path / "cache").base_spec == ""


def test_relative_with_a_tilde_and_with_odd_names(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = repo.rename(tmp_path / "lïnux @ home@2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in ("lïnux @ home@2@v7.1", "./lïnux @ home@2/@HEAD@{1}", "~/lïnux @ home@2@HEAD~1"):
        tree = resolve(spec, cache=Path("cache"))
        assert tree.commit == _sha(odd, "v7.1"), spec
        assert tree.base_spec == f"{odd}@{tree.commit}"


def test_a_path_that_exists_as_named_wins(repo: Path, tmp_path: Path) -> None:
    named = make_tree(tmp_path / "linux@v7.1")
    assert _at(repo, "v7.1", tmp_path).path == named
    # The longest directory that exists, likewise.
    assert clone.split(f"{named}@HEAD@{{1}}") == (str(named), "HEAD@{1}")
    assert clone.split(f"{tmp_path}/nosuch@v7.1") is None
    assert clone.split("@v7.1") is None


# --- what may be cloned


def test_bare_shallow_linked_and_git_directories(repo: Path, tmp_path: Path) -> None:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    bare, shallow, linked = tmp_path / "bare.git", tmp_path / "shallow", tmp_path / "linked"
    git(tmp_path, "clone", "-q", "--bare", str(repo), str(bare))
    argv = ["git", "clone", "-q", "--depth", "1", repo.as_uri(), str(shallow)]
    subprocess.run(argv, env=env, check=True)
    git(repo, "worktree", "add", "-q", "--detach", str(linked), "v7.1")
    # On no branch, and so not in what git copies from a shallow repository.
    loose = git(shallow, "commit-tree", "-p", "HEAD", "-m", "loose", "HEAD^{tree}").strip()
    for number, (path, revision, commit) in enumerate(
        [
            (bare, "v7.1", _sha(repo, "v7.1")),
            (shallow, "HEAD", _sha(repo, "HEAD")),
            (shallow, loose, loose),
            (linked, "HEAD", _sha(repo, "v7.1")),
            (repo / ".git", "v7.1", _sha(repo, "v7.1")),
        ]
    ):
        before = snapshot(path)
        tree = resolve(f"{path}@{revision}", cache=tmp_path / f"cache{number}")
        assert (tree.commit, snapshot(path)) == (commit, before)
        assert git(tree.path, "status", "--porcelain") == ""
        assert not list((tree.path / ".git/objects").glob("??")), "objects are shared"
        assert git(tree.path, "log", "-1", "--format=%H").strip() == commit


def test_tags_are_there_for_the_kernels_own_version(repo: Path, tmp_path: Path) -> None:
    assert git(_at(repo, "v7.2", tmp_path).path, "describe").strip() == "v7.2"


# --- the user's repository is only read


def _evil(repo: Path, mark: Path) -> None:
    """Everything in a repository's configuration that would run a program or change a file."""
    (repo / ".git/hooks").mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (repo / ".git/hooks" / name).write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        (repo / ".git/hooks" / name).chmod(0o755)
    for name, value in {
        "filter.x.smudge": f"sh -c 'echo smudge >> {mark}; cat'",
        "core.fsmonitor": f"sh -c 'echo fsmonitor >> {mark}'",
        "uploadpack.packObjectsHook": f"sh -c 'echo pack >> {mark}'",
        "core.autocrlf": "true",
    }.items():
        git(repo, "config", name, value)
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/attributes").write_text("* filter=x\n")


def test_nothing_is_written_and_nothing_of_the_users_runs(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, home = tmp_path / "ran", tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/attributes").write_text("*.c filter=x eol=crlf\n")
    (home / "hooks").mkdir()
    (home / "hooks/post-checkout").write_text(f"#!/bin/sh\necho home >> {mark}\n")
    (home / "hooks/post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[filter "x"]\n\tsmudge = "sh -c \'echo smudge >> {mark}; cat\'"\n\trequired = true\n'
        f"[core]\n\thooksPath = {home}/hooks\n\tautocrlf = true\n"
        f"[init]\n\ttemplateDir = {home}\n[alias]\n\tcheckout = !false\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nosuch"))
    (repo / ".git/hooks").mkdir(exist_ok=True)
    _evil(repo, mark)
    before = snapshot(repo)
    tree = _at(repo, "v7.1", tmp_path)
    assert snapshot(repo) == before
    assert not mark.exists(), mark.read_text()
    assert (tree.path / "mm/memory.c").read_bytes() == b"int memory;\n"
    assert not (tree.path / ".git/hooks").exists()


@ROOT_ONLY
def test_a_read_only_mount_that_belongs_to_somebody_else(repo: Path, tmp_path: Path) -> None:
    for path in [repo, *repo.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    script = (
        "import sys; from pathlib import Path; from orchestrator.source import resolve\n"
        "path = Path(sys.argv[1])\n"
        "try: (path / 'x').touch(); sys.exit('not read-only')\n"
        "except OSError: pass\n"
        "print(resolve(f'{path}@v7.1', cache=Path(sys.argv[2])).path)\n"
    )
    before = snapshot(repo)
    argv: list[str | Path] = [sys.executable, "-c", script, repo, tmp_path / "cache"]
    done = mounted(READ_ONLY, repo, argv)
    assert "belongs to another user" in done.stderr
    done = mounted(READ_ONLY, repo, argv, env=trusting(repo))
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "mm/memory.c").read_text() == "int memory;\n"
    assert snapshot(repo) == before


@pytest.mark.parametrize(
    "attributes",
    ["*.c ident eol=crlf", "mm/memory.c text working-tree-encoding=UTF-16", "*.c filter=lfs -diff"],
)
def test_a_checkout_has_the_bytes_of_the_commit(repo: Path, tmp_path: Path, attributes: str) -> None:
    """Even if attributes in the tree itself ask for a conversion: the digest is that of the commit."""
    (repo / ".gitattributes").write_text(f"{attributes}\n")
    (repo / "mm/id.c").write_text("/* $Id$ */\n")
    git(repo, "-c", "filter.lfs.clean=cat", "add", ".gitattributes", "mm/id.c")
    git(repo, "commit", "-q", "-m", "attributes")
    tree = _at(repo, "HEAD", tmp_path)
    assert (tree.path / "mm/id.c").read_bytes() == b"/* $Id$ */\n"
    assert (tree.path / "mm/memory.c").read_bytes() == b"int second;\n"
    with checkout.opened(repo, cache=tmp_path / "cache") as shop:
        assert content_digest(shop.check_out(tree.commit).path) == content_digest(tree.path)


def test_a_replaced_commit_is_not_what_is_checked_out(repo: Path, tmp_path: Path) -> None:
    before = _at(repo, "v7.1", tmp_path)
    git(repo, "replace", _sha(repo, "v7.1"), _sha(repo, "v7.2"))
    after = _at(repo, "v7.1", tmp_path)
    assert (after.commit, after.digest) == (before.commit, before.digest)
    again = resolve(f"{repo}@v7.1", cache=tmp_path / "other")
    assert (again.path / "mm/memory.c").read_text() == "int memory;\n"


def test_a_disk_that_cannot_hold_the_commit_is_blamed(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = clone.check_out

    def check_out(tmp: Path, commit: str, what: str) -> None:
        real(tmp, commit, what)
        # as where two names differ in nothing but case
        (tmp / "tree/mm/memory.c").write_text("int other;\n")

    monkeypatch.setattr(clone, "check_out", check_out)
    with pytest.raises(InfraError, match=r"1 files in .* are not as in the commit, such as mm/memory\.c"):
        _at(repo, "v7.1", tmp_path)
    assert _left(tmp_path) == []


# --- kept


def test_a_commit_is_checked_out_once(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = _at(repo, "v7.1", tmp_path, said.append)
    assert said == [f"checking out {repo}@v7.1"]
    before = snapshot(first.path)
    for name in ("start", "check_out"):
        monkeypatch.setattr(clone, name, lambda *_, name=name: pytest.fail(name))
    assert _at(repo, "HEAD~1", tmp_path, said.append).path == first.path
    assert snapshot(first.path) == before
    assert len(said) == 1
    assert _left(tmp_path) == [first.digest]


def test_a_damaged_tree_is_checked_out_again_but_gits_own_files_may_change(
    repo: Path, tmp_path: Path
) -> None:
    tree, said = _at(repo, "v7.1", tmp_path), list[str]()
    (tree.path / ".git/new").write_text("by git gc, say\n")
    _at(repo, "v7.1", tmp_path, said.append)
    assert said == []
    (tree.path / "mm/memory.c").unlink()
    assert (_at(repo, "v7.1", tmp_path, said.append).path / "mm/memory.c").exists()
    assert len(said) == 1


def test_the_repository_may_move(repo: Path, tmp_path: Path) -> None:
    tree = _at(repo, "v7.1", tmp_path)
    moved = repo.rename(tmp_path / "moved")
    assert not clone._has(tree.path, f"{tree.commit}^{{tree}}")
    said: list[str] = []
    assert _at(moved, "v7.1", tmp_path, said.append).path == tree.path
    assert said == []
    assert git(tree.path, "status", "--porcelain") == ""


# --- what can go wrong


@pytest.mark.parametrize(
    ("revision", "message", "remedy"),
    [
        ("v7.3", "has no revision 'v7.3'", "similar names: v7.2, v7.1"),
        ("7.2", "has no revision '7.2'", "similar names: v7.2"),
        ("zzz", "has no revision 'zzz'", "lists tags"),
        ("12" * 20, "has no revision '1212", "lists tags"),
        ("--help", "has no revision '--help'", "lists tags"),
        ("v7.1..v7.2", "has no revision", ""),
        ("HEAD:mm", "HEAD:mm is not a commit", "name a commit"),
        ("", "no revision after the @", "DIR@REV"),
    ],
)
def test_no_such_revision(repo: Path, tmp_path: Path, revision: str, message: str, remedy: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _at(repo, revision, tmp_path)
    assert str(repo) in caught.value.message
    assert remedy in caught.value.remedy
    assert _left(tmp_path) == []


def test_a_shallow_repository_is_named_as_such(repo: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", repo.as_uri(), str(shallow))
    with pytest.raises(UserError, match=r"has no revision 'v7\.1'") as caught:
        _at(shallow, "v7.1", tmp_path)
    assert "is shallow" in caught.value.remedy


def test_no_git_repository(tmp_path: Path) -> None:
    # Not even if a directory above is one: that is another tree.
    make_git_tree(tmp_path / "above")
    plain = make_tree(tmp_path / "above/plain")
    with pytest.raises(UserError, match=r"plain is not the top of a git repository"):
        _at(plain, "HEAD", tmp_path)
    with pytest.raises(UserError, match=r"nor a directory '.*nosuch' for a revision of it"):
        _at(tmp_path / "nosuch", "v7.1", tmp_path)


def test_a_revision_that_is_no_kernel(repo: Path, tmp_path: Path) -> None:
    git(repo, "rm", "-q", "-r", "scripts")
    git(repo, "commit", "-q", "-m", "no kernel")
    with pytest.raises(UserError, match=r"linux@HEAD is not a kernel tree: no scripts/kconfig/"):
        _at(repo, "HEAD", tmp_path)
    assert _left(tmp_path) == []


def test_a_digest_is_for_archives(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a revision: a SHA-256 digest is for archives"):
        resolve(f"{repo}@v7.1", cache=tmp_path / "cache", sha256="ab" * 32)


def test_a_repository_without_all_its_files_is_not_fetched_into(repo: Path, tmp_path: Path) -> None:
    git(repo, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", repo.as_uri(), str(partial))
    before = snapshot(partial)
    with pytest.raises(UserError, match=r"partial@v7\.1: git cannot check it out: .*") as caught:
        _at(partial, "v7.1", tmp_path)
    assert "--filter" in caught.value.remedy
    # A commit that git would have, were it allowed to fetch it.
    git(repo, "commit", "-q", "-a", "-m", "later")
    with pytest.raises(UserError, match="has no revision"):
        _at(partial, _sha(repo, "HEAD"), tmp_path)
    assert snapshot(partial) == before
    assert _left(tmp_path) == []


def test_without_git(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="git is not installed") as caught:
        _at(repo, "v7.1", tmp_path)
    assert caught.value.remedy == "install git"


@ROOT_ONLY
def test_no_space(repo: Path, tmp_path: Path) -> None:
    git(repo, "checkout", "-q", "-f", "v7.2")
    (repo / "noise").write_bytes(os.urandom(3_000_000))
    git(repo, "add", "noise")
    git(repo, "commit", "-q", "-m", "big")
    (tmp_path / "cache").mkdir()
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.source import resolve; from orchestrator.core.errors import InfraError\n"
        "try: resolve(f'{sys.argv[1]}@HEAD', cache=Path(sys.argv[2]))\n"
        "except InfraError as error: print(error, [*Path(sys.argv[2]).glob('sources/.*-*')]); sys.exit(33)\n"
    )
    cache = tmp_path / "cache"
    done = mounted(SMALL.format("1m"), cache, [sys.executable, "-c", script, repo, cache])
    assert done.returncode == 33, done.stderr
    assert "No space left on device" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_the_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such home directory"):
        resolve("~nosuchuser/linux@v7.1", cache=tmp_path)


def test_a_checkout_that_fails_leaves_nothing_and_is_done_again(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(clone, "check_out", killed)
        with pytest.raises(KeyboardInterrupt):
            _at(repo, "v7.1", tmp_path)
    assert _left(tmp_path) == []
    # What a kill -9 leaves:
    tree = _at(repo, "v7.1", tmp_path)
    fresh = tree.path.parent.rename(tree.path.parent.with_name(f".{tree.digest[:12]}-fresh"))
    shutil.rmtree(fresh / "tree/mm")
    assert (_at(repo, "v7.1", tmp_path).path / "mm/memory.c").exists()
    assert _left(tmp_path) == [tree.digest]
    assert archive.is_unpacked(tmp_path / "cache", tree.digest)


def test_what_takes_long_ends_with_us(tmp_path: Path, marker: str) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrator.source.programs import run_long\n"
        "argv = ['sh', '-c', 'sleep 600; :', *sys.argv[2:]]\n"
        "run_long(Path(sys.argv[1]), argv, {'PATH': '/usr/bin:/bin'})\n"
    )
    # In two halves, so that the parent is not found by it.
    word = f"{marker}-child"
    code = script.replace("*sys.argv[2:]", f"'{word[:8]}' '{word[8:]}'")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        assert until(lambda: alive(word))
        parent.kill()
    assert until(lambda: not alive(word))
