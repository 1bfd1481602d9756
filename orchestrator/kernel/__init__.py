# SPDX-License-Identifier: GPL-2.0-only
"""Configure and build kernels: fragments, flavors, tuxmake, warnings, debug information.

May import the rooms from core to source.
"""
