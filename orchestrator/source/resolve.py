# SPDX-License-Identifier: GPL-2.0-only
"""Resolve a source that the user names to a tree that can be built."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import can_hold_builds, file_digest
from orchestrator.source import archive, clone, debian_tree, download, identity, kernel_org
from orchestrator.source.model import Say, Tree, quiet

FORMS = "a directory, DIR@REV of git, a tarball, an http(s) or file URL of one, debian:SUITE, or vX.Y[.Z]"

#: The default without a named tree and without Debian packages: a release with a selectable symbol.
FALLBACK_VERSION = "v6.18"

_VERSION = re.compile(r"v(?P<major>[0-9]+)\.(?P<minor>[0-9]+)(?:\.(?P<patch>[0-9]+))?")


def resolve(spec: str, *, cache: Path, sha256: str | None = None, say: Say = quiet) -> Tree:
    """Resolve a source to a read-only tree and its identity.

    :param spec: one of ``FORMS``; an existing path wins over a revision or version of the same form.
    :param cache: the folder of downloads, unpacked trees and digests; processes share it.
    :param sha256: the digest that an archive (or Debian package) must have.
    :raises UserError: not a source, not a kernel tree, not clean, broken archive, wrong digest.
    :raises InfraError: network, mirror, disk or a missing program.
    """
    try:
        return _resolve(spec, cache.absolute(), sha256, say)
    except OSError as error:
        raise InfraError(
            f"{spec}: {error.filename or cache}: {error.strerror or error}",
            remedy=f"check the source, and the cache {cache} (ORCHESTRATE_CACHE): space, permissions",
        ) from error


def default_source(*, cache: Path, say: Say = quiet) -> Tree:
    """The tree to test if the user names none: the newest released one of which both legs can be built.

    :raises InfraError: neither Debian packages nor the kernel.org archive are available.
    """
    try:
        tree = debian_tree.newest_selectable(cache=cache.absolute(), say=say)
        reason = "no Debian kernel has PER_VMA_LOCK selectable"
    except InfraError as error:
        tree, reason = None, error.message
    if tree is not None:
        say(f"no tree was named: using {tree.describe}")
        return tree
    say(f"{reason}; falling back to {FALLBACK_VERSION} from kernel.org")
    return resolve(FALLBACK_VERSION, cache=cache, say=say)


def _resolve(spec: str, cache: Path, sha256: str | None, say: Say) -> Tree:
    if spec.startswith("debian:"):
        return debian_tree.resolve_debian(spec, cache=cache, sha256=sha256, say=say)
    if re.match(r"https?://", spec):
        return _from_web(spec, spec, "archive", cache=cache, sha256=sha256, say=say)
    path = _path_of(spec)
    if path is not None and path.is_dir():
        return _from_directory(path, spec, cache=cache, sha256=sha256, say=say)
    if path is not None and path.is_file():
        return _from_archive(path, spec, cache=cache, sha256=sha256, say=say)
    parts = clone.split(spec)
    if parts:
        folder = _path_of(parts[0])
        assert folder is not None
        _check_no_digest(sha256, f"{spec} is a revision")
        return clone.resolve_revision(folder, parts[1], spec, cache=cache, say=say)
    version = _VERSION.fullmatch(spec)
    if version:
        url = kernel_org.url(version["major"], version["minor"], version["patch"])
        return _from_web(url, spec, "version", cache=cache, sha256=sha256, say=say)
    reason = f"there is no directory or file {path}" if path else "it is empty"
    if "@" in spec:
        reason += f", nor a directory {spec.partition('@')[0]!r} for a revision of it"
    raise UserError(f"{spec!r} is not a source: {reason}", remedy=f"name {FORMS}")


def _path_of(spec: str) -> Path | None:
    if spec.startswith("file:"):
        parts = urlsplit(spec)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{spec}: a file URL of another host", remedy="write file:///path")
        return Path(unquote(parts.path))
    try:
        return Path(spec).expanduser().absolute() if spec.strip() else None
    except RuntimeError as error:
        raise UserError(
            f"{spec}: there is no such home directory", remedy="write the path in full"
        ) from error


def _check_no_digest(sha256: str | None, what: str) -> None:
    if sha256 is not None:
        raise UserError(f"{what}: a SHA-256 digest is for archives", remedy="leave it out")


def _from_directory(path: Path, spec: str, *, cache: Path, sha256: str | None, say: Say) -> Tree:
    _check_no_digest(sha256, f"{spec} is a directory")
    path = path.resolve()
    identity.check_tree(path, str(path))
    identity.check_clean(path, str(path))
    if not can_hold_builds(path):
        raise UserError(
            f"{path}: the kernel's makefiles refuse a path with spaces or colons",
            remedy="move it, or name a revision of it (DIR@REV): that is built from a private clone",
        )
    version = identity.makefile_version(path)
    git = identity.git_state(path, stat_cache=cache / "stat", say=say)
    if git is not None:
        local = f" (dirty {git.dirty[:12]})" if git.dirty else ""
        return Tree(
            path=path,
            spec=spec,
            kind="directory",
            digest=git.digest,
            commit=git.commit,
            dirty=git.dirty,
            version=version,
            describe=f"{version}-g{git.commit[:12]}{local}",
            base_spec="" if git.dirty or git.ignored else f"{path}@{git.commit}",
        )
    say(f"reading {path}")
    digest = identity.content_digest(path, stat_cache=cache / "stat")
    return Tree(
        path=path,
        spec=spec,
        kind="directory",
        digest=digest,
        version=version,
        describe=f"{version} ({path.name}, content {digest[:12]})",
    )


def _from_archive(path: Path, spec: str, *, cache: Path, sha256: str | None, say: Say) -> Tree:
    digest = file_digest(path)
    archive.check_sha256(str(path), digest, sha256)
    tree = archive.unpack_file(path, digest, cache=cache, say=say)
    return _archive_tree(tree, spec, "archive", digest, path.name)


def _from_web(url: str, spec: str, kind: str, *, cache: Path, sha256: str | None, say: Say) -> Tree:
    archive.check_sha256_form(sha256)
    path = download.fetch(url, cache=cache, sha256=sha256, say=say)
    digest = file_digest(path)
    archive.check_sha256(url, digest, sha256)
    try:
        if kind == "version" and sha256 is None:
            kernel_org.verify(url, digest, lambda each: download.fetch(each, cache=cache), say)
        tree = archive.unpack_file(
            path, digest, cache=cache, blame=download.BrokenDownload, what=url, say=say
        )
    except download.BrokenDownload:
        download.discard(path)
        raise
    return _archive_tree(tree, spec, kind, digest, url.rpartition("/")[2] if kind == "archive" else spec)


def _archive_tree(tree: Path, spec: str, kind: str, digest: str, name: str) -> Tree:
    version = identity.makefile_version(tree)
    return Tree(
        path=tree,
        spec=spec,
        kind=kind,
        digest=digest,
        archive_sha256=digest,
        version=version,
        describe=f"{version} ({name}, sha256 {digest[:12]})",
    )
