# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages of any architecture, from any Debian host, without root: mirror, download, content.

May import: core, results.
"""
