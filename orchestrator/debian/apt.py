# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages of any suite and architecture through apt, with a state of our own and without root.

Mirror, proxy and credentials are those of the host's own apt configuration; no address is written here.
The host's package lists, cache, hooks and pins are neither read nor written.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock

from orchestrator.core.errors import InfraError
from orchestrator.core.files import write_atomically

#: The archive's own keys: they cover suites newer than the host's, which a per-release Signed-By does not.
ARCHIVE_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
NEEDED_TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb")

_QUERY_S = 120
_UPDATE_S = 900
_DOWNLOAD_S = 7200
_INSTALL_LINE = re.compile(r"^Inst (?P<name>[^\s:]+)(?::\S+)? (?:\[[^]]*\] )?\((?P<version>\S+) ", re.M)


class NoSuite(InfraError):
    """The mirror answers, and does not have the suite."""


class Mirror(msgspec.Struct, frozen=True):
    """Where the host gets Debian from. ``security`` is empty where the host names no security archive."""

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
        """The file name that ``download`` gives it: no colon, so that it is safe everywhere."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.arch}.deb"


def have_apt() -> bool:
    """Whether this host has the programs that this module calls."""
    return all(shutil.which(tool) for tool in NEEDED_TOOLS)


def host_arch() -> str:
    """The host's own Debian architecture (``amd64``)."""
    return _call(["dpkg", "--print-architecture"]).strip()


def host_codename() -> str:
    """The host's ``VERSION_CODENAME`` (``bookworm``), or empty."""
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.M)
        return found.group(1) if found else ""
    return ""


def host_mirror() -> Mirror:
    """The Debian mirror in the host's own apt configuration, with the keys that the host trusts for it.

    :raises InfraError: no apt on this host, or no Debian archive among its sources.
    """
    if not have_apt():
        missing = ", ".join(tool for tool in NEEDED_TOOLS if not shutil.which(tool))
        raise InfraError(
            f"this host has no Debian package tools (not found: {missing})",
            remedy="give a kernel tree or tarball instead of debian:SUITE, or use a Debian host",
        )
    fields = ("REPO_URI", "ORIGIN", "LABEL", "RELEASE", "COMPONENT", "SOURCESENTRY", "IDENTIFIER")
    query = ["apt-get", "indextargets", "--format", "\t".join(f"$({field})" for field in fields)]
    # Without release information come the sources of a host that has no package lists (yet).
    listing = _call(query) + _call([*query, "--no-release-info"])
    entries = [row for line in listing.splitlines() if len(row := line.split("\t")) == len(fields)]
    return pick_mirror(entries, codename=host_codename())


def pick_mirror(entries: Sequence[Sequence[str]], *, codename: str) -> Mirror:
    """Choose among ``[uri, origin, label, suite, component, "sources file:n", identifier]`` rows.

    A host that never ran ``apt-get update`` knows no origins; there a source for the host's own codename is
    taken, and ``AptState.update`` checks the origin afterwards.
    """
    archive = security = ""
    sources: list[Path] = []
    for uri, origin, label, suite, component, entry, identifier in entries:
        if identifier != "Packages" or component != "main" or uri.startswith("cdrom:"):
            continue
        known = origin in ("Debian", "Debian Backports")
        unknown = origin in ("", "$(ORIGIN)") and codename != "" and suite.startswith(codename)
        if not known and not unknown:
            continue
        if label == "Debian-Security" or (unknown and suite.endswith("-security")):
            security = security or uri
        elif not archive:
            archive = uri
            sources.append(Path(entry.rpartition(":")[0]))
    if not archive:
        raise InfraError(
            "the host's apt sources name no Debian archive",
            remedy="give a kernel tree or tarball instead, or add a Debian source to /etc/apt/sources.list.d",
        )
    keyrings: list[Path] = []
    inline: list[str] = []
    for path in sources:
        named, blocks = _signed_by(path, archive)
        keyrings += named
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
            found = re.search(r"^Signed-By:[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M | re.I)
            if found and uri in stanza:
                values.append(found.group(1))
    else:
        for line in text.splitlines():
            found = re.match(r"\s*deb\s+\[[^]]*signed-by=([^\s\]]+)", line, re.I)
            if found and uri in line:
                values.append(found.group(1))
    files: list[Path] = []
    blocks: list[str] = []
    for value in values:
        if "BEGIN PGP" in value:
            lines = (line.strip() for line in value.strip().splitlines())
            blocks.append("".join(("" if line == "." else line) + "\n" for line in lines))
        else:
            files += [Path(word) for word in re.split(r"[,\s]+", value) if Path(word).is_file()]
    return files, blocks


class AptState:
    """apt with lists, cache, status and configuration of its own below ``root``.

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
        """Packages whose name matches the POSIX extended ``regex``, in every version that is on offer."""
        listing = self._run("apt-cache", "search", "--names-only", "--", regex)
        names = sorted({line.split(" ", 1)[0] for line in listing.splitlines() if line})
        return self.show(names, all_versions=True) if names else []

    def show(self, packages: Sequence[str], *, all_versions: bool = False) -> list[Package]:
        """What the indexes say of ``name`` or ``name=version`` packages.

        What is not on offer is left out.
        """
        which = "--all-versions" if all_versions else "--no-all-versions"
        found: dict[tuple[str, str, str], Package] = {}
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
            found[package.name, package.version, package.arch] = package
        return list(found.values())

    def closure(self, packages: Sequence[str]) -> list[Package]:
        """What ``apt-get install --no-install-recommends`` would fetch into an empty system, sorted by name.

        :param packages: ``name``, ``name=version`` or ``name/suite``.
        :raises InfraError: a package is unknown, or its dependencies cannot be met by these suites.
        """
        plan = self._run("apt-get", "-q", "-s", "install", "--no-install-recommends", "--", *packages)
        wanted = sorted({f"{m['name']}={m['version']}" for m in _INSTALL_LINE.finditer(plan)})
        found = self.show(wanted) if wanted else []
        if len(found) != len(wanted):
            have = {f"{package.name}={package.version}" for package in found}
            raise InfraError(
                f"apt planned {', '.join(sorted(set(wanted) - have))} but describes no such package"
            )
        return sorted(found)

    def download(self, package: str | Package, dest: Path) -> Path:
        """Fetch one .deb into the directory ``dest``; see ``download_all``."""
        if isinstance(package, str):
            found = self.show([package])
            if not found:
                raise InfraError(
                    f"package {package} is not on offer in {' '.join(self.suites)} ({self.arch})"
                )
            package = found[0]
        return self.download_all([package], dest)[0]

    def download_all(self, packages: Sequence[Package], dest: Path) -> list[Path]:
        """Fetch .debs into the directory ``dest``, check each SHA-256, and return their paths in order.

        What is there already with the right digest is not fetched again; files appear by atomic rename.

        :raises InfraError: a download failed, or its digest is not the one in the signed index.
        """
        dest.mkdir(parents=True, exist_ok=True)
        missing = [package for package in packages if not _is_file_of(dest / package.deb, package)]
        if missing:
            with self._locked(), tempfile.TemporaryDirectory(prefix=".fetch-", dir=dest) as tmp:
                wanted = [f"{package.name}={package.version}" for package in missing]
                self._run("apt-get", "-q", "download", "--", *wanted, timeout_s=_DOWNLOAD_S, cwd=Path(tmp))
                arrived = {sha256_file(path): path for path in Path(tmp).glob("*.deb")}
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
        kept = ["netrc", "netrcparts"] if have_keys else ["netrc", "netrcparts", "trusted", "trustedparts"]
        lines += [
            f'Dir::Etc::{name} "{_host_path(f"Dir::Etc::{name}", directory=name.endswith("parts"))}";'
            for name in kept
        ]
        dropped = (
            "Acquire::Allow",
            "Acquire::IndexTargets",
            "Acquire::Languages",
            "Acquire::Changelogs",
            "Acquire::CompressionTypes",
        )
        for line in _call(["apt-config", "dump"]).splitlines():
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

    def _run(self, *argv: str, timeout_s: float = _QUERY_S, cwd: Path | None = None) -> str:
        return _call(argv, timeout_s=timeout_s, cwd=cwd, config=self.root / "apt.conf")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_file_of(path: Path, package: Package) -> bool:
    try:
        return path.stat().st_size == package.size and sha256_file(path) == package.sha256
    except OSError:
        return False


def _host_path(name: str, *, directory: bool) -> str:
    answer = _call(["apt-config", "shell", "P", f"{name}/{'d' if directory else 'f'}"])
    found = re.match(r"P='([^']*)'", answer)
    return found.group(1) if found else "/dev/null"


def _write(path: Path, text: str) -> None:
    # the configuration may carry a proxy's password
    write_atomically(path, text.encode(), mode=0o600)


def _call(
    argv: Sequence[str], *, timeout_s: float = _QUERY_S, cwd: Path | None = None, config: Path | None = None
) -> str:
    """The only place where apt's programs are started; standard output as text.

    :raises InfraError: not found, failed or too slow; the message carries apt's own error lines.
    """
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    env.pop("APT_CONFIG", None)
    if config is not None:
        env["APT_CONFIG"] = str(config)
    what = " ".join(argv[:3])
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise InfraError(f"{argv[0]} is not installed", remedy="use a Debian host, or give a tree") from error
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"{what}: no end after {timeout_s:.0f} s", remedy="check the network") from error
    if done.returncode != 0:
        text = (done.stderr + b"\n" + done.stdout).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.startswith(("E: ", "Err:", " "))]
        reason = "; ".join(lines)[:600] or text.strip()[-300:]
        raise InfraError(
            f"{what} failed ({done.returncode}): {reason}",
            remedy="check the network and the host's apt sources",
        )
    return done.stdout.decode("utf-8", "replace")
