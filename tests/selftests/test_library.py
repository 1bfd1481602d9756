# SPDX-License-Identifier: GPL-2.0-only
"""selftests/lib: compiled without a warning for every arch, and run here: a case ends as it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from orchestrator.core import arch, data
from orchestrator.core.store import Store
from orchestrator.results.model import Verdict
from orchestrator.suites import build, catalog
from orchestrator.verdict import benchmark, ktap

pytestmark = pytest.mark.slow

STRICT = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-static"]
OWN = [name for name in catalog.names() if catalog.load(name).origin == "own"]


def compiler(name: str) -> str:
    found = f"{arch.load(name).compiler_prefix}gcc"
    if shutil.which(found) is None:
        pytest.skip(f"{found} is not installed")
    return found


@pytest.mark.parametrize("name", arch.names())
@pytest.mark.parametrize("suite", OWN)
def test_our_suites_compile_without_a_warning(suite: str, name: str, tmp_path: Path) -> None:
    loaded = catalog.load(suite)
    library = sorted(map(str, data.library().glob("*.c"))) if loaded.build.library else []
    for program in loaded.program:
        sources = [str(loaded.folder / source) for source in loaded.sources_of(program)]
        flags = [*(program.cflags or loaded.build.cflags), *STRICT, f"-I{data.library()}"]
        argv = [compiler(name), *flags, "-o", str(tmp_path / program.name), *sources, *library]
        subprocess.run(argv, check=True, cwd=loaded.folder)


PROGRAM = r"""
#include "maps.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void good(const void *arg)
{
	struct maps_text text = { 0 };
	struct maps_line line;
	const char *why = "";
	size_t at = 0;
	int fd = open("/proc/self/maps", O_RDONLY), got;
	uint64_t lines = 0;

	(void)arg;
	if (maps_read(fd, 37, &text))
		kt_inconclusive("no maps");
	while ((got = maps_next(&text, &at, &line, &why)) > 0)
		lines++;
	if (got < 0)
		kt_fail_text(text.data, text.length, "%s", why);
	kt_work("lines", lines, 3);
}
static void bad(const void *arg) { (void)arg; kt_fail("a \033[2J hole"); kt_fail("another"); }
static void idle(const void *arg) { (void)arg; kt_work("passes", 0, 1); }
static void lacks(const void *arg) { (void)arg; kt_skip("no such thing"); }
static void lost(const void *arg) { (void)arg; kt_inconclusive("no memory"); }
static void dies(const void *arg) { (void)arg; raise(SIGSEGV); }
static void leaves(const void *arg)
{
	(void)arg;
	if (!fork()) {
		setsid();
		pause();
	}
}
static void exits(const void *arg) { (void)arg; _exit(3); }
static void hangs(const void *arg) { (void)arg; pause(); }
static void lasts(const void *arg) { (void)arg; while (!kt_over()) ; kt_work("ok", 1, 1); }
static void child_fails(const void *arg)
{
	(void)arg;
	if (!fork()) {
		kt_fail("in the child");
		_exit(0);
	}
	wait(NULL);
}
static const struct kt_case cases[] = {
	{ "a.good", "p", good, NULL, 0, 0 },	{ "a.bad", "p", bad, NULL, 0, 0 },
	{ "a.idle", "p", idle, NULL, 0, 0 },	{ "a.lacks", "p", lacks, NULL, 0, 0 },
	{ "b.lost", "p", lost, NULL, 0, 0 },	{ "b.dies", "p", dies, NULL, 0, 0 },
	{ "b.leaves", "p", leaves, NULL, 0, 0 }, { "b.exits", "p", exits, NULL, 0, 0 },
	{ "b.hangs", "p", hangs, NULL, 0, 0.2 }, { "c.lasts", "p", lasts, NULL, 5, 0 },
	{ "c.child", "p", child_fails, NULL, 0, 0 }, { "d.lacks", "p", lacks, NULL, 0, 0 },
};
int main(int argc, char **argv) { return kt_main(argc, argv, "t", cases, KT_ARRAY(cases)); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "t.c").write_text(PROGRAM)
    library = sorted(map(str, data.library().glob("*.c")))
    argv = [compiler(arch.host().name), *STRICT, f"-I{data.library()}", "-o", str(folder / "t")]
    subprocess.run([*argv, str(folder / "t.c"), *library], check=True)
    return folder / "t"


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(program), *words]
    # a child's end must be seen even by one whose parent ignores the signal, as a batch system may
    argv = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *argv]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_every_end_of_a_case(program: Path) -> None:
    done = run(program, "--duration", "0.1", "--seed", "7")
    cases = {case.id.removeprefix("t/"): case for case in ktap.to_cases(ktap.parse(done.stdout), "t")}
    assert {name: case.verdict for name, case in cases.items()} == {
        "a/good": Verdict.PASS,
        "a/bad": Verdict.FAIL,
        "a/idle": Verdict.INCONCLUSIVE,
        "a/lacks": Verdict.SKIP,
        "b/lost": Verdict.INCONCLUSIVE,
        "b/dies": Verdict.FAIL,
        "b/leaves": Verdict.PASS,
        "b/exits": Verdict.INCONCLUSIVE,
        "b/hangs": Verdict.FAIL,
        "c/lasts": Verdict.PASS,
        "c/child": Verdict.FAIL,
        "d/lacks": Verdict.SKIP,
    }, done.stdout
    assert done.returncode == 1
    assert cases["a/idle"].reason == "too little work: passes=0, at least 1 wanted"
    assert cases["a/lacks"].reason == "no such thing"
    assert "2 failures, the first: a ?[2J hole" in cases["a/bad"].reason
    assert "killed by signal 11" in cases["b/dies"].reason
    assert "not done after" in cases["b/hangs"].reason
    assert "\x1b" not in done.stdout
    assert "seed 7" in done.stdout


def test_nothing_of_a_case_is_left(program: Path) -> None:
    assert run(program, "--filter", "b.leaves").returncode == 0
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(program) not in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--filter", "a.g*"], 0, "ok 1 a\n"),
        (["--filter", "d.*"], 4, "ok 1 d # SKIP"),
        (["--filter", "nosuch"], 2, "no case is called 'nosuch'"),
        (["--list", "--filter", "c.*", "--duration", "2"], 0, "c.lasts                            2.0 s  p"),
        (["--duration", "soon"], 2, "wants seconds, not 'soon'"),
        (["--duration", "-1"], 2, "wants seconds"),
        (["--seed", "x"], 2, "wants a number, not 'x'"),
        (["more"], 2, "unexpected argument 'more'"),
        (["--nosuch"], 2, "Usage: t"),
        (["--help"], 0, "Exit status"),
    ],
)
def test_its_options(program: Path, words: list[str], code: int, said: str) -> None:
    done = run(program, *words)
    assert done.returncode == code, done
    assert said in done.stdout + done.stderr


def test_a_user_may_use_it_too(tmp_path: Path) -> None:
    """The suite's folder is the user's, the library ours; a change of either makes the program anew."""
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "p.c").write_text(
        textwrap.dedent("""\
        #include "kt.h"
        static void a(const void *x) { (void)x; kt_work("n", 1, 1); }
        int main(int c, char **v) { struct kt_case k = { "g.a", "p", a, 0, 0, 0 };
        return kt_main(c, v, "p", &k, 1); }
        """)
    )
    (folder / "suite.toml").write_text(
        'name = "s"\ndescription = "d"\n[build]\nlibrary = true\n[[program]]\nname = "p"\nparser = "ktap"\n'
    )
    suite = catalog.load(str(folder))
    store = Store(tmp_path / "cache")
    built = build.build(suite, tree=None, arch=arch.host(), store=store, log=tmp_path / "log")
    assert run(built["p"]).returncode == 0
    (folder / "p.c").write_text((folder / "p.c").read_text() + "/* */\n")
    assert build.build(suite, tree=None, arch=arch.host(), store=store, log=tmp_path / "log") != built


@pytest.mark.parametrize("suite", [name for name in OWN if catalog.load(name).kind == "benchmark"])
def test_benchmarks_print_their_document_and_name_units(suite: str, tmp_path: Path) -> None:
    """On this host, in little time: what the numbers are is no matter, nor whether every proof holds."""
    loaded = catalog.load(suite)
    store = Store(tmp_path / "cache")
    built = build.build(loaded, tree=None, arch=arch.host(), store=store, log=tmp_path / "log")
    done = subprocess.run([built[suite], "--seconds", "1"], capture_output=True, timeout=120, check=False)
    if done.returncode == 4:
        pytest.skip(done.stderr.decode())
    document = benchmark.parse(done.stdout, suite)
    assert any(metric.compare for metric in document.metrics.values())
    for name, metric in document.metrics.items():
        unit = {"1/s": "per_s", "ratio": "", "count": ""}.get(metric.unit, metric.unit)
        assert f"_{unit}" in f"_{name}", name
    names = [proof.name for proof in document.proofs]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("suite", [name for name in OWN if catalog.load(name).build.library])
def test_every_case_is_explained(suite: str, tmp_path: Path) -> None:
    """README.md beside the sources says of each case, by name or pattern, what it proves; --list agrees."""
    loaded = catalog.load(suite)
    text = (loaded.folder / "README.md").read_text()
    patterns: list[str] = []
    for row in re.findall(r"^\|([^|]+)\|", text, re.M):
        for word in re.findall(r"`([^`]+)`", row):
            # `group.case`, `.another` of that group, `…-ending` of the one before
            group = patterns[-1].partition(".")[0] if patterns else ""
            patterns.append(f"{group}{word}" if word.startswith(".") else word.replace("…", f"{group}.*"))
    for program in loaded.program:
        if program.parser != "ktap":
            assert f"`{program.name}`" in text or program.name == suite
            continue
        built = build.build(
            loaded, tree=None, arch=arch.host(), store=Store(tmp_path / "cache"), log=tmp_path / "log"
        )[program.name]
        listed = run(built, *program.argv, "--list")
        names = [line.split()[0] for line in listed.stdout.splitlines()]
        assert names, listed
        missing = [name for name in names if not any(fnmatchcase(name, p) for p in patterns)]
        assert not missing, f"{suite}: no row of README.md is about {missing}"
