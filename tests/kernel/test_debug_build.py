# SPDX-License-Identifier: GPL-2.0-only
"""The debug build of a kernel, and what shows that it is the same code; programs stand for vmlinux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator.core.errors import Inconclusive, UserError
from orchestrator.kernel import debug_build
from orchestrator.kernel.spec import Kernel

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")

CODE = """
static int helper(int x) { return x * MORE; }
int first(int x) { return helper(x) + 1; }
int main(void) { return first(2); }
"""


def _vmlinux(folder: Path, name: str, *flags: str, code: str = CODE) -> Path:
    source = folder / "code.c"
    source.write_text(code)
    path = folder / name
    words = ["-O1", "-fno-inline", "-no-pie", "-DMORE=3", *flags]
    subprocess.run(["gcc", *words, "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return _vmlinux(tmp_path, "vmlinux")


def test_line_numbers_are_seen(plain: Path, tmp_path: Path) -> None:
    assert not debug_build.has_lines(plain)
    assert debug_build.has_lines(_vmlinux(tmp_path, "lines", "-g"))


def test_symbols_are_functions_with_their_sizes(plain: Path) -> None:
    symbols = {symbol.name: symbol for symbol in debug_build.text_symbols(plain)}
    assert {"helper", "first", "main"} <= set(symbols)
    assert "_edata" not in symbols
    said = subprocess.run(["nm", plain], capture_output=True, text=True, check=True).stdout
    assert f"{symbols['first'].address:016x} T first" in said
    assert 0 < symbols["first"].size < 64


def test_line_numbers_move_nothing(plain: Path, tmp_path: Path) -> None:
    lines = _vmlinux(tmp_path, "lines", "-g")
    assert debug_build.mismatch(plain, lines) == ""
    debug_build.demand_match(plain, lines)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("-DMORE=1000001",), CODE),
        ((), CODE.replace("int first", "int another(void) { return 0; }\nint first")),
        ((), CODE.replace("helper", "holper")),
    ],
)
def test_other_code_is_refused_in_one_line(
    plain: Path, tmp_path: Path, flags: tuple[str, ...], code: str
) -> None:
    other = _vmlinux(tmp_path, "other", "-g", *flags, code=code)
    why = debug_build.mismatch(plain, other)
    assert "\n" not in why
    assert "text symbols differ" in why
    with pytest.raises(UserError, match="other does not match the kernel of this cell"):
        debug_build.demand_match(plain, other)


def test_what_is_no_vmlinux(plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no ELF")
    stripped = tmp_path / "stripped"
    shutil.copyfile(plain, stripped)
    subprocess.run(["strip", stripped], check=True)
    torn = tmp_path / "torn"
    torn.write_bytes(plain.read_bytes()[:4000])
    for path in (text, stripped, torn, tmp_path / "absent"):
        with pytest.raises(UserError, match=path.name):
            debug_build.demand_match(plain, path)


def _kernel(vmlinux: Path) -> Kernel:
    return Kernel(
        key="d", folder=vmlinux.parent, image=vmlinux, vmlinux=vmlinux, config=None, release="7.2",
        build_id="", toolchain="gcc", cpu_s=0, cached=False,
    )  # fmt: skip


def _not_asked() -> NoReturn:
    raise AssertionError("nothing has to be found")


def test_what_explains_a_kernel(plain: Path, tmp_path: Path) -> None:
    assert debug_build.vmlinux_with_lines(plain, lambda: None) is None
    store = tmp_path / "store"
    store.mkdir()
    made = _kernel(_vmlinux(store, "vmlinux", "-g"))
    assert debug_build.vmlinux_with_lines(plain, lambda: made) == made.vmlinux
    other = _kernel(_vmlinux(store, "other", "-g", "-DMORE=1000001"))
    with pytest.raises(Inconclusive, match="other code than the kernel that crashed"):
        debug_build.vmlinux_with_lines(plain, lambda: other)
    kept = _vmlinux(tmp_path, debug_build.DEBUG_VMLINUX, "-g", "-DMORE=1000001")
    assert debug_build.vmlinux_with_lines(plain, lambda: made) == made.vmlinux
    _vmlinux(tmp_path, debug_build.DEBUG_VMLINUX, "-g")
    assert debug_build.vmlinux_with_lines(plain, _not_asked) == kept
    _vmlinux(tmp_path, "vmlinux", "-g")
    assert debug_build.vmlinux_with_lines(plain, _not_asked) == plain


def test_ends_of_functions(plain: Path, tmp_path: Path) -> None:
    ends = debug_build.Ends(plain)
    symbols = {symbol.name: symbol for symbol in debug_build.text_symbols(plain)}
    size = symbols["helper"].size
    assert symbols["helper"].address + size == symbols["first"].address
    assert ends("first") == f"helper+{size:#x}/{size:#x}"
    assert ends("no such function") == ""
    assert debug_build.Ends(None)("first") == ""
    assert debug_build.Ends(tmp_path / "nothing")("first") == ""
