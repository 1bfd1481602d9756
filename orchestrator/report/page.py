# SPDX-License-Identifier: GPL-2.0-only
"""HTML pages that are complete: no script, no second file, no network."""

from __future__ import annotations

from pathlib import Path

import jinja2

from orchestrator.core.text import clean_str


def render(template: str, **values: object) -> str:
    """Render a template of the package; text among the values is made safe to show, and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        finalize=_safe,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _safe(value: object) -> object:
    # what is marked as safe has been a value before
    return clean_str(value) if type(value) is str else value
