# SPDX-License-Identifier: GPL-2.0-only
"""The changes of the tables, version after version."""
