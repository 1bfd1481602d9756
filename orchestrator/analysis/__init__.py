# SPDX-License-Identifier: GPL-2.0-only
"""Statistics: intervals, comparisons of variants, pairs of legs, failure rates. Pure functions.

May import the rooms from core to evidence.
"""
