# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages of any suite and architecture through apt, with a private state and without root.

Mirror, proxy and credentials come from the host's apt configuration; no address is written here. The host's
package lists, cache, hooks and pins are neither read nor written.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock

from orchestrator.core.errors import InfraError
from orchestrator.core.files import write_atomically
from orchestrator.core.store import file_digest
from orchestrator.debian.mirror import Mirror, host_mirror
from orchestrator.debian.tools import QUERY_S, call

_UPDATE_S = 900
_DOWNLOAD_S = 7200
_INSTALL_LINE = re.compile(r"^Inst (?P<name>[^\s:]+)(?::\S+)? (?:\[[^]]*\] )?\((?P<version>\S+) ", re.M)


class NoSuite(InfraError):
    """The mirror answers, but does not have the suite."""


class Package(msgspec.Struct, frozen=True, order=True):
    """One binary package as an index describes it; ``size`` in bytes, ``sha256`` of the .deb in hex."""

    name: str
    version: str
    arch: str
    sha256: str
    size: int
    filename: str = ""

    @property
    def deb(self) -> str:
        """The file name that ``download`` uses: without a colon, which some tools refuse."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.arch}.deb"


class AptState:
    """apt with its own lists, cache, status and configuration below ``root``.

    :param root: a directory for this pair of suites and architecture; made if absent, safe to keep.
    :param suites: ``("trixie", "trixie-updates")``; every one must answer.
    :param arch: a Debian architecture: ``amd64``, ``arm64``.
    :raises InfraError: no apt on this host, or no Debian mirror in its configuration.
    """

    def __init__(self, root: Path, suites: Sequence[str], arch: str) -> None:
        self.root = root.absolute()
        self.suites = tuple(suites)
        self.arch = arch
        mirror = host_mirror()
        for part in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        with self._locked():
            (self.root / "status").touch()
            _write(self.root / "etc/sources.list", self._sources(mirror))
            _write(self.root / "apt.conf", self._config(bool(mirror.keyrings or mirror.inline_keys)))

    def update(self, *, max_age_s: float = 0.0) -> None:
        """Fetch the indexes, unless the last fetch was less than ``max_age_s`` ago.

        :raises NoSuite: the mirror does not have one of the suites.
        :raises InfraError: a suite did not answer, is not signed by a trusted key, or is not Debian's.
        """
        stamp = self.root / "updated"
        with self._locked():
            if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < max_age_s and self.has_lists():
                return
            stamp.unlink(missing_ok=True)
            try:
                self._run("apt-get", "-q", "update", "--error-on=any", timeout_s=_UPDATE_S)
            except InfraError as error:
                if "does not have a Release file" in error.message and "404" in error.message:
                    raise NoSuite(
                        f"the host's Debian mirror has no suite {' '.join(self.suites)}",
                        remedy="check the suite's name, and which releases the mirror carries",
                    ) from error
                raise
            listing = self._run("apt-get", "indextargets", "--format", "$(IDENTIFIER)\t$(ORIGIN)\t$(RELEASE)")
        rows = [line.split("\t") for line in listing.splitlines()]
        origins = {row[2]: row[1] for row in rows if len(row) == 3 and row[0] == "Packages"}
        for suite in self.suites:
            origin = origins.get(suite, "")
            if origin not in ("Debian", "Debian Backports"):
                raise InfraError(
                    f"suite {suite} ({self.arch}) on the host's mirror is not Debian's"
                    f" (Origin: {origin or 'none'})",
                    remedy="check the host's apt sources",
                )
        stamp.touch()

    def has_lists(self) -> bool:
        """Whether an earlier ``update`` left an index of each suite."""
        names = [path.name for path in (self.root / "state/lists").iterdir()]
        return all(any(f"_dists_{suite}_" in n and "_Packages" in n for n in names) for suite in self.suites)

    def search(self, regex: str) -> list[Package]:
        """Packages whose name matches the POSIX extended ``regex``, in every available version."""
        listing = self._run("apt-cache", "search", "--names-only", "--", regex)
        names = sorted({line.split(" ", 1)[0] for line in listing.splitlines() if line})
        return self.show(names, all_versions=True) if names else []

    def show(self, packages: Sequence[str], *, all_versions: bool = False) -> list[Package]:
        """The index entries of ``name`` or ``name=version`` packages; unavailable ones are left out."""
        which = "--all-versions" if all_versions else "--no-all-versions"
        descriptions: dict[tuple[str, str, str], Package] = {}
        try:
            text = self._run("apt-cache", "show", which, "--", *packages)
        except InfraError as error:
            if "No packages found" not in error.message and "Unable to locate package" not in error.message:
                raise
            text = ""
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.M))
            if not fields.get("SHA256"):
                continue
            package = Package(
                name=fields["Package"],
                version=fields["Version"],
                arch=fields["Architecture"],
                sha256=fields["SHA256"].lower(),
                size=int(fields["Size"]),
                filename=fields.get("Filename", ""),
            )
            descriptions[package.name, package.version, package.arch] = package
        return list(descriptions.values())

    def closure(self, packages: Sequence[str]) -> list[Package]:
        """What ``apt-get install --no-install-recommends`` would fetch into an empty system, sorted by name.

        :param packages: ``name``, ``name=version`` or ``name/suite``.
        :raises InfraError: a package is unknown, or its dependencies cannot be met by these suites.
        """
        plan = self._run("apt-get", "-q", "-s", "install", "--no-install-recommends", "--", *packages)
        planned = sorted({f"{m['name']}={m['version']}" for m in _INSTALL_LINE.finditer(plan)})
        described = self.show(planned) if planned else []
        if len(described) != len(planned):
            have = {f"{package.name}={package.version}" for package in described}
            raise InfraError(
                f"apt planned {', '.join(sorted(set(planned) - have))} but describes no such package"
            )
        return sorted(described)

    def download(self, package: str | Package, dest: Path) -> Path:
        """Fetch one .deb into the directory ``dest``; see ``download_all``."""
        if isinstance(package, str):
            candidates = self.show([package])
            if not candidates:
                raise InfraError(
                    f"package {package} is not available in {' '.join(self.suites)} ({self.arch})"
                )
            package = candidates[0]
        return self.download_all([package], dest)[0]

    def download_all(self, packages: Sequence[Package], dest: Path) -> list[Path]:
        """Fetch .debs into the directory ``dest``, check each SHA-256, and return their paths in order.

        A file with the right digest is not fetched again; files appear by atomic rename.

        :raises InfraError: a download failed, or its digest is not the one in the signed index.
        """
        dest.mkdir(parents=True, exist_ok=True)
        missing = [package for package in packages if not _is_file_of(dest / package.deb, package)]
        if missing:
            with self._locked(), tempfile.TemporaryDirectory(prefix=".fetch-", dir=dest) as tmp:
                versions = [f"{package.name}={package.version}" for package in missing]
                self._run("apt-get", "-q", "download", "--", *versions, timeout_s=_DOWNLOAD_S, cwd=Path(tmp))
                arrived = {file_digest(path): path for path in Path(tmp).glob("*.deb")}
                for package in missing:
                    if package.sha256 not in arrived:
                        raise InfraError(
                            f"{package.deb}: no file with SHA-256 {package.sha256} arrived from the mirror",
                            remedy="try again; if it persists, the mirror is inconsistent",
                        )
                    arrived[package.sha256].replace(dest / package.deb)
        return [dest / package.deb for package in packages]

    def _sources(self, mirror: Mirror) -> str:
        keys = [str(path) for path in mirror.keyrings]
        for number, block in enumerate(mirror.inline_keys):
            path = self.root / f"etc/host-{number}.asc"
            _write(path, block)
            keys.append(str(path))
        option = f"signed-by={','.join(keys)} " if keys else ""
        return "".join(
            f"deb [{option}arch={self.arch}] {mirror.uri(suite)} {suite} main\n" for suite in self.suites
        )

    def _config(self, have_keys: bool) -> str:
        """The whole configuration: with Dir::Etc moved, apt reads none of the host's hooks and pins."""
        paths = {"State": "state", "State::status": "status", "Cache": "cache", "Etc": "etc"}
        lines = [f'Dir::{name} "{self.root / path}";' for name, path in paths.items()]
        credentials = (
            ["netrc", "netrcparts"] if have_keys else ["netrc", "netrcparts", "trusted", "trustedparts"]
        )
        lines += [
            f'Dir::Etc::{name} "{_host_path(f"Dir::Etc::{name}", directory=name.endswith("parts"))}";'
            for name in credentials
        ]
        dropped = (
            "Acquire::Allow",
            "Acquire::IndexTargets",
            "Acquire::Languages",
            "Acquire::Changelogs",
            "Acquire::CompressionTypes",
        )
        for line in call(["apt-config", "dump"]).splitlines():
            if line.startswith("Acquire::") and not line.startswith(dropped) and not line.endswith(' "";'):
                lines.append(line)
        lines += [
            f'APT::Architecture "{self.arch}";',
            f'APT::Architectures {{ "{self.arch}"; }};',
            'Acquire::Languages { "none"; };',
            'Acquire::Retries "3";',
        ]
        if os.geteuid() == 0:
            # _apt may not reach a cache below root's home.
            lines.append('APT::Sandbox::User "root";')
        return "\n".join(lines) + "\n"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # apt's own lock on the lists fails at once instead of waiting.
        with FileLock(self.root / ".lock"):
            yield

    def _run(self, *argv: str, timeout_s: float = QUERY_S, cwd: Path | None = None) -> str:
        return call(argv, timeout_s=timeout_s, cwd=cwd, config=self.root / "apt.conf")


def _is_file_of(path: Path, package: Package) -> bool:
    try:
        return path.stat().st_size == package.size and file_digest(path) == package.sha256
    except OSError:
        return False


def _host_path(name: str, *, directory: bool) -> str:
    answer = call(["apt-config", "shell", "P", f"{name}/{'d' if directory else 'f'}"])
    match = re.match(r"P='([^']*)'", answer)
    return match.group(1) if match else "/dev/null"


def _write(path: Path, text: str) -> None:
    # the configuration may carry a proxy's password
    write_atomically(path, text.encode(), mode=0o600)
