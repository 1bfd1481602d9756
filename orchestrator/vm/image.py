# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root file system: a few files out of Debian packages, packed as an initramfs without root.

``guest/packages.toml`` says what goes in. Equal inputs give equal bytes, whoever builds and wherever.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2
import msgspec

from orchestrator import data, elf
from orchestrator.arch import Arch
from orchestrator.arch import load as load_arch
from orchestrator.errors import InfraError
from orchestrator.source import apt
from orchestrator.store import Store, digest_of, file_digest
from orchestrator.vm import cpio, overlay

#: The suite on hosts that are not Debian's.
FALLBACK_SUITE = "stable"
#: QEMU's user network as every guest sees it (``-netdev user``): no DHCP, it costs a second.
NETWORK = {"interface": "eth0", "address": "10.0.2.15", "netmask": "255.255.255.0", "gateway": "10.0.2.2"}
SSH_PORT = 22
HOSTNAME = "orchestrate"

_MERGED = re.compile(r"^(?:bin|sbin|lib|lib64)/")
_APPLET = re.compile(r"[a-z0-9_.\[-]{1,32}")
_LINK_DEPTH = 8
_UNPACK_S = 120
_NAME = "guest.cpio"

Say = Callable[[str], None]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package, and the shell patterns of the files to take out of it."""

    name: str
    files: tuple[str, ...]


class Directory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    mode: int = 0o755


class Applets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The multi-call program that gets links by its applets' names."""

    of: str


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where ``guest/<name>.j2`` goes."""

    path: str
    mode: int


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``guest/packages.toml``."""

    package: tuple[Wanted, ...]
    applets: Applets
    directory: tuple[Directory, ...]
    links: dict[str, str]
    files: dict[str, str]
    templates: dict[str, Template]


@dataclass(frozen=True)
class GuestImage:
    """``path`` is an uncompressed newc archive, ``digest`` that of its inputs, ``packages`` name=version."""

    path: Path
    digest: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """A file of a package: its content, or the target of a symbolic link."""

    data: bytes = b""
    target: str = ""


def build_image(
    arch: str, *, cache: Path, say: Say, suite: str | None = None, refresh: bool = False
) -> GuestImage:
    """The guest image of ``arch``, out of the cache or newly made.

    Which versions a suite gives is asked once and then remembered, so a second call needs no network.

    :param cache: ``images/``, ``debs/`` and ``apt/`` are kept in it (see ``store``).
    :param say: gets a line of progress before each step that takes time.
    :param suite: a Debian suite; the host's own by default.
    :param refresh: ask the suite again.
    :raises UserError: no such architecture.
    :raises InfraError: a package cannot be had, or does not hold what it should.
    """
    known, store, recipe = load_arch(arch), Store(cache), load_recipe()
    suite = suite or apt.host_codename() or FALLBACK_SUITE
    names = [package.name for package in recipe.package]
    memory = cache / "images" / f"{suite}-{arch}-{digest_of(names)}.json"
    packages = None if refresh else _recall(memory)
    if packages is not None:
        digest = _inputs(known, recipe, packages)
        found = store.find("images", digest)
        if found is not None:
            return _image(found, digest, packages)

    with store.lock(f"guest-{suite}-{arch}", waiting=lambda: say(f"{arch}: waiting for the guest image")):
        state = apt.AptState(cache / "apt" / f"{suite}-{known.debian}", [suite], known.debian)
        packages, debs = _fetch(state, names, packages, cache / "debs", say)
        overlay.write_atomically(memory, msgspec.json.format(msgspec.json.encode(packages)), mode=0o644)

    def make(folder: Path) -> None:
        say(f"{arch}: packing the guest image")
        overlay.write_atomically(folder / _NAME, assemble(known, recipe, unpack(debs)), mode=0o644)

    digest = _inputs(known, recipe, packages)
    return _image(store.entry("images", digest, make), digest, packages)


def load_recipe() -> Recipe:
    """``guest/packages.toml``.

    :raises InfraError: it is absent or not as it should be.
    """
    path = data.guest() / "packages.toml"
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.MsgspecError) as error:
        raise InfraError(f"{path}: {error}", remedy="mend the file, or install orchestrate again") from error


def unpack(debs: Sequence[Path]) -> dict[str, dict[str, Member]]:
    """The files of each package by their paths, with /bin, /sbin and /lib* moved below usr/.

    :returns: by package name, then by path.
    :raises InfraError: dpkg-deb is absent, or a package is damaged.
    """
    return {deb.name.partition("_")[0]: _unpack_one(deb) for deb in debs}


def assemble(arch: Arch, recipe: Recipe, packages: Mapping[str, Mapping[str, Member]]) -> bytes:
    """The archive of what ``recipe`` names; a pure function of its arguments and the templates.

    :raises InfraError: a package lacks a file or a library, or is of another architecture.
    """
    everything = {path: member for name in sorted(packages) for path, member in packages[name].items()}
    files: dict[str, cpio.Entry] = {}

    def put(entry: cpio.Entry) -> None:
        files[entry.path] = entry

    def program(path: str, content: bytes) -> None:
        put(cpio.regular(path, content, 0o755))

    for directory in recipe.directory:
        put(cpio.directory(directory.path, directory.mode))
    for link, target in recipe.links.items():
        put(cpio.symlink(link, target))
    for path, text in recipe.files.items():
        put(cpio.regular(path, text.lstrip("\n").encode()))
    for name, template in recipe.templates.items():
        put(cpio.regular(template.path, render(name).encode(), template.mode))
    for wanted in recipe.package:
        for path, content in _taken(wanted, packages.get(wanted.name, {})).items():
            program(path, content)
            if elf.machine(content, path) not in arch.machines:
                raise InfraError(f"{path} of {wanted.name} is not for {arch.name}")
            for word in elf.closure(content, path, lambda word: library(everything, word)[1]):
                place, found = library(everything, word)
                program(place, found or b"")
    for name in applets(files[recipe.applets.of].data):
        link = f"{PurePosixPath(recipe.applets.of).parent}/{name}"
        if link not in files:
            put(cpio.symlink(link, PurePosixPath(recipe.applets.of).name))
    # the kernel opens these before it starts /init
    put(cpio.char_device("dev/console", 5, 1))
    put(cpio.char_device("dev/null", 1, 3, 0o666))
    return cpio.archive(files.values())


def render(name: str) -> str:
    """``guest/<name>.j2`` with this module's constants filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data.guest()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    try:
        return environment.get_template(f"{name}.j2").render(
            NETWORK, port=SSH_PORT, hostname=HOSTNAME, host_key=overlay.HOST_KEY
        )
    except jinja2.TemplateError as error:
        raise InfraError(f"guest/{name}.j2: {error}") from error


def applets(binary: bytes) -> tuple[str, ...]:
    """The applet names in a busybox binary: a sorted list of NUL-ended strings that begins with ``[``.

    The binary is another architecture's and cannot be asked.

    :raises InfraError: no such list, or one without a shell.
    """
    # nothing is said of the byte before it: in some builds the list follows on a table of numbers
    for start in re.finditer(rb"\[\0\[\[\0", binary):
        names: list[str] = []
        for raw in binary[start.start() : start.start() + 16384].split(b"\0"):
            name = raw.decode("ascii", "replace")
            if not _APPLET.fullmatch(name) or (names and name <= names[-1]):
                break
            names.append(name)
        if {"sh", "init", "mount"} <= set(names):
            return tuple(name for name in names if name != "busybox")
    raise InfraError("the busybox package holds no list of applets that has sh, init and mount")


def _fetch(
    state: apt.AptState,
    names: Sequence[str],
    packages: tuple[apt.Package, ...] | None,
    dest: Path,
    say: Say,
) -> tuple[tuple[apt.Package, ...], list[Path]]:
    """The packages' files, in the versions remembered or, failing those, in today's."""
    if packages is not None:
        try:
            return packages, state.download_all(packages, dest)
        except InfraError:
            say(f"{state.arch}: the packages remembered are no longer to be had, asking for today's")
    say(f"{state.arch}: fetching {', '.join(names)} from {' '.join(state.suites)}")
    state.update()
    packages = tuple(state.closure(names))
    return packages, state.download_all(packages, dest)


def _inputs(arch: Arch, recipe: Recipe, packages: Sequence[apt.Package]) -> str:
    """The digest of all that makes the image what it is, the code that does among it."""
    code = [file_digest(Path(file)) for file in (__file__, cpio.__file__, elf.__file__)]
    templates = {name: render(name) for name in sorted(recipe.templates)}
    pinned = [(package.name, package.version, package.sha256) for package in packages]
    return digest_of("guest image", arch.name, recipe, pinned, templates, code)


def _image(folder: Path, digest: str, packages: Sequence[apt.Package]) -> GuestImage:
    versions = tuple(f"{package.name}={package.version}" for package in packages)
    return GuestImage(folder / _NAME, digest, versions)


def _recall(memory: Path) -> tuple[apt.Package, ...] | None:
    """The packages that the suite gave when it was last asked; None where that is not known."""
    try:
        return msgspec.json.decode(memory.read_bytes(), type=tuple[apt.Package, ...])
    except (OSError, msgspec.MsgspecError):
        return None


def _unpack_one(deb: Path) -> dict[str, Member]:
    members: dict[str, Member] = {}
    try:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(deb)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for info in tar:
                    path = _merge(info.name.removeprefix("./"))
                    if info.issym():
                        members[path] = Member(target=info.linkname)
                    elif info.islnk():
                        members[path] = members[_merge(info.linkname.removeprefix("./"))]
                    elif info.isfile():
                        stream = tar.extractfile(info)
                        members[path] = Member(stream.read() if stream else b"")
            status = process.wait(timeout=_UNPACK_S)
    except FileNotFoundError as error:
        raise InfraError("dpkg-deb is not installed", remedy="install Debian's dpkg") from error
    except (tarfile.TarError, KeyError, subprocess.TimeoutExpired) as error:
        raise InfraError(f"{deb} cannot be unpacked: {error}", remedy="remove it and try again") from error
    if status != 0:
        raise InfraError(f"{deb} is damaged (dpkg-deb: {status})", remedy="remove it and try again")
    return members


def _merge(path: str) -> str:
    return f"usr/{path}" if _MERGED.match(path) else path


def _taken(wanted: Wanted, members: Mapping[str, Member]) -> dict[str, bytes]:
    """The contents of the files that the patterns name, links followed."""
    taken: dict[str, bytes] = {}
    for pattern in wanted.files:
        paths = [path for path in sorted(members) if fnmatch.fnmatchcase(path, _merge(pattern))]
        if not paths:
            raise InfraError(f"package {wanted.name} has no file {pattern}")
        for path in paths:
            content = follow(members, path)
            if content is not None:
                taken[path] = content
    return taken


def library(members: Mapping[str, Member], word: str) -> tuple[str, bytes | None]:
    """Where the loader will look for ``word`` (a path, or a soname), and what is to be there."""
    if word.startswith("/"):
        path = _merge(word.lstrip("/"))
        return path, follow(members, path)
    for pattern in (f"usr/lib/*-linux-gnu*/{word}", f"usr/lib/{word}", f"usr/lib64/{word}"):
        for path in sorted(members):
            if path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern):
                return path, follow(members, path)
    return word, None


def follow(members: Mapping[str, Member], path: str) -> bytes | None:
    """The content at ``path``; None where links lead nowhere, out of the packages, or in circles."""
    for _ in range(_LINK_DEPTH):
        member = members.get(path)
        if member is None or not member.target:
            return member.data if member else None
        parts: list[str] = []
        for part in (PurePosixPath("/", path).parent / member.target).parts[1:]:
            if part == "..":
                parts = parts[:-1]
            else:
                parts.append(part)
        path = _merge("/".join(parts))
    return None
