# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fakes.mounts import READ_ONLY, mounted
from fakes.trees import git, make_git_tree, make_tarball, make_tree, snapshot

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import file_digest
from orchestrator.source import Tree, debian_tree, default_source, download, resolve
from orchestrator.source.resolve import FALLBACK_VERSION, FORMS

WRONG = "ab" * 32


def test_a_plain_directory(tmp_path: Path) -> None:
    path = make_tree(tmp_path / "t")
    tree = resolve(str(path), cache=tmp_path / "cache")
    assert (tree.path, tree.kind, tree.version, tree.commit, tree.dirty) == (
        path,
        "directory",
        "7.2.1",
        "",
        "",
    )
    assert re.fullmatch(r"[0-9a-f]{64}", tree.digest)
    assert tree.describe == f"7.2.1 (t, content {tree.digest[:12]})"
    other = resolve(str(make_tree(tmp_path / "elsewhere")), cache=tmp_path / "cache")
    assert other.digest == tree.digest
    (path / "mm/memory.c").write_text("int changed;\n")
    assert resolve(str(path), cache=tmp_path / "cache").digest != tree.digest


def test_a_git_tree(tmp_path: Path) -> None:
    path = make_git_tree(tmp_path / "t")
    clean = resolve(str(path), cache=tmp_path / "cache")
    assert clean.commit == git(path, "rev-parse", "HEAD").strip()
    assert clean.describe == f"7.2.1-g{clean.commit[:12]}"
    (path / "mm/memory.c").write_text("int changed;\n")
    dirty = resolve(str(path), cache=tmp_path / "cache")
    assert (dirty.commit, bool(dirty.dirty)) == (clean.commit, True)
    assert dirty.describe == f"7.2.1-g{clean.commit[:12]} (dirty {dirty.dirty[:12]})"
    git(path, "commit", "-q", "-a", "-m", "two")
    committed = resolve(str(path), cache=tmp_path / "cache")
    assert committed.dirty == ""
    assert len({clean.digest, dirty.digest, committed.digest}) == 3


def test_a_path_through_a_link_or_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tree(tmp_path / "t")
    (tmp_path / "link").symlink_to("t")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in ("link", "./t", "t/", "~/t", path.as_uri()):
        assert resolve(spec, cache=Path("cache")).path == path, spec


def test_nothing_is_written_into_a_directory(tmp_path: Path) -> None:
    for path in (make_tree(tmp_path / "plain"), make_git_tree(tmp_path / "git")):
        before = snapshot(path)
        resolve(str(path), cache=tmp_path / "cache")
        assert snapshot(path) == before


def test_a_read_only_mount(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrator.source import resolve\n"
        "path = Path(sys.argv[1])\n"
        "try: (path / 'x').touch(); sys.exit('not read-only')\n"
        "except OSError: pass\n"
        "print(resolve(str(path), cache=Path(sys.argv[2])).digest)\n"
    )
    for path in (make_tree(tmp_path / "plain"), make_git_tree(tmp_path / "git")):
        cache = tmp_path / "cache"
        done = mounted(READ_ONLY, path, [sys.executable, "-c", script, path, cache])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == resolve(str(path), cache=cache).digest


@pytest.mark.parametrize("form", ["path", "file URL"])
def test_a_tarball(tmp_path: Path, form: str) -> None:
    packed = make_tarball(tmp_path / "linux 7.tar.xz", make_tree(tmp_path / "t"))
    spec = packed.as_uri() if form == "file URL" else str(packed)
    digest = file_digest(packed)
    tree = resolve(spec, cache=tmp_path / "cache", sha256=digest)
    assert tree == Tree(
        path=tmp_path / "cache/sources" / digest / "tree",
        spec=spec,
        kind="archive",
        digest=digest,
        archive_sha256=digest,
        version="7.2.1",
        describe=f"7.2.1 (linux 7.tar.xz, sha256 {digest[:12]})",
    )


def test_digest_of_an_archive_that_was_not_asked_for(tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"))
    with pytest.raises(UserError, match=f"{file_digest(packed)}.*{WRONG}"):
        resolve(str(packed), cache=tmp_path / "cache", sha256=WRONG)
    assert not (tmp_path / "cache/sources").exists()


def test_a_revision_keeps_out_what_the_directory_holds(tmp_path: Path) -> None:
    path = make_git_tree(tmp_path / "t")
    (path / "mm/memory.c").write_text("int changed;\n")
    (path / ".config").write_text("")
    with pytest.raises(UserError, match="not clean"):
        resolve(str(path), cache=tmp_path / "cache")
    tree = resolve(f"{path}@HEAD", cache=tmp_path / "cache")
    assert (tree.kind, tree.dirty) == ("revision", "")
    assert tree.path.is_relative_to(tmp_path / "cache")


def test_digest_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for archives"):
        resolve(str(make_tree(tmp_path / "t")), cache=tmp_path / "cache", sha256=WRONG)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "  ",
        "nosuch",
        "7.2",
        "v7",
        "v7.2-rc1",
        "v7.2.1.4",
        "ftp://h/x.tar",
        "t/Makefile",
        "no@v7",
        "@",
        "t/Makefile@v7",
    ],
)
def test_what_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    make_tree(tmp_path / "t")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        resolve(spec, cache=tmp_path / "cache")
    assert spec in caught.value.message
    assert caught.value.remedy


def test_the_forms_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(FORMS)) as caught:
        resolve("nosuch", cache=tmp_path)
    assert "there is no directory or file" in caught.value.message


def test_a_directory_that_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a kernel tree"):
        resolve(str(tmp_path), cache=tmp_path / "cache")


def test_a_directory_in_which_was_built(tmp_path: Path) -> None:
    (make_git_tree(tmp_path / "t") / ".config").write_text("")
    with pytest.raises(UserError, match="not clean"):
        resolve(str(tmp_path / "t"), cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"))
    (tmp_path / "cache").write_text("a file\n")
    with pytest.raises(InfraError, match="cache"):
        resolve(str(packed), cache=tmp_path / "cache")


# --- by version


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("v7.2", "v7.x/linux-7.2.tar.xz"),
        ("v7.2.0", "v7.x/linux-7.2.tar.xz"),
        ("v6.12.95", "v6.x/linux-6.12.95.tar.xz"),
        (FALLBACK_VERSION, f"v6.x/linux-{FALLBACK_VERSION[1:]}.tar.xz"),
    ],
)
def test_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, name: str) -> None:
    packed = make_tarball(tmp_path / "x.tar.xz", make_tree(tmp_path / "t"))
    asked: list[str] = []

    def fetch(url: str, **_: object) -> Path:
        asked.append(url)
        return packed

    monkeypatch.setattr(download, "fetch", fetch)
    tree = resolve(spec, cache=tmp_path / "cache")
    assert asked[0].startswith("https://")
    assert asked[0].endswith(f"/{name}")
    assert (tree.kind, tree.archive_sha256) == ("version", file_digest(packed))
    assert tree.describe.startswith(f"7.2.1 ({spec}, ")


def test_an_existing_path_wins_over_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path / "v7.2")
    monkeypatch.chdir(tmp_path)
    assert resolve("v7.2", cache=tmp_path / "cache").kind == "directory"


def test_a_broken_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = make_tarball(tmp_path / "x.tar.xz", make_tree(tmp_path / "t"))
    packed.write_bytes(packed.read_bytes()[:200])
    monkeypatch.setattr(download, "fetch", lambda _url, **_: packed)
    with pytest.raises(InfraError, match="truncated"):
        resolve("v7.2", cache=tmp_path / "cache")
    assert not packed.exists()


# --- no tree named


def test_default_is_debians_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Tree(path=tmp_path, spec="debian:x", kind="debian", digest="d", describe="7.2.1 (debian:x)")
    monkeypatch.setattr(debian_tree, "newest_selectable", lambda **_: found)
    said: list[str] = []
    assert default_source(cache=tmp_path, say=said.append) == found
    assert said == ["no tree was named: using 7.2.1 (debian:x)"]


@pytest.mark.parametrize("trouble", ["no apt", "no package"])
def test_without_debian_the_default_is_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def nothing(**_: object) -> None:
        if trouble == "no apt":
            raise InfraError("this host has no apt")

    asked: list[str] = []

    def fetch(url: str, **_: object) -> Path:
        asked.append(url)
        raise InfraError(f"{url}: no network", remedy="name a tree")

    monkeypatch.setattr(debian_tree, "newest_selectable", nothing)
    monkeypatch.setattr(download, "fetch", fetch)
    said: list[str] = []
    with pytest.raises(InfraError, match="no network"):
        default_source(cache=tmp_path, say=said.append)
    assert len(asked) == 1
    assert "falling back" in said[0]
    assert FALLBACK_VERSION in said[0]


@pytest.mark.guest
def test_default_source_for_real(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    said: list[str] = []
    tree = default_source(cache=cache, say=said.append)
    assert tree.kind == "debian"
    assert tree.version in tree.describe
    assert resolve(tree.spec, cache=cache).digest == tree.digest
    assert not any(line.startswith("unpacking") for line in said[-1:])
