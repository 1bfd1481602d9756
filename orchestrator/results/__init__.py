# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts and results as data, and their formats: JUnit and the schema of ``results.json``.

May import: core.
"""
