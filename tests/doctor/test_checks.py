# SPDX-License-Identifier: GPL-2.0-only
"""The doctor on hosts that are really broken: tools taken away, programs that hang, disks full."""

from __future__ import annotations

import grp
import io
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from fakes.mounts import mounted
from paths import ROOT
from rich.console import Console
from under_test import image_head

from orchestrator import doctor
from orchestrator.core import arch, sandbox
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.doctor import Check
from orchestrator.doctor import checks as doctor_checks
from orchestrator.doctor import host as doctor_host
from orchestrator.vm import accel, probe, qemu
from orchestrator.vm.probe import Started, Trial

# they wait for processes and clocks
pytestmark = pytest.mark.slow

HOST = arch.host()
ALL = tuple(map(arch.load, arch.usual()))
FOREIGN = next(each for each in ALL if not each.native)
MAKEFILE = ROOT / "Makefile"
INSTALL = "apt-get install --no-install-recommends"

Hide = Callable[..., Path]
Fake = Callable[[str, str], Path]


def no_kvm(_arch: Arch, _cache: Path) -> Trial:
    return Trial(None, "not tried by this test")


def named(checks: Iterable[Check], name: str) -> Check:
    checks = tuple(checks)
    found = [each for each in checks if each.name == name]
    assert len(found) == 1, f"{name} in {[each.name for each in checks]}"
    return found[0]


def shown(checks: Iterable[Check]) -> str:
    out = io.StringIO()
    doctor.render(tuple(checks), Console(file=out, width=80, highlight=False, markup=False, emoji=False))
    return out.getvalue()


@pytest.fixture
def hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hide:
    """A PATH with every program of this host but some."""

    def make(*programs: str) -> Path:
        folder = tmp_path / "path"
        folder.mkdir(exist_ok=True)
        for place in map(Path, os.environ["PATH"].split(":")):
            for program in place.iterdir() if place.is_dir() else ():
                link = folder / program.name
                if program.name not in programs and not link.is_symlink():
                    link.symlink_to(program)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A program of that name, first on the PATH: a script for ``sh``, or with ``#!`` for another."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        program = folder / name
        program.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return program

    return make


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands as root would be told them, with package lists there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor_checks, "LISTS", Path("/nowhere"))


# This host, where `make deps` was run.


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Check, ...]:
    cache = tmp_path_factory.mktemp("cache")
    return doctor.check(ALL, cache, try_kvm=no_kvm, limit_s=120)


def test_what_make_deps_installs_is_found(here: tuple[Check, ...]) -> None:
    expected = ["Python", "libelf headers", "openssl headers", "build tools", "ccache", "sandbox", "apt"]
    expected += [f"{what} {a.name}" for a in ALL for what in ("QEMU", "compiler", "static libc")]
    assert {name: named(here, name).status for name in expected} == dict.fromkeys(expected, "ok")
    tools = named(here, "build tools").text
    assert all(re.search(rf"(^|, ){tool}( [\d.]+)?(,|$)", tools) for tool in doctor_checks.BUILD_TOOLS)
    assert re.search(r"\bmake \d+\.\d", tools)
    assert re.match(r"\d+\.\d+\.\d+, ", named(here, f"QEMU {HOST.name}").text)
    assert re.search(r"gcc \d+\.\d+", named(here, f"compiler {HOST.name}").text)


def test_every_check_answers_in_a_line(here: tuple[Check, ...]) -> None:
    for each in here:
        assert each.text
        assert "\n" not in each.text + each.remedy
        assert "cannot be found out" not in each.text
    assert {"cache", "disk, cache", "disk, temporary", "home", "memory", "CPUs", "KVM"} <= {
        c.name for c in here
    }


def test_it_fits_a_terminal_and_a_pipe(here: tuple[Check, ...]) -> None:
    lines = shown(here).splitlines()
    assert max(len(line.rstrip()) for line in lines if not line.startswith(" ")) <= 80
    assert "\x1b" not in shown(here)
    assert shown(here).isascii()


# Tools taken away.


@pytest.mark.parametrize("tool", doctor_checks.BUILD_TOOLS)
def test_a_build_tool_is_missing(hide: Hide, root: None, tool: str) -> None:
    hide(tool)
    checks = tuple(doctor_checks.build_tools())
    package = doctor_checks.BUILD_TOOLS[tool]
    gone = named(checks, tool)
    assert (gone.status, gone.remedy, gone.packages) == ("missing", f"{INSTALL} {package}", (package,))
    present = {words.split()[0] for words in named(checks, "build tools").text.split(", ")}
    assert present == {*doctor_checks.BUILD_TOOLS} - {tool}
    assert doctor.exit_code(checks) == 3


@pytest.mark.parametrize("which", ALL, ids=lambda a: a.name)
def test_qemu_is_missing(hide: Hide, root: None, tmp_path: Path, which: Arch) -> None:
    hide(which.qemu)
    gone = named(doctor_checks.qemu(which), f"QEMU {which.name}")
    assert (gone.status, gone.needed_for) == ("missing", which.name)
    with pytest.raises(InfraError) as error:
        qemu.program(which)
    assert [error.value.remedy.split()[-1]] == [*gone.packages], "the run itself names the same package"
    kvm = named(doctor_checks.kvm(which, tmp_path, no_kvm), "KVM")
    assert kvm.status == "note"


@pytest.mark.parametrize("which", ALL, ids=lambda a: a.name)
def test_a_compiler_is_missing(hide: Hide, root: None, which: Arch) -> None:
    hide(f"{which.compiler_prefix}gcc")
    checks = tuple(doctor_checks.compiler(which))
    assert [each.status for each in checks] == ["missing", "note"], "what cannot be tried is no further lack"
    assert {each.needed_for for each in checks} == {"" if which.native else which.name}
    assert len(doctor.install_command(checks).removeprefix(INSTALL).split()) == 2, "and its C library"
    assert shown(checks).endswith("\n1 missing\n")


def test_headers_cannot_be_looked_for(hide: Hide, root: None) -> None:
    hide("gcc")
    checks = tuple(doctor_checks.host_compiler((FOREIGN,)))
    assert doctor.install_command(checks) == f"{INSTALL} gcc libc6-dev libelf-dev libssl-dev"
    assert [each.status for each in checks] == ["missing", "note", "note"]
    assert doctor.exit_code(checks) == 3


def test_a_header_is_not_there(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "HEADERS", {"no/such.h": ("such headers", "libsuch-dev")})
    gone = named(doctor_checks.host_compiler((HOST,)), "such headers")
    assert (gone.status, gone.remedy) == ("missing", f"{INSTALL} libsuch-dev")


def test_ccache_is_no_must(hide: Hide, root: None) -> None:
    hide("ccache")
    checks = tuple(doctor_checks.ccache())
    assert [each.status for each in checks] == ["note"]
    assert doctor.exit_code(checks) == 0
    assert f"To install what is optional:\n  {INSTALL} ccache\n" in shown(checks)


def test_a_sandbox_is_no_must(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap does not work here: no namespaces")
    (check,) = doctor_checks.sandbox()
    assert (check.status, check.packages) == ("note", ())
    assert "no namespaces; makefiles of mailed patches run with your rights" in check.text
    assert doctor.exit_code([check]) == 0


def test_one_command_for_all_that_is_missing(hide: Hide, root: None) -> None:
    hide("bc", "flex", "ccache", f"{FOREIGN.compiler_prefix}gcc")
    checks = (*doctor_checks.build_tools(), *doctor_checks.ccache(), *doctor_checks.compiler(FOREIGN))
    cross = FOREIGN.cross_prefix.rstrip("-").replace("_", "-")
    command = f"{INSTALL} bc flex ccache gcc-{cross} libc6-dev-{FOREIGN.debian}-cross"
    assert doctor.install_command(checks) == command
    assert f"To install all that is missing:\n  {command}\n3 missing\n" in shown(checks)
    assert shown(checks).count("apt-get") == 1


def test_tools_of_an_optional_architecture_are_not_missed(hide: Hide, tmp_path: Path) -> None:
    hide(FOREIGN.qemu)
    (check,) = doctor_checks.optional(FOREIGN)
    assert (check.name, check.status, check.packages) == (FOREIGN.name, "note", ())
    assert check.text.startswith(f"optional, only for --arch {FOREIGN.name}: ")
    assert check.remedy.endswith(f"{INSTALL} {FOREIGN.packages.qemu}")
    assert doctor.exit_code([check]) == 0


def test_every_package_is_one_of_make_deps(hide: Hide) -> None:
    listing = ["make", "-pn", "-C", str(MAKEFILE.parent), "-f", MAKEFILE.name, "help"]
    database = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    (deps,) = re.findall(r"^PACKAGES := (.*)$", database, re.M)
    gone = {
        *doctor_checks.BUILD_TOOLS,
        "gcc",
        "ccache",
        FOREIGN.compiler_prefix + "gcc",
        *(a.qemu for a in ALL),
    }
    hide(*gone)
    looks = (doctor_checks.build_tools(), doctor_checks.ccache(), doctor_checks.host_compiler(ALL))
    checks = [c for look in looks for c in look]
    checks += [c for a in ALL for c in (*doctor_checks.compiler(a), *doctor_checks.qemu(a))]
    packages = {package for each in checks for package in each.packages}
    assert len(packages) > 12
    # of Debian's base, and of gcc
    assert {
        p for p in packages - {"tar", "binutils"} if not re.search(rf"(?<![\w-]){p}(?![\w-])", deps)
    } == set()


def test_the_command_for_who_is_not_root(fake: Fake, hide: Hide, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("apt-get", "exit 0")
    fake("sudo", "exit 0")
    monkeypatch.setattr(doctor_checks, "LISTS", Path("/nowhere"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor_checks.install(["bc"]) == f"sudo {INSTALL} bc"
    hide("sudo")
    assert doctor_checks.install(["bc"]) == f"su -c '{INSTALL} bc'"


def test_a_host_that_never_updated(
    fake: Fake, root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("apt-get", "exit 0")
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    monkeypatch.setattr(doctor_checks, "LISTS", tmp_path / "lists")
    assert doctor_checks.install(["bc"]) == f"apt-get update && {INSTALL} bc"
    (tmp_path / "lists" / "mirror_dists_x_Packages.lz4").touch()
    assert doctor_checks.install(["bc"]) == f"{INSTALL} bc"


def test_a_host_without_apt(hide: Hide) -> None:
    hide("apt-get", "bc")
    apt = named(doctor_checks.apt(), "apt")
    assert (apt.status, apt.remedy) == ("missing", "")
    assert "apt-get" in apt.text
    checks = (apt, *doctor_checks.build_tools())
    assert doctor.install_command(checks) == ""
    assert "No apt-get here. Install with this host's own tools what Debian calls:\n  bc\n" in shown(checks)


# Programs that do not do what they are called for.


@pytest.fixture
def qemu_that(fake: Fake) -> Callable[[str], None]:
    def make(text: str) -> None:
        fake(HOST.qemu, text)

    return make


def test_qemu_prints_nonsense(qemu_that: Callable[[str], None]) -> None:
    qemu_that("echo 'I am \033[31mno QEMU'")
    bad = named(doctor_checks.qemu(HOST), f"QEMU {HOST.name}")
    assert (bad.status, bad.text) == ("missing", "does not start as it must: I am no QEMU")


def test_qemu_says_nothing(qemu_that: Callable[[str], None]) -> None:
    qemu_that("exit 3")
    assert probe.paused(HOST, "tcg") == Started("", "it ended with exit status 3")


def test_qemu_lacks_a_device(qemu_that: Callable[[str], None]) -> None:
    real = shutil.which(HOST.qemu)
    qemu_that(f'exec {real} "$@" -device no-such-device')
    assert "'no-such-device' is not a valid device model name" in probe.paused(HOST, "tcg").trouble


TALKER = """\
    #!{python}
    import re, socket, sys, time
    talk = socket.socket(socket.AF_UNIX)
    talk.connect(re.search(r"unix:(\\S+)", " ".join(sys.argv))[1])
    talk.sendall({answer})
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (b"no JSON at all\n", "its answer is not QMP: no JSON at all"),
        (b'{"QMP": "x"}\n', 'its answer is not QMP: {"QMP": "x"}'),
        (b"[1]\n", "its answer is not QMP: [1]"),
        (b'{"QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 0}}}}\n', "no answer within 1 s"),
        (b"\xff" * 200_000, "no answer within 1 s"),
    ],
)
def test_qemu_answers_otherwise(qemu_that: Callable[[str], None], answer: bytes, trouble: str) -> None:
    qemu_that(textwrap.dedent(TALKER).format(python=sys.executable, answer=answer))
    limit_s = 1 if "no answer" in trouble else 20
    assert probe.paused(HOST, "tcg", limit_s=limit_s).trouble == trouble


def test_qemu_hangs_and_leaves_nothing(qemu_that: Callable[[str], None], tmp_path: Path) -> None:
    qemu_that(f"echo $$ >{tmp_path}/pid; sleep 1000 & echo $! >>{tmp_path}/pid; wait")
    assert probe.paused(HOST, "tcg", limit_s=1).trouble == "no answer within 1 s"
    pids = [int(line) for line in (tmp_path / "pid").read_text().split()]
    assert len(pids) == 2
    assert all(map(_is_ended, pids))


def test_an_old_qemu_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "paused", lambda *_: Started("6.2.0"))
    old = named(doctor_checks.qemu(HOST), f"QEMU {HOST.name}")
    assert (old.status, old.text.split(",")[0]) == ("note", "6.2.0")
    monkeypatch.setattr(probe, "paused", lambda *_: Started("10.0.2"))
    assert named(doctor_checks.qemu(HOST), f"QEMU {HOST.name}").status == "ok"


@pytest.mark.parametrize(
    ("script", "found", "packages"),
    [
        ("echo /usr/bin/ld: cannot find -lc: No such file or directory >&2; exit 1", "no C library", 1),
        ("echo 'fatal error: stdio.h: No such file or directory' >&2; exit 1", "no C library", 1),
        (
            "echo 'fatal error: error writing to x.s: No space left on device' >&2; exit 1",
            "No space left",
            0,
        ),
        ("exit 0", "it wrote no file", 0),
        ("exit 9", "no output", 0),
    ],
)
def test_static_library(fake: Fake, root: None, script: str, found: str, packages: int) -> None:
    fake("gcc", f'[ "$1" = --version ] && {{ echo "gcc (Debian 1.2-3) 4.5.6"; exit 0; }}\n{script}')
    checks = tuple(doctor_checks.compiler(HOST))
    assert named(checks, f"compiler {HOST.name}").text == "gcc 4.5.6"
    library = named(checks, f"static libc {HOST.name}")
    assert (library.status, len(library.packages)) == ("missing", packages)
    assert found in library.text


def test_a_compiler_that_is_none(fake: Fake) -> None:
    fake("gcc", "echo hello")
    bad = named(doctor_checks.compiler(HOST), f"compiler {HOST.name}")
    assert (bad.status, bad.text) == ("missing", "gcc --version: hello")


def test_a_tool_that_hangs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_host, "TOOL_S", 0.3)
    fake("bc", "sleep 1000")
    hung = named(doctor_checks.build_tools(), "bc")
    assert (hung.status, hung.text) == ("missing", "bc --version: does not end within 0 s")


def _is_ended(pid: int) -> bool:
    """Whether a process that was killed is gone soon, or at most not reaped by whoever inherited it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_a_hung_tool_started_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    said = doctor_host.ask(
        ["sh", "-c", f"sleep 1000 & echo $! >{pid}.new; mv {pid}.new {pid}; wait"], limit_s=2
    )
    assert said.code is None
    assert _is_ended(int(pid.read_text()))


def test_a_program_that_cannot_be_executed(hide: Hide) -> None:
    program = hide("bc") / "bc"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    bad = named(doctor_checks.build_tools(), "bc")
    assert "cannot be started: No such file" in bad.text


# KVM


@pytest.fixture
def kvm_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev-kvm").touch()
    monkeypatch.setattr(accel, "_KVM", tmp_path / "dev-kvm")
    monkeypatch.setattr(doctor_host, "KVM", tmp_path / "dev-kvm")


def kvm(cache: Path, try_kvm: doctor_checks.TryKvm) -> Check:
    return named(doctor_checks.kvm(HOST, cache, try_kvm), "KVM")


def never(_arch: Arch, _cache: Path) -> Trial:
    raise AssertionError("what is remembered is not tried again")


def test_what_runs_have_learnt_is_shown(kvm_opens: None, tmp_path: Path) -> None:
    accel._remember(HOST, tmp_path, works=False, reason="KVM is broken on this host: QEMU aborts")
    found = kvm(tmp_path, never)
    assert (found.status, found.remedy) == ("note", "")
    assert found.text == "KVM is broken on this host: QEMU aborts; guests are emulated, which is slower"
    accel._remember(HOST, tmp_path, works=True, reason="a kernel has come up under /dev/kvm")
    assert kvm(tmp_path, never) == Check("KVM", "ok", "a kernel has come up under /dev/kvm")


@pytest.mark.parametrize(
    ("trial", "status"),
    [(Trial(True, "up"), "ok"), (Trial(None, "half"), "ok"), (Trial(False, "down."), "note")],
)
def test_what_is_not_known_is_tried(kvm_opens: None, tmp_path: Path, trial: Trial, status: str) -> None:
    found = kvm(tmp_path, lambda *_: trial)
    assert found.status == status
    assert trial.text.rstrip(".") in found.text
    assert not (tmp_path / "kvm.json").exists(), "the doctor changes nothing"


def test_there_is_no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((accel, "_KVM"), (doctor_host, "KVM")):
        monkeypatch.setattr(module, name, tmp_path / "nothing")
    found = kvm(tmp_path, never)
    assert (found.status, found.remedy) == ("note", "")
    assert "No such file" in found.text


#: In one's own group without having logged in again since.
@pytest.mark.parametrize(
    ("mode", "group", "member", "lacks", "remedy"),
    [
        (0o660, "kvm", False, "", "sudo adduser $USER kvm   # then log in again"),
        (0o660, "kvm", False, "sudo", 'su - -c "adduser $USER kvm"   # then log in again'),
        (0o660, "kvm", False, "apt-get", "sudo usermod -aG kvm $USER   # then log in again"),
        (0o660, "kvm", True, "", "newgrp kvm   # or log in again"),
        (0o600, "kvm", False, "", "sudo chown $USER DEV   # until this host reboots"),
        (0o660, "root", False, "", "sudo chown $USER DEV   # until this host reboots"),
        (0o660, "", False, "", "sudo chown $USER DEV   # until this host reboots"),
    ],
    ids=["adduser", "no sudo", "no Debian", "not logged in since", "mode", "root's", "nameless"],
)
def test_kvm_is_denied(
    kvm_opens: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    group: str,
    member: bool,
    lacks: str,
    remedy: str,
) -> None:
    import pwd

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    def named_group(gid: int) -> object:
        if not group:
            raise KeyError(gid)
        me = pwd.getpwuid(os.getuid()).pw_name
        return type("Group", (), {"gr_name": group, "gr_mem": [me] if member else ["another"]})

    (tmp_path / "dev-kvm").chmod(mode)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == lacks else "/usr/bin/there")
    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(grp, "getgrgid", named_group)
    found = kvm(tmp_path, never)
    assert (found.status, "Permission denied" in found.text) == ("note", True)
    assert found.remedy == remedy.replace("DEV", str(tmp_path / "dev-kvm"))
    assert f"KVM: {found.remedy}\n" in shown([found])


def test_without_a_kernel_the_trial_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "paused", lambda *_, **__: Started("7.2"))
    assert probe.try_kvm(HOST, tmp_path).works is None
    monkeypatch.setattr(probe, "paused", lambda *_, **__: Started("7.2", "it aborts"))
    assert probe.try_kvm(HOST, tmp_path) == Trial(False, "it aborts")


def test_an_image_of_another_architecture_is_not_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several call theirs `Image`."""
    image = tmp_path / "kernels" / "0123" / Path(HOST.image).name
    image.parent.mkdir(parents=True)
    image.write_bytes(image_head(next(a for a in ALL if not a.native)))
    image.with_name("manifest.json").touch()
    monkeypatch.setattr(probe, "paused", lambda *_, **__: Started("7.2"))
    assert probe.try_kvm(HOST, tmp_path).works is None


@pytest.mark.parametrize("sealed", [True, False])
def test_a_kernel_of_the_cache_is_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    image = tmp_path / "kernels" / "0123" / Path(HOST.image).name
    image.parent.mkdir(parents=True)
    image.write_bytes(image_head(HOST))
    if sealed:
        image.with_name("manifest.json").touch()
    booted = []

    def boot(_arch: Arch, name: str, kernel: Path, *, limit_s: float) -> Started:
        booted.append((name, kernel))
        return Started()

    monkeypatch.setattr(probe, "shows_banner", boot)
    monkeypatch.setattr(probe, "paused", lambda *_, **__: Started("7.2"))
    assert probe.try_kvm(HOST, tmp_path).works is (True if sealed else None)
    assert booted == ([("kvm", image)] if sealed else [])


CONSOLE = """\
    #!{python}
    import re, socket, sys, time
    assert "-append" in sys.argv and sys.argv[sys.argv.index("-kernel") + 1] == "/k"
    talk = socket.socket(socket.AF_UNIX)
    talk.connect(re.search(r"id=console,path=(\\S+)", " ".join(sys.argv))[1])
    for part in {parts}:
        talk.sendall(part)
        time.sleep(0.05)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("parts", "trouble"),
    [
        ([b"SeaBIOS\r\nLinux ver", b"sion 7.2.0 (x) #1"], ""),
        ([b"SeaBIOS\r\nBooting from ROM.."], "no kernel banner within 1 s"),
        ([], "no kernel banner within 1 s"),
    ],
)
def test_the_banner_counts(qemu_that: Callable[[str], None], parts: list[bytes], trouble: str) -> None:
    qemu_that(textwrap.dedent(CONSOLE).format(python=sys.executable, parts=parts))
    assert probe.shows_banner(HOST, "tcg", Path("/k"), limit_s=1 if trouble else 20).trouble == trouble


# Disks and homes.


def in_a_namespace(script: str, *code: str) -> str:
    """What Python code prints after a shell script has mounted things that only it sees."""
    program = "\n".join(("from pathlib import Path", "from orchestrator.doctor import checks as d", *code))
    done = mounted(script, Path("/"), [sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_read_only_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache ü"
    (cache / "kernels").mkdir(parents=True)
    out = in_a_namespace(
        f"mount --bind '{cache}' '{cache}'; mount -o remount,ro,bind '{cache}'",
        f"for c in d.cache(Path({str(cache)!r})): print(c.status, c.text, c.remedy, sep='|')",
        f"for c in d.cache(Path({str(cache / 'not' / 'yet')!r})): print(c.status, c.text, sep='|')",
    )
    first, second = out.splitlines()
    assert first.split("|")[0] == "missing"
    assert "cannot be written: Read-only file system" in first
    assert "ORCHESTRATE_CACHE" in first.split("|")[2]
    assert "Read-only file system" in second, "nor can it be made there"


def test_a_nearly_full_temporary_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    out = in_a_namespace(
        f"mount -t tmpfs -o size=8m x {small}; export TMPDIR={small}; head -c 6m /dev/zero >{small}/filler",
        f"for c in d.disk(Path({str(small)!r})): print(c.name, c.status, c.text, c.remedy, sep='|')",
    )
    cache, temporary = (line.split("|") for line in out.splitlines())
    assert cache[:2] == ["disk, cache", "missing"]
    assert re.match(r"2 MiB free, 3\.5 GiB needed \(2 GiB a build, 1\.5 GiB a source tree\)", cache[2])
    assert temporary[:2] == ["disk, temporary", "missing"]
    assert re.match(r"2 MiB free, 0\.2 GiB needed", temporary[2])
    assert "TMPDIR" in temporary[3]


def test_a_full_cache_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    out = in_a_namespace(
        f"mount -t tmpfs -o size=1m none {small}; head -c 2m /dev/zero >{small}/filler || true",
        f"print([c.text for c in d.cache(Path({str(small)!r}))])",
    )
    assert "cannot be written: No space left on device" in out


def test_too_few_files(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    out = in_a_namespace(
        f"mount -t tmpfs -o size=64g,nr_inodes=1000 none {small}",
        f"print([(c.status, c.text) for c in d.disk(Path({str(small)!r}))][0])",
    )
    assert "'missing'" in out
    assert "room for 999 files only" in out


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_unwritable_cache_is_told_once(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    checks = doctor.check((FOREIGN,), tmp_path / name)
    told = [c.name for c in checks if "ORCHESTRATE_CACHE" in c.text + c.remedy or c.status == "missing"]
    assert told == ["cache"]
    assert "disk, temporary" in {each.name for each in checks}
    assert doctor.exit_code(checks) == 3


def test_a_home_that_cannot_be_written_and_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    home = named(doctor_checks.home(tmp_path / "cache"), "home")
    assert (home.status, home.text) == ("ok", "cannot be written; the cache can")


def test_what_the_cache_holds(tmp_path: Path) -> None:
    assert "0 MiB" not in named(doctor_checks.cache(tmp_path / "new"), "cache").text
    assert not (tmp_path / "new").exists(), "the doctor changes nothing"
    for name in ("kernels/a", "kernels/b", "kernels/.half", "images/c", "sources/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kernels/a/bzImage").write_bytes(os.urandom(5 << 20))
    (tmp_path / "sources/d/big").write_bytes(os.urandom(5 << 20))
    found = doctor_host.content(tmp_path)
    assert re.fullmatch(r"5 MiB; 1 source tree \(another 1\.5 GiB\), 2 kernels, 1 guest image", found)


def test_a_source_tree_is_there_already(tmp_path: Path) -> None:
    assert doctor_host.space_needs(tmp_path)[0] == 3.5
    (tmp_path / "sources" / "d").mkdir(parents=True)
    assert doctor_host.space_needs(tmp_path)[0] == 2.0


@pytest.mark.parametrize(
    ("available", "status"), [(0.5, "missing"), (1.0, "note"), (8.0, "ok")], ids=["little", "some", "much"]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, available: float, status: str) -> None:
    import psutil

    memory = type("Memory", (), {"available": int(available * (1 << 30))})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor_host, "_cgroup", lambda _: None)
    assert doctor_host.memory()[1] == status
    monkeypatch.setattr(doctor_host, "_cgroup", {"memory.max": 600 << 20, "memory.current": 0}.get)
    assert doctor_host.memory()[1] == "missing", "a container's limit counts"


@pytest.mark.parametrize(("number", "load", "status"), [(4, 0.2, "ok"), (4, 3.5, "note"), (1, 0.0, "note")])
def test_cpus(monkeypatch: pytest.MonkeyPatch, number: int, load: float, status: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert doctor_host.cpus()[1] == status


@pytest.mark.parametrize(("text", "said"), [("1\n", True), ("0\n", False), (None, False)])
def test_work_that_does_not_yield_is_told_on_a_busy_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, said: bool
) -> None:
    setting = tmp_path / "sched_autogroup_enabled"
    if text is not None:
        setting.write_text(text)
    monkeypatch.setattr(doctor_host, "AUTOGROUP", setting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0.0, 0.0))
    assert ("kernel.sched_autogroup_enabled=1" in doctor_host.cpus()[2]) is said
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert "autogroup" not in doctor_host.cpus()[2]


# apt


def fake_apt(fake: Fake, update: str) -> None:
    row = "\\t".join(
        (
            "http://secret.invalid/debian/",
            "Debian",
            "Debian",
            "x",
            "main",
            "/etc/apt/sources.list:1",
            "Packages",
        )
    )
    fake("apt-get", f'case "$*" in *indextargets*) printf "{row}\\n";; *) {update};; esac')


def test_sources_without_debian(fake: Fake) -> None:
    fake("apt-get", "exit 0")
    apt = named(doctor_checks.apt(), "apt")
    assert apt.status == "missing"
    assert apt.text.startswith("the host's apt sources name no Debian archive")


@pytest.mark.parametrize(
    ("update", "status", "found"),
    [
        ("exit 0", "ok", "answers, and has "),
        (
            "echo 'E: Failed to fetch http://secret.invalid/debian Could not resolve' >&2; exit 100",
            "missing",
            "reached",
        ),
        (
            "echo \"E: 'http://secret.invalid x' does not have a Release file.\" >&2; exit 100",
            "missing",
            "has no ",
        ),
        ("echo 'W: http://secret.invalid NO_PUBKEY 1234' >&2; exit 100", "missing", "not trusted"),
        ("sleep 1000", "missing", "no answer within"),
    ],
    ids=["answers", "unreachable", "without the suite", "key", "hangs"],
)
def test_the_mirror(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, update: str, status: str, found: str
) -> None:
    monkeypatch.setattr(doctor_checks, "NETWORK_S", 0.5)
    fake_apt(fake, update)
    said = named(doctor_checks.mirror(), "mirror")
    assert said.status == status
    assert found in said.text
    assert "secret" not in said.text + said.remedy, "where packages come from is nobody's business"


def test_apts_own_words_are_not_repeated(fake: Fake) -> None:
    fake("apt-get", "echo 'E: secret.invalid is malformed' >&2; exit 100")
    assert named(doctor_checks.apt(), "apt").text.startswith("apt-get cannot read its sources")


def test_the_network_is_asked_on_request_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("apt", "build_tools", "compiler", "host_compiler", "qemu"):
        monkeypatch.setattr(doctor_checks, name, lambda *_: ())
    monkeypatch.setattr(doctor_checks, "mirror", lambda: (Check("mirror", "ok", "asked"),))
    assert "mirror" not in {each.name for each in doctor.check((FOREIGN,), tmp_path)}
    assert "mirror" in {each.name for each in doctor.check((FOREIGN,), tmp_path, network=True)}


# All together, on odd hosts.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks that start nothing."""
    for name in ("apt", "build_tools", "compiler", "host_compiler", "qemu"):
        monkeypatch.setattr(doctor_checks, name, lambda *_: ())


def test_a_check_that_hangs_keeps_nobody(quick: None, tmp_path: Path, kvm_opens: None) -> None:
    over = threading.Event()

    def hang(_arch: Arch, _cache: Path) -> Trial:
        over.wait(60)
        return Trial(True, "")

    checks = doctor.check((HOST,), tmp_path, try_kvm=hang, limit_s=1)
    over.set()
    assert named(checks, "KVM") == Check("KVM", "missing", "no answer within 1 s")
    assert named(checks, "Python").status == "ok"


@pytest.mark.parametrize("error", [ZeroDivisionError("odd\nhost"), InfraError("no room"), OSError(5, "I/O")])
def test_a_check_that_breaks_is_not_green(
    quick: None, tmp_path: Path, kvm_opens: None, error: Exception
) -> None:
    def broken(_arch: Arch, _cache: Path) -> Trial:
        raise error

    checks = doctor.check((HOST,), tmp_path, try_kvm=broken)
    assert named(checks, "KVM").status == "missing"
    assert named(checks, "KVM").text.startswith("check failed: ")
    assert doctor.exit_code(checks) == 3


def test_only_the_arches_asked_for(quick: None, tmp_path: Path) -> None:
    names = {each.name for each in doctor.check((FOREIGN,), tmp_path, try_kvm=never)}
    assert "KVM" not in names, "a foreign guest is always emulated"


def test_no_check_imports_what_another_may_import(tmp_path: Path) -> None:
    """Two threads that import modules which import each other wait for one another."""
    code = """
        import sys, threading
        from pathlib import Path
        from orchestrator import doctor
        from orchestrator.core import arch
        from orchestrator.vm.probe import Trial
        before, start = set(), threading.Thread.start
        def first(thread):
            before.update(() if before else sys.modules)
            start(thread)
        threading.Thread.start = first
        arches = [arch.load(name) for name in arch.usual()]
        doctor.check(arches, Path(sys.argv[1]), try_kvm=lambda *_: Trial(False, "no"))
        print(sorted(name for name in set(sys.modules) - before if name.startswith("orchestrator")))
    """
    argv = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "environment",
    [
        {"PATH": "", "LC_ALL": "C"},
        {"PATH": "/nowhere", "LC_ALL": "POSIX", "HOME": "/nowhere", "TMPDIR": "/nowhere"},
        {"LC_ALL": "xx_XX.UTF-9", "PATH": "/dev/null", "HOME": "", "ORCHESTRATE_CACHE": "/proc/nowhere"},
    ],
    ids=["bare", "nowhere", "nonsense"],
)
def test_no_traceback_anywhere(environment: dict[str, str], tmp_path: Path) -> None:
    code = """
        from pathlib import Path
        import sys
        from rich.console import Console
        from orchestrator import doctor
        from orchestrator.core import arch
        from orchestrator.core.store import default_cache
        checks = doctor.check([arch.load(n) for n in arch.usual()], default_cache())
        doctor.render(checks, Console(highlight=False, markup=False, emoji=False))
        sys.exit(doctor.exit_code(checks))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert "Traceback" not in done.stdout
    assert "cannot be found out" not in done.stdout
    assert "MISSING  make" in done.stdout
    assert f"{arch.load('arm64').qemu} is not installed" in done.stdout
    assert "No apt-get here." in done.stdout


def test_the_status_is_a_word() -> None:
    checks = (
        Check("one", "ok", "fine"),
        Check("two", "note", "slow", "some command"),
        Check("three", "missing", "x" * 200, "", "arm64"),
    )
    lines = shown(checks).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["ok", "note", "MISSING"]
    assert max(map(len, lines)) <= 80
    assert "(forarm64)" in "".join("".join(lines).split()), "in words, wherever the line is broken"
    assert "two: some command" in lines
    assert lines[-1] == "1 missing"
    assert shown(checks[:2]).endswith("Nothing is missing.\n")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.1\nCopyright (C) 2022", "12.2.1"),
        ("This is perl 5, version 36, subversion 0 (v5.36.0) built for x", "5.36.0"),
        ("xz (XZ Utils) 5.4.1\nliblzma 5.4.1", "5.4.1"),
        ("rsync  version v3.2.7  protocol version 31", "3.2.7"),
        ("bc 1.07.1", "1.07.1"),
        ("GNU Make 4.3\nBuilt for x86_64-pc-linux-gnu", "4.3"),
        ("aarch64-linux-gnu-gcc (Debian) 14.2.0", "14.2.0"),
        ("hello", ""),
        ("", ""),
    ],
)
def test_version(text: str, version: str) -> None:
    assert doctor_host.first_number(text) == version


def test_a_socket_of_ours_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert probe.paused(HOST, "tcg").trouble == ""
    assert list(tmp_path.iterdir()) == []


def test_a_check_is_plain_data() -> None:
    each = Check("a", "ok", "b")
    assert msgspec.json.decode(msgspec.json.encode(each), type=Check) == each
