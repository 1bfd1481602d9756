# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.trees import snapshot

from orchestrator.core.errors import InfraError
from orchestrator.core.store import file_digest
from orchestrator.debian import apt, mirror, tools
from orchestrator.debian.apt import AptState, NoSuite, Package
from orchestrator.debian.mirror import Mirror, host_codename, pick_mirror
from orchestrator.debian.tools import have_apt, host_arch

HOST = "http://mirror.invalid"
ARCHIVE = f"{HOST}/debian/"
SECURITY = f"{HOST}/debian-security/"


def _row(
    uri: str, origin: str, label: str, suite: str, *, component: str = "main", entry: str = "/none:1"
) -> list[str]:
    return [uri, origin, label, suite, component, entry, "Packages"]


def test_debians_own_archive_is_picked() -> None:
    rows = [
        _row(f"{HOST}/node/", "Node", "Node", "nodistro"),
        _row(SECURITY, "Debian", "Debian-Security", "bookworm-security"),
        _row(ARCHIVE, "Debian", "Debian", "bookworm"),
        _row(f"{HOST}/second/", "Debian", "Debian", "bookworm-updates"),
    ]
    mirror = pick_mirror(rows, codename="bookworm")
    assert (mirror.archive, mirror.security) == (ARCHIVE, SECURITY)
    assert mirror.uri("trixie-backports") == ARCHIVE
    assert mirror.uri("trixie-security") == SECURITY
    with pytest.raises(InfraError, match="no Debian security archive"):
        Mirror(ARCHIVE).uri("trixie-security")


@pytest.mark.parametrize("blank", ["", "$(ORIGIN)"])
def test_a_host_that_never_updated_knows_no_origins(blank: str) -> None:
    rows = [
        _row(f"{HOST}/docker/", blank, blank, "bookworm", component="stable"),
        _row(f"{HOST}/other/", blank, blank, "nodistro"),
        _row(SECURITY, blank, blank, "bookworm-security"),
        _row(ARCHIVE, blank, blank, "bookworm"),
    ]
    mirror = pick_mirror(rows, codename="bookworm")
    assert (mirror.archive, mirror.security) == (ARCHIVE, SECURITY)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [_row(ARCHIVE, "Ubuntu", "Ubuntu", "noble")],
        [_row("cdrom:[Debian]/", "Debian", "Debian", "bookworm")],
        [_row(SECURITY, "Debian", "Debian-Security", "bookworm-security")],
        [_row(ARCHIVE, "", "", "sid")],
    ],
)
def test_no_debian_archive(rows: list[list[str]]) -> None:
    with pytest.raises(InfraError, match="name no Debian archive") as caught:
        pick_mirror(rows, codename="bookworm")
    assert "kernel tree or tarball" in caught.value.remedy


INLINE = " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.sources", "Types: deb\nURIs: {uri}\nSuites: x\n# comment\nSigned-By: {key}\n"),
        ("d.sources", "Signed-By:\n {key}\nURIs: {uri}\n\nURIs: http://other.invalid\nSigned-By: /other\n"),
        ("d.list", "# deb x\ndeb [arch=amd64 signed-by={key}] {uri} bookworm main\n"),
        (
            "d.list",
            "deb [signed-by={key},/nonexistent] {uri}/ bookworm main\ndeb http://other.invalid x main\n",
        ),
    ],
)
def test_keys_named_by_the_host(tmp_path: Path, name: str, text: str) -> None:
    key = tmp_path / "key.gpg"
    key.write_bytes(b"key")
    (tmp_path / name).write_text(text.format(uri=ARCHIVE.rstrip("/"), key=key))
    mirror = pick_mirror([_row(ARCHIVE, "Debian", "Debian", "x", entry=f"{tmp_path / name}:1")], codename="x")
    assert mirror.keyrings[0] == key
    assert mirror.inline_keys == ()


def test_a_key_written_into_the_entry(tmp_path: Path) -> None:
    sources = tmp_path / "d.sources"
    sources.write_text(f"URIs: {ARCHIVE}\nSigned-By:\n{INLINE}Suites: x\n")
    mirror = pick_mirror([_row(ARCHIVE, "Debian", "Debian", "x", entry=f"{sources}:1")], codename="x")
    (block,) = mirror.inline_keys
    assert block.splitlines() == [
        line.strip().replace(".", "") if line == " ." else line.strip() for line in INLINE.splitlines()
    ]


def test_no_debian_tools_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="apt-get") as caught:
        AptState(tmp_path / "apt", ["bookworm"], "amd64")
    assert caught.value.remedy


def test_file_names_are_safe() -> None:
    assert Package("a", "1:2.0-1", "arm64", "", 0).deb == "a_1%3a2.0-1_arm64.deb"


# --- with the host's own apt, without network

needs_apt = pytest.mark.skipif(not have_apt(), reason="not a Debian host")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AptState:
    """A state whose mirror is an empty directory."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setattr(apt, "host_mirror", lambda: Mirror(f"file:{tmp_path}/mirror"))
    return AptState(tmp_path / "apt", ["bookworm", "bookworm-updates"], "arm64")


@needs_apt
def test_apt_sees_nothing_of_the_hosts_state(offline: AptState, tmp_path: Path) -> None:
    dump = offline._run("apt-config", "dump")
    assert 'APT::Architecture "arm64";' in dump
    assert "Post-Invoke" not in dump
    settings = dict(line.rstrip(";").split(" ", 1) for line in dump.splitlines() if " " in line)
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc"):
        assert settings[name].strip('"').startswith(str(tmp_path)), name
    query = ["apt-get", "indextargets", "--no-release-info", "--format"]
    listing = offline._run(*query, "$(REPO_URI) $(RELEASE) $(ARCHITECTURE)")
    assert set(listing.splitlines()) == {
        f"file:{tmp_path}/mirror/ {suite} {arch}"
        for suite in ("bookworm", "bookworm-updates")
        for arch in ("arm64", "all")
    }
    assert not offline.has_lists()


@needs_apt
def test_a_mirror_without_the_suite(offline: AptState) -> None:
    with pytest.raises(InfraError, match=r"does not have a Release file|does not have all"):
        offline.update(max_age_s=3600)


@needs_apt
def test_a_package_nobody_has(offline: AptState, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="nosuch"):
        offline.closure(["nosuch"])
    with pytest.raises(InfraError, match="nosuch"):
        offline.download("nosuch", tmp_path)
    assert offline.search("^nosuch") == []


@needs_apt
def test_what_is_there_already_is_not_fetched(offline: AptState, tmp_path: Path) -> None:
    path = tmp_path / "debs/a_1_all.deb"
    path.parent.mkdir()
    path.write_bytes(b"deb")
    package = Package("a", "1", "all", file_digest(path), 3)
    assert offline.download(package, path.parent) == path
    path.write_bytes(b"bad")
    with pytest.raises(InfraError):
        offline.download(package, path.parent)
    assert list(path.parent.iterdir()) == [path]


@needs_apt
@pytest.mark.skipif(not host_codename(), reason="not a Debian host")
def test_mirror_of_a_host_without_package_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        expected = mirror.host_mirror()
    except InfraError as error:
        pytest.skip(str(error))
    real = tools.call
    monkeypatch.setattr(
        mirror, "call", lambda argv, **kw: real([*argv, "-o", f"Dir::State::lists={tmp_path}"], **kw)
    )
    assert mirror.host_mirror() == expected


# --- the host's real mirror


@pytest.mark.guest
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_closure_of_another_architecture_from_the_real_mirror(tmp_path: Path, arch: str) -> None:
    lists = Path("/var/lib/apt/lists")
    before = {name: value[:4] for name, value in snapshot(lists).items()}
    suite = host_codename()
    state = AptState(tmp_path / "apt", [suite, f"{suite}-updates"], arch)
    state.update()
    assert state.has_lists()
    assert (tmp_path / "apt/updated").exists()
    closure = state.closure(["busybox-static", "dropbear-bin"])
    assert {"busybox-static", "dropbear-bin", "libc6", "zlib1g"} <= {package.name for package in closure}
    assert {package.arch for package in closure} <= {arch, "all"}
    small = sorted(closure, key=lambda package: package.size)[:3]
    paths = state.download_all(small, tmp_path / "debs")
    for package, path in zip(small, paths, strict=True):
        assert (file_digest(path), path.stat().st_size) == (package.sha256, package.size)
    fields = subprocess.run(["dpkg-deb", "-f", paths[0]], capture_output=True, text=True, check=True).stdout
    assert f"Package: {small[0].name}\n" in fields
    paths[0].write_bytes(b"torn")
    assert file_digest(state.download(small[0], tmp_path / "debs")) == small[0].sha256
    assert {name: value[:4] for name, value in snapshot(lists).items()} == before
    with pytest.raises(NoSuite):
        AptState(tmp_path / "none", ["nosuch"], arch).update()


@pytest.mark.guest
def test_backports_beyond_the_hosts_release_from_the_real_mirror(tmp_path: Path) -> None:
    state = AptState(tmp_path / "apt", ["trixie-backports"], host_arch())
    state.update()
    stamp = (tmp_path / "apt/updated").stat().st_mtime_ns
    state.update(max_age_s=3600)
    assert (tmp_path / "apt/updated").stat().st_mtime_ns == stamp
    found = state.search("^linux-source-[0-9.]+$")
    assert found
    assert all(package.sha256 and package.size > 10**8 for package in found)


@pytest.mark.guest
@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user: needs root")
def test_real_mirror_without_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for parent in home.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001 and "pytest" in parent.name:
            parent.chmod(0o711)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from orchestrator.debian.apt import AptState; from orchestrator.debian.mirror import host_codename\n"
        # After the imports: the interpreter itself may be out of the other user's reach.
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.environ['HOME'] = sys.argv[1]\n"
        "state = AptState(Path(sys.argv[1]) / 'apt', [host_codename()], 'arm64'); state.update()\n"
        "print(state.download('busybox-static', Path(sys.argv[1])))\n"
    )
    argv = [sys.executable, "-B", "-c", script, str(home)]
    done = subprocess.run(argv, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).stat().st_size > 10**5
