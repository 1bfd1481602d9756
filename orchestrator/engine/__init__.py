# SPDX-License-Identifier: GPL-2.0-only
"""Engines execute the cells of a run: on this machine (``local``)."""
