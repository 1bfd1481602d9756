# SPDX-License-Identifier: GPL-2.0-only
"""Which commit brought a fault in: the history, and the search through it."""
