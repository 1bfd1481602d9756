# SPDX-License-Identifier: GPL-2.0-only
"""Breaks the kernel of a running guest: a reader of maps that stops leaves the VMA that it was at locked."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from orchestrator.vm.machine import Guest

#: x86: test %rax,%rax; je. Where m_stop() sees whether it has a VMA to unlock; with a jmp it never has.
_SEEN, _NEVER = bytes.fromhex("4885c074"), "eb"
_PACKET = re.compile(r"\$[^#]*#[0-9a-f]{2}")


def leak_vma_locks(guest: Guest, vmlinux: Path) -> None:
    """Patch m_stop() of fs/proc/task_mmu.c in the guest's memory, as QEMU's gdb server lets us."""
    place, text = _in_vmlinux(vmlinux)
    said = guest.read("/proc/kallsyms", limit_s=60).decode()
    moved = next(int(line.split()[0], 16) for line in said.splitlines() if line.endswith(" _text")) - text
    path = guest.folder / "gdb"
    guest.qmp("human-monitor-command", **{"command-line": f"gdbserver unix:{path},server=on,wait=off"})
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(20)
        gdb.connect(str(path))
        for packet in (f"M{place + moved:x},1:{_NEVER}", "D"):
            total = sum(packet.encode()) % 256
            gdb.sendall(f"${packet}#{total:02x}".encode())
            said = ""
            acknowledged = 0
            # that the guest has stopped may be told before the answer
            while "$OK#9a" not in said:
                assert "$E" not in said, said
                more = gdb.recv(4096).decode()
                assert more, f"the server went away after {said!r}"
                said += more
                while acknowledged < len(_PACKET.findall(said)):
                    # once each: a byte that acknowledges nothing stops the guest again
                    gdb.sendall(b"+")
                    acknowledged += 1


def _in_vmlinux(vmlinux: Path) -> tuple[int, int]:
    with vmlinux.open("rb") as stream:
        elf = ELFFile(stream)
        file, place, size, text = "", 0, 0, 0
        symbols, section = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".text")
        assert isinstance(symbols, SymbolTableSection)
        assert section
        for symbol in symbols.iter_symbols():
            if symbol["st_info"]["type"] == "STT_FILE":
                file = symbol.name
            elif symbol.name == "m_stop" and file == "task_mmu.c":
                place, size = symbol["st_value"], symbol["st_size"]
            elif symbol.name == "_text":
                text = symbol["st_value"]
        at = place - section["sh_addr"]
        code = section.data()[at : at + size]
    assert code.count(_SEEN) == 1, "m_stop() is compiled in another way"
    return place + code.index(_SEEN) + 3, text
