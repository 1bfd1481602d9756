# SPDX-License-Identifier: GPL-2.0-only
"""The site and the man pages. The source folder is the checkout, so that links between pages work in both."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS.parent)]

import commands  # noqa: E402

project = "orchestrate"
author = ""
copyright = ""
language = "en"

extensions = ["myst_parser", "sphinx.ext.graphviz", "commands"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = ["docs/**", "selftests/*/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "orchestrator", "kconfigs", "guest"]
nitpicky = True
smartquotes = False  # -- begins an option

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
graphviz_output_format = "svg"
pygments_style = "friendly"
highlight_language = "none"

html_theme = "furo"
html_title = "orchestrate"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["results.schema.json"]
# the pages are below docs/; this one leads there
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]

man_pages = commands.man_pages()
man_show_urls = False
# the pages are kept in docs/man: no date and no version, so that they change with the commands alone
today = "orchestrate"
