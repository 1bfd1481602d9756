# SPDX-License-Identifier: GPL-2.0-only
"""Judge: the output of a program, its exit, kernel reports and known failures become cases with verdicts.

May import the rooms from core to analysis.
"""
