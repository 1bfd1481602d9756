# SPDX-License-Identifier: GPL-2.0-only
"""What a cell leaves on disk of its guest, made up."""

from __future__ import annotations

from orchestrator.cell.record import GuestRecord, ProgramRecord


def program(name: str, **changes: object) -> ProgramRecord:
    given: dict[str, object] = {
        "id": f"own/{name}",
        "argv": (f"/opt/orchestrate/suites/own/{name}", "it's", "$HOME"),
        "env": {"WORD": "a b"},
        "cwd": "/tmp",
        "options": ("--cpus", "0"),
        "limit_s": 0.5,
        "folder": "/opt/orchestrate/suites/own",
    }
    return ProgramRecord(**{**given, **changes})  # type: ignore[arg-type]


def record(name: str = "x86_64", **changes: object) -> GuestRecord:
    given: dict[str, object] = {
        "cell": "c",
        "describe": "7.2",
        "arch": name,
        "release": "7.2.12",
        "build_id": "",
        "kernel": "artifacts/k/bzImage",
        "vmlinux": "",
        "initrds": ("artifacts/i/image.cpio", "artifacts/s/suites.cpio"),
        "smp": 3,
        "mem_mib": 600,
        "cmdline": ("vsyscall=xonly", "quiet"),
        "accel": "tcg",
        "slower": 1.0,
        "shared": False,
        "programs": (program("one"), program("two")),
    }
    return GuestRecord(**{**given, **changes})  # type: ignore[arg-type]
