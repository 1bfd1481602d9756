# SPDX-License-Identifier: GPL-2.0-only
"""Structs with paths to JSON and back, structs from the JSON of a guest, and from TOML that people write."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.core.text import one_line

_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """A struct as JSON; a path becomes a string."""
    return msgspec.json.encode(value, enc_hook=_text)


def decode(content: bytes, type_: type[_T]) -> _T:
    """A struct of a type from what ``encode`` gave.

    :raises msgspec.MsgspecError: it is not one.
    """
    return msgspec.json.decode(content, type=type_, dec_hook=_path)


def decode_untrusted(content: bytes, type_: type[_T], *, limit: int) -> _T:
    """A struct of a type from bytes of a guest, whose fields should be bounded by that type.

    :param limit: the most bytes to read.
    :raises ValueError: it is not one; the message is one clean line.
    """
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    try:
        return msgspec.json.decode(content, type=type_)
    # deep nesting and bytes that are no UTF-8 have errors of their own
    except (msgspec.MsgspecError, RecursionError, OverflowError, ValueError) as error:
        raise ValueError(one_line(str(error), limit=200)) from None


def read_toml(path: Path, type_: type[_T], remedy: str) -> _T:
    """The content of a file.

    :raises UserError: it cannot be read or has a wrong field; the message names file and field.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=type_)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", remedy=remedy) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}", remedy=remedy) from None


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not go to JSON")


def _path(kind: type, text: str) -> Path:
    if kind is not Path:
        raise NotImplementedError(f"{kind.__name__} does not come from JSON")
    return Path(text)
