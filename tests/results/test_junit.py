# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from paths import DATA, SHARED

from orchestrator.core.errors import InfraError
from orchestrator.results import junit
from orchestrator.results.model import Blame, Case, CellResult, SuiteResult, Verdict

OURS = DATA / "junit.xsd"
GIVEN = Path(os.environ.get("ORCHESTRATE_JUNIT_XSD") or SHARED / "schemas" / "junit-10.xsd")
SHOWN = {
    Verdict.PASS: None,
    Verdict.FAIL: "failure",
    Verdict.CRASH: "failure",
    Verdict.TIMEOUT: "failure",
    Verdict.KNOWN: "skipped",
    Verdict.SKIP: "skipped",
    Verdict.NA: "skipped",
    Verdict.INCONCLUSIVE: "error",
    Verdict.ERROR: "error",
}
TEXT = st.text(st.sampled_from("ab]>&<\"'\0\x1b[\x85\r\n\t\ud800\ufffe€🐧") | st.characters(), max_size=30)
CASES = st.lists(
    st.builds(
        Case,
        id=TEXT,
        verdict=st.sampled_from(Verdict),
        blame=st.sampled_from(Blame),
        reason=TEXT,
        detail=TEXT,
        fingerprint=TEXT,
        duration_s=st.floats(),
        log=TEXT,
    ),
    max_size=5,
).map(tuple)
CELLS = st.lists(
    st.builds(
        CellResult,
        cell=TEXT,
        label=TEXT,
        arch=TEXT,
        started_at=TEXT,
        properties=st.dictionaries(TEXT, TEXT, max_size=3),
        cases=CASES,
        suites=st.lists(st.builds(SuiteResult, suite=TEXT, cases=CASES), max_size=3).map(tuple),
    ),
    max_size=3,
)


def schemas() -> list[Any]:
    given_one = pytest.param(
        GIVEN, id="junit-10", marks=pytest.mark.skipif(not GIVEN.exists(), reason="junit-10.xsd is not here")
    )
    return [pytest.param(OURS, id="ours"), given_one]


def present() -> list[etree.XMLSchema]:
    return [etree.XMLSchema(etree.parse(path)) for path in (OURS, GIVEN) if path.exists()]


PRESENT = present()


def cell(*cases: Case, **fields: Any) -> CellResult:
    return CellResult(cell="x86_64-per-vma-lock", suites=(SuiteResult(suite="maps", cases=cases),), **fields)


def the_case(case: Case) -> etree._Element:
    [found] = etree.fromstring(junit.render([cell(case)], run_id="r")).iter("testcase")
    return found


def number(element: etree._Element, attribute: str) -> int:
    value = element.get(attribute)
    assert value is not None
    return int(value)


@given(CELLS, TEXT)
@settings(deadline=None)
def test_any_results_make_a_valid_document(cells: list[CellResult], run_id: str) -> None:
    root = etree.fromstring(junit.render(cells, run_id=run_id))
    for schema in PRESENT:
        schema.assertValid(root)
    cases = [case for c in cells for case in c.all_cases()]
    shown = [next((e.tag for e in case if e.tag != "system-out"), None) for case in root.iter("testcase")]
    assert shown == [SHOWN[case.verdict] for case in cases]
    assert number(root, "tests") == len(cases)
    assert number(root, "failures") == shown.count("failure")
    assert number(root, "errors") == shown.count("error")
    suites = root.findall("testsuite")
    assert len(suites) == sum(1 + len(c.suites) for c in cells)
    assert sum(number(suite, "skipped") for suite in suites) == shown.count("skipped")
    for suite in suites:
        assert number(suite, "tests") == len(suite.findall("testcase"))
        assert number(suite, "failures") == len(suite.findall("testcase/failure"))


GOOD = junit.render(
    [cell(Case(id="a", verdict=Verdict.FAIL, reason="r"), Case(id="b", verdict=Verdict.SKIP), label="l")],
    run_id="r",
).decode()


@pytest.mark.parametrize("path", schemas())
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<testcase ", '<testcase disabled="0" '),
        (' name="x86_64-per-vma-lock"', ""),
        ('time="0.000"', 'time="1e-05"'),
        ('time="0.000"', 'time="0.30000000000000004"'),
        ("<failure", "<failed"),
        ("<failure", "<properties/><failure"),
        ('<property name="label"', "<property"),
        ('tests="0" ', ""),
    ],
)
def test_both_schemas_reject_a_bad_document(path: Path, old: str, new: str) -> None:
    schema = etree.XMLSchema(etree.parse(path))
    assert schema.validate(etree.fromstring(GOOD.encode()))
    bad = GOOD.replace(old, new).replace("</failure>", "</failed>" if new == "<failed" else "</failure>")
    assert bad != GOOD
    # A test case's time is free text for Jenkins; only a suite's counts.
    assert not schema.validate(etree.fromstring(bad.encode()))


def test_our_schema_wants_a_reason_for_each_failure() -> None:
    schema = etree.XMLSchema(etree.parse(OURS))
    assert not schema.validate(etree.fromstring(re.sub(' message="[^"]*"', "", GOOD).encode()))


def test_what_junit_xml_writes_by_itself_is_rejected() -> None:
    """Why the tree is mended at all; if this fails, mending may have become needless."""
    from junit_xml import TestCase, TestSuite, to_xml_report_string

    own = to_xml_report_string(
        [TestSuite("s", [TestCase("a", elapsed_sec=0.1), TestCase("b", elapsed_sec=0.2)])]
    )
    for schema in PRESENT:
        assert not schema.validate(etree.fromstring(own.encode()))


@pytest.mark.parametrize(
    ("case", "tag", "kind", "message"),
    [
        (Case(id="a", verdict=Verdict.FAIL), "failure", "FAIL", "FAIL without a reason"),
        (
            Case(id="a", verdict=Verdict.FAIL, blame=Blame.KERNEL, reason="x.c:1"),
            "failure",
            "FAIL",
            "kernel: x.c:1",
        ),
        (
            Case(id="a", verdict=Verdict.CRASH, reason="oops", fingerprint="WARNING:f"),
            "failure",
            "WARNING:f",
            "oops",
        ),
        (Case(id="a", verdict=Verdict.CRASH, reason="oops"), "failure", "CRASH", "oops"),
        (Case(id="a", verdict=Verdict.FAIL, reason="r", fingerprint="f"), "failure", "FAIL", "r"),
        (
            Case(id="a", verdict=Verdict.TIMEOUT, blame=Blame.TEST, reason="5 s"),
            "failure",
            "TIMEOUT",
            "test: 5 s",
        ),
        (Case(id="a", verdict=Verdict.SKIP, reason="no root"), "skipped", "skipped", "no root"),
        (Case(id="a", verdict=Verdict.NA, reason="gone"), "skipped", "skipped", "n/a: gone"),
        (
            Case(id="a", verdict=Verdict.ERROR, blame=Blame.INFRA),
            "error",
            "ERROR",
            "infra: ERROR without a reason",
        ),
        (Case(id="a", verdict=Verdict.INCONCLUSIVE, reason="no proof"), "error", "INCONCLUSIVE", "no proof"),
    ],
)
def test_verdicts(case: Case, tag: str, kind: str, message: str) -> None:
    [shown] = the_case(case)
    assert (shown.tag, shown.get("type"), shown.get("message")) == (tag, kind, message)


def test_a_pass_is_bare() -> None:
    case = the_case(Case(id="maps/a", verdict=Verdict.PASS, detail="d", duration_s=0.1 + 0.2))
    assert len(case) == 0
    assert dict(case.attrib.items()) == {
        "name": "maps/a",
        "classname": "x86_64-per-vma-lock/maps",
        "time": "0.300",
    }


def test_long_detail_is_cut_with_a_pointer_to_the_log() -> None:
    case = Case(id="a", verdict=Verdict.FAIL, detail="x" * 1_000_000, log="cells/c/suites/maps/a.log")
    failure, out = the_case(case)
    assert failure.text
    assert out.text
    assert len(failure.text) <= junit.DETAIL_LIMIT
    assert " bytes cut ..." in failure.text
    assert out.text.splitlines() == [
        "The detail is cut; all of it is in cells/c/suites/maps/a.log",
        "[[ATTACHMENT|cells/c/suites/maps/a.log]]",
    ]


def test_short_detail_is_whole() -> None:
    failure, out = the_case(Case(id="a", verdict=Verdict.FAIL, detail="\x1b[31m a < b\0", log="l"))
    assert failure.text == " a < b\\x00"
    assert out.text == "[[ATTACHMENT|l]]"


def test_identity_is_in_the_properties_of_every_suite() -> None:
    fields = {
        "arch": "x86_64",
        "variant": "v",
        "label": "l",
        "release": "7.2.0",
        "properties": {"accel": "tcg"},
    }
    root = etree.fromstring(junit.render([cell(**fields)], run_id="r"))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["x86_64-per-vma-lock", "x86_64-per-vma-lock/maps"]
    for suite in suites:
        assert {p.get("name"): p.get("value") for p in suite.iter("property")} == {
            "arch": "x86_64",
            "variant": "v",
            "label": "l",
            "release": "7.2.0",
            "accel": "tcg",
        }


def test_a_lost_failure_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("junit_xml.TestCase.add_failure_info", lambda *_: None)
    with pytest.raises(InfraError, match="a is FAIL, but shows as passed"):
        junit.write(tmp_path / "junit.xml", [cell(Case(id="a", verdict=Verdict.FAIL))], run_id="r")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("xpath", "key", "value", "problem"),
    [
        ("testsuite", "tests", "7", "tests=7, but there are"),
        (".", "failures", "0", "failures=0 in all"),
        ("testsuite", "disabled", "0", "may not have disabled"),
        ("testsuite/testcase", "time", "1e-05", "is not a time"),
        ("testsuite/testcase", "name", "\ufffe", "illegal characters"),
        ("testsuite/testcase", "name", None, "lacks name"),
    ],
)
def test_check_finds(xpath: str, key: str, value: str | None, problem: str) -> None:
    from xml.etree import ElementTree as ET

    root = ET.fromstring(GOOD)
    assert junit.check(root) == []
    element = root.find(xpath)
    assert element is not None
    if value is None:
        del element.attrib[key]
    else:
        element.set(key, value)
    assert any(problem in found for found in junit.check(root))


def test_write_is_atomic_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text("old")
    junit.write(path, [cell(Case(id="a", verdict=Verdict.PASS))], run_id="r")
    assert etree.parse(path).getroot().get("tests") == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["junit.xml"]


def test_write_says_what_to_do_when_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    with pytest.raises(InfraError, match=r"junit\.xml cannot be written") as caught:
        junit.write(tmp_path / "gone" / "junit.xml", [], run_id="r")
    assert caught.value.remedy


# --- for its readers --------------------------------------------------------------------------------


def attached(document: Path) -> list[str]:
    """The paths of a document's attachments, as consumers read them: one on each line of its own."""
    texts = [out.text or "" for out in etree.parse(document).iter("system-out")]
    return [path for text in texts for path in re.findall(r"^\[\[ATTACHMENT\|(.+)\]\]$", text, re.M)]


@pytest.mark.parametrize(
    "document", ["runs/r/junit.xml", "ci/maps.xml", "maps.xml", "../beside/deep/maps.xml"]
)
@pytest.mark.parametrize("project", ["", "sub"])
def test_attachments_resolve_for_each_reader(
    document: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitLab: the first one, from the project's folder. Jenkins: absolute. Azure: from the document."""
    work = tmp_path / "work"
    folder = work / "runs" / "r"
    log = folder / "cells" / "c" / "suites" / "maps" / "a.log"
    log.parent.mkdir(parents=True)
    log.write_text("all of it")
    (work / "sub").mkdir()
    monkeypatch.chdir(work / project)
    monkeypatch.setenv("CI_PROJECT_DIR", str(work)) if project else monkeypatch.delenv(
        "CI_PROJECT_DIR", False
    )
    path = (work / document).resolve()
    case = Case(id="a", verdict=Verdict.PASS, log="cells/c/suites/maps/a.log")
    junit.write(path, [cell(case)], run_id="r", folder=Path(os.path.relpath(folder)))
    paths = attached(path)
    assert (work / paths[0]).read_text() == "all of it"
    assert not Path(paths[0]).is_absolute()
    assert [p for p in paths if Path(p).is_absolute()] == [str(log)]
    assert any((path.parent / p).exists() for p in paths if not Path(p).is_absolute())
    assert len(set(paths)) == len(paths)


def test_a_moved_run_directory_keeps_its_attachments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere" / "r"
    (folder / "cells").mkdir(parents=True)
    (folder / "cells" / "a.log").touch()
    junit.write(
        folder / "junit.xml", [cell(Case(id="a", verdict=Verdict.PASS, log="cells/a.log"))], run_id="r"
    )
    moved = folder.rename(tmp_path / "downloaded")
    assert (moved / attached(moved / "junit.xml")[-1]).is_file()


def test_a_link_on_the_way_to_the_document_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "ci").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.log").touch()
    case = Case(id="a", verdict=Verdict.PASS, log="a.log")
    junit.write(tmp_path / "ci" / "j.xml", [cell(case)], run_id="r", folder=tmp_path / "r")
    assert (tmp_path / "ci" / attached(tmp_path / "ci" / "j.xml")[-1]).is_file()


def classes(*cells: CellResult) -> list[str]:
    root = etree.fromstring(junit.render(list(cells), run_id="r"))
    return list(dict.fromkeys(case.get("classname") or "" for case in root.iter("testcase")))


def of_kernel(label: str, variant: str = "per-vma-lock", suite: str = "maps") -> CellResult:
    return CellResult(
        cell=f"{label}-x86_64-{variant}",
        label=label,
        cases=(Case(id="boot", verdict=Verdict.PASS),),
        suites=(SuiteResult(suite=suite, cases=(Case(id=f"{suite}/a", verdict=Verdict.PASS),)),),
    )


@pytest.mark.parametrize("label", ["7.3.4", "7.3.5", "7.3-rc1", "next-20261130", "v6.12.1+deb13-amd64"])
def test_a_class_is_the_same_from_version_to_version(label: str) -> None:
    assert classes(of_kernel(label), of_kernel(label, "mmap-lock")) == [
        "x86_64-per-vma-lock",
        "x86_64-per-vma-lock/maps",
        "x86_64-mmap-lock",
        "x86_64-mmap-lock/maps",
    ]


def test_several_kernels_have_classes_of_their_own() -> None:
    found = classes(
        of_kernel("7.3.4"), of_kernel("7.3.5"), of_kernel("7.3_5"), of_kernel("mine", suite="my.own")
    )
    assert len(found) == 8
    # Jenkins: what is before the last dot is a package
    assert {name.rpartition(".")[0] for name in found} == {""}
    assert found[:2] == ["7_3_4-x86_64-per-vma-lock", "7_3_4-x86_64-per-vma-lock/maps"]
    assert "7_3_5-x86_64-per-vma-lock#2" in found


def test_cases_of_one_id_stay_apart() -> None:
    """GitLab and Azure keep one of several cases of the same class and name: the failure may be the other."""
    same = [Case(id="maps/a", verdict=verdict) for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.SKIP)]
    root = etree.fromstring(junit.render([cell(*same)], run_id="r"))
    assert [case.get("name") for case in root.iter("testcase")] == ["maps/a", "maps/a#2", "maps/a#3"]


def test_a_document_with_one_id_twice_is_found() -> None:
    from xml.etree import ElementTree as ET

    root = ET.fromstring(GOOD)
    for case in root.iter("testcase"):
        case.set("name", "a")
    assert any("a is twice in x86_64-per-vma-lock/maps" in problem for problem in junit.check(root))
