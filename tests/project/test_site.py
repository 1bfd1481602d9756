# SPDX-License-Identifier: GPL-2.0-only
"""The documentation as a site and as man pages, as `make docs` builds them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("dot") is None,
        reason="graphviz is not installed: it draws the picture of the architecture",
    ),
]


def build(builder: str, source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What the Makefile calls, with another place for the output."""
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        source / "docs",
        "-b",
        builder,
    ]
    return subprocess.run(
        [*argv, "-d", out.parent / "doctrees", source, out], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "html"
    done = build("html", ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


def test_each_link_of_the_site_leads_somewhere(site: Path) -> None:
    """Files and anchors; addresses of other hosts are not asked."""
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', body)) for page, body in pages.items()}
    for page, body in pages.items():
        for link in re.findall(r'<(?:a|link|img|script|object)\b[^>]*?\b(?:href|src|data)="([^"]+)"', body):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page}: {link}"
            if parts.fragment and target in anchors:
                assert unquote(parts.fragment) in anchors[target], f"{page}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        body = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//', body) == []
        assert re.findall(r'<link\b[^>]*\brel="stylesheet"[^>]*\bhref="(?:https?:)?//', body) == []


def test_the_schema_can_be_fetched(site: Path) -> None:
    assert (site / "results.schema.json").read_bytes() == (ROOT / "docs/results.schema.json").read_bytes()


def test_the_readmes_of_the_suites_are_pages(site: Path) -> None:
    for readme in ROOT.glob("selftests/*/README.md"):
        assert (site / readme.relative_to(ROOT)).with_suffix(".html").is_file()


def test_the_man_pages_in_the_repository_are_those_of_the_commands(tmp_path: Path) -> None:
    done = build("man", ROOT, tmp_path / "man")
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "man").glob("*.1")}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/man").iterdir()}
    assert written == kept, "docs/man is not up to date: run `make docs` and commit it"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[x](nowhere.md)", "'nowhere.md'"),
        ("[x](crashes.md#nowhere)", "'nowhere'"),
        ("[x](#nowhere)", "'nowhere'"),
        ("```{command-options} nonsense\n```", "there is no verb 'nonsense'"),
    ],
)
def test_a_broken_page_fails_the_build(tmp_path: Path, text: str, complaint: str) -> None:
    source = tmp_path / "checkout"
    source.mkdir()
    for name in ("docs", "selftests", "CHANGELOG.md", "CONTRIBUTING.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    with (source / "docs/how-to/ci.md").open("a") as page:
        page.write(f"\n{text}\n")
    done = build("dummy", source, tmp_path / "out")
    assert done.returncode != 0
    assert complaint in done.stderr
