# SPDX-License-Identifier: GPL-2.0-only
"""Test a patch series patch by patch, attribute failures to patches, and compare base and tip.

May import the rooms from core to bisect.
"""
