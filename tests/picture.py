# SPDX-License-Identifier: GPL-2.0-only
"""The picture in the README: what a command really prints on a terminal of 80 columns, as SVG.

make picture ARGS='run --suite maps'
"""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

from paths import ROOT
from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 80, 30
PICTURE = ROOT / "docs/terminal.svg"
#: Fonts that rich would fetch from elsewhere.
_FETCHED = re.compile(r"@font-face \{.*?\}\s*", re.S)


def main() -> None:
    words = sys.argv[1:]
    said = b""

    def read(descriptor: int) -> bytes:
        nonlocal said
        data = os.read(descriptor, 65536)
        said += data
        return data

    # colours, but no live lines: a picture does not move
    os.environ |= {"COLUMNS": str(COLUMNS), "CI": "1", "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    pty.spawn([str(Path(sys.executable).with_name("orchestrate")), *words], read)
    # whose machine it was is nobody's business
    text = said.decode(errors="replace").replace("\r", "").replace(str(Path.cwd()), "~")
    lines = text.splitlines()
    if len(lines) > LINES:
        lines = [*lines[:2], "...", *lines[3 - LINES :]]
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ orchestrate {' '.join(words)}", style="bold"))
        console.print(Text.from_ansi("\n".join(lines)))
    picture = _FETCHED.sub("", console.export_svg(title="orchestrate"))
    PICTURE.write_text(picture.replace("Fira Code, monospace", "monospace"))
    print(f"{PICTURE} is {len(picture)} bytes")


if __name__ == "__main__":
    main()
