# SPDX-License-Identifier: GPL-2.0-only
"""Locks of address spaces, read by drgn from a stopped guest's memory: mmap_lock, and each VMA's own.

A VMA lock has no owner, only a count: ``vm_refcnt`` is 1 for a VMA without readers, one more for each
reader, and has a bit for a writer that waits for them (include/linux/mm_types.h).
drgn is an optional dependency (``pip install 'orchestrate[debug]'``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.arch import Arch
from orchestrator.core.errors import InfraError
from orchestrator.core.text import clean

#: Reads so many bytes at a kernel address.
Read = Callable[[int, int], bytes]

_PAGE = 4096
#: VM_REFCNT_EXCLUDE_READERS_FLAG; VMA_LOCK_OFFSET before 7.0.
_EXCLUDED = 1 << 30
#: Bits of ``rw_semaphore.owner`` that are not part of the address: reader, and non-spinnable.
_OWNER_BITS = 7
_READER = 1
#: Of ``rw_semaphore.count``: held by a writer; a reader is one of ``1 << 8``.
_WRITER_LOCKED, _READERS = 1, 8
_MOST_TASKS = 4096
_MOST_VMAS = 70_000


class Vma(msgspec.Struct, frozen=True):
    """A VMA: its range, its count, and whether the writer that holds mmap_lock has locked it."""

    start: int
    end: int
    refcnt: int
    written: bool

    @property
    def readers(self) -> int:
        """The number of its readers. A writer that waits for them holds no reference."""
        return max(0, (self.refcnt & (_EXCLUDED - 1)) - 1)

    @property
    def waited_for(self) -> bool:
        """Whether a writer excludes new readers, and waits for the remaining ones."""
        return bool(self.refcnt & _EXCLUDED)


class Space(msgspec.Struct, frozen=True):
    """An address space as of a process: who holds its mmap_lock, and its VMAs."""

    pid: int
    comm: str
    writer: str
    readers: int
    vmas: tuple[Vma, ...]


def spaces(read: Read, init_task: int, debug: Path, pids: Sequence[int], *, arch: Arch) -> tuple[Space, ...]:
    """The address spaces of processes, from the memory of a stopped guest.

    :param init_task: address of that symbol in the running kernel.
    :param debug: an ELF file with the debug information of this kernel's types.
    :raises InfraError: there is no drgn, the file is useless, or the memory is inconsistent.
    """
    try:
        drgn: Any = importlib.import_module("drgn")
        linux: Any = importlib.import_module("drgn.helpers.linux")
    except ImportError:
        raise InfraError("drgn is not installed", remedy="pip install 'orchestrate[debug]'") from None
    program = drgn.Program(drgn.Platform(getattr(drgn.Architecture, arch.drgn)))
    program.add_memory_segment(1 << 63, 1 << 63, _cached(read))
    try:
        module = program.extra_module("kernel", create=True)
        module.try_file(str(debug), force=True)
        first = drgn.Object(program, "struct task_struct", address=init_task)
        result = []
        for number, task in enumerate(
            linux.list_for_each_entry("struct task_struct", first.tasks.address_of_(), "tasks")
        ):
            if number >= _MOST_TASKS:
                break
            if int(task.tgid) in pids and task.mm:
                result.append(_space(linux, task))
        return tuple(result)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, drgn.FaultError) as error:
        raise InfraError(f"drgn cannot read it: {type(error).__name__}: {error}") from None


def _cached(read: Read) -> Callable[[int, int, int, bool], bytes]:
    pages: dict[int, bytes] = {}

    def through(address: int, count: int, *_: object) -> bytes:
        first, last = address // _PAGE, (address + count - 1) // _PAGE
        for page in range(first, last + 1):
            if page not in pages:
                pages[page] = read(page * _PAGE, _PAGE)
        whole = b"".join(pages[page] for page in range(first, last + 1))
        return whole[address - first * _PAGE :][:count]

    return through


def _space(linux: Any, task: Any) -> Space:
    mm = task.mm
    owner = int(mm.mmap_lock.owner.counter) & (1 << 64) - 1
    count = int(mm.mmap_lock.count.counter)
    writer = ""
    if count & _WRITER_LOCKED:
        writer = "an unknown task"
        if owner & ~_OWNER_BITS:
            holder = type(task)(task.prog_, "struct task_struct", address=owner & ~_OWNER_BITS)
            writer = f"{_comm(holder)}/{int(holder.pid)}"
    return Space(
        pid=int(task.tgid),
        comm=_comm(task),
        writer=writer,
        readers=0 if writer else count >> _READERS,
        vmas=tuple(_vmas(linux, mm)),
    )


def _vmas(linux: Any, mm: Any) -> Iterator[Vma]:
    sequence = int(mm.mm_lock_seq.sequence)
    for number, vma in enumerate(linux.for_each_vma(mm)):
        if number >= _MOST_VMAS:
            return
        counter = int(vma.vm_refcnt.refs.counter) & 0xFFFFFFFF
        written = (int(vma.vm_lock_seq) & 0xFFFFFFFF) == (sequence & 0xFFFFFFFF)
        yield Vma(int(vma.vm_start), int(vma.vm_end), counter, written)


def _comm(task: Any) -> str:
    return clean(task.comm.string_()).replace(" ", "?")


def explain(address_spaces: Sequence[Space], context: str = "") -> str:
    """Which VMA is waited for, by address and count; empty if none is.

    :param context: a text that the result does not repeat.
    """
    for space in address_spaces:
        for vma in space.vmas:
            if vma.waited_for and vma.readers:
                holds = f"mmap_lock is held for writing by {space.writer}"
                suffix = f"; {holds}" if space.writer and holds not in context else ""
                return (
                    f"the VMA {vma.start:x}-{vma.end:x} of {space.comm}/{space.pid} is waited for by a "
                    f"writer and locked by {vma.readers} reader{'s' if vma.readers > 1 else ''} "
                    f"(vm_refcnt {vma.refcnt:#x}){suffix}"
                )
    return ""


def table(address_spaces: Sequence[Space]) -> str:
    """All address spaces and VMAs, for people."""
    lines = []
    for space in address_spaces:
        state = f"written by {space.writer}" if space.writer else f"{space.readers} readers"
        lines.append(f"{space.comm}, pid {space.pid}: mmap_lock: {state}; {len(space.vmas)} VMAs")
        for vma in space.vmas:
            words = [f"vm_refcnt {vma.refcnt:#x}"]
            words += [f"{vma.readers} readers"] if vma.readers else []
            words += ["a writer waits for them"] if vma.waited_for else []
            words += ["write-locked"] if vma.written and space.writer else []
            lines.append(f"    {vma.start:x}-{vma.end:x} {', '.join(words)}")
    return "\n".join(lines)
