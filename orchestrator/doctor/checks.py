# SPDX-License-Identifier: GPL-2.0-only
"""The single checks of ``orchestrate doctor``.

Each really tries: QEMU is started with a guest's devices, a static program is compiled, a file is written. An
unknown result counts as missing, never as ok.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestrator.core import arch as arches
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.core.text import one_line
from orchestrator.doctor import host
from orchestrator.doctor.host import Output, Status, ask, first_number

if TYPE_CHECKING:
    from orchestrator.vm.probe import Trial

NETWORK_S = 20.0
_COMPILE_S = 10.0
#: apt's package lists; empty on a fresh image.
LISTS = Path("/var/lib/apt/lists")
#: The oldest version that the tests run with.
_QEMU_TESTED = (7, 2)
#: The programs of a kernel build, and their Debian packages.
BUILD_TOOLS = {
    "make": "make",
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "perl": "perl",
    "rsync": "rsync",
    "xz": "xz-utils",
    "git": "git",
    "ar": "binutils",
    "tar": "tar",
}
HEADERS = {
    "libelf.h": ("libelf headers", "libelf-dev"),
    "openssl/opensslv.h": ("openssl headers", "libssl-dev"),
}
_PROGRAM = '#include <pthread.h>\n#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    ``text`` is one line; ``remedy`` a command, or empty; ``needed_for`` an arch, or empty for all;
    ``packages`` are Debian packages to install. ``note``: worth knowing, but nothing fails because of it.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""
    needed_for: str = ""
    packages: tuple[str, ...] = ()


TryKvm = Callable[[Arch, Path], "Trial"]


def try_kvm(arch: Arch, cache: Path) -> Trial:
    """Boot a kernel under KVM, if the cache has one; see ``probe.try_kvm``."""
    from orchestrator.vm import probe

    return probe.try_kvm(arch, cache)


def install(packages: Sequence[str]) -> str:
    """The command for this host and user; empty without apt-get."""
    if not shutil.which("apt-get"):
        return ""
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    is_fresh = LISTS.is_dir() and not any("_Packages" in path.name for path in LISTS.iterdir())
    if os.geteuid() == 0:
        return f"apt-get update && {command}" if is_fresh else command
    if shutil.which("sudo"):
        return f"sudo apt-get update && sudo {command}" if is_fresh else f"sudo {command}"
    return f"su -c {shlex.quote(f'apt-get update && {command}' if is_fresh else command)}"


def _absent(name: str, text: str, *packages: str, needed_for: str = "", status: Status = "missing") -> Check:
    return Check(name, status, text, install(packages), needed_for, packages)


def python() -> Iterable[Check]:
    """The version of Python."""
    import platform

    yield Check("Python", "ok", platform.python_version())


def qemu(arch: Arch) -> Iterable[Check]:
    """Whether QEMU starts with every device of a guest."""
    from orchestrator.vm import probe

    name = f"QEMU {arch.name}"
    if not shutil.which(arch.qemu):
        yield _absent(name, f"{arch.qemu} is not installed", arch.packages.qemu, needed_for=arch.name)
        return
    started = probe.paused(arch, "tcg")
    if started.trouble:
        yield Check(name, "missing", f"does not start as it must: {started.trouble}", needed_for=arch.name)
        return
    version = tuple(map(int, re.findall(r"\d+", started.version)[:2]))
    if version < _QEMU_TESTED:
        tested = ".".join(map(str, _QEMU_TESTED))
        yield Check(name, "note", f"{started.version}, older than {tested}, the oldest it is tested with")
        return
    yield Check(name, "ok", f"{started.version}, starts with every device of a guest")


def kvm(arch: Arch, cache: Path, try_kvm: TryKvm) -> Iterable[Check]:
    """Whether guests can run under KVM."""
    from orchestrator.vm import accel

    if not shutil.which(arch.qemu):
        yield Check("KVM", "note", f"not tried: {arch.qemu} is not installed", needed_for=arch.name)
        return
    choice = accel.choose(arch, "auto", cache)
    slow = "; guests are emulated, which is slower"
    if choice.name != "kvm":
        yield Check("KVM", "note", one_line(choice.reason.rstrip("."), limit=260) + slow, host.kvm_remedy())
        return
    if not choice.reason.endswith("to be tried"):
        yield Check("KVM", "ok", choice.reason)
        return
    trial = try_kvm(arch, cache)
    if trial.works is False:
        yield Check("KVM", "note", f"/dev/kvm opens, but: {trial.text.rstrip('.')}{slow}")
    else:
        yield Check("KVM", "ok", trial.text)


def host_compiler(requested: Sequence[Arch]) -> Iterable[Check]:
    """gcc for the programs that a kernel's build runs itself, and the headers that those need."""
    gcc = shutil.which("gcc")
    if gcc is None and not any(arch.native for arch in requested):
        yield _absent("host compiler", "gcc is not installed", "gcc", "libc6-dev")
    for header, (name, package) in HEADERS.items():
        if gcc is None:
            # a consequence of the missing gcc: its package is part of the command
            yield _absent(name, "not looked for without gcc", package, status="note")
            continue
        output = ask([gcc, "-E", "-include", header, "-x", "c", os.devnull], limit_s=_COMPILE_S)
        if output.code == 0:
            yield Check(name, "ok", f"{header} is there")
        elif "No such file" in output.err:
            yield _absent(name, f"{header} is not there", package)
        else:
            yield Check(name, "missing", f"gcc cannot check for {header}: {output.trouble}")


def compiler(arch: Arch) -> Iterable[Check]:
    """The compiler of an arch, and whether it links a static program."""
    program = f"{arch.compiler_prefix}gcc"
    libc = arch.libc_package
    # the host's own compiler also builds the tools of every kernel's build
    needed_for = "" if arch.native else arch.name
    name, library = f"compiler {arch.name}", f"static libc {arch.name}"
    if not shutil.which(program):
        yield _absent(name, f"{program} is not installed", arch.gcc_package(), needed_for=needed_for)
        yield _absent(library, "not tried without a compiler", libc, needed_for=needed_for, status="note")
        return
    output = ask([program, "--version"])
    if output.code != 0 or not (version := first_number(output.out)):
        yield Check(name, "missing", f"{program} --version: {output.trouble}", needed_for=needed_for)
        return
    yield Check(name, "ok", f"{program} {version}")
    linked = _link(program)
    if linked.code == 0:
        yield Check(library, "ok", "a static program was compiled")
    elif re.search(r"cannot find -l|cannot find .*\.o\b|No such file or directory\n", linked.err):
        yield _absent(library, "a static program does not link: no C library", libc, needed_for=needed_for)
    else:
        text = f"a static program does not compile: {linked.trouble}"
        yield Check(library, "missing", text, needed_for=needed_for)


def optional(arch: Arch) -> Iterable[Check]:
    """Whether an optional architecture can be used; nothing fails without its tools."""
    checks = [*qemu(arch), *compiler(arch)]
    lacking = next((each for each in checks if each.status == "missing"), None)
    if lacking is None:
        yield Check(arch.name, "ok", f"optional; {arch.qemu} and {arch.compiler_prefix}gcc are there")
        return
    packages = dict.fromkeys(package for each in checks for package in each.packages)
    text = f"optional, only for --arch {arch.name}: {lacking.name}: {lacking.text}"
    # its packages are not needed on this host
    yield Check(arch.name, "note", text, install(tuple(packages)) if packages else "")


def only_compiled() -> Iterable[Check]:
    """The compilers of the configurations that a series is only compiled in; nothing fails without them."""
    from orchestrator.kernel import compile_only

    own_prefixes = {arch.cross_prefix for arch in map(arches.load, arches.usual())}
    by_package: dict[str, list[compile_only.Config]] = {}
    for config in map(compile_only.load, compile_only.names()):
        if config.cross_prefix not in own_prefixes:
            by_package.setdefault(config.package, []).append(config)
    for package, configs in by_package.items():
        names, program = ", ".join(config.name for config in configs), configs[0].compiler
        if shutil.which(program):
            yield Check("for series", "ok", f"{program}: {names}")
        else:
            yield _absent(
                "for series", f"{program} is not installed, without it: no {names}", package, status="note"
            )


def _link(program: str) -> Output:
    with tempfile.TemporaryDirectory(prefix="orc-") as folder:
        source, program_file = Path(folder, "hello.c"), Path(folder, "hello")
        source.write_text(_PROGRAM)
        argv = [program, "-static", "-pthread", "-o", str(program_file), str(source)]
        output = ask(argv, limit_s=_COMPILE_S)
        if output.code == 0 and not program_file.is_file():
            return Output(1, "", "it wrote no file")
        return output


def build_tools() -> Iterable[Check]:
    """The programs of a kernel build."""
    present = []
    for program, package in BUILD_TOOLS.items():
        if not shutil.which(program):
            yield _absent(program, "is not installed", package)
            continue
        # some bc print no version; flex and perl print theirs in a sentence
        output = ask([program, "--version"])
        if output.code is None:
            yield Check(program, "missing", f"{program} --version: {output.trouble}")
            continue
        present.append(f"{program} {first_number(output.out)}".strip())
    if present:
        yield Check("build tools", "ok", ", ".join(present))


def ccache() -> Iterable[Check]:
    """The compiler cache; optional."""
    if not shutil.which("ccache"):
        yield _absent("ccache", "not installed; repeated builds take longer", "ccache", status="note")
        return
    yield Check("ccache", "ok", first_number(ask(["ccache", "--version"]).out) or "is there")


def sandbox() -> Iterable[Check]:
    """The sandbox of builds; optional."""
    from orchestrator.core import sandbox as sandboxes

    if why := sandboxes.missing():
        packages = () if shutil.which("bwrap") else (sandboxes.PACKAGE,)
        text = f"{why}; makefiles of mailed patches run with your rights"
        yield Check("sandbox", "note", text, install(packages) if packages else "", "", packages)
        return
    yield Check("sandbox", "ok", first_number(ask(["bwrap", "--version"]).out) or "is there")


def apt() -> Iterable[Check]:
    """Whether the host's apt sources name a Debian archive."""
    from orchestrator.debian import mirror, tools

    without = "no guest images and no debian: sources can be made here"
    missing = [tool for tool in tools.NEEDED_TOOLS if not shutil.which(tool)]
    if missing:
        yield Check("apt", "missing", f"{', '.join(missing)} not found: {without}")
        return
    try:
        mirror.host_mirror()
    except InfraError as error:
        # apt's message has the mirror's address, which is private
        is_missing = "name no Debian archive" in error.message
        why = (
            "the host's apt sources name no Debian archive"
            if is_missing
            else "apt-get cannot read its sources"
        )
        yield Check("apt", "missing", f"{why}: {without}", "" if is_missing else "apt-get indextargets")
        return
    yield Check("apt", "ok", "the host's sources name a Debian archive")


def mirror() -> Iterable[Check]:
    """Whether the Debian mirror answers, has the suite, and is trusted."""
    from orchestrator.debian import apt, mirror, tools

    with tempfile.TemporaryDirectory(prefix="orc-") as folder:
        suite = mirror.host_codename() or "stable"
        try:
            state = apt.AptState(Path(folder), [suite], tools.host_arch())
        except InfraError:
            return  # reported by the check of apt
        # the signed release file alone checks the mirror, the suite, the clock and the keys
        argv = ["apt-get", "-q", "update", "--error-on=any", "-o", "Acquire::Retries=0"]
        for kind in ("Packages", "Translations", "DEP-11", "Contents-deb", "CNF"):
            argv += ["-o", f"Acquire::IndexTargets::deb::{kind}::DefaultEnabled=false"]
        output = ask(argv, limit_s=NETWORK_S, env={"APT_CONFIG": str(state.root / "apt.conf")})
    if output.code == 0:
        yield Check("mirror", "ok", f"answers, and has {suite}")
        return
    why = (
        f"no answer within {NETWORK_S:.0f} s"
        if output.code is None
        else "it could not be reached or is refused"
    )
    text = output.out + output.err if output.code is not None else ""
    if "does not have a Release file" in text:
        why = f"it answers, and has no {suite}"
    if output.code is not None and re.search(
        r"NO_PUBKEY|not signed|invalid signature", output.out + output.err
    ):
        why = "its signature is not trusted"
    yield Check("mirror", "missing", f"the Debian mirror: {why}", "apt-get update")


def certificates() -> Iterable[Check]:
    """The CA certificates, for sources from https."""
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and Path(paths.capath).is_dir() and any(Path(paths.capath).iterdir())):
        return
    what = "no CA certificates; needed for vX.Y and https sources"
    yield _absent("certificates", what, "ca-certificates", status="note")


def cache(cache: Path) -> Iterable[Check]:
    """Whether the cache can be written, and its content."""
    trouble = host.unwritable(cache)
    if trouble:
        yield Check("cache", "missing", f"{cache}: {trouble}", "export ORCHESTRATE_CACHE=/a/larger/disk")
        return
    yield Check("cache", "ok", f"{cache}: {host.content(cache)}")


def disk(cache: Path) -> Iterable[Check]:
    """The free space for the cache and for temporary files."""
    for name, folder, need, comfort, variable in (
        ("disk, cache", cache, *host.space_needs(cache), "ORCHESTRATE_CACHE"),
        ("disk, temporary", host.temporary(), *host.TEMPORARY_GIB, "TMPDIR"),
    ):
        if folder == cache and host.unwritable(cache):
            continue  # reported by the check of the cache
        if folder is None:
            text = "no temporary folder can be written"
            yield Check(name, "missing", text, f"export {variable}=/a/larger/disk")
            continue
        status, text = host.space(folder, need, comfort)
        yield Check(name, status, text, f"export {variable}=/a/larger/disk" if status == "missing" else "")


def home(cache: Path) -> Iterable[Check]:
    """Whether the home folder can be written."""
    try:
        home = Path.home()
    except RuntimeError:
        yield Check("home", "note", "there is none; set the cache with ORCHESTRATE_CACHE")
        return
    # only the cache is there, and it has its own check
    if not host.unwritable(home):
        yield Check("home", "ok", "can be written")
    elif not host.unwritable(cache):
        yield Check("home", "ok", "cannot be written; the cache can")


def machine() -> Iterable[Check]:
    """Memory and CPUs."""
    for name, status, text in (host.memory(), host.cpus()):
        yield Check(name, status, text)
