# SPDX-License-Identifier: GPL-2.0-only
"""Structs with paths to JSON and back."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """A struct as JSON; a path becomes a string."""
    return msgspec.json.encode(value, enc_hook=_text)


def decode(content: bytes, type_: type[_T]) -> _T:
    """A struct of a type from what ``encode`` gave.

    :raises msgspec.MsgspecError: it is not one.
    """
    return msgspec.json.decode(content, type=type_, dec_hook=_path)


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not go to JSON")


def _path(kind: type, text: str) -> Path:
    if kind is not Path:
        raise NotImplementedError(f"{kind.__name__} does not come from JSON")
    return Path(text)
