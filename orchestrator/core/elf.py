# SPDX-License-Identifier: GPL-2.0-only
"""Facts from ELF files: machine, interpreter, libraries, build-id."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from orchestrator.core.errors import Inconclusive, InfraError

_NT_GNU_BUILD_ID = 3
_NOTE_HEADER = struct.Struct("<III")


@dataclass(frozen=True)
class Elf:
    """``interpreter`` is PT_INTERP's path or empty, ``needed`` the DT_NEEDED names in order."""

    machine: str
    interpreter: str
    needed: tuple[str, ...]


def read(data: bytes, name: str) -> Elf:
    """The facts of the ELF file ``data``; ``name`` is for the message only.

    :raises InfraError: it is not an ELF file, or a damaged one.
    """
    interpreter = ""
    needed: list[str] = []
    try:
        file = ELFFile(io.BytesIO(data))
        for segment in file.iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            elif isinstance(segment, DynamicSegment):
                # pyelftools sets this attribute by the tag's name, which no checker can see
                needed += [tag.needed for tag in segment.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
        machine = str(file["e_machine"])
    except (ELFError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise InfraError(f"{name} is not a usable ELF file ({error})") from error
    return Elf(machine, interpreter, tuple(needed))


def machine(data: bytes, name: str) -> str:
    """The machine as readelf names it, in lower case (``x86_64``, ``aarch64``); see ``Arch.elf``."""
    return read(data, name).machine.removeprefix("EM_").lower()


def closure(data: bytes, name: str, find: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """All files that the dynamic loader needs for an executable, besides the executable itself.

    :param find: returns the content for an absolute path (PT_INTERP) or a bare soname (DT_NEEDED), or None.
    :returns: contents by the arguments of ``find``; empty for a static executable.
    :raises InfraError: ``find`` lacks a library, or has one of another architecture.
    """
    first = read(data, name)
    # the loader is loaded already when a library asks for it by its soname
    loader = PurePosixPath(first.interpreter).name
    libraries: dict[str, bytes] = {}
    queue = [(word, name) for word in (first.interpreter, *first.needed) if word]
    while queue:
        word, dependent = queue.pop(0)
        if word in libraries:
            continue
        content = find(word)
        if content is None:
            raise InfraError(f"{dependent} needs {word}, which is in none of the packages")
        library = read(content, word)
        if library.machine != first.machine:
            raise InfraError(f"{dependent} is {first.machine}, but {word} is {library.machine}")
        libraries[word] = content
        queue += [(other, word) for other in library.needed if other != loader]
    return libraries


def build_id(path: Path) -> str:
    """The GNU build-id of an ELF file such as vmlinux, in lower-case hex.

    :raises InfraError: the file cannot be read or is not an ELF file.
    :raises Inconclusive: it has no build-id.
    """
    try:
        with path.open("rb") as stream:
            file = ELFFile(stream)
            # segments first: they survive `strip`; a vmlinux of some arches has the section only
            notes = [segment.data() for segment in file.iter_segments("PT_NOTE")]
            notes += [section.data() for section in file.iter_sections("SHT_NOTE")]
            for raw in notes:
                if digest := _build_id(raw):
                    return digest
    except (OSError, ELFError) as error:
        raise InfraError(f"{path}: no build-id can be read: {error}") from error
    raise Inconclusive(
        f"{path} has no GNU build-id, so the running kernel cannot be identified",
        remedy="build it with a linker that supports --build-id",
    )


def build_id_of_notes(raw: bytes) -> str:
    """The GNU build-id among raw ELF notes such as the guest's ``/sys/kernel/notes``, in lower-case hex.

    ``raw`` comes from the guest and may be anything.

    :raises Inconclusive: there is none in it.
    """
    digest = _build_id(raw)
    if not digest:
        raise Inconclusive(
            "the guest's /sys/kernel/notes holds no GNU build-id, so its kernel is not identified",
            remedy="check that CONFIG_SYSFS is set and that the kernel booted is the one built",
        )
    return digest


def _build_id(raw: bytes) -> str:
    """Notes are little endian on all arches, name and descriptor padded to 4 bytes (ELF, "Note Section")."""
    at = 0
    while at + _NOTE_HEADER.size <= len(raw):
        name_size, size, kind = _NOTE_HEADER.unpack_from(raw, at)
        start = at + _NOTE_HEADER.size
        body = start + (name_size + 3 & ~3)
        if body + size > len(raw):
            break
        if kind == _NT_GNU_BUILD_ID and raw[start : start + name_size] == b"GNU\0" and 8 <= size <= 64:
            return raw[body : body + size].hex()
        at = body + (size + 3 & ~3)
    return ""
