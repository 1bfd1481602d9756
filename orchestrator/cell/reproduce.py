# SPDX-License-Identifier: GPL-2.0-only
"""The script that reproduces a cell (design rule 9).

Once a cell has a kernel and a guest, its script needs neither orchestrate nor Python, only QEMU, ssh and
``artifacts/`` of the run. The common part is ``guest/reproduce.sh``; this module writes the cell's part.
Before that, and with ``--orchestrate``, the script calls orchestrate.
"""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

from orchestrator.cell.record import GuestRecord, ProgramRecord
from orchestrator.core import arch as arches
from orchestrator.core import data
from orchestrator.core.text import one_line
from orchestrator.plan.choices import Source
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import CellPlan
from orchestrator.suites import catalog
from orchestrator.vm import qemu

NAME = "reproduce.sh"
_NONCE = "@nonce@"

_HELP = """\
Boots the cell's guest again and runs its programs as the cell did: the same kernel, guest image and QEMU
command line, the same command for each program, and a fresh boot for each if the cell did that. It needs
QEMU, ssh and its run directory. It uses new keys and changes nothing there.

    sh {name}                      all programs of the cell
    sh {name} PROGRAM...           only these
    sh {name} --list               the programs and their command lines
    sh {name} --shell [PROGRAM]    a shell in the guest, in the program's folder
    sh {name} --orchestrate [...]  the same cell with orchestrate, from source

ACCEL=kvm or ACCEL=tcg forces an accelerator. Default: that of the cell, or emulation if this host has no
KVM. TMPDIR is the folder for temporary files.

Exit status: 0 nothing failed; 1 reproduced: a program failed, the guest died or did not boot, or the
kernel printed a report (by a plain search for the usual first lines) or became tainted; 2 wrong usage;
3 this host lacks something; 130 interrupted.

What it cannot do: widen windows of the kernel (programs of the flavor `wide` run without that), compare the
metrics of a benchmark with another kernel's, check that all expected cases reported, apply known failures, or
verify build-id and configuration. Use --orchestrate for these. A race may need several attempts.
"""


def command(plan: CellPlan, inputs: Inputs, source: Source) -> list[str]:
    """The call of orchestrate that executes a cell, from any folder.

    :param source: the cell's kernel, by the spec that it was resolved from.
    """
    choices, suites = inputs.choices, inputs.suites
    argv = ["orchestrate", "run", *_source(source), "--arch", plan.arch, "--variant", plan.variant]
    for name in plan.suites:
        if name == catalog.COMMAND:
            argv += [word for command in choices.commands for word in ("--cmd", command)]
            argv += [word for path in choices.put for word in ("--put", path)]
        else:
            argv += ["--suite", name if name in catalog.names() else str(suites[name].folder)]
    if choices.selftests_from:
        argv += ["--selftests-from", choices.selftests_from]
    argv += ["--accel", choices.accel, "--smp", str(plan.smp), "--mem", str(plan.mem_mib)]
    argv += ["--toolchain", choices.toolchain]
    if plan.vsyscall:
        argv += ["--vsyscall", plan.vsyscall]
    if any(name in suites and suites[name].kind == "benchmark" for name in plan.suites):
        argv += ["--boots", "1"]
    if choices.cmdline:
        argv += ["--cmdline", " ".join(choices.cmdline)]
    for name in choices.flavors:
        argv += ["--flavor", name]
    if choices.strict:
        argv.append("--strict")
    if choices.config:
        argv += ["--config", choices.config]
    for fragment in choices.kconfig:
        argv += ["--kconfig", fragment]
    return argv


def by_orchestrate(cell: str, describe: str, argv: list[str]) -> str:
    """The script of a cell that has no guest yet.

    :param argv: as of ``command``.
    :param describe: the kernel in words.
    """
    return (
        f"#!/bin/sh\n# {one_line(f'{cell}: {describe}')}\n"
        "# The cell had no guest to boot again: this executes the cell again, from the kernel's source.\n"
        f"{_find_orchestrate()}\nexec {_call(argv)}\n"
    )


def standalone(record: GuestRecord, argv: list[str]) -> str:
    """The script that boots the guest of a cell and runs its programs, from the run directory alone.

    :param argv: as of ``command``.
    """
    about = [one_line(f"{record.cell}: {record.describe}"), "", *_HELP.format(name=NAME).splitlines()]
    arch, spec = arches.load(record.arch), record.machine()
    before, _, after = qemu.kernel_cmdline(spec, nonce=_NONCE, epoch=0).partition(f" orc.nonce={_NONCE}")
    values = {
        "arch": record.arch,
        "machines": " ".join(arch.machines),
        "release": one_line(record.release or record.describe),
        "qemu_program": arch.qemu,
        "qemu_package": arch.packages.qemu,
        "kernel": record.kernel,
        "initrds": " ".join(record.initrds),
        "cmdline_before": before,
        "cmdline_after": after.removeprefix(" orc.epoch=0"),
        "cell_accel": record.accel,
        "slower": str(math.ceil(record.slower)),
        "shared": str(int(record.shared)),
        "programs": " ".join(program.id for program in record.programs),
        # for the supervisor that timeout(1) is: nobody's guest lives longer
        "life": "14400",
    }
    machines = [
        f'\t{accel}) exec timeout $foreground -k 5 "$life" '
        f'{shlex.join([arch.qemu, *qemu.machine(spec, accel), *qemu.devices(arch)])} "$@" ;;'
        for accel in ("kvm", "tcg")
    ]
    return "\n".join(
        [
            "#!/bin/sh",
            *(f"# {line}".rstrip() for line in about),
            "",
            *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
            "",
            "machine() { # ACCELERATOR WORDS...: become QEMU",
            "\taccel_=$1",
            "\tshift",
            "\tcase $accel_ in",
            *machines,
            "\tesac",
            "}",
            "",
            "program() { # ID: how it is run, behind orc-exec and its limit",
            "\tid=$1",
            "\tcase $1 in",
            *(_program(program) for program in record.programs),
            "\t*) return 1 ;;",
            "\tesac",
            "}",
            "",
            "by_orchestrate() {",
            f"\t{_find_orchestrate()}",
            f"\texec {_call(argv)}",
            "}",
            (data.guest() / NAME).read_text(),
        ]
    )


def _program(program: ProgramRecord) -> str:
    words = ["--cwd", program.cwd, *program.options]
    for name, value in program.env.items():
        words += ["--env", f"{name}={value}"]
    values = {
        # once for the guest's shell, once for this script
        "command": shlex.join([*words, "--", *program.argv]),
        "folder": shlex.quote(program.folder),
        "limit": str(max(1, math.ceil(program.limit_s))),
        "ktap": str(int(program.ktap)),
        "foreign": str(int(program.foreign)),
        "own": str(int(program.own)),
        "widened": " ".join(program.widen),
    }
    lines = [f"\t\t{name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join([f"\t{shlex.quote(program.id)})", *lines, "\t\t;;"])


def _find_orchestrate() -> str:
    here = shlex.quote(str(Path(sys.executable).parent))
    return f"command -v orchestrate >/dev/null || PATH={here}:$PATH"


def _call(argv: list[str]) -> str:
    # an orchestrate.toml in the current folder is not part of the cell
    return f'env ORCHESTRATE_CONFIG=/dev/null {shlex.join(argv)} "$@"'


def _source(source: Source) -> list[str]:
    label = f"{source.label}=" if source.label else ""
    if source.image:
        return ["--kernel", label + source.image]
    argv = ["--source", label + source.spec]
    if source.sha256:
        argv += ["--sha256", source.sha256]
    for patch in source.patches:
        argv += ["--patch", label + patch]
    return argv
