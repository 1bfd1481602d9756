# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from orchestrator.core import codec


class Thing(msgspec.Struct):
    number: Annotated[int, Meta(ge=0, le=9)] = 0
    text: str = ""


def test_a_thing_from_a_guest() -> None:
    assert codec.decode_untrusted(b'{"number": 3}', Thing, limit=100) == Thing(3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"number": 10}',
        b'{"number": ' + b"9" * 400 + b"}",
        b'{"text": "\xff"}',
        b'{"x": ' + b"[" * 50_000,
        b'{"x": ' + b'{"x":' * 50_000,
        b'{"number": 1}' + b" " * 1_000_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_none_has_one_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[ -~]{1,200}$") as caught:
        codec.decode_untrusted(content, Thing, limit=300_000)
    assert type(caught.value) is ValueError


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        codec.decode_untrusted(content, Thing, limit=200)
