# SPDX-License-Identifier: GPL-2.0-only
"""The types of options that click does not have."""

from __future__ import annotations

import re
from typing import Any

import click


class Memory(click.IntRange):
    """An amount of memory as whole MiB: ``512``, ``512M``, ``512MiB``, ``2G``, ``2GiB``, in any case.

    A range of integers, so that a configuration file may contain a plain number.
    """

    def __init__(self) -> None:
        super().__init__(min=256)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The MiB of a word such as ``512``, ``512M`` or ``2G``."""
        # more digits do not fit the plan
        match = re.fullmatch(r"0*([0-9]{1,12}) *(?:(M|G)(?:iB)?)?", str(value).strip(), re.ASCII | re.I)
        mib = int(match[1]) * (1024 if (match[2] or "").upper() == "G" else 1) if match else -1
        if self.min is not None and mib < self.min:
            quoted = repr(str(value) if len(str(value)) <= 40 else f"{str(value)[:39]}…")
            problem = f"is less than {self.min} MiB" if match else "is not an amount of memory"
            self.fail(f"{quoted} {problem}: give MiB (512, 512M, 512MiB) or GiB (2G, 2GiB).", param, ctx)
        return mib


class Parallel(click.IntRange):
    """A number of cells at a time, or ``auto``, which is ``None``."""

    def __init__(self) -> None:
        super().__init__(min=1, max=1024)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; ``None`` for ``auto``."""
        return None if value == "auto" else super().convert(value, param, ctx)
