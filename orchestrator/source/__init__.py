# SPDX-License-Identifier: GPL-2.0-only
"""Sources: resolve what the user names to a read-only tree with an identity, and apply patches to it.

May import: core, results, debian.
"""

from orchestrator.source import patches
from orchestrator.source.model import Tree
from orchestrator.source.resolve import default_source, resolve

__all__ = ["Tree", "default_source", "patches", "resolve"]
