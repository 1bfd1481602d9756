# SPDX-License-Identifier: GPL-2.0-only
"""Warnings of builds: found whatever says them, and new only where they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.kernel import build_warnings

LOG = b"""\
  CC      mm/memory.o
../mm/memory.c: In function \xe2\x80\x98copy\xe2\x80\x99:
../mm/memory.c:12:6: warning: unused variable \xe2\x80\x98i\xe2\x80\x99 [-Wunused-variable]
   12 |  int i;
      |      ^
  CC [M]  fs/x.o
In file included from ../include/linux/a.h:3,
                 from ../fs/x.c:9:
../include/linux/b.h:7:1: warning: \xe2\x80\x98f\xe2\x80\x99 defined but not used [-Wunused-function]
  LD      vmlinux.o
vmlinux.o: warning: objtool: do_it+0x1f: unreachable instruction
x86_64-linux-gnu-ld: warning: .tmp_vmlinux1 has a LOAD segment with RWX permissions
  MODPOST vmlinux.symvers
WARNING: modpost: vmlinux: section mismatch in reference: a+0x8 (section: .text) -> b (section: .init.text)
make[2]: warning:  Clock skew detected.  Your build may be incomplete.
"""


def test_each_kind_is_found_and_put_on_its_unit() -> None:
    found, compiled = build_warnings.read(LOG)
    assert {unit: len(said) for unit, said in found.items()} == {
        "mm/memory": 1, "fs/x": 1, "vmlinux": 2, "modpost": 1,
    }  # fmt: skip
    assert compiled == {"mm/memory", "fs/x", "vmlinux", "vmlinux.symvers", "modpost"}
    (unused,) = found["mm/memory"]
    assert unused.line == "mm/memory.c:12:6: warning: unused variable ‘i’ [-Wunused-variable]"
    assert unused.text == "mm/memory.c: unused variable 'i' [-Wunused-variable]"


def test_a_warning_that_only_moved_is_not_new() -> None:
    before, _ = build_warnings.read(LOG)
    after, _ = build_warnings.read(
        LOG.replace(b"memory.c:12:6", b"memory.c:99:6").replace(b"+0x1f", b"+0x2f")
    )
    assert build_warnings.new(before, after) == []


def test_the_same_words_once_more_are_new() -> None:
    before, _ = build_warnings.read(LOG)
    line = next(line for line in LOG.splitlines(keepends=True) if b"unused variable" in line)
    after, _ = build_warnings.read(LOG + line.replace(b":12:", b":40:"))
    assert build_warnings.new(before, after) == [
        "mm/memory.c:40:6: warning: unused variable ‘i’ [-Wunused-variable]"
    ]
    # and less is not
    assert build_warnings.new(after, before) == []


def test_a_size_that_changed_is_the_same_warning() -> None:
    text = b"  CC      mm/a.o\nmm/a.c:1:1: warning: the frame size of %d bytes is larger than 1024 bytes\n"
    assert build_warnings.new(build_warnings.read(text % 1100)[0], build_warnings.read(text % 1200)[0]) == []


def test_what_is_not_compiled_again_keeps_its_warnings() -> None:
    before, _ = build_warnings.read(LOG)
    ledger = build_warnings.merge(before, b"  CC      mm/other.o\nmm/other.c:1:1: warning: odd\n")
    assert set(ledger) == {"mm/memory", "fs/x", "vmlinux", "modpost", "mm/other"}
    # what was compiled anew and is silent has been mended
    ledger = build_warnings.merge(ledger, b"  CC      mm/memory.o\n")
    assert "mm/memory" not in ledger
    # and when it warns again, that is new
    again = build_warnings.merge(ledger, b"  CC      mm/memory.o\nmm/memory.c:3:1: warning: unused\n")
    assert build_warnings.new(ledger, again) == ["mm/memory.c:3:1: warning: unused"]


def test_a_header_warned_of_in_many_units_is_told_once() -> None:
    log = b"".join(
        b"  CC      mm/%s.o\nIn file included from mm/%s.c:1:\ninclude/h.h:5:1: warning: odd\n" % (n, n)
        for n in (b"a", b"b")
    )
    assert build_warnings.new({}, build_warnings.read(log)[0]) == ["include/h.h:5:1: warning: odd"]


def test_names_are_seen_from_the_top_of_the_tree(tmp_path: Path) -> None:
    log = f"  CC      mm/a.o\n{tmp_path}/mm/a.c:5:1: warning: odd\n".encode()
    found, _ = build_warnings.read(log, tmp_path)
    assert found == {"mm/a": [build_warnings.BuildWarning("mm/a.c: odd", "mm/a.c:5:1: warning: odd")]}


def test_a_ledger_is_kept_in_a_file(tmp_path: Path) -> None:
    found, _ = build_warnings.read(LOG)
    path = tmp_path / "warnings.json"
    path.write_bytes(build_warnings.dump(found))
    assert build_warnings.load(path) == found
    path.write_bytes(b"[]")
    assert build_warnings.load(path) is None
    assert build_warnings.load(tmp_path / "none") is None


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_a_real_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "h.h").write_text("static int odd(void) { return 1; }\n")
    (tmp_path / "a.c").write_text('#include "h.h"\nint f(void)\n{\n\tint i;\n\treturn 0;\n}\n')
    done = subprocess.run(
        ["gcc", "-Wall", "-c", "-o", "a.o", "a.c"], cwd=tmp_path, capture_output=True, check=True
    )
    found, _ = build_warnings.read(done.stderr)
    assert {w.text.split(": ")[0] for w in found["a"]} == {"h.h", "a.c"}
