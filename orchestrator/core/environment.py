# SPDX-License-Identifier: GPL-2.0-only
"""The environment of everything that builds: kernels, modules, programs, and the probes of compilers.

It is made here from nothing. The user's shell adds only what ``PASSED`` lists: kernel developers export ARCH,
CROSS_COMPILE, LLVM, CFLAGS and MAKEFLAGS for their own builds, and no makefile may see the token of a CI
system. PATH decides which tools run; their versions are in the keys of the cache
(``kernel.make.tool_versions``). RUSTUP_HOME is where rustup keeps compilers; Kconfig
records which one it took.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

#: Variables of the user's shell that a build sees.
PASSED = ("PATH", "TMPDIR", "RUSTUP_HOME")
#: A folder that does not exist, so that no dot file of the user's is read, and that not even root can make.
HOME = "/proc/nonexistent"

#: The option that has the effect which a user may expect of variables; patterns.
_OPTIONS = {
    "--arch": r"(?:SUB|SRC)?ARCH",
    "--toolchain": r"CROSS_COMPILE\w*|(?:HOST)?(?:CC|LD|AS|AR)|NM|OBJCOPY|OBJDUMP|READELF|STRIP|LLVM(?:_IAS)?"
    r"|COMPILER_PATH|GCC_EXEC_PREFIX",
    "--jobs": r"(?:GNU)?MAKEFLAGS|MFLAGS|MAKEFILES",
    "--kconfig or --config": r"KCONFIG_\w+|KBUILD_\w+|LOCALVERSION",
    "": r"(?:HOST)?(?:CC?|CPP|CXX|LD)FLAGS\w*|K(?:C|CPP|A|RUST)FLAGS|CPATH|\w+_INCLUDE_PATH|LIBRARY_PATH"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|PKG_CONFIG_\w+|PYTHON(?:PATH|HOME)|PERL5(?:LIB|OPT)|CCACHE_\w+|TUXMAKE\w*",
}


def environment(shell: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a build.

    :param shell: the user's environment; by default that of this process.
    """
    shell = os.environ if shell is None else shell
    result = {name: shell[name] for name in PASSED if shell.get(name)}
    # the working folder of a build is the tree: no program of it may be taken for one of the host
    folders = [each for each in result.get("PATH", os.defpath).split(":") if each.startswith("/")]
    result["PATH"] = ":".join(folders) or os.defpath
    if "RUSTUP_HOME" not in result and shell.get("HOME") and (Path(shell["HOME"]) / ".rustup").is_dir():
        # rustc of rustup is a proxy that looks there
        result["RUSTUP_HOME"] = f"{shell['HOME']}/.rustup"
    return result | {"HOME": HOME, "LC_ALL": "C.UTF-8"}


def ignored(shell: Mapping[str, str] | None = None) -> str:
    """A line on the shell's variables that builds do not see, although a user may expect it; else empty."""
    shell = os.environ if shell is None else shell
    parts = []
    for option, pattern in _OPTIONS.items():
        if names := [name for name in sorted(shell) if shell[name] and re.fullmatch(pattern, name)]:
            parts.append(f"{', '.join(names)}{f' (use {option})' if option else ''}")
    return f"builds ignore these variables of your environment: {'; '.join(parts)}" if parts else ""
