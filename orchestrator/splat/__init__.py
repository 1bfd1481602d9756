# SPDX-License-Identifier: GPL-2.0-only
"""Kernel reports (splats): find them in a console, name and classify them, decode their stack traces.

May import the rooms from core to suites.
"""
