# SPDX-License-Identifier: GPL-2.0-only
"""From the user's choices to the cells of a run and their inputs.

May import the rooms from core to verdict.
"""

#: Repeats under ``--until-fail`` where ``--times`` says nothing.
UNTIL_FAIL_TIMES = 1000
