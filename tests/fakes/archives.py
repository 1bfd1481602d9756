# SPDX-License-Identifier: GPL-2.0-only
"""Archives, read in another way than the tool writes them."""

from __future__ import annotations


def parse(content: bytes) -> list[tuple[str, int, int, bytes]]:
    """(path, mode, nlink, data) of each entry; an independent reading of the format."""
    found = []
    at = 0
    while at < len(content):
        if content[at] == 0:
            at += 4
            continue
        assert at % 4 == 0
        assert content[at : at + 6] == b"070701"
        field = [int(content[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, links, size, name_size = field[1], field[4], field[6], field[11]
        name = content[at + 110 : at + 109 + name_size].decode()
        body = at + (110 + name_size + 3 & ~3)
        found.append((name, mode, links, content[body : body + size]))
        at = body + (size + 3 & ~3)
    return found
