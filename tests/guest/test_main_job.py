# SPDX-License-Identifier: GPL-2.0-only
"""The main job with real kernels in real guests: both architectures, both variants.

One run fills the kernels; everything else here boots them again. A source that cannot be had is red.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from paths import DATA
from under_test import ORCHESTRATE, SOURCE

from orchestrator import source
from orchestrator.cell import lifecycle
from orchestrator.cell import suites as cell_suites
from orchestrator.cell.host import Host
from orchestrator.cell.job import CellJob
from orchestrator.cell.machine import guest_spec
from orchestrator.cell.state import CellState
from orchestrator.core import arch
from orchestrator.core.store import Store, default_cache
from orchestrator.kernel import build as kernels
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs, kernel_spec
from orchestrator.plan.plan import CellPlan
from orchestrator.plan.target import Target
from orchestrator.results.model import Blame, Case, CellResult, Verdict
from orchestrator.run import latest
from orchestrator.run.summary import RunResult
from orchestrator.source.classify import classify
from orchestrator.source.model import Tree
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Suite
from orchestrator.vm import accel
from orchestrator.vm.machine import Deadlines, Guest
from orchestrator.vm.qemu import GuestSpec

pytestmark = pytest.mark.guest

VARIANTS = ("per-vma-lock", "mmap-lock")


@pytest.fixture(scope="session")
def store() -> Store:
    return Store(default_cache())


def _stats(top: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file: no write leaves the latter as it was."""
    found = ((path, path.lstat()) for path in top.rglob("*"))
    return {str(path.relative_to(top)): (stat.st_ctime_ns, stat.st_size) for path, stat in found}


@pytest.fixture(scope="session")
def tree(store: Store) -> Iterator[Tree]:
    """The kernel's source, read-only while the tests run, and afterwards shown to be what it was."""
    found = source.resolve(SOURCE, cache=store.root)
    before = _stats(found.path)
    mounted = os.geteuid() == 0
    if mounted:
        subprocess.run(["mount", "--bind", found.path, found.path], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", found.path], check=True)
    try:
        if mounted:
            with pytest.raises(OSError, match="Read-only"):
                (found.path / "touched").touch()
        yield found
    finally:
        if mounted:
            # lazily: another run may be building from it
            subprocess.run(["umount", "--lazy", found.path], check=True)
    assert _stats(found.path) == before


class Finished(msgspec.Struct):
    """The main run: its exit code, what it printed, its folder and its results."""

    code: int
    said: str
    folder: Path
    result: RunResult


@pytest.fixture(scope="session")
def main_run(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [
            *ORCHESTRATE,
            "run",
            "--source",
            SOURCE,
            "--arch",
            "all",
            "--suite",
            "maps",
            "--out",
            out,
            "--junit",
            out / "all.xml",
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    (folder,) = latest.folders(out)
    result = msgspec.json.decode((folder / "results.json").read_bytes(), type=RunResult)
    print(done.stdout, done.stderr)
    return Finished(done.returncode, done.stdout + done.stderr, folder, result)


def _cell(run: Finished, arch_name: str, variant: str) -> CellResult:
    return next(c for c in run.result.cells if (c.arch, c.variant) == (arch_name, variant))


def test_main_run_is_green(main_run: Finished) -> None:
    bad = [
        (c.cell, x)
        for c in main_run.result.cells
        for x in c.all_cases()
        if x.verdict not in (Verdict.PASS, Verdict.SKIP)
    ]
    assert not bad
    assert main_run.code == 0
    assert len(main_run.result.cells) == 4


@pytest.mark.parametrize("arch_name", arch.usual())
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_cell_proves_what_it_ran(main_run: Finished, tree: Tree, arch_name: str, variant: str) -> None:
    found = _cell(main_run, arch_name, variant)
    assert [c.id for c in found.cases] == ["config", "build", "boot", "proof", "shutdown"]
    present = "present" if variant == "per-vma-lock" else "absent"
    assert found.properties["proof: kallsyms"] == f"lock_vma_under_rcu {present}"
    assert ("vma_lock_success" in found.properties["proof: vmstat"]) == (variant == "per-vma-lock")
    assert found.properties["proof: config.gz"].startswith(
        f"PER_VMA_LOCK={'y' if variant == 'per-vma-lock' else 'n'}"
    )
    assert len(found.properties["proof: build-id"]) == 40
    assert found.properties["config difference of the pair"] == "PER_VMA_LOCK, PER_VMA_LOCK_STATS"
    assert found.properties["proof: vCPUs online"] == "2"
    assert found.properties["accelerator"] in ("kvm", "tcg")
    assert found.properties["accelerator reason"]
    assert found.release.startswith(tree.version)
    folder = main_run.folder / "cells" / found.cell
    for name in ("result.json", "console.log", "qemu.json", "config", "reproduce.sh"):
        assert (folder / name).stat().st_size, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kernels_own_tests_reported(main_run: Finished, variant: str) -> None:
    for arch_name in arch.usual():
        (suite,) = _cell(main_run, arch_name, variant).suites
        verdicts = {c.id: c for c in suite.cases}
        races = [c for c in verdicts.values() if c.id.startswith("maps/proc-maps-race/")]
        assert len(races) == 6
        assert all(c.verdict is Verdict.PASS for c in races)
        for name in ("proc-pid-vm", "proc-empty-vm"):
            case = verdicts[f"maps/{name}"]
            if arch_name == "x86_64":
                assert case.verdict is Verdict.PASS
            else:
                assert case.verdict is Verdict.SKIP
                assert "x86" in case.reason


def test_build_ids_differ(main_run: Finished) -> None:
    ids = {c.properties["proof: build-id"] for c in main_run.result.cells}
    assert len(ids) == 4


def test_junit_of_the_main_run(main_run: Finished) -> None:
    from lxml import etree

    schema = etree.XMLSchema(etree.parse(DATA / "junit.xsd"))
    for path in (main_run.folder / "junit.xml", main_run.folder.parent / "all.xml"):
        document = etree.parse(path)
        schema.assertValid(document)
        assert len(document.findall(".//testsuite")) == 8
        assert not document.findall(".//failure")
        assert not document.findall(".//error")


def test_first_line_and_table(main_run: Finished, tree: Tree) -> None:
    assert f"Linux {tree.version}" in main_run.said
    assert "shown by" in main_run.said
    assert str(main_run.folder) in main_run.said.replace("\n", "")


# --- one cell at a time, on the kernels of the main run --------------------------------------------------


class Bench:
    """Carries out single cells, with a suite of the tests' own in place of the catalogue's."""

    def __init__(self, tree: Tree, store: Store, root: Path) -> None:
        self.tree, self.store, self.root = tree, store, root
        self.said: list[str] = []

    def inputs(self, *suites: Suite, **changes: object) -> Inputs:
        return msgspec.structs.replace(_inputs(self.tree, self.store, *suites), **changes)

    def run(
        self,
        *,
        arch_name: str = "x86_64",
        variant: str = "per-vma-lock",
        suite: Suite | None = None,
        heard: Callable[[str, str], None] = lambda phase, text: None,
        **changes: object,
    ) -> CellResult:
        suite = suite or _hostile_suite()
        names = (suite.name,)
        plan = CellPlan(
            id="cell", label="tested", arch=arch_name, variant=variant, suites=names, smp=2, mem_mib=512
        )

        def say(phase: str, text: str) -> None:
            self.said.append(f"{phase}: {text}")
            heard(phase, text)

        job = CellJob.of(plan, self.inputs(suite, **changes), {}, lambda _arch, _variant: None)
        return lifecycle.execute(job, Host.here(self.store, self.root), say)


def _inputs(tree: Tree, store: Store, *suites: Suite) -> Inputs:
    choices = Choices(arches=("x86_64",), variants=VARIANTS)
    target = Target(label="tested", tree=tree, tree_class=classify(tree.path), source=Source(spec=SOURCE))
    return prepare.inputs(choices, [target], suites, store)


#: What a program of tests/data/hostile does by itself, and a word of the reason that says so.
BY_PROGRAM = {
    "panic": "sysrq triggered crash",
    "splat": "WARNING",
    # it wrote a mark of its end before that
    "forge": "WARNING",
    "reboot": "reboot: Restarting system",
    "poweroff": "reboot: Power down",
    "halt": "reboot: System halted",
    "runner": "the runner that watches the program",
    "sshd": "session was ended from inside",
    "all": "session was ended from inside",
}


def _hostile_suite() -> Suite:
    names = ("good", *BY_PROGRAM, "quiet", "silent", "taint", "asleep", "after")
    return Suite(
        folder=DATA / "hostile",
        name="hostile",
        description="programs that do to a guest what kernels do",
        kind="functional",
        origin="own",
        timeout_s=5,
        build=catalog.Build(sources=("hostile.c",)),
        program=tuple(catalog.Program(name=name, argv=(name,)) for name in names),
        expect=tuple(catalog.Expectation(program=name) for name in names),
    )


@pytest.fixture
def bench(main_run: Finished, tree: Tree, store: Store, tmp_path: Path) -> Bench:
    return Bench(tree, store, tmp_path)


def _by_id(result: CellResult) -> dict[str, Case]:
    return {c.id: c for c in result.all_cases()}


@pytest.mark.parametrize("arch_name", arch.usual())
def test_crash_splat_and_hang_have_their_verdicts(bench: Bench, arch_name: str) -> None:
    started = time.monotonic()
    result = bench.run(arch_name=arch_name)
    cases = _by_id(result)
    assert cases["hostile/good"].verdict is Verdict.PASS
    # what a program does ends that guest only: the cell goes on in another one
    for name, word in BY_PROGRAM.items():
        case = cases[f"hostile/{name}"]
        assert (case.verdict, case.blame) == (Verdict.FAIL, Blame.TEST), case
        assert word in case.reason
    assert cases["hostile/panic"].fingerprint
    # the log level mutes nothing, unless what overrides it is turned off
    assert cases["hostile/quiet"].verdict is Verdict.PASS
    assert cases["hostile/silent"].verdict is Verdict.INCONCLUSIVE
    assert "mute" in cases["hostile/silent"].reason
    # without a word on the console, and of this program's making
    tainted = cases["hostile/taint"]
    assert (tainted.verdict, tainted.reason) == (Verdict.CRASH, "the kernel became tainted: W: warning")
    late = cases["hostile/asleep"]
    assert (late.verdict, late.blame) == (Verdict.TIMEOUT, Blame.TEST)
    assert "asleep/" in late.reason
    assert "sleeps uninterruptibly in " in late.reason
    evidence = bench.root / "cells/cell/suites/hostile"
    text = (evidence / "asleep.hang.txt").read_text()
    for word in ("kernel_clone", "Show backtrace of all active CPUs", "Show Blocked State", "Show State"):
        assert word in text, word
    assert (evidence / "asleep.vmcore").stat().st_size > 1 << 20
    assert cases["hostile/after"].verdict is Verdict.PASS
    # each had a guest of its own, restored or, where that does not work, booted
    assert len(list(bench.root.glob("cells/cell/console*.log"))) >= len(cases) - len(result.cases)
    assert result.properties["further guests"].startswith(("restored: ", "booted: "))
    assert time.monotonic() - started < 400
    assert not _our_qemus()


def test_a_splat_is_put_on_the_case_that_ran(bench: Bench) -> None:
    suite = Suite(
        folder=DATA / "hostile",
        name="hostile",
        description="cases of which one burns and one takes the guest down",
        kind="functional",
        origin="own",
        timeout_s=10,
        build=catalog.Build(sources=("burning.c",), library=True),
        program=(catalog.Program(name="burning", parser="ktap"),),
        expect=(catalog.Expectation(program="burning", cases=5),),
    )
    result = bench.run(suite=suite)
    cases = {name: c for name, c in _by_id(result).items() if name.startswith("hostile/")}
    assert {name: c.verdict for name, c in cases.items()} == {
        "hostile/burning/fire/before": Verdict.PASS,
        # it wrote the report itself
        "hostile/burning/fire/burns": Verdict.FAIL,
        "hostile/burning/fire/after": Verdict.PASS,
        "hostile/burning/end/dies": Verdict.FAIL,
        # the rest never reported
        "hostile/burning": Verdict.FAIL,
    }
    assert cases["hostile/burning/fire/burns"].reason.endswith("WARNING in lock_next_vma")
    assert "sysrq" in cases["hostile/burning/end/dies"].reason


def _our_qemus() -> list[psutil.Process]:
    """Guests of this process: others may run on the host as well."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("qemu-system"):
                found.append(process)
    return found


def test_killed_qemu_is_infrastructure(bench: Bench) -> None:
    def heard(phase: str, text: str) -> None:
        if (phase, text) == ("run", "hostile/good"):
            for process in _our_qemus():
                process.kill()

    cases = _by_id(bench.run(heard=heard))
    killed = cases["hostile/good"]
    assert (killed.verdict, killed.blame) == (Verdict.ERROR, Blame.INFRA)
    assert "signal 9" in killed.reason
    assert not _our_qemus()


def _boot_instead(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    """Have cells boot another image than the one that was built."""

    def spec(*arguments: Any) -> GuestSpec:
        return msgspec.structs.replace(guest_spec(*arguments), kernel=image)

    monkeypatch.setattr(cell_suites, "guest_spec", spec)


def test_wrong_image_goes_red(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other variant's kernel is booted on purpose: nothing is run in it."""
    other = kernels.build(
        kernel_spec(bench.inputs(), "tested", "x86_64", "mmap-lock"), bench.store, say=print
    )
    _boot_instead(monkeypatch, other.image)
    cases = _by_id(bench.run())
    proof = cases["proof"]
    assert proof.verdict is Verdict.INCONCLUSIVE
    for word in ("build-id", "kallsyms", "config.gz"):
        assert word in proof.reason
    assert not any(c.verdict is Verdict.PASS for name, c in cases.items() if name.startswith("hostile/"))


def test_image_that_is_no_kernel_is_the_kernels_fault(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "silent"
    silent.write_bytes(b"\0" * 65536)
    _boot_instead(monkeypatch, silent)
    cases = _by_id(bench.run())
    assert cases["boot"].verdict in (Verdict.FAIL, Verdict.ERROR)
    assert "proof" not in cases


@pytest.mark.parametrize("request_", ["CONFIG_NO_SUCH_SYMBOL=y", "CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP=m"])
def test_lost_symbol_of_the_users_is_wrong_usage(tree: Tree, tmp_path: Path, request_: str) -> None:
    done = subprocess.run(
        [
            *ORCHESTRATE,
            "run",
            "--source",
            SOURCE,
            "--arch",
            "x86_64",
            "--kconfig",
            request_,
            "--out",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert request_.partition("=")[0] in said
    assert "Traceback" not in said


def test_tree_that_does_not_compile_is_the_kernels_fault(tree: Tree, tmp_path: Path) -> None:
    """Everything begins with kernel/bounds.c, so this is over in seconds."""
    copy = tmp_path / "linux"
    # the bulk is what is never reached: drivers, other architectures
    beyond = [f"--exclude=/{top}/**.[chS]" for top in ("arch/*", "drivers", "fs", "net", "sound")]
    words = ["--include=/arch/arm64/**", "--exclude=/Documentation/**.rst", *beyond]
    subprocess.run(["rsync", "-a", *words, f"{tree.path}/", copy], check=True)
    bounds = copy / "kernel/bounds.c"
    bounds.write_text(bounds.read_text() + '#error "broken on purpose"\n')
    line = len(bounds.read_text().splitlines())
    choice = ["--arch", "arm64", "--variant", "mmap-lock", "--suite", "maps"]
    done = subprocess.run(
        [*ORCHESTRATE, "run", "--source", copy, *choice, "--out", tmp_path / "runs"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"kernel/bounds.c:{line}:" in done.stdout
    assert "broken on purpose" in done.stdout
    (results,) = (run / "results.json" for run in latest.folders(tmp_path / "runs"))
    cases = _by_id(msgspec.json.decode(results.read_bytes(), type=RunResult).cells[0])
    assert (cases["build"].verdict, cases["build"].blame) == (Verdict.FAIL, Blame.KERNEL)
    assert "boot" not in cases


def test_configures_and_builds_selftests_from_a_read_only_tree(tree: Tree, tmp_path: Path) -> None:
    """With an empty store, so that something is really made from the read-only tree in a warm run too."""
    fresh = Store(tmp_path / "store")
    inputs = _inputs(tree, fresh)
    spec = kernel_spec(inputs, "tested", "arm64", "mmap-lock")
    assert set(kernels.pair_difference(spec, fresh)) == {"PER_VMA_LOCK", "PER_VMA_LOCK_STATS"}
    from orchestrator.suites import build as suite_build

    programs = suite_build.build(
        catalog.load("maps"), tree=tree, arch=arch.load("arm64"), store=fresh, log=tmp_path / "log"
    )
    assert set(programs) == {"proc-pid-vm", "proc-empty-vm", "proc-maps-race"}


def test_map_latency_measures(bench: Bench) -> None:
    """One boot: that it measures, not how fast; its scanners' proof is in its verdict."""
    result = bench.run(suite=catalog.load("map-latency"))
    (suite,) = result.suites
    (case,) = suite.cases
    assert case.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), case.reason
    if case.verdict is Verdict.PASS:
        assert suite.metrics["scans"] > 0
        assert suite.metrics["mean_us_scanned"] > 0
    else:
        assert "host" in result.properties or case.reason


def test_kvm_is_kept_only_if_a_kernel_comes_up_under_it(bench: Bench, tmp_path: Path) -> None:
    """With a CPU model under which some hosts' KVM runs for ever and never prints a character."""
    inputs, host = bench.inputs(), Host.here(bench.store, bench.root)
    plan = CellPlan(
        id="kvm", label="tested", arch="x86_64", variant="mmap-lock", suites=(), smp=2, mem_mib=512
    )
    job = CellJob.of(plan, inputs, {}, lambda _arch, _variant: None)
    state = CellState(job, host, lambda phase, text: None)
    state.folder.mkdir(parents=True)
    kernel = kernels.build(kernel_spec(inputs, "tested", "x86_64", "mmap-lock"), bench.store, say=print)
    spec = guest_spec(state, kernel, [], {})
    model = msgspec.structs.replace(spec.arch, cpu_kvm="qemu64")
    spec = msgspec.structs.replace(spec, arch=model)
    first = accel.choose(model, "auto", tmp_path)
    if first.name != "kvm":
        pytest.skip(f"nothing to try: {first.reason}")

    def start(name: str, deadlines: Deadlines) -> Guest:
        log = tmp_path / f"{name}.log"
        return Guest.boot(spec, accel=name, keys=host.keys, log=log, deadlines=deadlines)

    guest, used = accel.boot(model, first, False, tmp_path, start, print)
    try:
        assert guest.run(["/bin/true"], limit_s=20).ok
    finally:
        guest.close()
    remembered = accel.choose(model, "auto", tmp_path)
    assert remembered == used
    if used.name == "tcg":
        assert "KVM is broken on this host" in used.reason
        assert not (tmp_path / "kvm.log").read_bytes()


# --- interrupts -------------------------------------------------------------------------------------------


def _start(tmp_path: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*ORCHESTRATE, "run", "--source", SOURCE, "--arch", "x86_64", "--out", tmp_path, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _wait_for(running: subprocess.Popen[bytes], word: bytes) -> None:
    assert running.stdout is not None
    for line in running.stdout:
        if word in line:
            return
    raise AssertionError(f"it ended without saying {word!r}")


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _with_a_guest(pid: int) -> list[psutil.Process]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        children = _descendants(pid)
        if any(child.name().startswith("qemu-system") for child in children):
            return children
        time.sleep(0.05)
    raise AssertionError("no guest was started")


@pytest.mark.parametrize(
    ("word", "signal_"),
    [
        (b"starting QEMU", signal.SIGINT),
        (b"maps/proc-maps-race", signal.SIGINT),
        (b"maps/proc-maps-race", signal.SIGTERM),
        (b"waiting for the kernel", signal.SIGKILL),
        (b"maps/proc-maps-race", signal.SIGKILL),
    ],
)
def test_interrupted_run_leaves_nothing_behind(
    main_run: Finished, tmp_path: Path, word: bytes, signal_: signal.Signals
) -> None:
    running = _start(tmp_path, "--suite", "maps")
    _wait_for(running, word)
    children = _with_a_guest(running.pid)
    running.send_signal(signal_)
    assert running.stdout is not None
    said = running.stdout.read()
    code = running.wait(30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    if signal_ is not signal.SIGKILL:
        assert code == 130, said
        (folder,) = latest.folders(tmp_path)
        assert json.loads((folder / "results.json").read_bytes())["interrupted"] is True


def test_killed_build_leaves_nothing_behind(tree: Tree, tmp_path: Path) -> None:
    environment = {**os.environ, "ORCHESTRATE_CACHE": str(tmp_path / "cache")}
    running = subprocess.Popen(
        [*ORCHESTRATE, "build", "--source", tree.path, "--arch", "x86_64", "--variant", "mmap-lock"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    _wait_for(running, b"building")
    time.sleep(3)
    children = _descendants(running.pid)
    assert any("make" in child.name() for child in children)
    running.kill()
    running.wait(10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
