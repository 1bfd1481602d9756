# SPDX-License-Identifier: GPL-2.0-only
"""What is read out of ELF files, against binutils and a compiler."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import elf
from orchestrator.core.errors import Inconclusive, InfraError

ID = bytes(range(1, 21))

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


def note(kind: int, name: bytes, body: bytes) -> bytes:
    head = struct.pack("<III", len(name), len(body), kind)
    return head + name + bytes(-len(name) % 4) + body + bytes(-len(body) % 4)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return compile_c(tmp_path / "program")


def compile_c(dest: Path, *flags: str, source: str = "int main(void) { return 0; }") -> Path:
    argv = ["gcc", "-o", str(dest), *flags, "-x", "c", "-"]
    subprocess.run(argv, input=source.encode(), check=True, capture_output=True)
    return dest


@needs_gcc
def test_build_id_is_what_readelf_says(tmp_path: Path) -> None:
    path = compile_c(tmp_path / "a", "-Wl,--build-id=sha1")
    said = subprocess.run(["readelf", "-n", str(path)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Build ID: ([0-9a-f]+)", said)
    assert found
    assert elf.build_id(path) == found.group(1)


@needs_gcc
def test_build_id_of_an_object_with_sections_only(tmp_path: Path) -> None:
    path = compile_c(tmp_path / "a.o", "-r", "-nostdlib", "-Wl,--build-id=0x" + ID.hex())
    assert elf.build_id(path) == ID.hex()


@needs_gcc
def test_no_build_id_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="no GNU build-id"):
        elf.build_id(compile_c(tmp_path / "a", "-Wl,--build-id=none"))


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF", b"\x7fELF" + bytes(100)])
def test_build_id_of_what_is_no_elf_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(InfraError, match="vmlinux"):
        elf.build_id(path)


def test_build_id_of_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="vmlinux"):
        elf.build_id(tmp_path / "vmlinux")


def test_build_id_among_a_kernels_notes() -> None:
    raw = (
        note(1, b"Xen\0", b"ab")
        + note(3, b"Linux\0", bytes(20))
        + note(3, b"GNU\0", ID)
        + note(6, b"X\0", b"")
    )
    assert elf.build_id_of_notes(raw) == ID.hex()


@pytest.mark.skipif(not Path("/sys/kernel/notes").exists(), reason="no /sys/kernel/notes here")
def test_build_id_of_the_running_kernel() -> None:
    raw = Path("/sys/kernel/notes").read_bytes()
    assert re.fullmatch(r"[0-9a-f]{40}", elf.build_id_of_notes(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        note(3, b"GNU\0", ID)[:-1],
        note(3, b"GNU\0", b"short"),
        note(3, b"GNU\0", bytes(65)),
        note(4, b"GNU\0", ID),
        note(3, b"GNV\0", ID),
        struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 3) + b"GNU\0" + ID,
    ],
)
def test_notes_without_a_usable_build_id(raw: bytes) -> None:
    with pytest.raises(Inconclusive):
        elf.build_id_of_notes(raw)


@given(st.binary(max_size=200))
def test_whatever_the_guest_sends_is_an_id_or_inconclusive(raw: bytes) -> None:
    with contextlib.suppress(Inconclusive):
        assert re.fullmatch(r"([0-9a-f]{2}){8,64}", elf.build_id_of_notes(raw))


@needs_gcc
def test_machine_is_unames(program: Path) -> None:
    assert elf.machine(program.read_bytes(), "program") == os.uname().machine


@needs_gcc
def test_closure_follows_libraries_of_libraries(tmp_path: Path) -> None:
    inner = compile_c(
        tmp_path / "libinner.so", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libinner.so", source="int i;"
    )
    outer = compile_c(
        tmp_path / "libouter.so",
        *("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libouter.so", "-Wl,--no-as-needed", str(inner)),
        source="int o;",
    )
    program = compile_c(
        tmp_path / "p",
        *("-nostdlib", "-Wl,--no-as-needed", str(outer), f"-Wl,-rpath-link,{tmp_path}"),
        source="void _start(void) {}",
    )
    loader = elf.read(program.read_bytes(), "p").interpreter
    have = {"libinner.so": inner, "libouter.so": outer, loader: Path(loader)}

    def find(word: str) -> bytes | None:
        return have[word].read_bytes() if word in have else None

    found = elf.closure(program.read_bytes(), "p", find)
    assert set(found) == {"libinner.so", "libouter.so", loader}

    del have["libinner.so"]
    with pytest.raises(InfraError, match=r"libouter\.so needs libinner\.so"):
        elf.closure(program.read_bytes(), "p", find)


@needs_gcc
def test_the_loader_is_not_taken_twice(program: Path) -> None:
    asked: list[str] = []

    def find(word: str) -> bytes | None:
        asked.append(word)
        path = Path(word)
        if not path.is_absolute():
            path = next(p for p in Path("/lib").glob(f"*-linux-gnu/{word}"))
        return path.read_bytes()

    if not list(Path("/lib").glob("*-linux-gnu/libc.so.6")):
        pytest.skip("the host has no Debian multiarch layout")
    elf.closure(program.read_bytes(), "program", find)
    assert sorted(Path(word).name for word in asked) == sorted({Path(word).name for word in asked})
    assert any(word.startswith("/") for word in asked)


@needs_gcc
def test_a_library_of_another_machine(program: Path) -> None:
    other = bytearray(program.read_bytes())
    other[18:20] = struct.pack("<H", 243)  # EM_RISCV
    with pytest.raises(InfraError, match="EM_RISCV"):
        elf.closure(program.read_bytes(), "program", lambda _: bytes(other))


@needs_gcc
def test_static_programs_need_nothing(tmp_path: Path) -> None:
    static = compile_c(tmp_path / "s", "-static")
    assert elf.closure(static.read_bytes(), "s", lambda _: None) == {}


@needs_gcc
@pytest.mark.parametrize("size", [0, 4, 20, 64, 100, 300, 800])
def test_cut_off_files(program: Path, size: int) -> None:
    with pytest.raises(InfraError, match="cut is not a usable ELF file"):
        elf.read(program.read_bytes()[:size], "cut")
