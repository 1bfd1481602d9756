# SPDX-License-Identifier: GPL-2.0-only
"""Kernel trees from Debian's linux-source packages: ``debian:SUITE``, and the default tree."""

from __future__ import annotations

import functools
import lzma
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from orchestrator.core.errors import InfraError, OrchestrateError, UserError
from orchestrator.debian.apt import AptState, NoSuite, Package
from orchestrator.debian.tools import host_arch
from orchestrator.source import archive
from orchestrator.source.classify import TreeClass, classify
from orchestrator.source.identity import makefile_version
from orchestrator.source.model import Say, Tree, quiet

#: The suites of the default tree; those that the mirror lacks are skipped. Backports come first: they have
#: the newest released kernels. Testing and unstable are not among them: the default is not a pre-release.
BACKPORTS = ("forky-backports", "trixie-backports", "bookworm-backports")
STABLE = ("trixie", "bookworm")

_SPEC = re.compile(r"debian:(?P<suite>[a-z][a-z0-9.-]*)(?:/(?P<package>linux-source-[0-9.]+))?")
_SOURCE_PACKAGE = r"^linux-source-[0-9]+\.[0-9]+$"
_LISTS_MAX_AGE_S = 3600.0


def resolve_debian(spec: str, *, cache: Path, sha256: str | None = None, say: Say = quiet) -> Tree:
    """The tree of ``debian:SUITE`` (its newest kernel) or ``debian:SUITE/linux-source-X.Y``.

    :param sha256: the digest that the .deb must have.
    :raises UserError: the form is wrong, the suite has no such package, or the digest differs.
    :raises InfraError: no apt, no mirror, suite unreachable, download failed.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(
            f"{spec!r} is not debian:SUITE or debian:SUITE/linux-source-X.Y",
            remedy="for example debian:trixie-backports",
        )
    suite, name = match["suite"], match["package"]
    try:
        state = _state(suite, cache, say)
    except NoSuite as error:
        raise UserError(f"{spec}: {error.message}", remedy=error.remedy) from error
    packages = [package for package in _on_offer(state) if name in (None, package.name)]
    if not packages:
        names = ", ".join(sorted({package.name for package in _on_offer(state)})) or "none"
        raise UserError(
            f"{spec}: suite {suite} has no {name or 'linux-source package'}",
            remedy=f"it has: {names}",
        )
    return _tree_of(state, suite, packages[0], spec, cache=cache, sha256=sha256, say=say)


def newest_selectable(*, cache: Path, say: Say = quiet) -> Tree | None:
    """The newest released Debian kernel of which both legs can be built; ``None`` if there is none.

    :raises InfraError: no apt or no Debian mirror on this host, or a download failed.
    """
    answered = False
    for group in (BACKPORTS, STABLE):
        candidates: list[tuple[AptState, str, Package]] = []
        for suite in group:
            try:
                state = _state(suite, cache, quiet)
            except InfraError as error:
                if not isinstance(error, NoSuite):
                    say(f"skipped {suite}: {_first_line(error)}")
                continue
            answered = True
            newest = _on_offer(state)[:1]
            if not newest:
                say(f"skipped {suite}: no linux-source package")
            candidates += [(state, suite, package) for package in newest]
        candidates.sort(key=lambda item: _newest_key(item[2]), reverse=True)
        for state, suite, package in candidates:
            tree = _tree_of(state, suite, package, f"debian:{suite}/{package.name}", cache=cache, say=say)
            age = classify(tree.path)
            if age is TreeClass.SELECTABLE:
                return tree
            say(f"skipped {tree.describe}: PER_VMA_LOCK is {age}, not selectable")
    if not answered:
        raise InfraError("no Debian suite answered", remedy="check the network and the host's apt sources")
    return None


def _state(suite: str, cache: Path, say: Say) -> AptState:
    """Fresh package lists of a suite; cached ones if the mirror does not answer."""
    arch = host_arch()
    state = AptState(cache / "apt" / f"{suite}-{arch}", [suite], arch)
    try:
        state.update(max_age_s=_LISTS_MAX_AGE_S)
    except InfraError as error:
        if isinstance(error, NoSuite) or not state.has_lists():
            raise
        say(f"{suite}: {_first_line(error)}; using the cached package lists")
    return state


def _on_offer(state: AptState) -> list[Package]:
    """linux-source-X.Y packages, newest first; neither -rt nor -doc nor the meta package."""
    return sorted(state.search(_SOURCE_PACKAGE), key=_newest_key, reverse=True)


@functools.total_ordering
class _DebianVersion:
    """Ordered as dpkg orders it, by asking dpkg."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DebianVersion) and self.text == other.text

    def __lt__(self, other: _DebianVersion) -> bool:
        argv = ["dpkg", "--compare-versions", self.text, "lt", other.text]
        return (
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
        )


def _newest_key(package: Package) -> tuple[tuple[int, ...], _DebianVersion]:
    series = tuple(int(part) for part in package.name.removeprefix("linux-source-").split("."))
    return series, _DebianVersion(package.version)


def _tree_of(
    state: AptState,
    suite: str,
    package: Package,
    spec: str,
    *,
    cache: Path,
    sha256: str | None = None,
    say: Say = quiet,
) -> Tree:
    archive.check_sha256(package.deb, package.sha256, sha256)
    what = f"debian:{suite} {package.name} {package.version}"
    deb = cache / "debs" / package.deb
    if not archive.is_unpacked(cache, package.sha256):
        say(f"fetching {package.name} {package.version} of {suite} ({package.size >> 20} MiB)")
        deb = state.download(package, cache / "debs")
    path = archive.unpack(
        lambda: _inner_tar(deb), package.sha256, cache=cache, blame=InfraError, what=what, say=say
    )
    # only the tree is needed from here on
    deb.unlink(missing_ok=True)
    version = makefile_version(path)
    return Tree(
        path=path,
        spec=spec,
        kind="debian",
        digest=package.sha256,
        archive_sha256=package.sha256,
        version=version,
        describe=f"{version} ({what})",
    )


@contextmanager
def _inner_tar(deb: Path) -> Iterator[archive.Reader]:
    """The kernel's tar stream inside the .deb, without a copy on disk in between."""
    with (
        archive.program_output(["dpkg-deb", "--fsys-tarfile", str(deb)], "dpkg") as outer,
        tarfile.open(fileobj=cast("tarfile._Fileobj", outer), mode="r|") as members,
    ):
        for member in members:
            if (
                re.fullmatch(r"(?:\./)?usr/src/linux-source-[0-9.]+\.tar\.xz", member.name)
                and member.isfile()
            ):
                stream = members.extractfile(member)
                assert stream is not None
                with lzma.open(stream) as reader:
                    yield reader
                return
    raise InfraError(f"{deb.name}: no usr/src/linux-source-*.tar.xz in it", remedy="name another suite")


def _first_line(error: OrchestrateError) -> str:
    return error.message.partition("\n")[0]
