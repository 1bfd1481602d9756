# SPDX-License-Identifier: GPL-2.0-only
"""conf.py KCONFIG CONFIG: what olddefconfig does, for the few words of Kconfig's language used here."""

import re
import sys
from pathlib import Path
from typing import Any


def definitions(path: str) -> list[list[Any]]:
    """(symbol, type, default, has prompt, dependencies) of each definition."""
    found: list[list[Any]] = []
    for line in Path(path).read_text().splitlines():
        if match := re.match(r'source "(.+)"', line):
            found += definitions(match[1])
        elif match := re.match(r"config (\w+)", line):
            found.append([match[1], "n", False, []])
        elif match := re.match(r"\s+(?:bool|int) \"", line):
            found[-1][2] = True
        elif match := re.match(r"\s+(?:def_bool|default) (\S+)", line):
            found[-1][1] = match[1]
        elif match := re.match(r"\s+depends on (.+)", line):
            found[-1][3] += match[1].split(" && ")
    return found


def main(kconfig: str, config: str) -> None:
    asked: dict[str, str] = {}
    for line in Path(config).read_text().splitlines() if Path(config).exists() else []:
        if match := re.match(r"CONFIG_(\w+)=(.*)", line):
            asked[match[1]] = match[2]
        elif match := re.match(r"# CONFIG_(\w+) is not set", line):
            asked[match[1]] = "n"
    known = definitions(kconfig)
    values: dict[str, str] = {}
    for _ in range(10):
        fresh: dict[str, str] = {}
        for symbol, default, prompt, depends in known:
            if any(values.get(name, "n") == "n" for name in depends):
                continue
            if prompt and symbol in asked:
                fresh[symbol] = asked[symbol]
            elif symbol not in asked or not any(s == symbol and p for s, _, p, _ in known):
                fresh[symbol] = default if default != "n" else fresh.get(symbol, "n")
        values = fresh
    lines = [f"CONFIG_{s}={v}" if v != "n" else f"# CONFIG_{s} is not set" for s, v in sorted(values.items())]
    Path(config).write_text("\n".join([*lines, ""]))


main(*sys.argv[1:])
