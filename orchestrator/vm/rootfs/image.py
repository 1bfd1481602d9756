# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root file system: a few files of Debian packages, packed as an initramfs without root.

``guest/packages.toml`` lists them. Equal inputs give equal bytes on every host.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2
import msgspec

from orchestrator.core import data, elf
from orchestrator.core.arch import Arch
from orchestrator.core.arch import load as load_arch
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import Store, digest_of, file_digest
from orchestrator.debian import apt, deb, mirror
from orchestrator.debian.deb import Member, follow, library, merged_path, unpack
from orchestrator.vm.rootfs import cpio, extras, overlay

#: The suite on hosts that are not Debian's.
FALLBACK_SUITE = "stable"
#: QEMU's user network as every guest sees it (``-netdev user``): no DHCP, it costs a second.
NETWORK = {"interface": "eth0", "address": "10.0.2.15", "netmask": "255.255.255.0", "gateway": "10.0.2.2"}
SSH_PORT = 22
HOSTNAME = "orchestrate"

_APPLET = re.compile(r"[a-z0-9_.\[-]{1,32}")
_NAME = "guest.cpio"

Say = Callable[[str], None]


class PackageFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package, and the shell patterns of the files to copy from it."""

    name: str
    files: tuple[str, ...]


class Directory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory of the guest."""

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

    package: tuple[PackageFiles, ...]
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


def build_image(
    arch: str,
    *,
    cache: Path,
    say: Say,
    extra: Iterable[str] = (),
) -> GuestImage:
    """The guest image of ``arch``, from the cache or newly built, from the arch's or the host's Debian suite.

    The versions of the packages are remembered, so a second call needs no network.

    :param cache: the folder of ``images/``, ``debs/`` and ``apt/`` (see ``store``).
    :param say: gets a line of progress before each slow step.
    :param extra: more packages for the guest (see ``extras``).
    :raises UserError: no such architecture, no such package among ``extra``, or they are too large.
    :raises InfraError: a package cannot be fetched, or lacks a file.
    """
    architecture, store, recipe = load_arch(arch), Store(cache), load_recipe()
    suite = architecture.guest_suite or mirror.host_codename() or FALLBACK_SUITE
    names = [package.name for package in recipe.package]
    more = tuple(sorted(set(extra)))
    memory = cache / "images" / f"{suite}-{arch}-{digest_of([*names, *more])}.json"
    packages = _recall(memory)
    if packages is not None:
        digest = _inputs(architecture, recipe, packages, more)
        folder = store.find("images", digest)
        if folder is not None:
            return _image(folder, digest, packages)

    with store.lock(f"guest-{suite}-{arch}", waiting=lambda: say(f"{arch}: waiting for the guest image")):
        state = apt.AptState(cache / "apt" / f"{suite}-{architecture.debian}", [suite], architecture.debian)
        packages, debs = _fetch(state, names, more, packages, cache / "debs", say)
        write_atomically(memory, msgspec.json.format(msgspec.json.encode(packages)))

    def make(folder: Path) -> None:
        say(f"{arch}: packing the guest image")
        write_atomically(folder / _NAME, assemble(architecture, recipe, unpack(debs), more))

    digest = _inputs(architecture, recipe, packages, more)
    return _image(store.entry("images", digest, make), digest, packages)


def load_recipe() -> Recipe:
    """``guest/packages.toml``.

    :raises InfraError: it is absent or damaged.
    """
    path = data.guest() / "packages.toml"
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.MsgspecError) as error:
        raise InfraError(f"{path}: {error}", remedy="correct it, or install orchestrate again") from error


def assemble(
    arch: Arch,
    recipe: Recipe,
    packages: Mapping[str, Mapping[str, Member]],
    more: Sequence[str] = (),
) -> bytes:
    """The archive of the files that ``recipe`` names; a pure function of its arguments and the templates.

    :param more: packages to include as a whole.
    :raises UserError: those are too large.
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
    for package in recipe.package:
        for path, content in _select_files(package, packages.get(package.name, {})).items():
            program(path, content)
            if elf.machine(content, path) != arch.elf:
                raise InfraError(f"{path} of {package.name} is not for {arch.name}")
            for word in elf.closure(content, path, lambda word: library(everything, word)[1]):
                place, library_content = library(everything, word)
                program(place, library_content or b"")
    files |= extras.entries(arch, more, packages, files)
    replaced = {PurePosixPath(path).name for path in files if extras.is_program(path)}
    for name in applets(files[recipe.applets.of].data):
        link = f"{PurePosixPath(recipe.applets.of).parent}/{name}"
        if name not in replaced:
            put(cpio.symlink(link, PurePosixPath(recipe.applets.of).name))
    # the kernel opens these before it starts /init
    put(cpio.char_device("dev/console", 5, 1))
    put(cpio.char_device("dev/null", 1, 3, 0o666))
    try:
        return cpio.archive(files.values())
    except ValueError as error:
        raise InfraError(f"the packages do not fit together: {error}") from error


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

    The binary is for another architecture, so it cannot be executed.

    :raises InfraError: no such list, or one without a shell.
    """
    # any byte may come before it: in some builds the list follows a table of numbers
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
    more: Sequence[str],
    packages: tuple[apt.Package, ...] | None,
    dest: Path,
    say: Say,
) -> tuple[tuple[apt.Package, ...], list[Path]]:
    """The packages' files, in the remembered versions, else in the current ones."""
    if packages is not None:
        try:
            return packages, state.download_all(packages, dest)
        except InfraError:
            say(f"{state.arch}: the remembered packages are no longer available; using current versions")
    say(f"{state.arch}: fetching {', '.join((*names, *more))} from {' '.join(state.suites)}")
    state.update()
    for name in more:
        # one by one: apt does not name the missing one, and takes `name-` for a removal
        if not any(candidate.name == name for candidate in state.show([name])):
            raise UserError(
                f"there is no package '{name}' for {state.arch} in Debian's {' '.join(state.suites)}",
                remedy="correct `packages` in the suite.toml",
            )
    packages = tuple(state.closure(sorted({*names, *more})))
    return packages, state.download_all(packages, dest)


def _inputs(arch: Arch, recipe: Recipe, packages: Sequence[apt.Package], further: Sequence[str]) -> str:
    """The digest of all inputs of the image, including this code."""
    code = [file_digest(Path(file)) for file in (__file__, cpio.__file__, deb.__file__, elf.__file__)]
    templates = {name: render(name) for name in sorted(recipe.templates)}
    pinned = [(package.name, package.version, package.sha256) for package in packages]
    more = (further, file_digest(Path(extras.__file__))) if further else ()
    return digest_of("guest image", arch.name, recipe, pinned, templates, code, *more)


def _image(folder: Path, digest: str, packages: Sequence[apt.Package]) -> GuestImage:
    versions = tuple(f"{package.name}={package.version}" for package in packages)
    return GuestImage(folder / _NAME, digest, versions)


def _recall(memory: Path) -> tuple[apt.Package, ...] | None:
    """The packages of the last build; ``None`` if unknown."""
    try:
        return msgspec.json.decode(memory.read_bytes(), type=tuple[apt.Package, ...])
    except (OSError, msgspec.MsgspecError):
        return None


def _select_files(package: PackageFiles, members: Mapping[str, Member]) -> dict[str, bytes]:
    """The contents of the files that the patterns name, links followed."""
    contents: dict[str, bytes] = {}
    for pattern in package.files:
        paths = [path for path in sorted(members) if fnmatch.fnmatchcase(path, merged_path(pattern))]
        if not paths:
            raise InfraError(f"package {package.name} has no file {pattern}")
        for path in paths:
            content = follow(members, path)
            if content is not None:
                contents[path] = content
    return contents
