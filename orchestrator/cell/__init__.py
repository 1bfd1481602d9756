# SPDX-License-Identifier: GPL-2.0-only
"""Run one cell: build or find the kernel, boot guests, run the suites, judge, record artefacts.

May import the rooms from core to plan.
"""
