# SPDX-License-Identifier: GPL-2.0-only
"""From what the user chose to the cells of a run, and to what they are made from."""

#: Repeats under ``--until-fail`` where ``--times`` says nothing.
UNTIL_FAIL_TIMES = 1000
