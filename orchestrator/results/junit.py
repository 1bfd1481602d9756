# SPDX-License-Identifier: GPL-2.0-only
"""JUnit XML that Jenkins' xUnit schema (junit-10.xsd) accepts, made with junit-xml and corrected.

junit-xml 1.9 writes attributes and times that no schema allows, drops a failure without text, and fails on
characters that a guest can print. So its classes build the tree, and this module gives every failure a text,
cleans the text, removes and formats attributes, counts again, and refuses to write an invalid document.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from junit_xml import TestCase, TestSuite

from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.files import write_atomically
from orchestrator.core.text import clean_str, one_line, unique
from orchestrator.results.model import Case, CellResult, Verdict

#: Characters of detail in the document; the log named beside it has the rest.
DETAIL_LIMIT = 16 * 1024

_FAILURES = (Verdict.FAIL, Verdict.CRASH, Verdict.TIMEOUT)
_ERRORS = (Verdict.INCONCLUSIVE, Verdict.ERROR)
_SKIPS = (Verdict.SKIP, Verdict.NA, Verdict.KNOWN)

_ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "properties": set(),
    "property": {"name", "value"},
    "system-out": set(),
}
_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
    "properties": {"property"},
}
_REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors"},
    "testcase": {"name"},
    "property": {"name", "value"},
}
_TIME = re.compile(r"\d+\.\d{3}")


def write(path: Path, cells: Sequence[CellResult], *, run_id: str, folder: Path | None = None) -> None:
    """Write the JUnit document of a run, by atomic rename.

    :param folder: the run directory, to which the logs of the cases are relative; by default that of the
        document.
    :raises InfraError: if the file cannot be written.
    """
    locate = functools.partial(attachments, folder=folder or path.parent, document=path)
    write_atomically(
        path,
        render(cells, run_id=run_id, locate=locate),
        remedy="Make room or permissions there, or name another folder with --out.",
    )


def try_path(path: Path) -> None:
    """Check that a document can be written there.

    :raises UserError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"--junit {path}: {error.strerror}", remedy="Name another file.") from error


def attachments(log: str, *, folder: Path, document: Path) -> list[str]:
    """The paths by which those who read a document find a log, each once.

    GitLab takes the first one, relative to the project's folder; Jenkins takes absolute ones; Azure, and
    whoever has moved the document together with the run directory, those relative to the document.
    """
    path = Path(os.path.normpath((folder / log).absolute()))
    project = Path(os.environ.get("CI_PROJECT_DIR") or Path.cwd())
    inside = [str(path.relative_to(project))] if path.is_relative_to(project) else []
    # through links, as whoever opens it goes
    beside = os.path.relpath(path.resolve(), document.parent.resolve())
    return list(dict.fromkeys([*inside, str(path), beside]))


def _as_it_is(log: str) -> list[str]:
    return [log]


def render(
    cells: Sequence[CellResult], *, run_id: str, locate: Callable[[str], Sequence[str]] = _as_it_is
) -> bytes:
    """The JUnit document of a run, UTF-8: one suite for each cell's own cases, one for each of its suites.

    Suites are called ``<cell>`` and ``<cell>/<suite>``, cases by their ids; the name of a class is that of
    the suite, as consumers group by it (`_class_names`). Identity is in the suites' properties. Verdicts map
    as design §5 says.

    :param locate: gives the paths to a log, which a case has relative to the run directory.
    :raises InfraError: if the document would break the schema or lose a verdict; a bug of orchestrate.
    """
    suites = [suite for cell in cells for suite in _suites(cell)]
    root = ET.Element("testsuites", {"name": run_id})
    for (name, cell, cases), class_name in zip(suites, _class_names(suites), strict=True):
        root.append(_suite(name, class_name, cell, cases, locate))
    _total(root)
    for element in root.iter():
        element.text = clean_str(element.text) if element.text else element.text
        for key, value in element.attrib.items():
            element.set(key, clean_str(value))
    expected = [case.verdict for _, _, cases in suites for case in cases]
    if problems := [*check(root), *_misrepresented(root, expected)]:
        raise InfraError(
            f"the JUnit document would not be valid: {problems[0]}",
            remedy="Report this as a bug of orchestrate, with the run's results.json.",
        )
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def check(root: ET.Element) -> list[str]:
    """The places where a document breaks junit-10.xsd or contradicts itself."""
    problems = []
    for element in root.iter():
        allowed = _ATTRIBUTES.get(element.tag)
        if allowed is None:
            problems.append(f"element {element.tag} is unknown")
            continue
        problems += [f"{element.tag} may not have {key}" for key in element.attrib.keys() - allowed]
        problems += [
            f"{element.tag} lacks {key}" for key in _REQUIRED.get(element.tag, set()) - element.attrib.keys()
        ]
        inner = {child.tag for child in element} - _CHILDREN.get(element.tag, set())
        problems += [f"{tag} may not be within {element.tag}" for tag in sorted(inner)]
        if (time := element.get("time")) is not None and not _TIME.fullmatch(time):
            problems.append(f"{time!r} is not a time")
        texts = (element.text or "", *element.attrib.values())
        problems += [f"illegal characters in {element.tag}" for text in texts if clean_str(text) != text]
    for suite in root.iter("testsuite"):
        problems += [
            f"{suite.get('name')}: {key}={suite.get(key)}, but there are {count}"
            for key, count in _counts(suite).items()
            if suite.get(key) != str(count)
        ]
    names = Counter((case.get("classname"), case.get("name")) for case in root.iter("testcase"))
    problems += [f"{name} is twice in {class_name}" for (class_name, name), n in names.items() if n > 1]
    for key in ("tests", "failures", "errors"):
        total = sum(int(suite.get(key, 0)) for suite in root.iter("testsuite"))
        if root.get(key) != str(total):
            problems.append(f"{key}={root.get(key)} in all, but the suites have {total}")
    return problems


def _suites(cell: CellResult) -> Iterable[tuple[str, CellResult, tuple[Case, ...]]]:
    yield cell.cell, cell, cell.cases
    for suite in cell.suites:
        yield f"{cell.cell}/{suite.suite}", cell, suite.cases


def _class_names(suites: Sequence[tuple[str, CellResult, tuple[Case, ...]]]) -> list[str]:
    """The names of the suites as those of classes.

    Jenkins takes what is before the last dot for a package, and all consumers follow a test by its class from
    run to run. So there are no dots, and no label of the kernel where there is only one kernel.
    """
    labels = {cell.label for _, cell, _ in suites}
    label = f"{labels.pop()}-" if len(labels) == 1 else "-"
    used: set[str] = set()
    counters: dict[str, int] = {}
    return [
        unique(clean_str(name).removeprefix(label).replace(".", "_"), used, counters) for name, _, _ in suites
    ]


def _suite(
    name: str,
    class_name: str,
    cell: CellResult,
    cases: Sequence[Case],
    locate: Callable[[str], Sequence[str]],
) -> ET.Element:
    identity = {"arch": cell.arch, "variant": cell.variant, "label": cell.label, "release": cell.release}
    properties = {key: value for key, value in identity.items() if value} | cell.properties
    suite = TestSuite(
        name,
        [_case(case, locate) for case in cases],
        timestamp=cell.started_at or None,
        properties=properties,
    )
    element = suite.build_xml_doc()
    for part in element.iter():
        for key in part.attrib.keys() - _ATTRIBUTES[part.tag]:
            del part.attrib[key]
    used: set[str] = set()
    counters: dict[str, int] = {}
    for part, case in zip(element.iter("testcase"), cases, strict=True):
        # consumers keep one of several cases of the same name, whichever
        part.set("name", unique(case.id, used, counters))
        part.set("classname", class_name)
        part.set("time", _seconds(case.duration_s))
    element.set("time", _seconds(sum(_finite(case.duration_s) for case in cases)))
    return element


def _case(case: Case, locate: Callable[[str], Sequence[str]]) -> TestCase:
    message = one_line(case.reason) or f"{case.verdict} without a reason"
    if case.blame:
        message = f"{case.blame}: {message}"
    detail = clean_str(case.detail, limit=DETAIL_LIMIT)
    result = TestCase(case.id, stdout=_pointer(case, locate, is_cut=detail != case.detail))
    if case.verdict in _FAILURES:
        kind = case.fingerprint if case.verdict is Verdict.CRASH else ""
        result.add_failure_info(message, detail, one_line(kind) or case.verdict.value)
    elif case.verdict in _ERRORS:
        result.add_error_info(message, detail, case.verdict.value)
    elif case.verdict in _SKIPS:
        word = {Verdict.NA: "n/a: ", Verdict.KNOWN: "known failure: "}.get(case.verdict, "")
        result.add_skipped_info(f"{word}{message}", detail)
    return result


def _pointer(case: Case, locate: Callable[[str], Sequence[str]], *, is_cut: bool) -> str | None:
    """Pointers to the whole output; Jenkins, GitLab and Azure read the bracketed lines."""
    if not case.log:
        return None
    lines = [f"The detail is cut; all of it is in {case.log}"] if is_cut else []
    return "\n".join([*lines, *(f"[[ATTACHMENT|{path}]]" for path in locate(case.log))])


def _counts(suite: ET.Element) -> dict[str, int]:
    """The counters of a suite, from its elements."""
    cases = suite.findall("testcase")
    return {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }


def _total(root: ET.Element) -> None:
    suites = root.findall("testsuite")
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in suites)))
    root.set("time", _seconds(sum(float(suite.get("time", 0)) for suite in suites)))


def _misrepresented(root: ET.Element, verdicts: Sequence[Verdict]) -> list[str]:
    """Verdicts that the document shows as others; the worst is a failure that reads as a pass."""
    cases = list(root.iter("testcase"))
    if len(cases) != len(verdicts):
        return [f"{len(verdicts)} cases, of which {len(cases)} are in the document"]
    problems = []
    for case, verdict in zip(cases, verdicts, strict=True):
        tags = {child.tag for child in case} - {"system-out"}
        if tags != _element_of(verdict):
            problems.append(f"{case.get('name')} is {verdict}, but shows as {sorted(tags) or 'passed'}")
    return problems


def _element_of(verdict: Verdict) -> set[str]:
    if verdict in _FAILURES:
        return {"failure"}
    if verdict in _ERRORS:
        return {"error"}
    return {"skipped"} if verdict in _SKIPS else set()


def _finite(duration_s: float) -> float:
    return min(duration_s, 1e9) if math.isfinite(duration_s) and duration_s > 0 else 0.0


def _seconds(duration_s: float) -> str:
    return f"{_finite(duration_s):.3f}"
