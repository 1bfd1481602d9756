# SPDX-License-Identifier: GPL-2.0-only
"""The command line: options, configuration file, completion, exit codes. Only this room knows click.

May import every other room.
"""
