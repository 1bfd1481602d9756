# SPDX-License-Identifier: GPL-2.0-only
"""The guest image: what is taken out of packages, and what the cache promises."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.archives import parse

from orchestrator.core import arch, data, elf
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import file_digest
from orchestrator.debian import apt, tools
from orchestrator.debian import mirror as debian_mirror
from orchestrator.debian.deb import Member, follow, unpack
from orchestrator.vm.rootfs import extras, image

HOST = arch.host()
APPLETS = ("[", "[[", "ash", "busybox", "init", "ls", "mount", "sh")

needs_tools = pytest.mark.skipif(
    not shutil.which("gcc") or not shutil.which("dpkg-deb"), reason="gcc or dpkg-deb is not installed"
)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A static program with a list of applets, and a dynamic one: what the image takes out of packages."""
    folder = tmp_path_factory.mktemp("programs")
    names = "".join(f"{name}\\0" for name in APPLETS)
    table = (
        f'const char t[] = "junk\\0{names}Then text\\0"; int main(int c, char **v) {{ return t[c] + !v; }}'
    )
    made = {}
    for name, source, flag in (("busybox", table, "-static"), ("dropbear", "int main() {}", "-pie")):
        made[name] = folder / name
        argv = ["gcc", flag, "-x", "c", "-", "-o", str(made[name])]
        subprocess.run(argv, input=source.encode(), check=True)
    return made


def make_deb(folder: Path, name: str, version: str, files: dict[str, bytes | str]) -> Path:
    """A real package; a str is the target of a link."""
    root = folder / f"{name}-{version}"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {HOST.debian}\nMaintainer: x\nDescription: x\n"
    )
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
    deb = folder / f"{name}_{version}_{HOST.debian}.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(deb)]
    subprocess.run(argv, check=True, capture_output=True)
    return deb


class Mirror:
    """Stands in for apt and the network: local packages, and a count of the questions asked."""

    def __init__(self, folder: Path, programs: dict[str, Path]) -> None:
        self.folder = folder
        self.programs = programs
        self.offers: dict[str, tuple[apt.Package, Path]] = {}
        self.log: list[str] = []
        self.online = True
        libc = next(Path("/lib").glob("*-linux-gnu/libc.so.6"))
        loader = Path(elf.read(programs["dropbear"].read_bytes(), "d").interpreter)
        self.libraries: dict[str, bytes | str] = {
            f"{str(libc)[1:]}.real": libc.read_bytes(),
            str(libc)[1:]: "libc.so.6.real",
            f"{str(libc.parent)[1:]}/{loader.name}": loader.read_bytes(),
        }
        if str(loader)[1:] not in self.libraries:
            self.libraries[str(loader)[1:]] = f"{libc.parent}/{loader.name}"
        self.publish("1", root="")

    def publish(self, version: str, *, root: str) -> None:
        """Offer all packages in ``version``; ``root`` is ``usr/`` in suites where / and /usr are merged."""
        libraries = {f"{root}{path}": content for path, content in self.libraries.items()}
        packages: dict[str, dict[str, bytes | str]] = {
            "busybox-static": {f"{root}bin/busybox": self.programs["busybox"].read_bytes()},
            "dropbear-bin": {"usr/sbin/dropbear": self.programs["dropbear"].read_bytes()},
            "libc6": libraries,
        }
        for name, files in packages.items():
            deb = make_deb(self.folder, name, version, files)
            package = apt.Package(name, version, HOST.debian, file_digest(deb), deb.stat().st_size)
            self.offers[name] = (package, deb)

    def __call__(self, root: Path, suites: Sequence[str], debian_arch: str) -> Mirror:
        assert debian_arch == HOST.debian
        self.suites, self.arch = tuple(suites), debian_arch
        return self

    def update(self) -> None:
        self.log.append("update")
        if not self.online:
            raise InfraError("no network")

    def offer(self, name: str, files: dict[str, bytes | str]) -> None:
        """One package more."""
        deb = make_deb(self.folder, name, "1", files)
        package = apt.Package(name, "1", HOST.debian, file_digest(deb), deb.stat().st_size)
        self.offers[name] = (package, deb)

    def show(self, names: Sequence[str]) -> list[apt.Package]:
        return [self.offers[name][0] for name in names if name in self.offers]

    def closure(self, names: Sequence[str]) -> list[apt.Package]:
        """The packages, and all libraries that there are."""
        self.asked = sorted(names)
        assert {"busybox-static", "dropbear-bin"} <= set(names)
        return sorted(p for n, (p, _) in self.offers.items() if n in names or n.startswith("lib"))

    def download_all(self, packages: Sequence[apt.Package], dest: Path) -> list[Path]:
        dest.mkdir(parents=True, exist_ok=True)
        for package in packages:
            if (dest / package.deb).exists():
                continue
            self.log.append(f"get {package.name}={package.version}")
            offer, deb = self.offers[package.name]
            if not self.online or offer != package:
                raise InfraError(f"{package.deb} is not to be had")
            shutil.copyfile(deb, dest / package.deb)
        return [dest / package.deb for package in packages]


@pytest.fixture
def mirror(tmp_path: Path, programs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Mirror:
    if not list(Path("/lib").glob("*-linux-gnu/libc.so.6")):
        pytest.skip("the host has no Debian multiarch layout")
    mirror = Mirror(tmp_path, programs)
    monkeypatch.setattr(apt, "AptState", mirror)
    monkeypatch.setattr(debian_mirror, "host_codename", lambda: "bookworm")
    return mirror


Build = Callable[..., image.GuestImage]


@pytest.fixture
def build(mirror: Mirror, tmp_path: Path) -> Build:
    def run(cache: str = "cache", **options: Any) -> image.GuestImage:
        return image.build_image(HOST.name, cache=tmp_path / cache, say=mirror.log.append, **options)

    return run


def entries(path: Path) -> dict[str, tuple[int, bytes]]:
    return {name: (mode, content) for name, mode, _, content in parse(path.read_bytes())}


@needs_tools
def test_contents(build: Build, programs: dict[str, Path]) -> None:
    made = build()
    files = entries(made.path)
    assert files["usr/bin/busybox"] == (stat.S_IFREG | 0o755, programs["busybox"].read_bytes())
    assert files["usr/sbin/dropbear"][1] == programs["dropbear"].read_bytes()
    assert files["usr/bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox")
    assert files["lib64"][1] == b"usr/lib64"
    assert stat.S_ISCHR(files["dev/console"][0])
    assert stat.S_IMODE(files["init"][0]) == 0o755
    assert stat.S_IMODE(files["tmp"][0]) == 0o1777
    assert made.packages == ("busybox-static=1", "dropbear-bin=1", "libc6=1")


@needs_tools
def test_dropbear_starts_from_the_image_alone(build: Build, tmp_path: Path) -> None:
    """Its loader and libraries are there, each once, under the names that the loader looks for."""
    root = tmp_path / "root"
    for path, (mode, content) in entries(build().path).items():
        if stat.S_ISREG(mode) and path.startswith("usr/"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
            (root / path).chmod(0o755)
    loader = elf.read((root / "usr/sbin/dropbear").read_bytes(), "d").interpreter
    folder = next(root.glob("usr/lib/*-linux-gnu/libc.so.6")).parent
    argv = [str(root / "usr" / loader[1:]), "--inhibit-cache", "--library-path", str(folder), "--list"]
    said = subprocess.run(
        [*argv, str(root / "usr/sbin/dropbear")], capture_output=True, text=True, check=True
    ).stdout
    assert f"libc.so.6 => {folder}/libc.so.6" in said
    assert len(list(root.rglob("ld-linux*"))) == 1


@needs_tools
def test_equal_inputs_give_equal_bytes_in_another_cache(build: Build) -> None:
    one, two = build("one"), build("two")
    assert one.digest == two.digest
    assert one.path != two.path
    assert one.path.read_bytes() == two.path.read_bytes()


@needs_tools
def test_merged_and_unmerged_suites_give_the_same_image(build: Build, mirror: Mirror) -> None:
    before = build("one")
    mirror.publish("2", root="usr/")
    after = build("two")
    assert after.digest != before.digest
    assert after.path.read_bytes() == before.path.read_bytes()


@needs_tools
def test_a_warm_call_asks_nobody(build: Build, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build()
    mirror.log.clear()
    monkeypatch.setattr(apt, "AptState", None)
    assert build() == first
    assert mirror.log == []


@needs_tools
def test_a_new_template_is_a_new_image_without_network(
    build: Build, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build()
    mirror.online = False
    mirror.log.clear()
    monkeypatch.setattr(image, "HOSTNAME", "another")
    second = build()
    assert second.digest != first.digest
    assert b"another" in entries(second.path)["init"][1]
    assert not [line for line in mirror.log if line.startswith(("update", "get"))]
    assert first.path.exists()


@needs_tools
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_torn_entry_is_made_again(build: Build, damage: str) -> None:
    first = build()
    whole = first.path.read_bytes()
    if damage == "gone":
        first.path.unlink()
    else:
        first.path.write_bytes(whole[:-512] if damage == "cut" else whole[:-1] + b"x")
    assert build().path.read_bytes() == whole


@needs_tools
def test_a_torn_memory_is_asked_for_again(build: Build, mirror: Mirror, tmp_path: Path) -> None:
    first = build()
    for memory in (tmp_path / "cache/images").glob("*.json"):
        memory.write_text("[{")
    mirror.log.clear()
    assert build() == first
    assert "update" in mirror.log


@needs_tools
def test_versions_stay_in_a_cache(build: Build, mirror: Mirror) -> None:
    first = build()
    mirror.publish("2", root="")
    assert build() == first
    assert build("another").packages == ("busybox-static=2", "dropbear-bin=2", "libc6=2")


@needs_tools
def test_versions_that_are_gone_from_the_mirror_are_replaced(
    build: Build, mirror: Mirror, tmp_path: Path
) -> None:
    first = build()
    shutil.rmtree(tmp_path / "cache/debs")
    first.path.unlink()
    mirror.publish("2", root="")
    assert build().packages[0] == "busybox-static=2"
    assert any("no longer available" in line for line in mirror.log)


@needs_tools
def test_no_network_and_no_cache(build: Build, mirror: Mirror) -> None:
    mirror.online = False
    with pytest.raises(InfraError, match="no network"):
        build()


def test_an_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s390"):
        image.build_image("s390", cache=tmp_path, say=print)


@needs_tools
def test_packages_of_another_architecture_are_refused(mirror: Mirror) -> None:
    packages = unpack([deb for _, deb in mirror.offers.values()])
    other = next(arch.load(name) for name in arch.usual() if name != HOST.name)
    with pytest.raises(InfraError, match=f"is not for {other.name}"):
        image.assemble(other, image.load_recipe(), packages)


@needs_tools
@pytest.mark.parametrize(
    ("lacking", "what"),
    [
        ("dropbear-bin", "dropbear-bin has no file sbin/dropbear"),
        ("libc6", "which is in none of the packages"),
    ],
)
def test_a_package_without_its_file(mirror: Mirror, lacking: str, what: str) -> None:
    packages = unpack([deb for _, deb in mirror.offers.values()])
    with pytest.raises(InfraError, match=what):
        image.assemble(HOST, image.load_recipe(), packages | {lacking: {}})


@needs_tools
def test_a_damaged_package(tmp_path: Path) -> None:
    deb = tmp_path / "x_1_all.deb"
    deb.write_bytes(b"!<arch>\n")
    with pytest.raises(InfraError, match=r"x_1_all\.deb"):
        unpack([deb])


@needs_tools
def test_hard_links_in_packages(tmp_path: Path) -> None:
    root = tmp_path / "h-1"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/a").write_bytes(b"content")
    os.link(root / "usr/bin/a", root / "usr/bin/b")
    deb = make_deb(tmp_path, "h", "1", {})
    files = unpack([deb])["h"]
    assert files["usr/bin/a"] == files["usr/bin/b"] == Member(b"content")


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("real", b"x"),
        ("../lib/real", b"x"),
        ("/lib/real", b"x"),
        ("/usr/lib/real", b"x"),
        ("../../../../../usr/lib/real", b"x"),
        ("link", None),
        ("missing", None),
        ("/etc/passwd", None),
    ],
)
def test_links_in_packages(target: str, content: bytes | None) -> None:
    files = {"usr/lib/link": Member(target=target), "usr/lib/real": Member(b"x")}
    assert follow(files, "usr/lib/link") == content


def test_applets_come_from_the_binary() -> None:
    table = b"\0".join(name.encode() for name in APPLETS)
    found = image.applets(b"\0[\0[[\0zz\0not this\0" + bytes(9) + table + b"\0after\0")
    assert found == tuple(name for name in APPLETS if name != "busybox")
    # Debian 13's busybox has no NUL before the list
    assert image.applets(b"\xc0\xae " + table + b"\0after\0") == found


@pytest.mark.parametrize("binary", [b"", b"\0[\0[[\0ash\0sh\0", b"\0[\0[[\0../../etc\0init\0mount\0sh\0"])
def test_a_binary_without_a_usable_list_of_applets(binary: bytes) -> None:
    with pytest.raises(InfraError, match="no list of applets"):
        image.applets(binary)


def test_templates_are_complete_shell() -> None:
    script = image.render("init")
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)
    assert "{{" not in script
    assert "orchestrate: init" in script
    assert script.rstrip().endswith('echo "orchestrate: ready"')


def test_a_template_with_an_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "init.j2").write_text("{{ nonesuch }}")
    monkeypatch.setattr(data, "guest", lambda: tmp_path)
    with pytest.raises(InfraError, match="nonesuch"):
        image.render("init")


def test_a_misspelt_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (data.guest() / "packages.toml").read_text()
    (tmp_path / "packages.toml").write_text(text.replace("[[package]]", "[[packages]]"))
    monkeypatch.setattr(data, "guest", lambda: tmp_path)
    with pytest.raises(InfraError, match="packages"):
        image.load_recipe()


# --- packages that a suite asks for -----------------------------------------------------------------------


@pytest.fixture
def bash(mirror: Mirror, programs: dict[str, Path], tmp_path: Path) -> Mirror:
    """A package with a program, a library of another one's, links of each kind, and what nobody needs."""
    (tmp_path / "own.c").write_text("int own(void) { return 0; }\n")
    library = tmp_path / "libown.so.1.2"
    subprocess.run(
        ["gcc", "-shared", "-Wl,-soname,libown.so.1", tmp_path / "own.c", "-o", library], check=True
    )
    source = "int own(void); int main(void) { return own(); }"
    argv = ["gcc", "-x", "c", "-", "-x", "none", str(library), "-o", str(tmp_path / "bash")]
    subprocess.run(argv, input=source.encode(), check=True)
    folder = next(Path(path).parent for path in mirror.libraries if path.endswith("/libc.so.6"))
    files: dict[str, bytes | str] = {
        f"{folder}/libown.so.1.2": library.read_bytes(),
        f"{folder}/libown.so.1": "libown.so.1.2",
        f"{folder}/libother.so.1": b"x",
    }
    mirror.offer("libown1", files)
    mirror.offer(
        "bash",
        {
            "bin/bash": (tmp_path / "bash").read_bytes(),
            "bin/rbash": "bash",
            "bin/sh": "bash",
            "sbin/init": b"another",
            "usr/bin/mount": "/etc/alternatives/mount",
            "usr/sbin/ls": b"#!/bin/bash\n",
            "usr/libexec/helper": b"x",
            "usr/lib/firmware.elf": b"\x7fELF but no more",
            "usr/share/bash/real/data": b"x",
            "usr/share/bash/linked": "real",
            "usr/share/doc/bash/README": b"x",
            "usr/share/locale/de/bash.mo": b"x",
            "etc/bash.bashrc": b"x",
            "etc/passwd": b"root::0:0::/:/bin/bash",
            "var/lib/bash": b"x",
        },
    )
    return mirror


@needs_tools
def test_a_further_package(build: Build, bash: Mirror, tmp_path: Path) -> None:
    plain, files = entries(build().path), entries(build(extra=["bash"]).path)
    assert bash.asked == ["bash", "busybox-static", "dropbear-bin"]
    assert files["usr/bin/bash"] == (stat.S_IFREG | 0o644, (tmp_path / "bash").read_bytes())
    assert files["usr/bin/rbash"] == (stat.S_IFLNK | 0o777, b"/usr/bin/bash")
    # its library, of another package, under both names; nothing else of that
    (library,) = (path for path in files if path.endswith("/libown.so.1"))
    assert files[library][1].decode() == f"/{library}.2"
    assert files[f"{library}.2"][1] == (tmp_path / "libown.so.1.2").read_bytes()
    # busybox's link gives way wherever the program lies, its shell and its init do not
    assert "usr/bin/ls" not in files
    assert files["usr/sbin/ls"][1] == b"#!/bin/bash\n"
    assert files["usr/bin/sh"][1] == files["usr/bin/init"][1] == b"busybox"
    assert "usr/sbin/init" not in files
    # what only an installation script would have made is not there: busybox's stays
    assert files["usr/bin/mount"][1] == b"busybox"
    assert files["usr/share/bash/linked"][1] == b"/usr/share/bash/real"
    new = {path for path in set(files) - set(plain) if not stat.S_ISDIR(files[path][0])}
    assert new == {
        "etc/bash.bashrc",
        "usr/bin/bash",
        "usr/bin/rbash",
        "usr/lib/firmware.elf",
        "usr/libexec/helper",
        "usr/sbin/ls",
        "usr/share/bash/linked",
        "usr/share/bash/real/data",
        library,
        f"{library}.2",
    }
    assert set(plain) - set(files) == {"usr/bin/ls"}
    assert {path for path in plain if path in files and plain[path] != files[path]} == set()


@needs_tools
def test_images_with_and_without_further_packages(build: Build, bash: Mirror) -> None:
    """Each has its place; the order of names is nothing, and a warm call asks nobody."""
    bash.offer("gawk", {"usr/bin/gawk": b"#!/bin/sh\n"})
    plain, one, two = build(), build(extra=["bash"]), build(extra=["bash", "gawk"])
    # in the plain image there is only as much of it as dropbear needs
    three = build(extra=["libown1"])
    assert three.packages == plain.packages
    assert len({plain.digest, one.digest, two.digest, three.digest}) == 4
    bash.log.clear()
    assert build() == plain
    assert build(extra=("gawk", "bash", "bash")) == two
    assert build(extra=("bash",)) == one
    assert bash.log == []


@needs_tools
@pytest.mark.parametrize("name", ["nosuch", "bash-"])
def test_a_further_package_that_does_not_exist(build: Build, bash: Mirror, name: str) -> None:
    with pytest.raises(UserError, match=f"no package '{name}' for {HOST.debian} in Debian's bookworm"):
        build(extra=["bash", name])


@needs_tools
def test_further_packages_that_are_too_large(
    build: Build, bash: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "LIMIT_MIB", 1)
    bash.offer("large", {"usr/share/large": bytes(1 << 20)})
    build(extra=["large"])
    bash.offer("larger", {"usr/share/larger": bytes(1 + (1 << 20))})
    with pytest.raises(UserError, match="larger have 1 MiB, the limit of a guest is 1 MiB"):
        build(extra=["larger"])


@needs_tools
def test_packages_that_do_not_fit_together(build: Build, bash: Mirror) -> None:
    bash.offer("one", {"usr/share/x": b"a file"})
    bash.offer("two", {"usr/share/x/y": b"a file in it"})
    with pytest.raises(InfraError, match="usr/share/x"):
        build(extra=["one", "two"])


@pytest.mark.guest
@pytest.mark.parametrize("known", [arch.load(name) for name in arch.usual()], ids=lambda known: known.name)
def test_the_real_image_twice_in_two_caches(tmp_path: Path, known: Arch) -> None:
    if not tools.have_apt():
        pytest.skip("the host has no apt")
    images = [
        image.build_image(known.name, cache=tmp_path / name, say=lambda _: None) for name in ("one", "two")
    ]
    assert images[0].digest == images[1].digest
    assert images[0].path.read_bytes() == images[1].path.read_bytes()
    files = entries(images[0].path)
    assert elf.machine(files["usr/sbin/dropbear"][1], "dropbear") == known.elf
    wanted = {"sh", "init", "mount", "cp", "date", "ifconfig", "route", "usleep", "reboot", "tar", "cat"}
    assert wanted <= {Path(path).name for path in files if path.startswith("usr/bin/")}
