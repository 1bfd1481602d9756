# SPDX-License-Identifier: GPL-2.0-only
"""The account of a bisect in its three forms."""

from __future__ import annotations

from html.parser import HTMLParser

import msgspec

from orchestrator.bisect.report import Account, StepRow, SuspectRow, html, markdown, terminal

FOUND = Account(
    id="bisect-1",
    title="Bisect of linux, v1 to <v2>",
    question="maps/x fails",
    headline="culprit: 0123456789ab mm: a <b> & c (99.1 % sure)",
    culprit="0123456789abcdef",
    fixes='Fixes: 0123456789ab ("mm: a <b> & c")',
    commit="commit 0123456789abcdef\nAuthor: <script>alert(1)</script>",
    facts=(("cost", "3 builds, 9 boots, 12 minutes"),),
    rechecks=("the culprit 0123456789ab is bad: shown in 1 of 1",),
    notes=("2 commits could not be judged",),
    suspects=(SuspectRow(commit="0123456789abcdef", subject="mm: a <b> & c", percent=99.1),),
    steps=(
        StepRow(
            commit="0123456789ab", what="boot 1 (search)", outcome="bad", reason="<i>no</i>|", run="boots/a b"
        ),
    ),
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]


def test_html_holds_no_markup_of_others() -> None:
    page = html(FOUND)
    parser = _Tags()
    parser.feed(page)
    assert not parser.tags & {"script", "i", "b"}
    assert parser.links == ["boots/a%20b/"]
    assert "mm: a &lt;b&gt; &amp; c" in page


def test_markdown_holds_no_markup_of_others() -> None:
    page = markdown(FOUND)
    assert page.startswith("# Bisect of linux, v1 to \\<v2\\>\n")
    assert '    Fixes: 0123456789ab ("mm: a <b> & c")' in page
    assert "\\<i\\>no\\</i\\>\\|" in page


def test_a_terminal_shows_suspects_only_where_there_is_no_culprit() -> None:
    assert [line for line in terminal(FOUND) if "99.1 %  " in line] == []
    lines = terminal(msgspec.structs.replace(FOUND, culprit="", fixes="", suspects=FOUND.suspects * 12))
    assert sum("99.1 %  0123456789ab mm: a <b> & c" in line for line in lines) == 10
    assert "  ... and 2 more" in lines
