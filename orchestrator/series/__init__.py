# SPDX-License-Identifier: GPL-2.0-only
"""A patch series, patch by patch: does each apply, build, boot and pass, and what does the whole gain."""
