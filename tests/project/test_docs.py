# SPDX-License-Identifier: GPL-2.0-only
"""The documents tell the truth: what is supported is documented, and what is documented exists."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import msgspec
import pytest
from paths import ROOT

from orchestrator.cli import streams
from orchestrator.cli.main import cli
from orchestrator.core import arch, data, errors
from orchestrator.core.arch import Arch
from orchestrator.results import junit
from orchestrator.results.model import CELL_CASES, Blame, Case, CellResult, Verdict, exit_code
from orchestrator.source.classify import TreeClass
from orchestrator.suites import catalog
from orchestrator.suites.catalog import Build, Descriptor, Expectation, Program

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
FOREIGN = {
    "--shared": "git clone",
    "--stdout": "git format-patch",
    "--base": "git format-patch",
    "--first-parent": "git bisect",
    "--locate-keys": "gpg",
    "--filter": "a program of a suite",
    "--duration": "a program of a suite",
}
#: Words with a dot that look like a host and may stand in a document.
HOSTS = {"kernel.org", "keepachangelog.com", "developercertificate.org"}


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def all_docs() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in DOCS)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def options() -> dict[str, set[str]]:
    """The options of each verb, and under the empty name those of the command itself."""
    found = {"": {o for p in cli.params for o in p.opts} | {"--help", "-h"}}
    for verb, command in cli.commands.items():
        found[verb] = {o for p in command.params if isinstance(p, click.Option) for o in p.opts} | {
            "--help",
            "-h",
        }
    return found


def man(verb: str) -> str:
    """A man page without its fonts and escapes."""
    name = f"orchestrate-{verb}" if verb else "orchestrate"
    source = (ROOT / f"docs/man/{name}.1").read_text(encoding="utf-8")
    source = re.sub(r"\\f[BIPR]|\\&", "", source)
    return source.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", '"').replace("\\e", "\\")


def entries(verb: str) -> dict[str, str]:
    """The options of a man page: names, and the entry in one line."""
    (section,) = re.findall(r"^\.SH OPTIONS\n(.*?)(?=^\.SH|\Z)", man(verb), re.M | re.S)
    found = {}
    for item in re.findall(r"^\.TP\n\.B (.*?)(?=^\.)", section, re.M | re.S):
        names = re.findall(r"(?:(?<=^)|(?<=, ))-{1,2}[a-z0-9-]+", item.partition("\n")[0])
        found[", ".join(names)] = " ".join(item.split())
    return found


def code_blocks(page: Path) -> Iterator[str]:
    """Fenced and indented blocks, without the indentation."""
    body = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```\w*\n(.*?)^```$", body, re.M | re.S):
        yield match[1]
    for match in re.finditer(r"(?:^ {4}.*\n(?:[ \t]*\n)*)+", body, re.M):
        yield re.sub(r"^ {4}", "", match[0], flags=re.M)


def commands(page: Path) -> list[list[str]]:
    """The lines in a page's code that call orchestrate, as argument lists."""
    found = []
    for block in code_blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("orchestrate ") and not re.match(r"orchestrate \w+  +\w", line):
                words = shlex.split(line, comments=True)[1:]
                found.append(list(itertools.takewhile(lambda word: word[0] not in ">|", words)))
    return found


def table(body: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its two head lines."""
    below = re.split(rf"^#+ {re.escape(heading)}\n", body, maxsplit=1, flags=re.M)[1]
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), below.splitlines())
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as code-hosting sites make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


# What is supported is documented.


@pytest.mark.parametrize("name", arch.names())
def test_arch_is_documented(name: str) -> None:
    assert f"`{name}`" in text("reference/cli/run.md")
    assert name in [row[0].strip("`") for row in table(text("reference/kconfigs.md"), "Architectures")]


@pytest.mark.parametrize("name", [*data.variants(), *data.flavors()])
def test_variant_or_flavor_is_documented(name: str) -> None:
    assert f"`{name}`" in text("reference/kconfigs.md")
    assert f"`{name}`" in text("reference/cli/run.md")


@pytest.mark.parametrize("name", catalog.names())
def test_suite_is_documented(name: str) -> None:
    assert [f"`{name}`", catalog.load(name).kind] in [
        row[:2] for row in table(text("reference/suites.md"), "Suites")
    ]


def test_default_suites_are_named() -> None:
    *most, last = (f"`{name}`" for name in catalog.DEFAULT)
    assert f"{', '.join(most)} and {last} run when no" in text("reference/suites.md")


@pytest.mark.parametrize("verb", cli.commands)
def test_verb_and_its_options_are_documented(verb: str) -> None:
    """The page of a verb takes synopsis, description and options from the command itself."""
    page = text(f"reference/cli/{verb}.md")
    for part in ("usage", "help", "options"):
        assert f"```{{command-{part}}} {verb}\n```\n" in page
    assert options()[verb] <= {name for names in entries(verb) for name in names.split(", ")}


@pytest.mark.parametrize("verb", cli.commands)
def test_options_of_a_man_page(verb: str) -> None:
    """docs/man is what the commands say now; `make docs` writes it."""
    written = entries(verb)
    for option in cli.commands[verb].params:
        if not isinstance(option, click.Option):
            continue
        record = option.get_help_record(click.Context(cli.commands[verb], parent=click.Context(cli)))
        assert record
        (entry,) = [body for names, body in written.items() if option.opts[0] in names.split(", ")]
        assert entry == " ".join(f"{record[0]} {record[1]}".replace("`", "").split())
        if isinstance(option.type, click.Choice):
            assert all(str(choice) in entry for choice in option.type.choices)
        if isinstance(option.type, click.IntRange):
            assert str(option.type.min) in entry
            assert option.type.max is None or str(option.type.max) in entry
        if option.show_default:
            assert str(option.default) in entry


@pytest.mark.parametrize("verb", ["", *cli.commands])
def test_man_page_of_a_verb(verb: str) -> None:
    command = cli.commands[verb] if verb else cli
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        assert " ".join(paragraph.replace("`", "").split()) in " ".join(man(verb).split())


def test_no_man_page_is_left_over() -> None:
    pages = {path.name for path in (ROOT / "docs/man").iterdir()}
    assert pages == {"orchestrate.1", *(f"orchestrate-{verb}.1" for verb in cli.commands)}


@pytest.mark.parametrize(
    ("struct", "heading"),
    [(Descriptor, "The suite"), (Build, "[build]"), (Program, "[[program]]"), (Expectation, "[[expect]]")],
)
def test_descriptor_fields_are_documented(struct: type[msgspec.Struct], heading: str) -> None:
    described = [row[0].strip("`") for row in table(text("reference/suite-descriptor.md"), heading)]
    assert described == list(struct.__struct_fields__)


def test_arch_fields_are_documented() -> None:
    rows = table(text("extending.md"), "An architecture")
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row[0])] == list(Arch.__struct_fields__)


def test_classes_of_trees_are_documented() -> None:
    rows = table(text("reference/kconfigs.md"), "Three ages of a tree")
    assert [row[0].strip("`") for row in rows] == [each.value for each in TreeClass]


def test_environment_is_documented() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "orchestrator").rglob("*.py"))
    used = set(re.findall(r"\bORCHESTRATE_[A-Z_]+\b", sources))
    assert used
    assert used <= {row[0].strip("`") for row in table(text("reference/configuration.md"), "Environment")}


def test_rooms_are_documented_in_their_order() -> None:
    """The order is that of the contract that `make lint` checks."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = pyproject["tool"]["importlinter"]["contracts"]
    rows = table(text("architecture.md"), "The rooms")
    rooms = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert rooms == contract["layers"][::-1]


def test_the_way_of_a_cell_is_that_of_the_code() -> None:
    for _, where, _ in table(text("architecture.md"), "Follow one cell through the code"):
        path, _, function = where.strip("`").partition(": ")
        source = (ROOT / "orchestrator" / path).read_text(encoding="utf-8")
        assert re.search(rf"^ *def {function}\(", source, re.M), where


# The verdict table and the exit codes are those of the code.


def test_verdicts_are_documented() -> None:
    assert [row[0] for row in table(text("reference/verdicts.md"), "Verdicts")[: len(Verdict)]] == [
        v.value for v in Verdict
    ]


@pytest.mark.parametrize("row", table(text("reference/verdicts.md"), "Verdicts"), ids=lambda row: row[0])
def test_a_verdict_is_as_documented(row: list[str]) -> None:
    name, _, shown, code = row
    case = Case(
        id="suite/program", verdict=Verdict(name), blame=Blame.NONE, reason="for a reason", fingerprint="f"
    )
    assert str(exit_code([case])) == code
    if code in ("1", "3"):
        assert str(exit_code([case, Case(id="suite/other", verdict=Verdict.PASS)])) == code
    root = ET.fromstring(junit.render([CellResult(cell="cell", cases=(case,))], run_id="run"))
    (element,) = root.iter("testcase")
    parts = [child for child in element if child.tag in ("failure", "error", "skipped")]
    assert [part.tag for part in parts] == ([] if shown == "–" else [shown.partition(",")[0]])
    if "fingerprint" in shown:
        assert parts[0].get("type") == "f"
    if "n/a:" in shown:
        assert parts[0].get("message", "").startswith("n/a:")


def test_exit_codes_are_documented() -> None:
    documented = {int(row[0]) for row in table(text("reference/verdicts.md"), "Exit codes")}
    ours = {c.exit_code for c in _subclasses(errors.OrchestrateError) if c.__module__ == errors.__name__}
    verdicts = {
        exit_code([Case(id=str(n), verdict=v) for n, v in enumerate(chosen)], interrupted=interrupted)
        for chosen in itertools.product(Verdict, repeat=2)
        for interrupted in (False, True)
    }
    assert documented == ours | verdicts | {0, streams.BROKEN_PIPE}


def _subclasses(base: type[errors.OrchestrateError]) -> Iterator[type[errors.OrchestrateError]]:
    for each in base.__subclasses__():
        yield each
        yield from _subclasses(each)


def test_exit_codes_in_the_readme_are_those_of_the_help() -> None:
    said = re.search(r"Exit codes: .*?interrupted", README.read_text(encoding="utf-8"), re.S)
    assert said
    help_text = click.unstyle(cli.get_help(click.Context(cli, **cli.context_settings)))
    assert " ".join(said[0].split()) in " ".join(help_text.split())


def test_precedence_is_as_documented() -> None:
    said = re.search(
        r"If several apply to a run, 2 comes first, then ([^.]*)\.", text("reference/verdicts.md")
    )
    assert said
    order = [int(n) for n in re.findall(r"\d+", said[1])]
    verdict = {1: Verdict.FAIL, 3: Verdict.ERROR, 4: Verdict.INCONCLUSIVE, 0: Verdict.PASS}
    for first, second in itertools.combinations(order, 2):
        cases = [Case(id=str(n), verdict=verdict[n]) for n in (first, second) if n != 130]
        assert exit_code(cases, interrupted=130 in (first, second)) == first


def test_cell_cases_are_documented() -> None:
    rows = table(text("reference/verdicts.md"), "The cases of a cell")
    assert [row[0].strip("`") for row in rows] == list(CELL_CASES)


def test_blames_are_documented() -> None:
    rows = table(text("reference/verdicts.md"), "Blame")
    assert [row[0] for row in rows] == [each.value for each in Blame if each]


# What is documented exists.


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_options_in_the_documents_exist(page: Path) -> None:
    script = (data.guest() / "reproduce.sh").read_text()
    # those of each cell's script are no verb's
    theirs = set(re.findall(r"^\t(?:-h \| )?(--[a-z]+)\)", script, re.M))
    known = set().union(theirs, *options().values()) | FOREIGN.keys()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text(encoding="utf-8")))
    assert named <= known


def test_every_page_with_commands_is_parsed() -> None:
    assert len(commands(README)) >= 4
    assert len(commands(ROOT / "docs/reference/cli/run.md")) >= 6


@pytest.mark.parametrize("argv", [argv for page in PAGES for argv in commands(page)], ids=" ".join)
def test_commands_in_the_documents_are_valid(argv: list[str]) -> None:
    verb, *rest = argv
    context = cli.commands[verb].make_context(verb, rest, parent=click.Context(cli, **cli.context_settings))
    given = context.params
    if verb == "completion":
        return
    assert set(given.get("arches", ())) <= {*arch.names(), "all"}
    assert set(given.get("variants", ())) <= set(data.variants())
    assert {word for word in given.get("suites", ()) if "/" not in word} <= set(catalog.names())


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_make_targets_in_the_documents_exist(page: Path) -> None:
    body = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)[ `]", body))
    for block in code_blocks(page):
        named |= set(re.findall(r"^make ([a-z-]+)", block, re.M))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert named - {"mrproper"} <= targets  # that one is the kernel's


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert ROOT in path.parents, link
        assert not anchor or anchor in anchors(path), link


def test_every_document_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)\)", README.read_text(encoding="utf-8")))
    assert linked
    reached, queue = {README}, [README]
    while queue:
        page = queue.pop()
        for link in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target not in reached and target.is_file():
                reached.add(target)
                queue.append(target)
    assert set(DOCS) <= reached


# The README and the command that decides.


def test_the_readme_is_one_screen() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert [line for line in lines if len(line) > 80] == []


def test_the_readme_names_the_test_command_and_ci_runs_it() -> None:
    (named,) = re.findall(r"^    (make \S+) +# the tests", README.read_text(encoding="utf-8"), re.M)
    assert named == "make test"
    run = ROOT / ".ci/run"
    assert os.access(run, os.X_OK)
    lines = [line for line in run.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "set -eu"
    assert lines[-1] == f"exec {named}"


def test_ci_calls_make_in_the_repository(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\npwd\necho "make $*"\n')
    make.chmod(0o755)
    said = subprocess.run(
        [ROOT / ".ci/run"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == [str(ROOT), "make test"]


# Nothing in them belongs to one machine or one mirror.


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_host_and_no_machine_path(page: Path) -> None:
    body = page.read_text(encoding="utf-8")
    hosts = re.findall(r"\b((?:[a-z0-9-]+\.)+(?:com|dev|io|net|org))\b", body)
    assert set(hosts) <= HOSTS
    assert re.findall(r"(?<![\w.~>])/(?:home|mnt|root|tmp|work)\b", body) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_licence_line(page: Path) -> None:
    assert (
        page.read_text(encoding="utf-8").splitlines()[0] == "<!-- SPDX-License-Identifier: GPL-2.0-only -->"
    )


def test_what_is_told_of_a_splat_is_documented() -> None:
    from orchestrator.report import splats
    from orchestrator.splat import noise
    from orchestrator.splat.kinds import Class
    from orchestrator.splat.scanner import Scanner

    scanner = Scanner()
    scanner.feed(b"BUG: Bad rss-counter state mm:1\n")
    (found,) = msgspec.json.decode(splats.as_json(scanner.finish()))
    rows = table(text("reference/consoles.md"), "Fields of a report")
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row[0])] == list(found)
    rows = table(text("reference/consoles.md"), "Classes")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(Class)
    rows = table(text("reference/consoles.md"), "Known noise")
    assert {row[0].strip("`") for row in rows} == set(noise.Entry.__struct_fields__)
