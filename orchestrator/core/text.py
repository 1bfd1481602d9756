# SPDX-License-Identifier: GPL-2.0-only
"""The one place where bytes of a guest become text.

The result is legal XML 1.0, has no escape sequences and no control characters except tab and newline, and is
bounded if the caller sets a limit. Everything downstream relies on it.
"""

from __future__ import annotations

import re

#: The smallest ``limit`` that leaves room for the mark of a cut and some text on either side of it.
MIN_LIMIT = 64

#: Matches the line that `clean` inserts at a cut; group 1 is the number of missing bytes.
CUT_LINE = re.compile(r"\[\.\.\. (\d+) bytes cut \.\.\.\]")

# ECMA-48, 7 and 8 bit forms. A control string must end on its own line: an unterminated one would
# otherwise swallow the log that follows it. No quantifier can give back what it took (`*+`), and no
# body may hold an introducer, so that hostile input costs linear time.
_ESCAPE = re.compile(
    r"""
      (?: \x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f] )               # OSC, DCS, SOS, PM, APC …
      [^\x07\x1b\r\n\x90\x98\x9c-\x9f]*+ (?: \x07 | \x1b\\ | \x9c )   # … up to BEL or ST
    | (?: \x1b\[ | \x9b ) [0-?]*+ [\x20-/]*+ [@-~]              # CSI
    | \x1b [\x20-/]*+ [0-~]                                     # ESC c, ESC 7, ESC ( B, torn introducers
    """,
    re.VERBOSE,
)
_NEWLINE = re.compile(r"\r+\n?")  # a terminal line may say \r\r\n


def _replacements() -> dict[int, str]:
    table = {c: f"\\x{c:02x}" for c in (*range(0x20), *range(0x7F, 0xA0)) if c not in (0x09, 0x0A)}
    # A guest must not reorder what a developer reads in a terminal or a report.
    table |= {c: f"\\u{c:04x}" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    return table | dict.fromkeys((*range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\ufffd")


_REPLACE = _replacements()


def clean(data: bytes, *, limit: int | None = None) -> str:
    """Text from the bytes of a guest, fit for a terminal, HTML (escaped) and XML.

    Invalid UTF-8 and control characters show as ``\\xNN``; lone surrogates and U+FFFE/F as U+FFFD;
    escape sequences are gone; ``\\r\\n`` and a lone ``\\r`` (or several) are newlines. Idempotent.

    :param limit: the most characters to return, at least `MIN_LIMIT`. Of longer text the head and the
        tail stay; a line between them that `CUT_LINE` matches has the number of missing bytes (UTF-8, after
        cleaning).
    """
    return clean_str(data.decode("utf-8", errors="backslashreplace"), limit=limit)


def clean_str(text: str, *, limit: int | None = None) -> str:
    """`clean` for an untrusted ``str``: a name from a file, an error of a tool."""
    text = _NEWLINE.sub("\n", _ESCAPE.sub("", text)).translate(_REPLACE)
    return text if limit is None else _cut(text, limit)


def one_line(text: str, *, limit: int = 300) -> str:
    """Clean text on one line, white space collapsed, cut to ``limit`` characters with an ellipsis."""
    line = " ".join(clean_str(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def unique(name: str, used: set[str], counters: dict[str, int]) -> str:
    """``name``, or the first of ``name#2``, ``name#3`` … that is not used; it is then."""
    candidate = name
    while candidate in used:
        counters[name] = counters.get(name, 1) + 1
        candidate = f"{name}#{counters[name]}"
    used.add(candidate)
    return candidate


def _cut(text: str, limit: int) -> str:
    if limit < MIN_LIMIT:
        raise ValueError(f"limit must be at least {MIN_LIMIT}, not {limit}")
    if len(text) <= limit:
        return text
    room = limit - len(_mark(len(text) * 4))
    head, tail = text[: room // 3], text[-(room - room // 3) :]
    # Whole lines where there are any: half a result line must not read as a result.
    head = head[: head.rfind("\n") + 1] or head
    tail = tail[tail.find("\n") + 1 :] or tail
    cut = text[len(head) : len(text) - len(tail)]
    return head.removesuffix("\n") + _mark(len(cut.encode())) + tail


def _mark(n_bytes: int) -> str:
    return f"\n[... {n_bytes} bytes cut ...]\n"
