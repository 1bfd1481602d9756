# SPDX-License-Identifier: GPL-2.0-only
"""Which compiler flags a suite may have: none with which the compiler runs a program on the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.suites import catalog, cflags

TOML = """
name = "mine"
description = "d"
[build]
cflags = {build}
[[program]]
name = "p"
cflags = {own}
"""


def suite(folder: Path, *, build: list[str] | None = None, own: list[str] | None = None) -> None:
    (folder / "include").mkdir(parents=True, exist_ok=True)
    (folder / "suite.toml").write_text(TOML.format(build=build or [], own=own or []))
    (folder / "p.c").write_text("int main(void) { return 0; }\n")
    catalog.load(str(folder))


@pytest.mark.parametrize(
    "flag",
    [
        *("-O", "-O2", "-Os", "-Ofast", "-g", "-ggdb3", "-gdwarf-4", "-DX", "-DX=1", '-DX="/a b"', "-UX"),
        *(
            "-D_GNU_SOURCE",
            "-DF(x)=x",
            "-Iinclude",
            "-I.",
            "-Wall",
            "-Wno-unused",
            "-Wformat=2",
            "-Werror=vla",
        ),
        *(
            "-fno-stack-protector",
            "-fsanitize=undefined",
            "-ffast-math",
            "-fcf-protection=none",
            "-march=native",
        ),
        *("-mcpu=cortex-a53+crypto", "-mno-red-zone", "-m32", "-std=gnu11", "-std=c++20", "-lm", "-lstdc++"),
        *("-pthread", "-static", "-pedantic", "-w", "-Wl,--build-id=sha1", "-Wl,--gc-sections", "-Wl,-z,now"),
    ],
)
def test_ordinary_flags(tmp_path: Path, flag: str) -> None:
    suite(tmp_path, own=[flag])
    suite(tmp_path, build=[flag])


@pytest.mark.parametrize(
    "flag",
    [
        # these run programs
        *("-wrapper", "sh,-c,id", "-B.", "-B/tmp", "-fplugin=./x.so", "-fplugin=x", "-fpass-plugin=x.so"),
        *("-specs=x", "--specs=x", "-no-canonical-prefixes", "-fmodule-mapper=x", "-fmodules-ts", "-Xlinker"),
        *("-Wl,-plugin,x.so", "-Wl,-dynamic-linker,x", "-Wp,-MD,x", "-Wa,-a=x", "-fuse-ld=x", "-mllvm"),
        # these read and write files elsewhere
        *(
            "-o",
            "-o/tmp/x",
            "-I/usr/include",
            "-I../..",
            "-Iinclude/../../..",
            "-I",
            "-include",
            "-isystem/x",
        ),
        *("-idirafter", "-L/tmp", "-l:../x.a", "-fdump-tree-all=x", "-fprofile-use=x", "-fauto-profile=x"),
        *(
            "-save-temps",
            "-dumpdir",
            "-MD",
            "-MF",
            "@file",
            "x.o",
            "/tmp/x.o",
            "-T",
            "-Tx.ld",
            "-x",
            "-imacros",
        ),
        *("-fopt-info-all=x", "-fdiagnostics-format=sarif-file", "-march=a/b", "-Wl,-T,x", "-Wl,@x", ""),
    ],
)
def test_flags_that_act_on_the_host(tmp_path: Path, flag: str) -> None:
    for place in ({"own": ["-O2", flag]}, {"build": [flag]}):
        with pytest.raises(UserError, match="cflags") as caught:
            suite(tmp_path, **place)
        assert repr(flag) in caught.value.message
        assert caught.value.remedy


def test_the_flags_of_our_own_suites_could_be_a_user_s(tmp_path: Path) -> None:
    for name in data.suites():
        loaded = catalog.load(name)
        for flags in (loaded.build.cflags, *(program.cflags for program in loaded.program)):
            cflags.check(tmp_path, flags, name)


def test_such_a_flag_did_run_a_program(tmp_path: Path) -> None:
    """What the list is for: gcc does it, whatever it is given besides."""
    (tmp_path / "p.c").write_text("int main(void) { return 0; }\n")
    argv = ["gcc", "-wrapper", f"sh,-c,touch {tmp_path}/ran", "-c", "p.c"]
    subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True)
    assert (tmp_path / "ran").exists()
