# SPDX-License-Identifier: GPL-2.0-only
"""Suites of the user's own: what is loaded, what is refused, what goes into a guest and what comes of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.guests import FakeGuest
from fakes.overlays import keys_and_files
from paths import DATA, ROOT
from under_test import SOURCE

from orchestrator import source
from orchestrator.cell.program import ProgramRun
from orchestrator.core import arch, toolchain
from orchestrator.core.errors import InfraError, KernelError, UserError
from orchestrator.core.store import Store, default_cache
from orchestrator.evidence.watch import ConsoleWatch
from orchestrator.kernel import build as kernels
from orchestrator.kernel.spec import KernelSpec
from orchestrator.results.model import Blame, Case, Verdict
from orchestrator.source.classify import classify
from orchestrator.suites import build, catalog, selftests
from orchestrator.suites import files as folder
from orchestrator.verdict.expected import complete
from orchestrator.vm import accel
from orchestrator.vm.machine import Guest
from orchestrator.vm.qemu import GuestSpec
from orchestrator.vm.rootfs import image, overlay
from orchestrator.vm.ssh import RUNNER

EXAMPLE = ROOT / "docs/example-suite"
MANY = DATA / "suites/many"
HOST = arch.host()

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


def suite_in(folder: Path, text: str, **files: str) -> Path:
    """A folder with a suite.toml of these lines; the files' names have __ for a dot and no slash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.toml").write_text(text)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def plain(folder: Path, *lines: str, program: str = "", **files: str) -> Path:
    """A suite with one program ``p`` out of p.c, which is there unless other files are given."""
    text = "\n".join(["name = 's'", "description = 'd'", *lines, "[[program]]", "name = 'p'", program])
    return suite_in(folder, text, **(files or {"p__c": "int main(void) { return 0; }\n"}))


def built(suite: catalog.Suite, store: Store, **options: Any) -> dict[str, Path]:
    return build.build(
        suite, **{"tree": None, "arch": HOST, "store": store, "log": store.root / "log"} | options
    )


# --- what is loaded ---------------------------------------------------------------------------------------


def test_the_example_is_that_of_the_page() -> None:
    page = (ROOT / "docs/how-to/own-suites.md").read_text()
    text = (EXAMPLE / "suite.toml").read_text().partition("\n")[2]
    assert f"```toml\n{text}```" in page
    for name in ("ordered.sh", "ordered.awk", "shown.c"):
        assert f"`{name}`" in page


@pytest.mark.parametrize(
    "word", ["{0}", "{0}/", "{0}/suite.toml", "./mine", "mine", "../here/mine", "~/mine"]
)
def test_a_folder_is_found_and_known_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    place = plain(tmp_path / "here/mine")
    monkeypatch.setenv("HOME", str(place.parent))
    monkeypatch.chdir(place.parent)
    suite = catalog.load(word.format(place))
    monkeypatch.chdir("/")
    assert suite.folder == place
    assert suite.user
    assert suite.name == "s"
    assert set(built(suite, Store(tmp_path / "cache"))) == {"p"}


def test_a_suite_of_ours_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(tmp_path / "maps")
    monkeypatch.chdir(tmp_path)
    assert not catalog.load("maps").user
    assert catalog.load("./maps").user


def test_a_descriptor_is_read_anew(tmp_path: Path) -> None:
    place = plain(tmp_path / "s")
    assert catalog.load(str(place)).timeout_s == 60
    plain(place, "timeout_s = 7")
    assert catalog.load(str(place)).timeout_s == 7


def test_where_our_own_suites_lie() -> None:
    for name in catalog.names():
        suite = catalog.load(name)
        assert (suite.folder / "suite.toml").is_file()
        assert suite.folder.is_absolute()
        assert not suite.user


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nosuch", "unknown suite 'nosuch'"),
        ("./nosuch", "nosuch: there is no such folder"),
        ("~nobody-of-that-name/x", "home folder"),
        ("./empty", r"empty/suite.toml: No such file"),
    ],
)
def test_no_such_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        catalog.load(word)
    assert "maps" in str(caught.value) or word != "nosuch"


PROGRAM = "\n[[program]]\nname = 'p'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'maps'", "itself has a suite 'maps'"),
        ("name = 'cmd'", "itself has a suite 'cmd'"),
        ("name = 'Mine'", "'Mine' cannot be a suite's name"),
        ("name = '../x'", "'../x' cannot be a suite's name"),
        ("name = 's'\nfolder = '/'", "unknown field `folder`"),
        ("name = 's'\nuser = false", "unknown field `user`"),
        ("name = 's'\nkind = 'benchmark'", "report no numbers"),
        ("name = 's'\npackages = ['bash=5']", r"packages\[0\]"),
        ("name = 's'\npackages = ['-o', 'x']", r"packages\[0\]"),
        ("name = 's'\ntimeout_s = 0", "timeout_s"),
        ("name = 's'\ntimeout_s = nan", "timeout_s"),
        ("name = 's'\ntimeout_s = inf", "timeout_s"),
        ("name = 's'\nfiles = ['../x']", "files: '../x' is not a path below"),
        ("name = 's'\nfiles = ['/etc/passwd']", "files: '/etc/passwd' is not a path below"),
        ("name = 's'\nfiles = ['out/passwd']", "leads out of the suite's folder"),
        ("name = 's'\nfiles = ['circle']", "form a loop|symbolic links"),
        ("name = 's'\nfiles = ['.']", "is not a path below"),
        ("name = 's'\nfiles = ['missing']", "missing: No such file"),
        ("name = 's'\nfiles = ['pipe']", "pipe is neither a file nor a folder"),
        ("name = 's'\nfiles = ['p']", "'p' would lie where the program 'p' is"),
        ("name = 's'\norigin = 'tree'", "is not a directory of a kernel tree"),
        ("name = 's'\norigin = 'tree'\ndirectory = '../x'", "is not a directory of a kernel tree"),
        ("name = 's'" + PROGRAM + PROGRAM, "two programs are called 'p'"),
        ("name = 's'" + PROGRAM.replace("'p'", "'a/b'"), r"program\[0\].name"),
        ("name = 's'" + PROGRAM.replace("'p'", "'..'"), r"program\[0\].name"),
        ("name = 's'" + PROGRAM.replace("'p'", "'q'"), "no q.c beside it"),
        ("name = 's'" + PROGRAM + "script = 'p'\nsources = ['p.c']", "not both"),
        ("name = 's'" + PROGRAM + "script = 'nosuch.sh'", "nosuch.sh: No such file"),
        ("name = 's'" + PROGRAM + "script = 'p.c'", "p.c names no interpreter"),
        ("name = 's'" + PROGRAM + "script = 'dos.sh'", "Windows line ends"),
        ("name = 's'" + PROGRAM + "script = 'out/passwd'", "leads out of the suite's folder"),
        ("name = 's'" + PROGRAM + "script = 'sub'", "sub is not a file"),
        ("name = 's'" + PROGRAM + "sources = ['nosuch.c']", "nosuch.c: No such file"),
        ("name = 's'" + PROGRAM + "sources = ['../p.c']", "'../p.c' is not a path below"),
        ("name = 's'" + PROGRAM + "sources = ['sub']", "'sub' is not a file"),
        ("name = 's'" + PROGRAM + "cpus = '0-'", "cpus"),
        ("name = 's'" + PROGRAM + "cpus = '3-1'", "'3-1' ends before it begins"),
        ("name = 's'" + PROGRAM + "nice = 20", "nice"),
        ("name = 's'" + PROGRAM + 'argv = ["a\\u0000b"]', "argv"),
        ("name = 's'" + PROGRAM + "env = { 'A=B' = 'c' }", "env"),
        ("name = 's'" + PROGRAM + "[[expect]]\nprogram = 'q'", "'q', which is not a program"),
        (
            "name = 's'" + PROGRAM + "[[expect]]\nprogram = 'p'\narch = ['s390']",
            "unknown architecture 's390'",
        ),
        ("name = 's'" + PROGRAM + "[[expect]]\nprogram = 'p'\nsince = 'soon'", "since"),
        ("name = 's'" + PROGRAM + "[[expect]]\nprogram = 'p'\ncases = 0", "cases"),
        ("name = 's'\nprogram = []", "it has no program"),
        ("name = 's'\n\xff", "suite.toml"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    if "program" not in text:
        text += PROGRAM
    head, _, rest = text.partition("\n")
    place = suite_in(tmp_path / "x", "", p__c="int main(void) {}\n", dos__sh="#!/bin/sh\r\n", p="#!/bin/sh\n")
    (place / "suite.toml").write_bytes(f"{head}\ndescription = 'd'\n{rest}\n".encode("latin-1"))
    (place / "out").symlink_to("/etc")
    (place / "circle").symlink_to("circle")
    (place / "sub").mkdir()
    os.mkfifo(place / "pipe")
    with pytest.raises(UserError, match=message) as caught:
        catalog.load(str(place))
    assert str(place) in caught.value.message


def test_links_within_the_folder_are_followed(tmp_path: Path, store: Store) -> None:
    place = plain(tmp_path / "s", "files = ['linked', 'sub']")
    (place / "sub").mkdir()
    (place / "sub/real").write_text("real")
    (place / "linked").symlink_to("sub/real")
    (tmp_path / "elsewhere").symlink_to(place)
    files = built(catalog.load(str(tmp_path / "elsewhere")), store)
    assert {name: path.read_text() for name, path in files.items() if name != "p"} == {
        "linked": "real",
        "sub/real": "real",
    }


def test_a_link_out_of_the_folder_deep_in_it(tmp_path: Path) -> None:
    place = plain(tmp_path / "s", "files = ['sub']")
    (place / "sub").mkdir()
    (place / "sub/passwd").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="leads out of the suite's folder, to /etc/passwd"):
        catalog.load(str(place))


# --- what goes into a guest -------------------------------------------------------------------------------


@needs_gcc
def test_what_a_suite_brings(store: Store) -> None:
    suite = catalog.load(str(MANY))
    files = built(suite, store)
    names = [program.name for program in suite.program]
    assert [*files] == [*names, "lib/functions.sh", "lib/half.c", "words.txt"]
    assert files["in-awk"] == MANY / "in-awk"
    assert files["compiled"].read_bytes()[:4] == b"\x7fELF"
    run = build.runnable(suite, files, version="7.2", arch=HOST.name)
    assert list(run) == [name for name in names if name != "elsewhere"]
    assert build.guest_path(suite, "words.txt") == "/opt/orchestrate/suites/many/words.txt"
    assert catalog.packages([suite, suite, catalog.load("maps")]) == ("bash", "gawk", "util-linux")


@needs_gcc
def test_a_changed_header_makes_the_program_anew(tmp_path: Path, store: Store) -> None:
    place = plain(tmp_path / "a #'\"$ suite", p__c='#include "n.h"\nint main(void) { return N; }\n', n__h="")
    codes = []
    for number in (3, 5):
        (place / "n.h").write_text(f"#define N {number}\n")
        program = built(catalog.load(str(place)), store)["p"]
        codes.append(os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, program, ["p"]) << 8))
    assert codes == [3, 5]
    before = program.stat().st_mtime_ns
    assert built(catalog.load(str(place)), store)["p"].stat().st_mtime_ns == before


@needs_gcc
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("int main(void)\n{\n\treturn nosuch;\n}\n", r"p\.c:3:16: error: .nosuch. undeclared"),
        ('#include "nosuch.h"\nint main(void) {}\n', r"p\.c:1:10: fatal error: nosuch\.h: No such file"),
        ("int nosuch(void);\nint main(void) { return nosuch(); }\n", "undefined reference to `nosuch'"),
        ("int f(void) { return 0; }\n", "undefined reference to `main'"),
    ],
)
def test_a_program_that_does_not_compile_is_the_users_mistake(
    tmp_path: Path, store: Store, code: str, message: str
) -> None:
    suite = catalog.load(str(plain(tmp_path / "s", p__c=code)))
    with pytest.raises(UserError, match=message) as caught:
        built(suite, store)
    assert caught.value.message.startswith(f"program 'p' of suite 's' ({suite.folder}) does not compile for")
    assert "\n" not in caught.value.message
    assert not list((store.root / "programs").glob("*/p"))


def _fake_gcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    gcc = tmp_path / "bin" / f"{HOST.compiler_prefix}gcc"
    gcc.parent.mkdir()
    gcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo gcc 99 && exit\necho "{said}" >&2\nexit 1\n')
    gcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gcc.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("/usr/bin/ld: cannot find -lc: No such file or directory", "cannot find -lc"),
        ("p.c:1:1: fatal error: error writing to /tmp/x.s: No space left on device", "the disk is full"),
        ("gcc: fatal error: Killed signal terminated program cc1", "the compiler was killed"),
        ("p.c:1:1: internal compiler error: Segmentation fault", "the compiler crashed"),
    ],
)
def test_a_compiler_that_fails_by_itself_is_not(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, said: str, message: str
) -> None:
    suite = catalog.load(str(plain(tmp_path / "s")))
    _fake_gcc(tmp_path, monkeypatch, said)
    with pytest.raises(InfraError, match=message):
        built(suite, store)


def test_the_compiler_speaks_english(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = catalog.load(str(plain(tmp_path / "s")))
    _fake_gcc(tmp_path, monkeypatch, "p.c:1:1: error: in $LC_ALL")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with pytest.raises(UserError, match=r"p\.c:1:1: error: in C\.UTF-8\n"):
        built(suite, store)


@needs_gcc
def test_our_own_program_that_does_not_compile_is_infrastructure(tmp_path: Path, store: Store) -> None:
    (tmp_path / "p.c").write_text("nonsense\n")
    ours = catalog.Suite(name="s", description="d", program=(catalog.Program(name="p"),), folder=tmp_path)
    with pytest.raises(InfraError):
        built(ours, store)


@needs_gcc
def test_libraries_stand_behind_the_sources(tmp_path: Path, store: Store) -> None:
    code = "#include <math.h>\nint main(int c, char **v) { (void)v; return pow(c, 0.5) > 2; }\n"
    place = plain(tmp_path / "s", program="cflags = ['-lm', '-O1']", p__c=code)
    assert set(built(catalog.load(str(place)), store)) == {"p"}


@needs_gcc
def test_a_prebuilt_program_of_another_architecture(tmp_path: Path, store: Store) -> None:
    compiled = built(catalog.load(str(plain(tmp_path / "one"))), store)["p"]
    place = plain(tmp_path / "two", program="script = 'ready'", p__c="")
    shutil.copy(compiled, place / "ready")
    suite = catalog.load(str(place))
    assert built(suite, store) == {"p": place / "ready"}
    other = next(arch.load(name) for name in arch.usual() if name != HOST.name)
    with pytest.raises(UserError, match=f"ready is a program for .*, not for {other.name}"):
        built(suite, store, arch=other)


def test_a_file_that_went_away_after_loading(tmp_path: Path, store: Store) -> None:
    place = plain(tmp_path / "s", "files = ['data']", data="x", p__c="int main(void) {}")
    suite = catalog.load(str(place))
    (place / "data").unlink()
    with pytest.raises(UserError, match="data: No such file"):
        built(suite, store)


def test_bounds_on_what_a_suite_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = plain(tmp_path / "s", "files = ['sub']")
    (place / "sub").mkdir()
    for number in range(5):
        (place / f"sub/{number}").write_bytes(bytes(300_000))
    assert len(catalog.load(str(place)).files_beside()) == 5
    monkeypatch.setattr(folder, "LIMIT_FILES", 4)
    with pytest.raises(UserError, match="more than the limit of a guest: 4 files"):
        catalog.load(str(place))
    monkeypatch.setattr(folder, "LIMIT_FILES", 5)
    monkeypatch.setattr(folder, "LIMIT_MIB", 1)
    with pytest.raises(UserError, match="1 MiB"):
        catalog.load(str(place))


def test_bounds_are_met_before_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """--put / by mistake must not walk the whole disk."""
    seen = []

    def below(path: Path, name: str, what: str) -> Any:
        for number in range(10**9):
            seen.append(number)
            yield f"{name}/{number}", path

    monkeypatch.setattr(folder, "LIMIT_FILES", 10)
    monkeypatch.setattr(folder, "_below", below)
    with pytest.raises(UserError, match="more than the limit of a guest"):
        catalog.command(["true"], [Path(__file__)])
    assert len(seen) == 11


# --- suites out of a tree ---------------------------------------------------------------------------------

TREE_SUITE = """
name = "mm"
description = "d"
origin = "tree"
directory = "tools/testing/selftests/mm"
all_programs = true
files = ["words"]
"""


def test_a_suite_of_a_trees_directory(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = catalog.load(str(suite_in(tmp_path / "mm", TREE_SUITE, words="x")))
    asked = []

    def compiled(tree: Any, directory: str, **options: Any) -> dict[str, Path]:
        asked.append((tree, directory))
        return {name: tmp_path / name for name in ("b-test", "a-test")}

    monkeypatch.setattr(selftests, "build_selftests", compiled)
    files = built(suite, store, tree="a tree")
    assert asked == [("a tree", "tools/testing/selftests/mm")]
    assert set(files) == {"a-test", "b-test", "words"}
    assert build.runnable(suite, files, version="7.2", arch="arm64") == ("b-test", "a-test")
    # nothing was said about its programs, so none was forgotten
    found = {"a-test": [Case(id="mm/a-test", verdict=Verdict.SKIP, reason="no")], "b-test": []}
    assert complete(suite, catalog.expected(suite, "7.2", "arm64"), {}, found)[1] == ()
    monkeypatch.setattr(selftests, "build_selftests", lambda *_, **__: {"words": tmp_path / "words"})
    with pytest.raises(UserError, match="'words' would lie where a program is"):
        built(suite, store, tree="a tree")


def test_no_tree_to_take_tests_from(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = catalog.load("maps")
    with pytest.raises(UserError, match="'maps' is compiled from a kernel tree") as caught:
        built(suite, store)
    assert "--selftests-from" in caught.value.remedy

    def none(*_: Any, **__: Any) -> dict[str, Path]:
        raise KernelError("5.4: no tools/testing/selftests/proc in this tree")

    monkeypatch.setattr(selftests, "build_selftests", none)
    with pytest.raises(KernelError):
        built(suite, store, tree="a tree")
    with pytest.raises(UserError, match=r"5\.4: no tools"):
        built(suite, store, tree="a tree", pinned=True)


def test_what_an_older_kernel_is_not_asked() -> None:
    """7.2's tests on 6.12: all there are, but those of what came later."""
    suite = catalog.load("proc")
    files = {name: Path(name) for name in ("proc-maps-race", "proc-pidns", "unheard-of")}

    def run(**options: str) -> tuple[str, ...]:
        return build.runnable(suite, files, arch="x86_64", **options)

    assert run(version="7.2", kernel="6.12.95") == ("proc-maps-race", "unheard-of")
    assert run(version="7.2") == run(version="7.2", kernel="7.1") == tuple(files)
    # what a tree has is run, whoever expected it: backports
    assert run(version="6.12.95") == tuple(files)


# --- commands ---------------------------------------------------------------------------------------------


def test_commands(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("a")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    suite = catalog.command(["tool | grep x", "uname"], [Path("tool"), Path("data/")])
    monkeypatch.chdir("/")
    assert (suite.name, suite.kind, suite.timeout_s) == ("cmd", "functional", 60)
    files = built(suite, store)
    assert files == {"tool": tmp_path / "tool", "data/a": tmp_path / "data/a"}
    assert build.runnable(suite, files, version="7.2", arch="arm64") == ("cmd-1", "cmd-2")
    assert build.argv(suite, suite.program_or_default("cmd-1")) == ["/bin/sh", "-c", "tool | grep x"]
    assert build.working_folder(suite) == "/opt/orchestrate/suites/cmd"
    here = catalog.expected(suite, "7.2", "arm64")
    assert list(here) == ["cmd-1", "cmd-2"]
    assert catalog.excluded(suite, "7.2", "arm64") == {}
    cases, _ = complete(suite, here, {}, {})
    assert {c.id: c.verdict for c in cases} == dict.fromkeys(("cmd/cmd-1", "cmd/cmd-2"), Verdict.INCONCLUSIVE)


def test_one_command_without_files() -> None:
    suite = catalog.command(["true"])
    assert [program.name for program in suite.program] == ["cmd"]
    # no file, so no folder in the guest
    assert build.working_folder(suite) == "/tmp"


@pytest.mark.parametrize(
    ("commands", "put", "message"),
    [
        ([], [], "the command is empty"),
        (["true", " "], [], "the command is empty"),
        (["a\0b"], [], "the command is empty"),
        (["true"], ["a/x", "b/x"], "a/x and .*b/x are both called 'x'"),
        (["true"], ["a/x", "a/x"], "both called 'x'"),
        (["true"], ["nosuch"], "nosuch: No such file"),
        (["true"], ["pipe"], "pipe is neither a file nor a folder"),
        (["true"], ["linked"], "away is a link to a folder"),
        (["true"], ["/"], "it has no name"),
    ],
)
def test_commands_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str], put: list[str], message: str
) -> None:
    for name in ("a", "b", "linked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    (tmp_path / "linked/away").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        catalog.command(commands, [Path(word) for word in put])


# --- verdicts ---------------------------------------------------------------------------------------------

Judge = Callable[..., Case]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    def run(suite: catalog.Suite, guest: FakeGuest) -> Case:
        name = suite.program[0].name
        done = ProgramRun(
            guest,  # type: ignore[arg-type]
            suite,
            name,
            folder=tmp_path / "logs",
            root=tmp_path,
            watch=guest.watch,
        ).execute()
        here = catalog.expected(suite, "7.2", "x86_64")
        (case,) = complete(suite, here, {}, {name: done.cases})[0]
        return case

    return run


def _script(tmp_path: Path, *lines: str, program: str = "") -> catalog.Suite:
    place = plain(tmp_path / "s", *lines, program=f"script = 'p.sh'\n{program}", p__sh="#!/bin/bash -e\n")
    return catalog.load(str(place))


@pytest.mark.parametrize(
    ("facts", "verdict", "blame", "reason"),
    [
        ({"exit": 0}, Verdict.PASS, Blame.NONE, ""),
        ({"exit": 1, "err": b"why\n"}, Verdict.FAIL, Blame.KERNEL, "exit status 1: why"),
        # a syntax error of bash's, not an expected failure of kselftest's
        ({"exit": 2, "err": b"why\n"}, Verdict.FAIL, Blame.KERNEL, "exit status 2: why"),
        ({"exit": 4, "err": b"no such file\n"}, Verdict.SKIP, Blame.NONE, "no such file"),
        (
            {"exit": 127, "err": b"p.sh: x: not found\n"},
            Verdict.ERROR,
            Blame.INFRA,
            "it, or a program that it needs, could not be run (exit status 127): p.sh: x: not found",
        ),
        ({"signal": 15, "timeout": True}, Verdict.TIMEOUT, Blame.TEST, "not done within 120 s"),
    ],
)
def test_how_programs_of_the_users_end(
    tmp_path: Path, judge: Judge, facts: dict[str, Any], verdict: Verdict, blame: Blame, reason: str
) -> None:
    for suite in (_script(tmp_path), catalog.command(["./p.sh"])):
        case = judge(suite, FakeGuest(**facts))
        assert (case.verdict, case.blame, case.reason) == (verdict, blame, reason)


def test_what_is_missing_is_named(tmp_path: Path, judge: Judge) -> None:
    case = judge(_script(tmp_path), FakeGuest(exec_error="exec /x: No such file or directory"))
    assert (case.verdict, case.blame) == (Verdict.ERROR, Blame.INFRA)
    assert "is /bin/bash, which its first line asks for, in one of the `packages`?" in case.reason


def test_a_compiled_program_may_end_with_any_status(tmp_path: Path, judge: Judge) -> None:
    assert judge(catalog.load(str(plain(tmp_path / "s"))), FakeGuest(exit=127)).verdict is Verdict.FAIL


def test_where_a_program_of_the_users_runs(tmp_path: Path, judge: Judge) -> None:
    guest = FakeGuest()
    judge(_script(tmp_path, program="argv = ['a b']\nenv = { X = 'y' }"), guest)
    del guest.asked["env"]["ORCHESTRATE_MARK"]
    for word in ("mark", "late", "futile"):
        del guest.asked[word]
    assert guest.asked == {
        "argv": ["/opt/orchestrate/suites/s/p", "a b"],
        "limit_s": 120.0,
        "env": {
            "ORCHESTRATE_FACTOR": "2.00",
            "PATH": "/opt/orchestrate/suites/s:/usr/sbin:/usr/bin:/sbin:/bin",
            "X": "y",
        },
        "cwd": "/opt/orchestrate/suites/s",
        "options": (),
    }
    judge(_script(tmp_path, program="env = { PATH = '/bin' }"), guest)
    del guest.asked["env"]["ORCHESTRATE_MARK"]
    assert guest.asked["env"] == {"ORCHESTRATE_FACTOR": "2.00", "PATH": "/bin"}


def test_a_skip_where_the_suite_says_that_it_must_run(tmp_path: Path, judge: Judge) -> None:
    for outcome, verdict in (("pass", Verdict.INCONCLUSIVE), ("any", Verdict.SKIP), ("skip", Verdict.SKIP)):
        suite = _script(tmp_path, program=f"[[expect]]\nprogram = 'p'\noutcome = '{outcome}'")
        assert judge(suite, FakeGuest(exit=4, err=b"not here\n")).verdict is verdict


def test_a_program_that_the_manifest_forgot_must_report_too(tmp_path: Path) -> None:
    suite = _script(tmp_path, program="[[program]]\nname = 'q'\nscript = 'p.sh'\n[[expect]]\nprogram = 'q'")
    here = catalog.expected(suite, "7.2", "x86_64")
    assert {name: e.outcome for name, e in here.items()} == {"p": "any", "q": "pass"}
    cases, unknown = complete(suite, here, {}, {})
    assert {c.verdict for c in cases} == {Verdict.INCONCLUSIVE}
    assert unknown == ()


def test_a_program_for_newer_kernels(tmp_path: Path, store: Store) -> None:
    suite = _script(tmp_path, program="kernel_since = '7.0'")
    files = built(suite, store)
    assert build.runnable(suite, files, version="7.2", arch="x86_64") == ("p",)
    assert build.runnable(suite, files, version="6.12", arch="x86_64") == ()
    away = catalog.excluded(suite, "6.12", "x86_64")
    (case,) = complete(suite, catalog.expected(suite, "6.12", "x86_64"), away, {})[0]
    assert (case.verdict, case.reason) == (Verdict.NA, "about what kernels have since 7.0")


# --- in guests --------------------------------------------------------------------------------------------


class Guests:
    """What came of the example, of `many` and of some commands in one guest of an arch."""

    def __init__(self, arch_name: str, folder: Path) -> None:
        put = folder / "put"
        (put / "data").mkdir(parents=True)
        (put / "data/deep.txt").write_text("deep\n")
        (put / "say").write_text(
            "#!/bin/bash\necho said by ${BASH_VERSION%%.*} in $PWD: $(< data/deep.txt)\n"
        )
        (put / "say").chmod(0o755)
        commands = ["say", "echo hello; exit 1", "no-such-command", "uname -m; exit 4"]
        self.suites = [
            catalog.load(str(EXAMPLE)),
            catalog.load(str(MANY)),
            catalog.command(commands, [put / "say", put / "data"]),
        ]
        self.folder, self.cases = folder, dict[str, Case]()
        known, store, keys = arch.load(arch_name), Store(default_cache()), overlay.make_keys()
        files = {RUNNER: overlay.build_runner(known, store)}
        built = {}
        for suite in self.suites:
            log = folder / "build.log"
            built[suite.name] = build.build(suite, tree=None, arch=known, store=store, log=log)
            files |= {build.guest_path(suite, name): path for name, path in built[suite.name].items()}
        base = image.build_image(arch_name, cache=store.root, say=print, extra=catalog.packages(self.suites))
        archive = keys_and_files(folder / "overlay.cpio", keys, files)
        kernel = _kernel(known, store)
        spec = GuestSpec(arch=known, kernel=kernel, initrds=(base.path, archive))
        watch = ConsoleWatch()
        name = accel.choose(known, "auto", store.root).name
        guest = Guest.boot(spec, accel=name, keys=keys, log=folder / "console.log", sink=watch.feed)
        try:
            for suite in self.suites:
                here = catalog.expected(suite, "7.2", arch_name)
                away = catalog.excluded(suite, "7.2", arch_name)
                found = {}
                for program in build.runnable(suite, built[suite.name], version="7.2", arch=arch_name):
                    place = folder / suite.name
                    run = ProgramRun(guest, suite, program, folder=place, root=folder, watch=watch)
                    done = run.execute()
                    assert not done.lost, done.cases
                    found[program] = done.cases
                cases, unknown = complete(suite, here, away, found)
                assert unknown == ()
                self.cases |= {case.id: case for case in cases}
        finally:
            guest.close()

    def log(self, case_id: str) -> str:
        return (self.folder / self.cases[case_id].log).read_text()


def _kernel(known: arch.Arch, store: Store) -> Path:
    tree = source.resolve(SOURCE, cache=store.root)
    spec = KernelSpec(
        tree=tree,
        tree_class=classify(tree.path),
        arch=known,
        variant="per-vma-lock",
        toolchain=toolchain.find("gcc", known),
    )
    return kernels.build(spec, store, say=print).image


@pytest.fixture(scope="module", params=arch.usual())
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guests:
    return Guests(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.guest
def test_in_a_guest(ran: Guests) -> None:
    """Bash, gawk and util-linux really start there, and every way to end has its verdict."""
    verdicts = {name: (case.verdict, case.blame) for name, case in ran.cases.items()}
    passed, failed = (Verdict.PASS, Blame.NONE), (Verdict.FAIL, Blame.KERNEL)
    skipped, broken = (Verdict.SKIP, Blame.NONE), (Verdict.ERROR, Blame.INFRA)
    assert verdicts == {
        "my-suite/ordered": passed,
        "my-suite/shown": passed,
        "many/in-awk": passed,
        "many/in-bash": passed,
        "many/compiled": passed,
        "many/reports/first": passed,
        "many/reports/second": failed,
        "many/skips": skipped,
        "many/two": failed,
        "many/no-interpreter": broken,
        "many/no-command": broken,
        "many/elsewhere": (Verdict.NA, Blame.NONE),
        "cmd/cmd-1": passed,
        "cmd/cmd-2": failed,
        "cmd/cmd-3": broken,
        "cmd/cmd-4": skipped,
    }, {name: case.reason for name, case in ran.cases.items()}
    assert re.fullmatch(r"[1-9]\d* processes\n", ran.log("my-suite/ordered"))
    assert ran.log("cmd/cmd-1") == "said by 5 in /opt/orchestrate/suites/cmd: deep\n"
    assert ran.cases["many/skips"].reason == "nothing to test here"
    assert ran.cases["many/two"].reason == "exit status 2: wrong usage"
    assert "why it failed" in ran.cases["many/reports/second"].reason
    assert "/usr/bin/python3" in ran.cases["many/no-interpreter"].reason
    assert "no-such-command: not found" in ran.cases["many/no-command"].reason
    assert "no-such-command: not found" in ran.cases["cmd/cmd-3"].reason
    assert ran.cases["many/elsewhere"].reason == "the suite has it for kernels since 999.0"
