# SPDX-License-Identifier: GPL-2.0-only
"""Compiler flags that a user's suite may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from orchestrator.core.errors import UserError

#: Compiler flags that change what is compiled, and nothing else. Values have no paths: no / and no @.
_FLAG = re.compile(
    r"-O[0-3sgz]?|-Ofast|-g[a-z0-9-]*|-[DU]\w+(?:\(\w*\))?(?:=.*)?|-W(?![lpa],)[a-z0-9+-]*(?:=[\w-]+)?"
    r"|-[fm][a-z0-9+-]+(?:=[\w+.,:-]+)?|-std=[a-z0-9:+]+|-l[\w+.-]+|-pthread|-static|-ansi|-pedantic(?:-errors)?"
    r"|-w|-pipe|-Wl,(?:--build-id(?:=\w+)?|--gc-sections|-z,[\w-]+(?:=\w+)?)"
)
#: Flags of that form that run a program or name a file.
_ACTS = re.compile(
    r"-f(?:plugin|module|dump|profile-|auto-profile|opt-info|callgraph-info|compare-debug|use-ld|pass-plugin"
    r"|save-optimization|diagnostics-(?:add-output|set-output|format)|debug-prefix|file-prefix|macro-prefix"
    r"|ada|stack-usage|crash-diagnostics|proc-stat|lto-partition|linker-plugin)|-m(?:llvm|stack-protector-guard)"
)


def check(folder: Path, flags: Iterable[str], what: str) -> None:
    """Refuse flags with which a compiler runs programs, or reads and writes outside the suite.

    :param folder: that of the suite.
    :param what: the beginning of the message.
    :raises UserError: there is such a flag; the message names it.
    """
    for flag in flags:
        inside = re.match("-I.", flag) and (folder / flag[2:]).resolve().is_relative_to(folder.resolve())
        if not (inside or _FLAG.fullmatch(flag)) or _ACTS.match(flag):
            raise UserError(
                f"{what}: cflags: {flag!r} is not accepted",
                remedy="Use -O -g -D -U -W -f -m -std -l -pthread, and -I for folders of the suite. "
                "Linker flags: -Wl,--build-id, -Wl,--gc-sections and -Wl,-z,WORD.",
            )
