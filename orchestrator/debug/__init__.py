# SPDX-License-Identifier: GPL-2.0-only
"""Reopen a cell of a run: a shell in its guest, gdb on its kernel, decoded stack traces.

May import the rooms from core to report.
"""
