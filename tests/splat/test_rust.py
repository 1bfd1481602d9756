# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.splat import rust


@pytest.mark.parametrize(
    ("symbol", "path"),
    [
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_RNvNtCs1234_7mycrate3bar3foo", "mycrate::bar::foo"),
        ("_RNCNvCs1234_7mycrate3foo0B3_", "mycrate::foo"),
        ("_RNvMs3_NtCsaaaaaaaaaaa_6sample7processNtB5_7Process6update", "<sample::process::Process>::update"),
        ("_RNvXs_Cs1234_1aNtB4_1SNtCs5678_4core5Clone5clone", "<a::S as core::Clone>::clone"),
        ("_RINvCs1234_1a3foolE", "a::foo"),
        ("_R", "_R"),
        ("_Rubbish", "_Rubbish"),
        ("m_next", "m_next"),
    ],
)
def test_path(symbol: str, path: str) -> None:
    assert rust.path(symbol) == path


def test_the_hash_of_a_crate_does_not_show() -> None:
    assert rust.path("_RNvCs1234_1a3foo") == rust.path("_RNvCsZZZZ_1a3foo")


@given(st.text(alphabet="CNMXYIBsLERQP_v0123456789ab", max_size=200))
def test_any_text_is_survived(text: str) -> None:
    assert rust.path("_R" + text)


def test_a_name_of_nothing_stays_as_it_is() -> None:
    assert rust.path("_RC0B") == "_RC0B"


def test_deep_nesting_is_survived() -> None:
    assert rust.path("_R" + "Nv" * 5000)
    assert rust.path("_RNvB_3foo")
