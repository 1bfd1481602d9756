# SPDX-License-Identifier: GPL-2.0-only
"""What all rooms use: errors, text, events, processes, files, the cache, ELF, architectures, compilers.

May import nothing of orchestrate outside itself.
"""
