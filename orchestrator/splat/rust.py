# SPDX-License-Identifier: GPL-2.0-only
"""Demangle the names of Rust functions, as far as a stack trace needs it.

The grammar is that of Rust's RFC 2603 ("v0"). Crate hashes and disambiguators, which differ from build to
build, are left out, and so are generic arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

_MAX_DEPTH = 32


class _Unreadable(ValueError):
    """Not a v0 name."""


@functools.lru_cache(1024)
def path(symbol: str) -> str:
    """``_RNvMs3_…7ProcessNtB5_7Process10update_ref`` as ``<rust_binder::process::Process>::update_ref``.

    A name that cannot be read is returned unchanged.
    """
    if not symbol.startswith("_R"):
        return symbol
    try:
        return _Name(symbol[2:]).path() or symbol
    except (_Unreadable, IndexError, ValueError):
        return symbol


class _Name:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def path(self) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _Unreadable
        try:
            return self._path(self._next())
        finally:
            self._depth -= 1

    def _path(self, tag: str) -> str:
        if tag == "C":
            return self._identifier()
        if tag == "N":
            self._next()
            outer, inner = self.path(), self._identifier()
            return f"{outer}::{inner}" if inner else outer
        if tag in "MX":
            self._disambiguator()
            self.path()
            of = self._type()
            return f"<{of} as {self.path()}>" if tag == "X" else f"<{of}>"
        if tag == "Y":
            of = self._type()
            return f"<{of} as {self.path()}>"
        if tag == "I":
            generic = self.path()
            while self._text[self._at] != "E":
                self._argument()
            self._at += 1
            return generic
        if tag == "B":
            return self._back(_Name.path)
        raise _Unreadable

    def _type(self) -> str:
        tag = self._text[self._at]
        if tag in "CNMXYI":
            return self.path()
        self._at += 1
        if tag == "B":
            return self._back(_Name._type)
        if tag in "RQPO":
            if tag in "RQ" and self._text[self._at] == "L":
                self._argument()
            return {"R": "&", "Q": "&mut ", "P": "*const ", "O": "*mut "}[tag] + self._type()
        if tag == "S":
            return f"[{self._type()}]"
        if tag.islower():
            return "_"
        raise _Unreadable

    def _argument(self) -> None:
        if self._text[self._at] == "L":
            self._at += 1
            self._base62()
        else:
            self._type()

    def _back(self, read: Callable[[_Name], str]) -> str:
        start = self._base62()
        if start >= self._at:
            raise _Unreadable
        back, self._at = self._at, start
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise _Unreadable
            return read(self)
        finally:
            self._at = back
            self._depth -= 1

    def _identifier(self) -> str:
        self._disambiguator()
        digits = ""
        while self._text[self._at].isdigit():
            digits += self._next()
        if not digits:
            raise _Unreadable
        if self._text[self._at : self._at + 1] == "_":
            self._at += 1
        name = self._text[self._at : self._at + int(digits)]
        self._at += int(digits)
        if len(name) != int(digits):
            raise _Unreadable
        return name

    def _disambiguator(self) -> None:
        if self._text[self._at] == "s":
            self._at += 1
            self._base62()

    def _base62(self) -> int:
        """``_`` is 0, ``0_`` is 1, and so on."""
        value = -1
        while (digit := self._next()) != "_":
            value = max(value, 0) * 62 + int(digit, 36) + (26 if digit.isupper() else 0)
        return value + 1

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]
