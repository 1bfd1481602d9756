# SPDX-License-Identifier: GPL-2.0-only
"""The Debian mirror in the host's own apt configuration, and the keys that the host trusts for it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.core.errors import InfraError
from orchestrator.debian.tools import NEEDED_TOOLS, call, have_apt

#: The archive's own keys: they cover suites newer than the host's, which a per-release Signed-By does not.
ARCHIVE_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)


class Mirror(msgspec.Struct, frozen=True):
    """The repositories of a mirror. ``security`` is empty if the host names no security archive."""

    archive: str
    security: str = ""
    keyrings: tuple[Path, ...] = ()
    inline_keys: tuple[str, ...] = ()

    def uri(self, suite: str) -> str:
        """The repository that holds ``suite``.

        :raises InfraError: for ``*-security`` when the host names no security archive.
        """
        if not suite.endswith("-security"):
            return self.archive
        if not self.security:
            raise InfraError(
                f"suite {suite}: the host's apt sources name no Debian security archive",
                remedy="add one to /etc/apt/sources.list.d, or use another suite",
            )
        return self.security


def host_codename() -> str:
    """The host's ``VERSION_CODENAME`` (``bookworm``), or empty."""
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError:
            continue
        match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.M)
        return match.group(1) if match else ""
    return ""


def host_mirror() -> Mirror:
    """The Debian mirror in the host's own apt configuration, with the keys that the host trusts for it.

    :raises InfraError: no apt on this host, or no Debian archive among its sources.
    """
    if not have_apt():
        missing = ", ".join(tool for tool in NEEDED_TOOLS if not shutil.which(tool))
        raise InfraError(
            f"this host has no Debian package tools (not found: {missing})",
            remedy="name a kernel tree or tarball instead of debian:SUITE, or use a Debian host",
        )
    fields = ("REPO_URI", "ORIGIN", "LABEL", "RELEASE", "COMPONENT", "SOURCESENTRY", "IDENTIFIER")
    query = ["apt-get", "indextargets", "--format", "\t".join(f"$({field})" for field in fields)]
    # a host without package lists has no release information
    listing = call(query) + call([*query, "--no-release-info"])
    entries = [row for line in listing.splitlines() if len(row := line.split("\t")) == len(fields)]
    return pick_mirror(entries, codename=host_codename())


def pick_mirror(entries: Sequence[Sequence[str]], *, codename: str) -> Mirror:
    """Choose among ``[uri, origin, label, suite, component, "sources file:n", identifier]`` rows.

    A host that never ran ``apt-get update`` knows no origins. There a source for the host's own codename
    counts as Debian, and ``AptState.update`` checks the origin afterwards.
    """
    archive = security = ""
    sources: list[Path] = []
    for uri, origin, label, suite, component, entry, identifier in entries:
        if identifier != "Packages" or component != "main" or uri.startswith("cdrom:"):
            continue
        is_debian = origin in ("Debian", "Debian Backports")
        is_unknown = origin in ("", "$(ORIGIN)") and codename != "" and suite.startswith(codename)
        if not is_debian and not is_unknown:
            continue
        if label == "Debian-Security" or (is_unknown and suite.endswith("-security")):
            security = security or uri
        elif not archive:
            archive = uri
            sources.append(Path(entry.rpartition(":")[0]))
    if not archive:
        raise InfraError(
            "the host's apt sources name no Debian archive",
            remedy="name a kernel tree or tarball instead, or add a Debian source to /etc/apt/sources.list.d",
        )
    keyrings: list[Path] = []
    inline: list[str] = []
    for path in sources:
        files, blocks = _signed_by(path, archive)
        keyrings += files
        inline += blocks
    keyrings += [path for path in ARCHIVE_KEYRINGS if path.is_file()][:1]
    return Mirror(archive, security, tuple(dict.fromkeys(keyrings)), tuple(inline))


def _signed_by(sources: Path, uri: str) -> tuple[list[Path], list[str]]:
    """The ``Signed-By`` of the entries for ``uri``: key files, and keys written in the entry itself."""
    try:
        text = sources.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], []
    uri = uri.rstrip("/")
    values: list[str] = []
    if sources.suffix == ".sources":
        text = re.sub(r"^#.*\n?", "", text, flags=re.M)
        for stanza in re.split(r"\n\s*\n", text):
            match = re.search(r"^Signed-By:[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M | re.I)
            if match and uri in stanza:
                values.append(match.group(1))
    else:
        for line in text.splitlines():
            match = re.match(r"\s*deb\s+\[[^]]*signed-by=([^\s\]]+)", line, re.I)
            if match and uri in line:
                values.append(match.group(1))
    files: list[Path] = []
    blocks: list[str] = []
    for value in values:
        if "BEGIN PGP" in value:
            lines = (line.strip() for line in value.strip().splitlines())
            blocks.append("".join(("" if line == "." else line) + "\n" for line in lines))
        else:
            files += [Path(word) for word in re.split(r"[,\s]+", value) if Path(word).is_file()]
    return files, blocks
