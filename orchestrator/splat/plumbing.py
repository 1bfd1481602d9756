# SPDX-License-Identifier: GPL-2.0-only
"""Functions that a report blames only if it shows no other: what prints reports, what leads there, and
helpers with thousands of callers.

`plumbing.toml` lists them; what only one architecture has is in its file in ``core/arch/``.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from orchestrator.splat import formats

_FAMILIES = msgspec.toml.decode(
    Path(__file__).with_suffix(".toml").read_bytes(), type=dict[str, tuple[str, ...]]
)
_WIDE = _FAMILIES.pop("frames_only")
_NAMES = [*(name for family in _FAMILIES.values() for name in family), *formats.plumbing()]
#: Matched against the whole name, without compiler suffix and leading underscores.
PLUMBING = re.compile("|".join([*_NAMES, *_WIDE]))
#: The same for the function in a report's own head: it names a place, and a wide pattern must not swallow it.
PLUMBING_HEAD = re.compile("|".join(_NAMES))
