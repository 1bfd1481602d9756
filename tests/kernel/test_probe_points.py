# SPDX-License-Identifier: GPL-2.0-only
"""Where windows are made wide: the catalogue, and its anchors found in real code of both architectures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from elftools.elf.elffile import ELFFile

from orchestrator.core import arch, data
from orchestrator.core.errors import Inconclusive
from orchestrator.kernel import probe_points
from orchestrator.kernel.spec import Kernel
from orchestrator.suites import catalog, delays

ONE = """
int there(int);
static __attribute__((noipa)) int twin(int n) { return there(n) * 3; }
__attribute__((noipa)) int caller(int n)
{
	int sum = there(n);
	sum += twin(sum);
	return there(sum) + 1;
}
int main(int argc, char **argv) { (void)argv; return caller(argc); }
"""
OTHER = """
static __attribute__((noipa)) int twin(int n) { return n * 5; }
__attribute__((noipa)) int there(int n) { return twin(n + 1) + 2; }
"""


@pytest.fixture(params=arch.names())
def built(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[arch.Arch, Path]:
    each = arch.load(request.param)
    compiler = f"{each.compiler_prefix}gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    for name, text in (("one.c", ONE), ("other.c", OTHER)):
        (tmp_path / name).write_text(text)
    subprocess.run([compiler, "-O1", "-o", "program", "one.c", "other.c"], cwd=tmp_path, check=True)
    return each, tmp_path / "program"


def point(
    at: str, function: str = "caller", file: str = "", inside: tuple[str, ...] = ()
) -> probe_points.Point:
    return probe_points.Point(
        name=at, function=function, at=at, why="", task=(), spins=1, permille=1, file=file, inside=inside
    )


def symbols(program: Path) -> list[tuple[str, int, int]]:
    with program.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert table is not None
        return [(s.name, s["st_value"], s["st_size"]) for s in table.iter_symbols()]  # type: ignore[attr-defined]


def test_anchors(built: tuple[arch.Arch, Path]) -> None:
    each, program = built
    words = ["entry", "before call there", "after call there", "before call there #2", "after call there #2"]
    words += ["before call twin", "before call there #3", "after call nobody"]
    found = probe_points.locate([point(word) for word in words], program, each)
    (start, size), *rest = [(value, size) for name, value, size in symbols(program) if name == "caller"]
    assert not rest
    assert found["entry"] == start
    order = [found[word] for word in (*words[:3], "before call twin", *words[3:5])]
    assert order == sorted(set(order))
    assert all(start <= address < start + size for address in order)
    assert "before call there #3" not in found
    assert "after call nobody" not in found


def test_of_two_that_are_called_alike_the_file_tells(built: tuple[arch.Arch, Path]) -> None:
    each, program = built
    twins = {value for name, value, _ in symbols(program) if name == "twin"}
    assert len(twins) == 2
    one = probe_points.locate([point("entry", "twin", "x/one.c")], program, each)["entry"]
    other = probe_points.locate([point("entry", "twin", "other.c")], program, each)["entry"]
    assert {one, other} == twins
    assert probe_points.locate([point("entry", "twin", "third.c")], program, each) == {}


def test_what_was_inlined_is_looked_for_where_it_went(built: tuple[arch.Arch, Path]) -> None:
    each, program = built
    gone = point("before call there", "inlined", inside=("nowhere", "caller"))
    assert probe_points.locate([gone], program, each)
    assert probe_points.locate([point("before call there", "inlined")], program, each) == {}


def test_the_catalogue() -> None:
    known = probe_points.catalogue()
    assert known
    for each in known.values():
        assert each.why
        assert set(each.task) <= {"reader", "query", "writer"}
        assert each.task
        assert (data.guest() / "widen.c").is_file()


@pytest.mark.parametrize("at", ["before", "after call", "call x", "before call x #0", "entry "])
def test_what_is_no_anchor(at: str) -> None:
    raw = msgspec.to_builtins(point("entry")) | {"at": at}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, probe_points.Point)


@pytest.mark.parametrize("name", catalog.names())
def test_suites_ask_for_points_that_there_are(name: str) -> None:
    for program in catalog.load(name).program:
        assert set(program.widen) <= set(probe_points.catalogue())
        assert len(program.widen) <= 16


def kernel(vmlinux: Path | None) -> Kernel:
    return Kernel(
        key="",
        folder=Path(),
        image=Path(),
        vmlinux=vmlinux,
        config=None,
        release="",
        build_id="",
        toolchain="",
        cpu_s=0,
        cached=False,
    )


def test_without_a_point_nothing_is_shown(built: tuple[arch.Arch, Path]) -> None:
    each, program = built
    name = next(iter(probe_points.catalogue()))
    for vmlinux in (program, None):
        with pytest.raises(Inconclusive, match="this kernel has none of"):
            delays.find([name], kernel(vmlinux), each)
    with pytest.raises(Inconclusive, match="unknown point 'nosuch'"):
        delays.find(["nosuch"], kernel(program), each)
    with pytest.raises(Inconclusive, match="17 points, 16 at most"):
        delays.find(list(probe_points.catalogue())[:17], kernel(program), each)


def test_programs_that_need_delays_are_not_there_without() -> None:
    suite = catalog.Suite(
        name="s",
        description="",
        program=(catalog.Program(name="p"), catalog.Program(name="q", widen=("restart",))),
        expect=(catalog.Expectation(program="p"), catalog.Expectation(program="q")),
    )
    narrow = catalog.narrow(suite)
    assert [p.name for p in narrow.program] == [e.program for e in narrow.expect] == ["p"]
