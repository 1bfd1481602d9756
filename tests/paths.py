# SPDX-License-Identifier: GPL-2.0-only
"""Where things are: the only place of the tests that knows how deep a file lies."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
DATA = TESTS / "data"
#: Where long tests leave what they made.
RUNS = ROOT / "runs"
#: Collections of others, too large for the checkout: they lie beside it.
SHARED = ROOT.parent / "shared"
