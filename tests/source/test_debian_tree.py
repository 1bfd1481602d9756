# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fakes.trees import make_tarball, make_tree

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import file_digest
from orchestrator.debian.apt import NoSuite, Package
from orchestrator.source import debian_tree
from orchestrator.source.debian_tree import newest_selectable, resolve_debian
from orchestrator.source.identity import content_digest

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")


def make_deb(folder: Path, name: str, version: str, tree: Path, inside: str = "") -> Package:
    """A real .deb as Debian's linux-source packages are made: the tree as a tarball in usr/src."""
    root = folder / f"root-{name}-{version}"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t\nDescription: t\n"
    )
    (root / "usr/src").mkdir(parents=True)
    (root / "usr/src/linux-patch-7.2-rt.patch.xz").write_bytes(b"patch")
    make_tarball(root / "usr/src" / (inside or f"{name}.tar.xz"), tree, name)
    deb = folder / f"{name}_{version}_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-b", str(root), str(deb)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return Package(name, version, "all", file_digest(deb), deb.stat().st_size, f"pool/{deb.name}")


class Suite:
    """Stands for ``AptState``: packages on offer, and how often one was fetched."""

    def __init__(self, folder: Path, packages: Sequence[Package]) -> None:
        self.folder = folder
        self.packages = packages
        self.fetched: list[str] = []

    def search(self, _regex: str) -> list[Package]:
        return list(self.packages)

    def download(self, package: Package, dest: Path) -> Path:
        self.fetched.append(f"{package.name} {package.version}")
        dest.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.folder / package.deb, dest / package.deb))


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Suite]], None]:
    def install(suites: dict[str, Suite]) -> None:
        def state(suite: str, _cache: Path, _say: object) -> Suite:
            if suite not in suites:
                raise NoSuite(f"no {suite} here", remedy="name another")
            return suites[suite]

        monkeypatch.setattr(debian_tree, "_state", state)

    return install


Offer = Callable[[dict[str, Suite]], None]


@needs_dpkg
def test_the_newest_of_a_suite(tmp_path: Path, offer: Offer) -> None:
    tree = make_tree(tmp_path / "t")
    packages = [
        make_deb(tmp_path, "linux-source-7.2", version, tree)
        for version in ("7.2.9-1~bpo13+1", "7.2.12-1~bpo13+1", "7.2.12~rc1-1")
    ] + [make_deb(tmp_path, "linux-source-6.18", "6.18.99-1", tree)]
    suite = Suite(tmp_path, packages)
    offer({"trixie-backports": suite})
    found = resolve_debian("debian:trixie-backports", cache=tmp_path / "cache")
    assert suite.fetched == ["linux-source-7.2 7.2.12-1~bpo13+1"]
    assert (found.kind, found.spec, found.version) == ("debian", "debian:trixie-backports", "7.2.1")
    assert found.digest == found.archive_sha256 == packages[1].sha256
    assert found.describe == "7.2.1 (debian:trixie-backports linux-source-7.2 7.2.12-1~bpo13+1)"
    assert content_digest(found.path) == content_digest(tree)
    # Once unpacked, the package is neither kept nor fetched again.
    assert resolve_debian("debian:trixie-backports", cache=tmp_path / "cache") == found
    assert len(suite.fetched) == 1
    assert not list((tmp_path / "cache/debs").iterdir())
    older = resolve_debian("debian:trixie-backports/linux-source-6.18", cache=tmp_path / "cache")
    assert older.digest == packages[3].sha256


@needs_dpkg
def test_the_digest_is_that_of_the_package(tmp_path: Path, offer: Offer) -> None:
    package = make_deb(tmp_path, "linux-source-7.2", "7.2.1-1", make_tree(tmp_path / "t"))
    offer({"sid": Suite(tmp_path, [package])})
    resolve_debian("debian:sid", cache=tmp_path / "cache", sha256=package.sha256)
    with pytest.raises(UserError, match=package.sha256):
        resolve_debian("debian:sid", cache=tmp_path / "cache", sha256="ab" * 32)


@pytest.mark.parametrize(
    "spec", ["debian:", "debian:../x", "debian:Trixie", "debian:a/bash", "debian:a/linux-source-7.2/x"]
)
def test_malformed(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UserError, match="is not debian:SUITE"):
        resolve_debian(spec, cache=tmp_path)


def test_suite_or_package_that_is_not_there(tmp_path: Path, offer: Offer) -> None:
    offer(
        {
            "sid": Suite(tmp_path, [Package("linux-source-7.2", "1", "all", "", 0)]),
            "empty": Suite(tmp_path, []),
        }
    )
    with pytest.raises(UserError, match="no nosuch here"):
        resolve_debian("debian:nosuch", cache=tmp_path)
    with pytest.raises(UserError, match=r"no linux-source-6\.1\n.*linux-source-7\.2"):
        resolve_debian("debian:sid/linux-source-6.1", cache=tmp_path)
    with pytest.raises(UserError, match="no linux-source package"):
        resolve_debian("debian:empty", cache=tmp_path)


@needs_dpkg
def test_a_package_without_a_kernel_or_a_damaged_one(tmp_path: Path, offer: Offer) -> None:
    tree = make_tree(tmp_path / "t")
    odd = make_deb(tmp_path, "linux-source-7.2", "1", tree, inside="other.tar.xz")
    bad = make_deb(tmp_path, "linux-source-7.1", "1", tree)
    deb = tmp_path / bad.deb
    deb.write_bytes(deb.read_bytes()[:-400])
    offer({"sid": Suite(tmp_path, [odd, bad])})
    with pytest.raises(InfraError, match=r"no usr/src/linux-source-"):
        resolve_debian("debian:sid/linux-source-7.2", cache=tmp_path / "cache")
    with pytest.raises(InfraError, match="cannot be unpacked"):
        resolve_debian("debian:sid/linux-source-7.1", cache=tmp_path / "cache")


@needs_dpkg
def test_newest_selectable_says_what_it_passed_over(tmp_path: Path, offer: Offer) -> None:
    new = make_deb(tmp_path, "linux-source-7.10", "7.10.1-1", make_tree(tmp_path / "u", "universal"))
    mid = make_deb(tmp_path, "linux-source-7.2", "7.2.12-1", make_tree(tmp_path / "s"))
    old = make_deb(tmp_path, "linux-source-6.1", "6.1.1-1", make_tree(tmp_path / "a", "absent"))
    suites = {
        "trixie-backports": Suite(tmp_path, [mid]),
        "forky-backports": Suite(tmp_path, [new]),
        "bookworm-backports": Suite(tmp_path, [old]),
    }
    offer(suites)
    said: list[str] = []
    tree = newest_selectable(cache=tmp_path / "cache", say=said.append)
    assert tree is not None
    assert tree.digest == mid.sha256
    assert any("linux-source-7.10" in line and "universal" in line for line in said)
    assert suites["bookworm-backports"].fetched == []


@needs_dpkg
def test_stable_is_asked_when_backports_have_nothing(tmp_path: Path, offer: Offer) -> None:
    old = make_deb(tmp_path, "linux-source-6.1", "6.1.1-1", make_tree(tmp_path / "a", "absent"))
    good = make_deb(tmp_path, "linux-source-6.12", "6.12.9-1", make_tree(tmp_path / "s"))
    offer(
        {
            "trixie": Suite(tmp_path, [good]),
            "trixie-backports": Suite(tmp_path, []),
            "bookworm": Suite(tmp_path, [old]),
        }
    )
    said: list[str] = []
    tree = newest_selectable(cache=tmp_path / "cache", say=said.append)
    assert tree is not None
    assert tree.digest == good.sha256
    assert "skipped trixie-backports: no linux-source package" in said
    # a suite that the mirror does not have is nothing to tell
    assert not any("forky-backports" in line for line in said)
    offer({"bookworm": Suite(tmp_path, [old])})
    assert newest_selectable(cache=tmp_path / "cache") is None
    offer({})
    with pytest.raises(InfraError, match="no Debian suite answered"):
        newest_selectable(cache=tmp_path / "cache")


class _Offline:
    lists = True

    def __init__(self, root: Path, _suites: object, _arch: str) -> None:
        self.root = root

    def update(self, *, max_age_s: float) -> None:
        raise InfraError(f"no network (asked after {max_age_s:.0f} s)")

    def has_lists(self) -> bool:
        return self.lists


def test_lists_of_an_earlier_day_serve_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_tree, "AptState", _Offline)
    monkeypatch.setattr(debian_tree, "host_arch", lambda: "amd64")
    said: list[str] = []
    debian_tree._state("sid", tmp_path, said.append)
    assert "cached package lists" in said[0]
    monkeypatch.setattr(_Offline, "lists", False)
    with pytest.raises(InfraError, match="no network"):
        debian_tree._state("sid", tmp_path, said.append)
