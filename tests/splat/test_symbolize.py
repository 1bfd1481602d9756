# SPDX-License-Identifier: GPL-2.0-only
"""Stack traces with lines; a program of each architecture stands for vmlinux, with the real addr2line."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.core import arch as arches
from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.kernel import debug_build
from orchestrator.splat import symbolize
from orchestrator.splat.symbolize import Frame

CODE = """\
static volatile int seen;
static inline __attribute__((always_inline)) void deepest(void)
{
	seen++; /* line 4 */
}
static inline __attribute__((always_inline)) void middle(void)
{
	deepest(); /* line 8 */
}
__attribute__((noinline)) void leaf(void)
{
	middle(); /* line 12 */
}
__attribute__((noinline)) void gone(void)
{
	__builtin_trap(); /* line 16 */
}
__attribute__((noinline)) int caller(int x)
{
	leaf(); /* line 20 */
	leaf(); /* line 21 */
	return x;
}
int start_kernel(int);
int main(int argc, char **argv) { return caller(argc) + start_kernel(argc); }
"""


class Program:
    """The program, where its functions are, and a frame at an instruction of one of them."""

    def __init__(self, path: Path, arch: Arch) -> None:
        self.path, self.arch = path, arch
        self.symbols = {symbol.name: symbol for symbol in debug_build.text_symbols(path)}

    def offsets(self, name: str, line: int) -> list[int]:
        """Offsets in a function whose instructions come of that line."""
        symbol = self.symbols[name]
        every = [f"{symbol.address + at:#x}" for at in range(symbol.size)]
        tool = f"{self.arch.compiler_prefix}addr2line"
        said = subprocess.run([tool, "-e", self.path, *every], capture_output=True, text=True, check=True)
        return [at for at, where in enumerate(said.stdout.splitlines()) if f".c:{line}" in f"{where} "]

    def frame(self, name: str, offset: int) -> str:
        return f"{name}+{offset:#x}/{self.symbols[name].size:#x}"


@pytest.fixture(scope="module", params=arches.usual())
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    arch = arches.load(request.param)
    if not shutil.which(f"{arch.compiler_prefix}gcc"):
        pytest.skip(f"there is no compiler for {arch.name}")
    folder = tmp_path_factory.mktemp(arch.name) / "tree" / "mm"
    folder.mkdir(parents=True)
    (folder / "code.c").write_text(CODE)
    start = folder.parent / "init" / "main.c"
    start.parent.mkdir()
    start.write_text("int start_kernel(int x) { return x; }\n")
    words: list[str | Path] = [
        "-O2",
        "-g",
        "-static",
        "-fno-optimize-sibling-calls",
        "-o",
        folder / "vmlinux",
        folder / "code.c",
        start,
    ]
    subprocess.run([f"{arch.compiler_prefix}gcc", *words], check=True)
    return Program(folder / "vmlinux", arch)


def annotated(text: str, vmlinux: Path, arch: Arch) -> str:
    lines = text.split("\n")
    frames = symbolize.frames(lines)
    return "\n".join(symbolize.annotate(lines, symbolize.look_up(frames, vmlinux, arch)))


def test_frame_of_a_trace_with_what_was_inlined(program: Program) -> None:
    after = max(program.offsets("leaf", 4)) + 1
    lines = ["[    1.000000] Call trace:", f"[    1.000001]  {program.frame('leaf', after)}"]
    said = annotated("\n".join(lines), program.path, program.arch).split("\n")
    assert said == [
        lines[0],
        "[    1.000001]  deepest mm/code.c:4 [inlined]",
        "[    1.000001]  middle mm/code.c:8 [inlined]",
        f"{lines[1]} mm/code.c:12",
    ]


def test_return_address_is_that_of_the_call(program: Program) -> None:
    """The instruction after the first call is of the second one's line."""
    second = min(at for at in program.offsets("caller", 21) if at > min(program.offsets("caller", 20)))
    frame = program.frame("caller", second)
    called, exact, doubtful = (
        annotated(line, program.path, program.arch)
        for line in (f" {frame}", f"RIP: 0010:{frame}", f" ? {frame}")
    )
    assert called.endswith("code.c:20")
    assert "code.c:21)" in exact
    assert doubtful.endswith("code.c:20")
    assert annotated(f"pc : {frame}", program.path, program.arch).endswith("code.c:21)")
    assert annotated(f"lr : {frame}", program.path, program.arch).endswith("code.c:20)")
    kasan = f"BUG: KASAN: slab-use-after-free in {frame}"
    assert annotated(kasan, program.path, program.arch).endswith("code.c:21)")
    assert "code.c:21" in annotated(f" {frame} (P)", program.path, program.arch)


def test_call_that_does_not_return_is_told(program: Program) -> None:
    """The address after it is the next function's first."""
    gone = program.symbols["gone"]
    after = next(s for s in program.symbols.values() if s.address == gone.address + gone.size)
    line = f" {program.frame(after.name, 0)}"
    said = annotated(line, program.path, program.arch)
    if gone.size % 16 and "code.c:16" not in said:
        pytest.skip("this compiler pads between the two")
    assert said.endswith("code.c:16 (in gone)")


def test_what_cannot_be_told_stays_as_it_is(program: Program) -> None:
    for line in (
        " no_such_function+0x1/0x10",
        f" {program.frame('leaf', 1)} [widen]",
        " leaf+0x100000/0x10",
        "leaf+1/2 is no frame, nor leaf+0x/0x, nor leaf+0x1",
        "\x00\ufffd leaf+0xzz/0x1",
        "",
    ):
        assert annotated(line, program.path, program.arch) == line


def test_two_of_one_name_are_told_by_their_size(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = program.symbols["leaf"]
    other = debug_build.Symbol("leaf", program.symbols["caller"].address, leaf.size + 64)
    monkeypatch.setattr(debug_build, "text_symbols", lambda path: (leaf, other))
    (at,) = [Frame("leaf", leaf.size, leaf.size, exact=False)]
    (places,) = symbolize.look_up([at], program.path, program.arch).values()
    assert places[-1].function == "leaf"
    # a size that neither has: not guessed at
    assert not symbolize.look_up([Frame("leaf", 1, 1, exact=False)], program.path, program.arch)


def test_a_flood_is_bounded() -> None:
    lines = [f" f{n}+0x1/0x2" for n in range(symbolize.MAX_FRAMES * 2)]
    assert len(symbolize.frames(lines * 2)) == symbolize.MAX_FRAMES


@pytest.mark.parametrize(
    "noise",
    [
        "a" * 400_000,
        "a+0x1" * 80_000,
        "[x] " * 100_000 + "f+0x1/0x2",
        " " * 400_000 + "f+0x1/0x2",
        "f+0x1/0x2 " * 40_000,
        "\n".join(["a." * 2000] * 100),
        "\n".join(["[ " * 2000 + "f+0x1/0x2"] * 100),
        "\n".join(["f+0x1/0x2 " * 400] * 100),
    ],
    ids=lambda noise: noise[:12],
)
def test_hostile_lines_cost_linear_time(noise: str) -> None:
    places = {Frame("f", 1, 2, exact=False): (symbolize.Place("f", "a.c:1"),)}
    since = time.process_time()
    symbolize.frames(noise.split("\n"))
    symbolize.annotate(noise.split("\n"), places)
    assert time.process_time() - since < 5


def test_missing_addr2line_is_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="addr2line is not installed") as error:
        annotated(program.frame("leaf", 2), program.path, program.arch)
    assert "apt-get install binutils" in error.value.remedy
