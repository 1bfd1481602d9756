# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root file system: the image from Debian packages, and what each run adds to it."""
