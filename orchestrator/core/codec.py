# SPDX-License-Identifier: GPL-2.0-only
"""Structs with paths to JSON and back, and structs from TOML that people write."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.core.errors import UserError

_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """A struct as JSON; a path becomes a string."""
    return msgspec.json.encode(value, enc_hook=_text)


def decode(content: bytes, type_: type[_T]) -> _T:
    """A struct of a type from what ``encode`` gave.

    :raises msgspec.MsgspecError: it is not one.
    """
    return msgspec.json.decode(content, type=type_, dec_hook=_path)


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
