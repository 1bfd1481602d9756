# SPDX-License-Identifier: GPL-2.0-only
"""Run a plan: the run directory, the cells through an engine, the summary, resume.

May import the rooms from core to engine.
"""
