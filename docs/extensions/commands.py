# SPDX-License-Identifier: GPL-2.0-only
"""Directives that put the help of the commands into their pages.

``{command-usage} VERB``
    the synopsis
``{command-help} VERB``
    the description
``{command-options} VERB``
    each option with its help, default and range
``{command-exit-codes} VERB``
    the exit codes
``{command-verbs}``
    all verbs, each with a link to its page

Without VERB it is the command itself.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from orchestrator.cli.main import cli

FOLDER = "docs/reference/cli"


def man_pages() -> list[tuple[str, str, str, list[str], int]]:
    """The list for Sphinx: page, name, description, authors, section."""
    verbs: list[tuple[str, str, str, list[str], int]] = [
        (f"{FOLDER}/{verb}", f"orchestrate-{verb}", _summary(command).rstrip("."), [], 1)
        for verb, command in cli.commands.items()
    ]
    return [
        (f"{FOLDER}/orchestrate", "orchestrate", "test per-VMA locks of Linux kernels in QEMU", [], 1),
        *verbs,
    ]


def _context(verb: str) -> click.Context:
    top = click.Context(cli, info_name="orchestrate", **cli.context_settings)
    return click.Context(cli.commands[verb], parent=top, info_name=verb) if verb else top


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(limit=200)


def _inline(text: str) -> list[nodes.Node]:
    """Text in which `words` between backticks, and options, are code."""
    parts = re.split(r"`([^`]+)`|(?<!\S)(--[a-z][a-z0-9-]*)", " ".join(text.split()))
    return [nodes.literal(text=part) if n % 3 else nodes.Text(part) for n, part in enumerate(parts) if part]


def _paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph("", "", *_inline(text))


def _definition(term: list[nodes.Node], text: str, anchor: str = "") -> nodes.definition_list_item:
    head = nodes.term("", "", *term)
    if anchor:
        head["ids"].append(anchor)
    return nodes.definition_list_item("", head, nodes.definition("", _paragraph(text)))


class CommandDirective(SphinxDirective):
    """One that shows something of a command."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        # what the pages are made from, so that a change of the help builds them anew
        self.env.note_reread()
        verb = self.arguments[0] if self.arguments else ""
        if verb and verb not in cli.commands:
            raise self.error(f"there is no verb '{verb}'")
        return self.show(_context(verb))

    def show(self, context: click.Context) -> list[nodes.Node]:
        raise NotImplementedError


class Usage(CommandDirective):
    def show(self, context: click.Context) -> list[nodes.Node]:
        words = " ".join(context.command.collect_usage_pieces(context))
        return [nodes.literal_block(text=f"{context.command_path} {words}", language="none")]


class Help(CommandDirective):
    def show(self, context: click.Context) -> list[nodes.Node]:
        text = inspect.cleandoc(context.command.help or "").partition("\f")[0]
        return [_paragraph(part) for part in text.split("\n\n")]


class Options(CommandDirective):
    def show(self, context: click.Context) -> list[nodes.Node]:
        listing = nodes.definition_list(classes=["options"])
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            if isinstance(parameter, click.Option) and record:
                anchor = f"option-{context.info_name}-{parameter.opts[-1].lstrip('-')}"
                listing += _definition([nodes.literal(text=record[0])], record[1], anchor)
        return [listing]


class ExitCodes(CommandDirective):
    def show(self, context: click.Context) -> list[nodes.Node]:
        epilog = " ".join((context.command.epilog or "").replace("\b", "").split())
        listing = nodes.definition_list(classes=["options"])
        for code in epilog.removeprefix("Exit codes: ").split(" · "):
            number, _, meaning = code.partition(" ")
            listing += _definition([nodes.literal(text=number)], meaning)
        return [listing]


class Verbs(CommandDirective):
    def show(self, context: click.Context) -> list[nodes.Node]:
        listing = nodes.definition_list(classes=["options"])
        for name, command in cli.commands.items():
            link = pending_xref(
                "",
                nodes.literal(text=f"orchestrate {name}"),
                refdomain="std",
                reftype="doc",
                reftarget=f"/{FOLDER}/{name}",
                refdoc=self.env.docname,
                refexplicit=True,
                refwarn=True,
            )
            listing += _definition([link], _summary(command))
        return [listing]


class PlainManPage(SphinxPostTransform):
    """Links without their targets, which a terminal cannot follow, and words that are never broken."""

    default_priority = 900
    builders = ("man",)

    def run(self, **_: Any) -> None:
        for reference in list(self.document.findall(nodes.reference)):
            reference.replace_self(reference.children)
        for section in list(self.document.findall(nodes.section))[:1]:
            section.insert(1, nodes.raw("", ".nr HY 0\n.nh\n.ad l\n", format="manpage"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for name, directive in (
        ("usage", Usage),
        ("help", Help),
        ("options", Options),
        ("exit-codes", ExitCodes),
        ("verbs", Verbs),
    ):
        app.add_directive(f"command-{name}", directive)
    app.add_post_transform(PlainManPage)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
