# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest

from orchestrator.splat.records import MAX_TEXT, Record, records


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"plain", [Record("plain")]),
        (b"", [Record("")]),
        (b"[    1.000000] a", [Record("a", "", "1.000000")]),
        (b"[    1.000000][   T12] a", [Record("a", "T12", "1.000000")]),
        (b"[    1.000000][    C1]  a", [Record(" a", "C1", "1.000000")]),
        (b"<6>[    1.000000] a", [Record("a", "", "1.000000")]),
        (b"<14>[    1.000000] a", [Record("a", "", "1.000000", True)]),
        (b"kern  :info  : [    1.000000] a", [Record("a", "", "1.000000", kernel=True)]),
        (b"daemon:info  : [    1.000000] a", [Record("a", "", "1.000000", True, True)]),
        (b"6,1,5140900,-,caller=T1;a", [Record("a", "T1", "5.140900", kernel=True)]),
        (b"30,1,5140900,-;a", [Record("a", "", "5.140900", True, True)]),
        (b"kernel: a", [Record("a", kernel=True)]),
        (b"[    1.000000] logger[9]: a", [Record("logger[9]: a", "", "1.000000", True)]),
        (b"May  7 06:29:24 host logger[9]: a", []),
        (b"login: [    1.000000] a", [Record("login: "), Record("a", "", "1.000000")]),
        (b"[    1.0", [Record("[    1.0")]),
        (
            b"[    1.000000][   T1] a[    2.000000][   T2] b",
            [Record("a", "T1", "1.000000"), Record("b", "T2", "2.000000")],
        ),
    ],
)
def test_records(line: bytes, found: list[Record]) -> None:
    assert records(line) == found


def test_text_is_cut_and_clean() -> None:
    (record,) = records(b"[    1.000000] \x1b[31ma\xff\x00" + b"x" * 10_000)
    assert record.text.startswith("a\ufffdx")
    assert len(record.text) <= MAX_TEXT
