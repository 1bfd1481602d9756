# SPDX-License-Identifier: GPL-2.0-only
"""Sources: what the user names becomes a read-only tree with an identity."""

from orchestrator.source import patches
from orchestrator.source.model import Tree
from orchestrator.source.resolve import default_source, resolve

__all__ = ["Tree", "default_source", "patches", "resolve"]
