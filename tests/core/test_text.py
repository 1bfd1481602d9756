# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core.text import CUT_LINE, MIN_LIMIT, clean, clean_str, one_line

# XML 1.0, production [2] Char, spelt independently of the code under test.
LEGAL = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
PIECES = (
    b"\x1b",
    b"\x1b[",
    b"\x1b]0;",
    b"\x9b",
    b"\xc2\x9b",
    b"\xc2\x9d",
    b"\x07",
    b"\x1b\\",
    b"m",
    b"31",
    b"c",
)
BREAKS = (b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbf\xbe", b"ok 1 a", "é€🐧".encode())
HOSTILE = st.lists(st.sampled_from((*PIECES, *BREAKS)) | st.binary(max_size=8), max_size=60).map(b"".join)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16)\r\n", "SeaBIOS (version 1.16)\n"),
        (b"\x1b[1;31mnot ok\x1b[m 1", "not ok 1"),
        (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        (b"\x1b(B\x1b7a\x1b8", "a"),
        ("\x9b31ma\x9d0;t\x9cb".encode(), "ab"),
        (b"\x1b]0;never ended\nnot ok 1 x\n", "0;never ended\nnot ok 1 x\n"),
        (b"torn \x1b[31", "torn 31"),
        (b"torn \x1b", "torn \\x1b"),
        (b"a\r\nb\rc\r\r\nd\n\re", "a\nb\nc\nd\n\ne"),
        (b"\0\x08\x0b\x7f\t", "\\x00\\x08\\x0b\\x7f\t"),
        (b"\x80\xff\xed\xa0\x80", "\\x80\\xff\\xed\\xa0\\x80"),
        ("\x85\x9f".encode(), "\\x85\\x9f"),
        ("\ufffe\uffff\ufffd".encode(), "\ufffd\ufffd\ufffd"),
        ("a\u202eb\u2066c".encode(), "a\\u202eb\\u2066c"),
        ("grün €🐧".encode(), "grün €🐧"),
    ],
)
def test_clean(data: bytes, text: str) -> None:
    assert clean(data) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200bb\u200d\ufeff\u2060", "a\\u200bb\\u200d\\ufeff\\u2060"),  # no width
        ("\u200e\u200f\u061c\u202a\u2069", "\\u200e\\u200f\\u061c\\u202a\\u2069"),  # direction
        ("\U000e0041\U000e007f", "\\U000e0041\\U000e007f"),  # tags
        ("\xad\u3164\ufe0f\U000e0100", "\\xad\\u3164\\ufe0f\\U000e0100"),  # fillers, selectors of variants
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),  # line breaks that only some readers know
    ],
)
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert clean_str(text) == shown


def test_every_character_that_steers_is_replaced() -> None:
    """All control and format characters, surrogates and separators, as this Python's Unicode has them."""
    categories = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    steering = "".join(
        c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in categories
    )
    left = {c for c in clean_str(steering.replace("\x1b", "")) if unicodedata.category(c) in categories}
    assert left <= {"\t", "\n"}


def test_lone_surrogates_in_text() -> None:
    assert clean_str("a\ud800\udfffb") == "a\ufffd\ufffdb"


@given(HOSTILE | st.binary(max_size=400), st.none() | st.integers(MIN_LIMIT, 80))
def test_clean_is_legal_bounded_and_idempotent(data: bytes, limit: int | None) -> None:
    text = clean(data, limit=limit)
    assert LEGAL.fullmatch(text)
    assert "\r" not in text
    assert "\x1b" not in text
    assert limit is None or len(text) <= limit
    assert clean(text.encode(), limit=limit) == text
    assert clean_str(text, limit=limit) == text


@given(st.text(alphabet=st.characters(), max_size=400), st.integers(MIN_LIMIT, 200))
@example("\ud800" * 70, 64)
def test_clean_str_is_legal_bounded_and_idempotent(text: str, limit: int) -> None:
    once = clean_str(text, limit=limit)
    assert LEGAL.fullmatch(once)
    assert len(once) <= limit
    assert clean_str(once, limit=limit) == once


@given(st.text(st.sampled_from("ab \n€🐧"), min_size=150, max_size=600), st.integers(MIN_LIMIT, 300))
def test_a_cut_tells_what_is_missing(text: str, limit: int) -> None:
    cut = clean_str(text, limit=limit)
    if len(text) <= limit:
        assert cut == text
        return
    mark = CUT_LINE.search(cut)
    assert mark
    head, tail = cut[: mark.start() - 1], cut[mark.end() + 1 :]
    assert text.startswith(head)
    assert text.endswith(tail)
    # The newline that ended the head may have become the one before the mark.
    kept = len((head + tail).encode())
    assert len(text.encode()) - kept - int(mark[1]) in (0, 1)


def test_a_cut_falls_between_lines() -> None:
    lines = [f"ok {n} case_{n}" for n in range(1, 100)]
    kept = clean_str("\n".join(lines) + "\n", limit=300).splitlines()
    assert [line for line in kept if not CUT_LINE.fullmatch(line)] == [line for line in lines if line in kept]
    assert len(kept) > 10


def test_a_limit_needs_room_for_the_mark() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        clean(b"", limit=MIN_LIMIT - 1)


@given(HOSTILE, st.integers(1, 50))
def test_one_line(data: bytes, limit: int) -> None:
    line = one_line(data.decode("utf-8", "backslashreplace"), limit=limit)
    assert LEGAL.fullmatch(line)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert line == line.strip()


@pytest.mark.parametrize("unit", ["\x1b]", "\x1b[", "\x1b[0", "\x1bP", "\x9d", "\x9b;", "\r", "\x1b("])
def test_hostile_megabytes(unit: str) -> None:
    # Square time would be hours here.
    assert LEGAL.fullmatch(clean_str(unit * 1_000_000, limit=1000))
    assert LEGAL.fullmatch(clean_str(unit + "0" * 2_000_000, limit=1000))
