# SPDX-License-Identifier: GPL-2.0-only
"""One commit after another in one place, and kernels built there one after another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.builds import build, spec_of
from fakes.linux import commit_file, make_linux_repository, path_with_fault
from fakes.trees import git, make_git_tree, snapshot

from orchestrator import source
from orchestrator.core.errors import InfraError, KernelError, UserError
from orchestrator.core.store import Store, file_digest
from orchestrator.kernel import build as kernels
from orchestrator.source import checkout, clone, patches
from orchestrator.source.checkout import DoesNotApply, Fix

pytestmark = pytest.mark.slow

needs_make = pytest.mark.skipif(
    not all(map(shutil.which, ("make", "gcc", "python3"))), reason="make and gcc are not installed"
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_git_tree(tmp_path / "linux")


def head(repository: Path) -> str:
    return git(repository, "rev-parse", "HEAD").strip()


def test_commits_come_one_after_another_and_what_is_the_same_keeps_its_time(
    repository: Path, tmp_path: Path
) -> None:
    one = head(repository)
    two = commit_file(repository, "mm/more.c", "int more;\n")
    before = snapshot(repository)
    with checkout.opened(repository, cache=tmp_path / "cache") as shop:
        tree = shop.check_out(two)
        assert tree.configured_by == shop.check_out(one).configured_by
        assert tree == shop.check_out(two)
        assert (tree.path / "mm/more.c").read_text() == "int more;\n"
        kept = (tree.path / "mm/memory.c").stat().st_mtime_ns
        assert not (shop.check_out(one).path / "mm/more.c").exists()
        assert (tree.path / "mm/memory.c").stat().st_mtime_ns == kept
        assert (
            shop.check_out(one).digest == source.resolve(f"{repository}@{one}", cache=tmp_path / "c").digest
        )
    assert snapshot(repository) == before, "the user's repository was written to"
    with checkout.opened(repository, cache=tmp_path / "cache") as again:
        assert again.path == tree.path
        assert (again.check_out(one).path / "mm/memory.c").stat().st_mtime_ns == kept


def test_two_at_once_have_a_place_each(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with checkout.opened(repository, cache=tmp_path) as one:
        with checkout.opened(repository, cache=tmp_path, say=said.append) as other:
            assert one.place != other.place
        assert "another process uses" in said[0]


def test_no_place_left(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "_MOST", 1)
    with (
        checkout.opened(repository, cache=tmp_path),
        pytest.raises(UserError, match=r"1 checkouts of .* are in use at once"),
        checkout.opened(repository, cache=tmp_path),
    ):
        pass


def test_what_a_killed_checkout_has_left_is_put_right(repository: Path, tmp_path: Path) -> None:
    one = head(repository)
    with checkout.opened(repository, cache=tmp_path) as shop:
        shop.check_out(one)
        # killed while it wrote: a lock, half a file of the same size, a file too many, and the mark
        (shop.path / ".git/index.lock").touch()
        file = shop.path / "mm/memory.c"
        times = file.stat()
        file.write_text("int m3mory;\n")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        (shop.path / "mm/left.c").touch()
        (shop.place / "unfinished").touch()
    with checkout.opened(repository, cache=tmp_path) as shop:
        tree = shop.check_out(one)
        assert (tree.path / "mm/memory.c").read_text() == "int memory;\n"
        assert not (tree.path / "mm/left.c").exists()


def test_a_clone_that_was_not_finished_is_made_again(repository: Path, tmp_path: Path) -> None:
    with checkout.opened(repository, cache=tmp_path) as shop:
        (shop.place / "made").unlink()
        shutil.rmtree(shop.path / ".git/refs")
    with checkout.opened(repository, cache=tmp_path) as shop:
        assert shop.check_out(head(repository)).version == "7.2.1"


def test_fixes_are_made_on_top_where_they_are_wanted(repository: Path, tmp_path: Path) -> None:
    one = head(repository)
    two = commit_file(repository, "mm/x.c", "int x;\n")
    fix = commit_file(repository, "mm/memory.c", "int mended;\n")
    after = commit_file(repository, "mm/y.c", "int y;\n")
    fixes = [Fix(commit=fix, within=frozenset({two, after}))]
    with checkout.opened(repository, cache=tmp_path) as shop:
        assert "memory" in (shop.check_out(one, fixes).path / "mm/memory.c").read_text()
        tree = shop.check_out(two, fixes)
        assert (tree.path / "mm/memory.c").read_text() == "int mended;\n"
        assert tree.describe.endswith(f" + {fix[:12]}")
        assert tree.digest != shop.check_out(two).digest
        assert (shop.path / "mm/memory.c").read_text() == "int memory;\n"
        assert shop.check_out(after, fixes).digest == shop.check_out(after).digest, "it has the fix itself"


def test_what_is_changed_on_top_is_kept_as_patches_that_make_the_same_tree(
    repository: Path, tmp_path: Path
) -> None:
    one = head(repository)
    two = commit_file(repository, "mm/x.c", "int x;\nFrom here on = 1;\n")
    fix = commit_file(repository, "mm/memory.c", "int mended; \n")
    fixes = [Fix(commit=fix, within=frozenset({two}))]
    cache = tmp_path / "cache"
    with checkout.opened(repository, cache=cache) as shop:
        assert shop.check_out(two, keep=tmp_path / "kept").patches == ()
        made = shop.check_out(two, fixes, without=two, keep=tmp_path / "kept")
        assert list(map(Path, made.patches)) == sorted(
            (tmp_path / "kept").iterdir(), key=lambda p: len(p.name)
        )
        again = patches.apply(
            source.resolve(made.base_spec, cache=cache), list(map(Path, made.patches)), cache=cache
        )
        for tree in (made.path, again.path):
            assert (tree / "mm/memory.c").read_text() == "int mended; \n"
            assert not (tree / "mm/x.c").exists()
        # a commit of its own for each, which says what it is
        said = git(again.path, "log", "--format=%s", f"{one}..HEAD").splitlines()
        assert said == [f"Without {two}", f"With {fix}", "more"]


def test_a_fix_that_does_not_apply(repository: Path, tmp_path: Path) -> None:
    commit_file(repository, "mm/memory.c", "int other;\n")
    fix = commit_file(repository, "mm/memory.c", "int mended;\n")
    git(repository, "checkout", "-q", "HEAD~2")
    one = head(repository)
    fixes = [Fix(commit=fix, within=frozenset({one}))]
    with checkout.opened(repository, cache=tmp_path) as shop:
        with pytest.raises(DoesNotApply, match=f"the fix {fix[:12]} does not apply to .*memory.c"):
            shop.check_out(one, fixes)
        assert (shop.check_out(one).path / "mm/memory.c").read_text() == "int memory;\n"


def test_a_commit_that_is_no_kernel(repository: Path, tmp_path: Path) -> None:
    git(repository, "rm", "-q", "Makefile")
    bare = commit_file(repository, "README", "nothing\n")
    with (
        checkout.opened(repository, cache=tmp_path) as shop,
        pytest.raises(UserError, match="is not a kernel tree: no Makefile"),
    ):
        shop.check_out(bare)


def test_a_full_disk_is_the_hosts(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with checkout.opened(repository, cache=tmp_path) as shop:
        monkeypatch.setattr(clone, "check_out", full)
        with pytest.raises(InfraError, match="No space left"):
            shop.check_out(head(repository))


@pytest.mark.parametrize("name", ["Kconfig", "mm/Kconfig.debug", "Makefile", "scripts/run.sh"])
def test_what_a_configuration_reads_tells_it_from_others(repository: Path, tmp_path: Path, name: str) -> None:
    one = head(repository)
    text = (repository / name).read_text() if (repository / name).exists() else ""
    two = commit_file(repository, name, text + "# more\n")
    with checkout.opened(repository, cache=tmp_path) as shop:
        assert shop.check_out(one).configured_by != shop.check_out(two).configured_by


# --- kernels


class Yard:
    """A made-up kernel's history, and its kernels built in one place."""

    def __init__(self, tmp_path: Path, store: Store, configs: Path) -> None:
        shutil.copytree(configs, store.root / configs.name)
        self.repository = make_linux_repository(tmp_path / "linux")
        self.store = store
        self.log = tmp_path / "log"

    def build(self, shop: checkout.Checkout, commit: str, **changes: object) -> tuple[str, str]:
        """The digest of a commit's image, and what was compiled for it."""
        tree = shop.check_out(commit)
        kernel = build(spec_of(tree, workplace=shop.objects("x"), **changes), self.store, self.log)
        return file_digest(kernel.image), (kernel.folder / "build.log").read_text()


@pytest.fixture
def yard(tmp_path: Path, store: Store, linux_configs: Path) -> Yard:
    return Yard(tmp_path, store, linux_configs)


@needs_make
def test_only_what_differs_is_compiled_and_equal_sources_make_equal_kernels(yard: Yard) -> None:
    one = commit_file(yard.repository, "fs/a.c", "int a = 1;\n")
    git(yard.repository, "tag", "v7.2.1")
    doc = commit_file(yard.repository, "Documentation/x", "words\n")
    two = commit_file(yard.repository, "fs/a.c", "int a = 2;\n")
    back = commit_file(yard.repository, "fs/a.c", "int a = 1;\n")
    with checkout.opened(yard.repository, cache=yard.store.root) as shop:
        first, log = yard.build(shop, one)
        assert log.count("  CC ") == 2
        unchanged, log = yard.build(shop, doc)
        assert (unchanged, log.count("  CC ")) == (first, 0)
        changed, log = yard.build(shop, two)
        assert (changed != first, log.count("  CC ")) == (True, 1)
        assert yard.build(shop, back)[0] == first
        kept = list((yard.store.root / "kernels").glob("*/kernel.json"))
        warm = sorted('"warm":true' in path.read_text() for path in kept)
        assert warm == [False, True, True, True]
        host = spec_of(shop.check_out(one)).arch
        assert kernels.usual_cost_s(host, yard.store) is not None
    fresh = Store(yard.store.root / "fresh")
    tree = source.resolve(f"{yard.repository}@{two}", cache=fresh.root)
    assert file_digest(build(spec_of(tree), fresh).image) == changed, "a clean build gives another kernel"
    assert build(spec_of(tree), yard.store).cached, "DIR@COMMIT does not share the kernel"


@needs_make
@pytest.mark.parametrize("fault", ["torn", "killed"])
def test_a_build_that_was_killed_spoils_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    one = commit_file(yard.repository, "fs/a.c", "int a = 1;\n")
    two = commit_file(yard.repository, "fs/a.c", "int a = 2;\n")
    three = commit_file(yard.repository, "fs/b.c", "int b;\n")
    with checkout.opened(yard.repository, cache=yard.store.root) as shop:
        yard.build(shop, one)
        monkeypatch.setenv("PATH", path_with_fault(yard.log.parent / "fault", fault))
        with pytest.raises((InfraError, KernelError)):
            yard.build(shop, two)
        monkeypatch.setenv("PATH", path_with_fault(yard.log.parent / "fault", "none"))
        good, log = yard.build(shop, three)
        assert log.count("  CC ") == 3, "it was not begun anew"
        assert file_digest(shop.objects("x") / "o" / spec_of(shop.check_out(three)).arch.image) == good


@needs_make
def test_a_commit_that_does_not_compile(yard: Yard) -> None:
    one = commit_file(yard.repository, "fs/a.c", "int a = 1;\n")
    broken = commit_file(yard.repository, "fs/b.c", "int b = nothing;\n")
    after = commit_file(yard.repository, "fs/b.c", "int b;\n")
    with checkout.opened(yard.repository, cache=yard.store.root) as shop:
        yard.build(shop, one)
        with pytest.raises(KernelError, match=r"fs/b\.c:1:9: .nothing. undeclared"):
            yard.build(shop, broken)
        assert yard.log.is_file()
        _, log = yard.build(shop, after)
        assert "CC      fs/a.c" not in log, "what had been compiled is lost"


@needs_make
def test_what_an_earlier_build_has_left_is_not_the_kernels_fault(yard: Yard) -> None:
    one = commit_file(yard.repository, "fs/a.c", "int a = 1;\n")
    two = commit_file(yard.repository, "fs/b.c", "int b;\n")
    with checkout.opened(yard.repository, cache=yard.store.root) as shop:
        yard.build(shop, one)
        stale = shop.objects("x") / "o/a.o"
        stale.write_text("stale")
        os.utime(stale, (2**31, 2**31))
        _, log = yard.build(shop, two)
        assert log.count("  CC ") == 3


@needs_make
def test_a_killed_process_frees_its_place(yard: Yard, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.source import checkout\n"
        "with checkout.opened(Path(sys.argv[1]), cache=Path(sys.argv[2])):\n"
        "    print('in', flush=True); time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, str(yard.repository), str(tmp_path / "cache")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        child.kill()
    with checkout.opened(yard.repository, cache=tmp_path / "cache") as shop:
        assert shop.place.name.endswith("-1")
