# SPDX-License-Identifier: GPL-2.0-only
"""Test and benchmark suites: descriptors, checks of user suites, builds for a guest, the KTAP parser.

May import the rooms from core to vm.
"""
