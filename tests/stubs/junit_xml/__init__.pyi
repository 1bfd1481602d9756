# SPDX-License-Identifier: GPL-2.0-only
# What orchestrate uses of junit-xml 1.9, which carries no types.
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

class TestCase:
    def __init__(
        self,
        name: str,
        classname: str | None = None,
        elapsed_sec: float | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
    ) -> None: ...
    def add_error_info(
        self, message: str | None = None, output: str | None = None, error_type: str | None = None
    ) -> None: ...
    def add_failure_info(
        self, message: str | None = None, output: str | None = None, failure_type: str | None = None
    ) -> None: ...
    def add_skipped_info(self, message: str | None = None, output: str | None = None) -> None: ...

class TestSuite:
    def __init__(
        self,
        name: str,
        test_cases: Sequence[TestCase] | None = None,
        hostname: str | None = None,
        id: str | None = None,
        package: str | None = None,
        timestamp: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None: ...
    def build_xml_doc(self, encoding: str | None = None) -> Element: ...

def to_xml_report_string(test_suites: Sequence[TestSuite]) -> str: ...
