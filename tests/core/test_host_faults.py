# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501  (messages stand as tools print them)
"""Whose fault a failed build is, by real messages of gcc, clang, binutils, make and shells, old and new."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import host_faults
from orchestrator.core.errors import InfraError, KernelError, OrchestrateError
from orchestrator.core.process import Outcome
from orchestrator.kernel import build_log

#: What a log says, a part of the reason, a part of the remedy.
HOST = [
    # headers: gcc, clang, gcc before 4.5, with paths as make O= and clang have them
    (
        "scripts/sign-file.c:25:10: fatal error: openssl/opensslv.h: No such file or directory",
        "openssl/",
        "libssl-dev",
    ),
    (
        "../certs/extract-cert.c:21:10: fatal error: 'openssl/bio.h' file not found",
        "openssl/bio.h",
        "libssl-dev",
    ),
    (
        "scripts/extract-cert.c:21:25: error: openssl/bio.h: No such file or directory",
        "openssl/bio.h",
        "libssl-dev",
    ),
    (
        "/tree/scripts/sorttable.c:30:10: fatal error: libelf.h: No such file or directory",
        "libelf.h",
        "libelf-dev",
    ),
    (
        "tools/objtool/include/objtool/elf.h:10:10: fatal error: gelf.h: No such file or directory",
        "gelf.h",
        "libelf-dev",
    ),
    (
        "/tree/tools/bpf/resolve_btfids/main.c:74:10: fatal error: 'libelf.h' file not found",
        "libelf.h",
        "libelf-dev",
    ),
    (
        "In file included from x\nscripts/kconfig/mconf.c:1: fatal error: ncurses.h: No such file or directory",
        "ncurses.h",
        "libncurses-dev",
    ),
    (
        "scripts/gcc-plugins/gcc-common.h:7:10: fatal error: gcc-plugin.h: No such file or directory",
        "gcc-plugin.h",
        "plugin-dev",
    ),
    (
        "scripts/gcc-plugins/gcc-common.h:95:10: fatal error: gmp.h: No such file or directory",
        "gmp.h",
        "libgmp-dev",
    ),
    ("scripts/dtc/yamltree.c:12:10: fatal error: yaml.h: No such file or directory", "yaml.h", "libyaml-dev"),
    (
        "scripts/basic/fixdep.c:97:10: fatal error: sys/types.h: No such file or directory",
        "sys/types.h",
        "libc6-dev",
    ),
    ("scripts/basic/fixdep.c:99:10: fatal error: 'stdlib.h' file not found", "stdlib.h", "libc6-dev"),
    ("/usr/include/libelf.h:9:10: fatal error: zlib.h: No such file or directory", "zlib.h", "zlib1g-dev"),
    (
        "arch/x86/tools/insn_sanity.c:1:10: fatal error: stdio.h: No such file or directory",
        "stdio.h",
        "libc6-dev",
    ),
    # what the makefiles themselves say of them
    (
        'Makefile:1069: *** "Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev, libelf-devel or elfutils-libelf-devel".  Stop.',
        "libelf-dev",
        "libelf-dev",
    ),
    (
        "error: Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev, libelf-devel",
        "libelf-dev",
        "libelf-dev",
    ),
    (
        " *** Unable to find the ncurses libraries or the\n*** Unable to find the ncurses package.",
        "ncurses",
        "libncurses-dev",
    ),
    (
        "Cannot use CONFIG_GCC_PLUGINS: your gcc installation does not support plugins, perhaps the necessary headers are missing?",
        "plugins",
        "plugin-dev",
    ),
    ("cc1: error: cannot load plugin ./scripts/gcc-plugins/structleak_plugin.so", "plugins", "plugin-dev"),
    # libraries of host programs
    ("/usr/bin/ld: cannot find -lcrypto", "crypto", "libssl-dev"),
    (
        "/usr/bin/ld: cannot find -lelf: No such file or directory\ncollect2: error: ld returned 1 exit status",
        "elf",
        "libelf-dev",
    ),
    ("ld.lld: error: unable to find library -lzstd", "zstd", "libzstd-dev"),
    ("/usr/bin/x86_64-linux-gnu-ld.bfd: cannot find -lodd", "odd", "libodd"),
    # programs: dash, bash, make old and new, env, Kconfig, scripts
    (
        "/bin/sh: 1: bc: not found\nmake[1]: *** [Kbuild:24: include/generated/timeconst.h] Error 127",
        "bc",
        "install bc",
    ),
    ("/bin/sh: bc: command not found", "bc", "install bc"),
    ("bash: line 1: flex: command not found", "flex", "install flex"),
    ("make[2]: flex: Command not found", "flex", "install flex"),
    ("make[2]: bison: No such file or directory", "bison", "install bison"),
    ("/usr/bin/env: ‘perl’: No such file or directory", "perl", "install perl"),
    ("/usr/bin/env: 'python3': No such file or directory", "python3", "install python3"),
    ("env: python: No such file or directory", "python", "install python3"),
    ("../scripts/link-vmlinux.sh: line 3: pahole: command not found", "pahole", "pahole"),
    ("usr/gen_initramfs.sh: 1: cpio: not found", "cpio", "install cpio"),
    ("/bin/sh: 1: rsync: not found", "rsync", "install rsync"),
    ("/bin/sh: 1: xz: not found", "xz", "xz-utils"),
    (
        "/bin/sh: 1: zstd: not found\nmake[3]: *** [arch/x86/boot/compressed/Makefile:1: x] Error 127",
        "zstd",
        "install zstd",
    ),
    ("/bin/sh: 1: lz4c: not found", "lz4c", "install lz4"),
    ("/bin/sh: line 1: lzop: command not found", "lzop", "install lzop"),
    ("/bin/sh: 1: /usr/bin/perl: not found", "perl", "install perl"),
    ("/bin/sh: 1: openssl: not found", "openssl", "install openssl"),
    (
        "scripts/Kconfig.include:39: C compiler 'aarch64-linux-gnu-gcc' not found",
        "aarch64-linux-gnu-gcc",
        "gcc-aarch64-linux-gnu",
    ),
    (
        "scripts/Kconfig.include:40: linker 'x86_64-linux-gnu-ld' not found",
        "x86_64-linux-gnu-ld",
        "binutils-x86-64-linux-gnu",
    ),
    (
        "bash: ./scripts/x.pl: /usr/bin/perl: bad interpreter: No such file or directory",
        "perl",
        "install perl",
    ),
    ("clang: error: invalid linker name in argument '-fuse-ld=lld'", "lld", "install lld"),
    ("*** Rust compiler 'rustc' could not be found.\n***", "rustc", "rust-src"),
    ("Can't locate strict.pm in @INC (@INC contains: /etc/perl) at scripts/x.pl line 5.", "strict", "perl"),
    (
        "Can't locate File/Temp.pm in @INC (you may need to install the File::Temp module)",
        "File/Temp",
        "perl",
    ),
    ("ModuleNotFoundError: No module named 'yaml'", "yaml", "python3-yaml"),
    # BTF
    (
        "BTF: .tmp_vmlinux.btf: pahole (pahole) is not available\nFailed to generate BTF for vmlinux",
        "pahole is missing",
        "pahole",
    ),
    ("BTF: .tmp_vmlinux1: pahole () is not available", "pahole is missing", "pahole"),
    (
        "BTF: .tmp_vmlinux.btf: pahole version v1.15 is too old, need at least v1.16",
        "v1.15",
        "CONFIG_DEBUG_INFO_BTF",
    ),
    # keys
    (
        "make[3]: *** No rule to make target 'debian/certs/debian-uefi-certs.pem', needed by 'certs/x509_certificate_list'.  Stop.",
        "debian-uefi-certs.pem",
        "CONFIG_SYSTEM_TRUSTED_KEYS",
    ),
    (
        "make[2]: *** No rule to make target `certs/rhel.pem', needed by `certs/x509_certificate_list'.  Stop.",
        "certs/rhel.pem",
        "CONFIG_SYSTEM_TRUSTED_KEYS",
    ),
    (
        "make[2]: *** No rule to make target 'debian/canonical-revoked-certs.pem', needed by 'certs/x509_revocation_list'.  Stop.",
        "canonical-revoked",
        "CONFIG_SYSTEM_REVOCATION_KEYS",
    ),
    (
        "Can't open certs/signing_key.pem for reading, No such file or directory",
        "certs/signing_key.pem",
        "CONFIG_MODULE_SIG_KEY",
    ),
    (
        "At main.c:170:\n- SSL error:FFFFFFFF80000002:system library::No such file or directory: ../crypto/bio/bss_file.c:67",
        "key",
        "CONFIG_",
    ),
    # toolchains that are too old
    ("*** C compiler is too old.\n***   Your GCC version:    4.9.2", "C compiler is too old", "--toolchain"),
    ("*** Compiler is too old.\n***   Your Clang version:    9.0.0", "Compiler is too old", "--toolchain"),
    ("*** Rust compiler 'rustc' is too old.", "rustc", "--toolchain"),
    (
        "../include/linux/compiler-gcc.h:15:3: error: #error Sorry, your version of GCC is too old - please use 5.1 or newer.",
        "too old",
        "--toolchain",
    ),
    ("arch/x86/Makefile:1: *** Compiler lacks asm-goto support..  Stop.", "toolchain", "--toolchain"),
    ("scripts/Kconfig.include:44: Sorry, this linker is not supported.", "toolchain", "--toolchain"),
    ("Makefile:12: *** GNU Make >= 3.82 is required. Your Make version is 3.81.  Stop.", "3.82", "make"),
    # memory
    ("gcc: fatal error: Killed signal terminated program cc1", "killed", "memory"),
    (
        "gcc: internal compiler error: Killed (program cc1)\nPlease submit a full bug report",
        "killed",
        "memory",
    ),
    ("clang: error: unable to execute command: Killed", "killed", "memory"),
    ("collect2: fatal error: ld terminated with signal 9 [Killed]", "killed", "memory"),
    ("a.c:1:1: error: no\nmake: *** [x] Error 137", "a build tool was killed", "memory"),
    ("make: *** [Makefile:9: x] Killed", "a build tool was killed", "memory"),
    ("Killed", "a build tool was killed", "memory"),
    ("cc1: out of memory\nvirtual memory exhausted: Cannot allocate memory", "ran out of memory", "--jobs"),
    (
        "cc1: out of memory allocating 65536 bytes after a total of 1081344 bytes",
        "ran out of memory",
        "--jobs",
    ),
    ("make[1]: fork: Cannot allocate memory", "ran out of memory", "--jobs"),
    ("LLVM ERROR: out of memory", "ran out of memory", "--jobs"),
    ("ld: final link failed: memory exhausted", "ran out of memory", "--jobs"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "ran out of memory", "--jobs"),
    # compilers that die
    ("mm/vma.c:50:1: internal compiler error: Segmentation fault", "crashed", "--toolchain"),
    (
        "during RTL pass: expand\nmm/vma.c:5:1: internal compiler error: in expand_expr, at expr.c:1",
        "crashed",
        "--toolchain",
    ),
    ("cc1: internal compiler error: Bus error", "crashed", "--toolchain"),
    (
        "PLEASE submit a bug report to https://bugs.example.org/ and include the crash backtrace",
        "crashed",
        "--toolchain",
    ),
    (
        "clang: error: clang frontend command failed with exit code 139 (use -v to see invocation)",
        "crashed",
        "--toolchain",
    ),
    ("fatal error: error in backend: Cannot select: intrinsic", "crashed", "--toolchain"),
    (
        "collect2: fatal error: ld terminated with signal 11 [Segmentation fault], core dumped",
        "crashed",
        "--toolchain",
    ),
    ("gcc: fatal error: cannot execute 'cc1': execvp: No such file or directory", "cc1", "apt-get install"),
    ("gcc: error trying to exec 'as': cannot execute as", "as", "apt-get install"),
    ('clang: error: unable to execute command: Executable "ld.lld" doesn\'t exist!', "ld.lld", "lld"),
    (
        "scripts/sign-file: error while loading shared libraries: libcrypto.so.3: cannot open shared object file: No such file or directory",
        "libcrypto.so.3",
        "libcrypto.so.3",
    ),
    (
        "gcc-13: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by gcc-13)",
        "GLIBC_2.38",
        "toolchain",
    ),
    ("ccache: error: failed to create directory /x/ccache/tmp: Permission denied", "ccache", "ccache"),
    # disks, descriptors, processes
    (
        "/tmp/cc1.s: Assembler messages:\n/tmp/cc1.s: Fatal error: can't write 44 bytes to section .text of mm/a.o: 'No space left on device'",
        "the disk is full",
        "ORCHESTRATE_CACHE",
    ),
    (
        "mm/a.c:9:1: fatal error: opening dependency file mm/.a.o.d: No space left on device",
        "the disk is full",
        "ORCHESTRATE_CACHE",
    ),
    ("ld: final link failed: No space left on device", "the disk is full", "ORCHESTRATE_CACHE"),
    ("cat: write error: No space left on device", "the disk is full", "ORCHESTRATE_CACHE"),
    ("ar: mm/built-in.a: Disk quota exceeded", "quota", "ORCHESTRATE_CACHE"),
    ("ld: final link failed: File too large", "larger", "ulimit -f"),
    ("mkdir: cannot create directory 'include': Read-only file system", "read-only", "ORCHESTRATE_CACHE"),
    ("ld: final link failed: Input/output error", "disk fails", "kernel log"),
    ("cp: cannot stat 'x': Stale file handle", "network file system", "local disk"),
    ("/bin/sh: 1: ./scripts/basic/fixdep: Text file busy", "open for writing", "again"),
    ("make[2]: pipe: Too many open files", "descriptors", "ulimit -n"),
    ("cc1: fatal error: mm/a.c: Too many open files\ncompilation terminated.", "descriptors", "ulimit -n"),
    ("make[1]: vfork: Resource temporarily unavailable", "processes", "ulimit -u"),
    ("bash: fork: retry: Resource temporarily unavailable", "processes", "ulimit -u"),
    ("make[3]: execvp: /bin/sh: Argument list too long", "too long", "shorter"),
    ("Cannot create temporary file in /nowhere/: No such file or directory", "temporary file", "TMPDIR"),
]

#: What the tree itself is to blame for, although it sounds alike.
TREE = [
    "mm/a.c:4:16: error: 'x' undeclared (first use in this function)",
    # an include that the tree lacks, or that no kernel has
    "mm/a.c:4:10: fatal error: linux/gone.h: No such file or directory",
    "mm/a.c:4:10: fatal error: stdio.h: No such file or directory",
    "drivers/a.c:4:10: fatal error: 'openssl/evp.h' file not found",
    "scripts/mod/modpost.c:4:10: fatal error: gone.h: No such file or directory",
    "tools/objtool/check.c:4:10: fatal error: objtool/gone.h: No such file or directory",
    # words of the source that a compiler quotes
    'mm/a.c:4:2: error: x\n    4 |  pr_err("No space left on device");\n      |  ^~~',
    'mm/a.c:4:2: error: x\n pr_err("Cannot allocate memory");\n ^',
    "mm/a.c:4:2: error: #error No space left on device",
    "mm/a.c:4:2: warning: #warning Too many open files [-Wcpp]\nmm/a.c:5:1: error: x",
    'mm/a.c:4:2: error: static assertion failed: "Text file busy"',
    "include/x.h:4:2: error: call to '__compiletime_assert_1' declared with attribute error: Disk quota exceeded",
    # a program of the tree, a source of the tree
    "/bin/sh: 1: ./scripts/gone.sh: not found\nmake: *** [x] Error 127",
    "/bin/sh: 1: scripts/basic/gone: not found\nmake: *** [x] Error 127",
    "make[3]: *** No rule to make target 'mm/gone.o', needed by 'mm/built-in.a'.  Stop.",
    "make: *** No rule to make target 'certs/gone.c', needed by 'certs/gone.o'.  Stop.",
    "make[1]: Makefile: No such file or directory",
    "ModuleNotFoundError: No module named 'kdoc'",
    "ld: mm/a.o: in function `f':\nmm/a.c:(.text+0x5): undefined reference to `b'",
    "ld.lld: error: undefined symbol: x",
    'ERROR: modpost: "x" [mm/a.ko] undefined!',
    # only a warning, beside what ended it
    "warning: Cannot use CONFIG_STACK_VALIDATION=y, please install libelf-dev\nmm/a.c:4:1: error: no",
    "scripts/x.sh: line 1: rustc: command not found\nmm/a.c:4:1: error: no",
]


def error_of(folder: Path, log: str) -> OrchestrateError:
    (folder / "log").write_text(log + "\n")
    with pytest.raises(OrchestrateError) as caught:
        build_log.raise_for("here", Path("/tree"), Outcome(2, None, "ended"), folder / "log")
    return caught.value


@pytest.mark.parametrize(("log", "reason", "remedy"), HOST, ids=[log[:60] for log, _, _ in HOST])
def test_what_the_host_lacks_is_its_own_fault(tmp_path: Path, log: str, reason: str, remedy: str) -> None:
    error = error_of(tmp_path, f"  CC      mm/vma.o\n{log}\nmake: *** [Makefile:246: __sub-make] Error 2")
    assert type(error) is InfraError, error
    assert reason in error.message
    assert remedy in error.remedy


@pytest.mark.parametrize("log", TREE, ids=[log[:60] for log in TREE])
def test_what_a_tree_breaks_is_its_own_fault(tmp_path: Path, log: str) -> None:
    error = error_of(tmp_path, f"{log}\nmake: *** [Makefile:246: __sub-make] Error 2")
    assert type(error) is KernelError, error


def test_a_log_without_end_is_read_from_its_end(tmp_path: Path) -> None:
    error = error_of(tmp_path, "No space left on device\n" + "x\n" * (4 << 20) + "mm/a.c:4:1: error: no")
    assert type(error) is KernelError


@pytest.mark.parametrize(
    ("tool", "package"),
    [
        ("bc", "bc"),
        ("ld", "binutils"),
        ("xz", "xz-utils"),
        ("riscv64-linux-gnu-gcc-13", "gcc-riscv64-linux-gnu"),
    ],
)
def test_the_package_of_a_tool(tool: str, package: str) -> None:
    assert host_faults.package(tool) == package


def test_a_user_s_program_may_lack_a_library_of_its_own() -> None:
    assert host_faults.of_resources("/usr/bin/ld: cannot find -lodd") is None
    assert host_faults.of_resources("cc1: out of memory allocating 9 bytes") is not None
