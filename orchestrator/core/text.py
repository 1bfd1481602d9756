# SPDX-License-Identifier: GPL-2.0-only
"""The one place where text of others becomes safe to show.

The result is legal XML 1.0, has no escape sequences, no control characters except tab and newline, and no
characters that cannot be seen. It is bounded if the caller sets a limit. `Case`, `OrchestrateError` and
`Event` apply it to what they are made of, so that no path to a reader goes round it.
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
_SUSPECT = re.compile(r"[^\t\n -~]")
_NEWLINE = re.compile(r"\r+\n?")  # a terminal line may say \r\r\n


# What Unicode lets no reader see (Default_Ignorable_Code_Point), or what only steers how text is laid out:
# characters without width, marks and overrides of direction, tags, selectors of variants, fillers.
_UNSEEN = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F)),
    *((0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F)),
    *((0x2028, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F)),
    *((0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)


def _escaped(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _replacements() -> dict[int, str]:
    control = [c for c in (*range(0x20), *range(0x7F, 0xA0)) if c not in (0x09, 0x0A)]
    unseen = [c for first, last in _UNSEEN for c in range(first, last + 1)]
    table = {c: _escaped(c) for c in (*control, *unseen)}
    return table | dict.fromkeys((*range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\ufffd")


_REPLACE = _replacements()


def clean(data: bytes, *, limit: int | None = None) -> str:
    """Text from the bytes of a guest, fit for a terminal, HTML (escaped) and XML.

    Invalid UTF-8, control characters and characters that cannot be seen show as ``\\xNN`` or ``\\uNNNN``,
    lone surrogates and U+FFFE/F as U+FFFD. Escape sequences are gone. A ``\\r\\n`` is a newline, and so is a
    lone ``\\r`` (or several). Idempotent.

    :param limit: the most characters to return, at least `MIN_LIMIT`. Of longer text the head and the
        tail stay; a line between them that `CUT_LINE` matches has the number of missing bytes (UTF-8, after
        cleaning).
    """
    return clean_str(data.decode("utf-8", errors="backslashreplace"), limit=limit)


def clean_str(text: str, *, limit: int | None = None) -> str:
    """`clean` for an untrusted ``str``: a name from a file, an error of a tool."""
    if _SUSPECT.search(text):
        text = _NEWLINE.sub("\n", _ESCAPE.sub("", text)).translate(_REPLACE)
    return text if limit is None else _cut(text, limit)


def one_line(text: str, *, limit: int | None = 300) -> str:
    """Clean text on one line, white space collapsed, cut to ``limit`` characters with an ellipsis."""
    line = " ".join(clean_str(text).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def name(text: str) -> str:
    """A clean name: without line breaks and tabs, and otherwise as it was, since names are compared."""
    return clean_str(text).replace("\n", " ").replace("\t", " ")


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
