# SPDX-License-Identifier: GPL-2.0-only
"""Show results: terminal tables, HTML pages, lists of splats.

May import the rooms from core to run.
"""
