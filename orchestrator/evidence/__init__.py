# SPDX-License-Identifier: GPL-2.0-only
"""Evidence of what happens around a program: console watch, guest health, hangs, memory dumps, host load.

May import the rooms from core to splat.
"""
